"""``limner data``: what is kept reads back as a data set, what is dropped is listed with its reason."""

import json

import pytest
from PIL import Image

from helpers import picture
from limner.app.cli.main import main
from limner.train.datasets.example import Problem, open_picture
from limner.train.datasets.filter import Rules, difference_hash, filter_dataset
from limner.train.datasets.readers import read


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    sizes = {"a": (40, 40), "b": (20, 40), "c": (40, 160), "d": (60, 60)}
    for index, (name, size) in enumerate(sizes.items()):
        picture(index, size).save(source / f"{name}.png")
        (source / f"{name}.txt").write_text(f"picture {name}\n")
    picture(0, (40, 40)).resize((80, 80), Image.Resampling.NEAREST).save(source / "e.png")
    (source / "e.txt").write_text("picture a again")
    (source / "f.txt").write_text("alone")
    return source


def test_rules(folder, tmp_path):
    out = tmp_path / "out"
    counts = filter_dataset(
        folder,
        out,
        Rules(min_side=30, max_aspect=3, duplicate_bits=10, min_similarity=0.5),
        similarity=lambda image, caption: 0.1 if "d" in caption.split() else 0.9,
    )
    assert counts == {"kept": 1, "dropped": 5}
    dropped = {
        d["where"].split("/")[-1]: d["why"] for d in map(json.loads, (out / "dropped.jsonl").read_text().splitlines())
    }
    assert "shorter side is below 30" in dropped["b.png"] and "aspect ratio 4.00 is above 3" in dropped["c.png"]
    assert "similarity 0.100 is below 0.5" in dropped["d.png"] and "duplicate" in dropped["e.png"]
    assert dropped["f.txt"] == "a caption without a picture"
    (example,) = read(out)
    assert (
        example.captions == ("picture a",) and open_picture(example.picture).tobytes() == picture(0, (40, 40)).tobytes()
    )


def test_conversations_stay_conversations(tmp_path):
    picture(1).save(tmp_path / "1.png")
    talk = {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "1.png"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "noise"}]},
        ]
    }
    (tmp_path / "talk.jsonl").write_text(json.dumps(talk) + "\n")
    filter_dataset(tmp_path / "talk.jsonl", tmp_path / "out", Rules())
    (example,) = read(tmp_path / "out")
    assert not isinstance(example, Problem) and [m["role"] for m in example.messages] == ["user", "assistant"]
    assert open_picture(next(example.pictures())).tobytes() == picture(1).tobytes()


def test_an_output_within_the_data_is_refused_before_anything_is_written(folder):
    with pytest.raises(ValueError, match="is inside the data"):
        filter_dataset(folder, folder / "clean", Rules())
    assert not (folder / "clean").exists()


def test_hashes_see_through_scaling_and_tell_pictures_apart():
    a, b = picture(1, (64, 64)), picture(2, (64, 64))
    assert (difference_hash(a) != difference_hash(a.resize((128, 128)))).sum() <= 10  # noise: the hardest case
    assert (difference_hash(a) != difference_hash(b)).sum() > 20


def test_the_command_line(folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["data", "filter", str(folder), "-o", out, "--min-side", "30"]) == 0
    assert "kept 4, dropped 2" in capsys.readouterr().out
    assert main(["data", "filter", str(folder), "-o", out]) == 2
    assert main(["data", "filter", str(folder)]) == 2
    assert main(["data", "filter", str(folder), "-o", out + "2", "--max-aspect", "0.5"]) == 2
    assert main(["data", "check", str(folder)]) == 2
    said = capsys.readouterr()
    assert "is not empty" in said.err and "--out requires an argument" in said.err and "max_aspect is 0.5" in said.err
    assert "1 of 6 examples are left out" in said.err and "5 captioned pictures" in said.out


@pytest.mark.parametrize("rule", [{"min_side": -1}, {"max_aspect": float("nan")}, {"min_similarity": 2.0}])
def test_a_rule_that_makes_no_sense_is_refused(rule):
    with pytest.raises(ValueError, match=f"{next(iter(rule))} is .*; it must be at least"):
        Rules(**rule)


def test_a_filter_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(source, output, stem):
        (output / "pictures" / stem).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("limner.train.datasets.filter.copy_picture", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="no space left"):
        filter_dataset(folder, tmp_path / "clean", Rules())
    assert sorted(tmp_path.iterdir()) == before
