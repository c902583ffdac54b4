"""Readers: every layout gives examples, and everything broken is named with its file and line, never skipped in silence."""

import io
import json
import random
import tarfile

import pytest
from PIL import Image

from helpers import make_limner, picture
from limner.train.datasets.batches import chosen, finite_batch
from limner.train.datasets.check import check
from limner.train.datasets.example import Captioned, Conversation, Problem, opened
from limner.train.datasets.fit import fitted
from limner.train.datasets.readers import read


def png(seed: int = 0, size=(32, 32)) -> bytes:
    out = io.BytesIO()
    picture(seed, size).save(out, "PNG")
    return out.getvalue()


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(png(index))
    return tmp_path


def split(found):
    found = list(found)
    return [e for e in found if not isinstance(e, Problem)], [str(p) for p in found if isinstance(p, Problem)]


def test_captions_beside_pictures(folder):
    (folder / "0.txt").write_text("a red cat\na cat, red\n")
    (folder / "1.txt").write_text("\n")
    (folder / "9.txt").write_text("nobody")
    (folder / "0b.png").write_bytes(png(4))
    (folder / "0b.jpg").write_bytes(png(4))
    examples, problems = split(read(folder))
    assert [e.captions for e in examples] == [("a red cat", "a cat, red")]
    assert opened(examples[0].picture).tobytes() == picture(0).tobytes()
    assert [p.split("/")[-1] for p in problems] == [
        "0b.jpg: the same name as 0b.png: which one does 0b.txt caption?",
        "1.txt: an empty caption",
        "2.png: no caption: write it to 2.txt beside it",
        "9.txt: a caption without a picture",
    ]


def test_metadata_tables(folder):
    lines(folder / "metadata.jsonl", [{"file_name": "0.png", "text": "a cat"}, {"file_name": "7.png", "text": "none"}])
    examples, problems = split(read(folder))
    assert [e.captions for e in examples] == [("a cat",)]
    assert problems == [f"{folder}/metadata.jsonl:2: no such picture: 7.png"]
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('file_name,text\n0.png,"a cat, red"\n1.png,\n')
    examples, problems = split(read(folder))
    assert [e.captions for e in examples] == [("a cat, red",)]
    assert "metadata.csv:3: fields file_name are no known layout" in problems[0]


def test_conversations_and_their_mistakes(folder):
    good = {"messages": [{"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "x"}]},
                         {"role": "assistant", "content": "a cat"}]}  # fmt: skip
    bad = [
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": [{"type": "image", "image": "../../etc/passwd"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "image", "image": "/etc/passwd"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "image", "image": "https://x.org/a.png"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "sound", "sound": "a"}]}]},
    ]
    path = lines(folder / "talk.jsonl", [good, *bad])
    with path.open("a") as more:
        more.write("{wrong\n")
    examples, problems = split(read(path))
    assert len(examples) == 1 and isinstance(examples[0], Conversation)
    assert [p.split(": ", 1)[0].rpartition(":")[2] for p in problems] == ["2", "3", "4", "5", "6", "7", "8"]
    for said, problem in zip(
        ("unknown role 'robot'", "no reply of the assistant", "leaves the data set's folder", "leaves the data set's folder",
         "is a URL", "a part must be", "not JSON"), problems, strict=True,
    ):  # fmt: skip
        assert said in problem


def test_llava(folder):
    row = {"id": 1, "image": "1.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
                                                        {"from": "gpt", "value": "A cat."}]}  # fmt: skip
    (folder / "llava.json").write_text(json.dumps([row, row | {"image": ["1.png", "2.png"]}]))
    examples, problems = split(read(folder / "llava.json"))
    content = examples[0].messages[0]["content"]
    assert [p["type"] for p in content] == ["image", "text"] and content[1]["text"] == "What is it?"
    assert problems == [f"{folder}/llava.json[1]: 1 of 2 pictures have no <image> mark"]


def test_edits_of_one_and_of_several_turns(folder):
    one = {"source": "0.png", "target": "1.png", "instruction": "make it blue"}
    public = {"input_image": "0.png", "edited_image": "1.png", "edit": "make it blue"}
    several = {"source": "0.png", "turns": [{"instruction": "blue", "target": "1.png"},
                                            {"instruction": "red", "target": "2.png"}]}  # fmt: skip
    examples, problems = split(read(lines(folder / "edits.jsonl", [one, public, several, one | {"instruction": 3}])))
    assert examples[0].messages == examples[1].messages
    assert [m["role"] for m in examples[2].messages] == ["user", "assistant"] * 2
    assert len(list(examples[2].pictures())) == 3
    assert "edits.jsonl:4: turn 0 needs an instruction and a target" in problems[0]


def test_interleaved_documents(folder):
    row = {"texts": ["A story.", None, "The end.", None], "images": [None, "0.png", None, "1.png"]}
    examples, problems = split(read(lines(folder / "docs.jsonl", [row, row | {"images": ["0.png"]}])))
    user, assistant = examples[0].messages
    assert user["content"] == [{"type": "text", "text": "A story."}]
    assert [p["type"] for p in assistant["content"]] == ["image", "text", "image"]
    assert "4 texts beside 1 images" in problems[0]


def test_tar_shards_read_their_pictures_in_place(tmp_path):
    def member(archive, name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        member(archive, "a/1.png", png(1))
        member(archive, "a/1.txt", b"a red cat")
        member(archive, "2.png", png(2))
        member(archive, "2.json", json.dumps({"caption": "two dogs"}).encode())
        member(archive, "3.png", png(3))
    examples, problems = split(read(tmp_path))
    assert [e.captions for e in examples] == [("a red cat",), ("two dogs",)]
    assert [opened(e.picture).tobytes() for e in examples] == [picture(1).tobytes(), picture(2).tobytes()]
    assert "0.tar:3: no caption" in problems[0]
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:700])
    _, problems = split(read(tmp_path))
    assert any("archive is broken" in p for p in problems)


def test_parquet_with_pictures_inside(tmp_path):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([
        {"image": {"bytes": png(1), "path": "1.png"}, "text": "a cat"}, {"image": None, "text": "nothing"}
    ])  # fmt: skip
    parquet.write_table(table, tmp_path / "data.parquet")
    examples, problems = split(read(tmp_path))
    assert opened(examples[0].picture).tobytes() == picture(1).tobytes() and examples[0].captions == ("a cat",)
    assert "data.parquet row 1" in problems[0]


def test_what_is_no_data_set(tmp_path):
    for data, said in (
        (tmp_path / "none", "no such data set"),
        (tmp_path, "is empty"),
    ):
        with pytest.raises(ValueError, match=said):
            list(read(data))
    (tmp_path / "x.doc").write_text("x")
    with pytest.raises(ValueError, match="holds no pictures"):
        list(read(tmp_path))
    with pytest.raises(ValueError, match=r"is no data set: \.doc"):
        list(read(tmp_path / "x.doc"))


def test_the_check_names_what_it_leaves_out(folder):
    model = make_limner()
    for index in range(3):
        (folder / f"{index}.txt").write_text(f"cat {index}")
    (folder / "dot.png").write_bytes(png(0, (1, 1)))
    (folder / "dot.txt").write_text("a dot")
    (folder / "half.png").write_bytes(png(0, (64, 64))[:300])
    (folder / "half.txt").write_text("half a cat")
    Image.new("L", (8000, 5000)).save(folder / "huge.png")
    (folder / "huge.txt").write_text("a wall")
    report = check(read(folder), model.encoder, 1024)
    assert len(report.examples) == 3 and report.sizes == [(32, 32)] * 3
    told = report.table()
    assert "3 captioned pictures" in told and "left out  3" in told
    for said in (
        "dot.png: 1 x 1 pixels is too small",
        "half.png is broken or cut short",
        "8000 x 5000 pixels is too large",
    ):
        assert said in told
    with pytest.raises(ValueError, match="3 of 6 examples are left out, more than 1%"):
        report.require()
    with pytest.raises(ValueError, match="all 6 examples"):
        check(read(folder), model.encoder, 3).require()
    assert "this model's context holds 3" in check(read(folder), model.encoder, 3).table()


def test_every_example_comes_once_an_epoch_whatever_the_batch():
    for per_step in (3, 4, 7):
        steps = 10 * 7
        seen = [i for step in range(steps) for i in chosen(10, per_step, 1, step)]
        for epoch in range(len(seen) // 10):
            assert sorted(seen[epoch * 10 : (epoch + 1) * 10]) == list(range(10))
    assert chosen(10, 3, 1, 50) == chosen(10, 3, 1, 50) != chosen(10, 3, 2, 50)


def test_batches_are_a_function_of_seed_and_step(folder):
    model = make_limner()
    (folder / "0.txt").write_text("a cat\none cat")
    (folder / "1.txt").write_text("a dog")
    (folder / "2.txt").write_text("a bus")
    examples = check(read(folder), model.encoder, 1024).examples
    assert all(isinstance(e, Captioned) for e in examples)
    make = [finite_batch(examples, model.encoder, 4, 0.5, 0, None, 0, step) for step in (2, 2, 3)]
    ids = [batch.stream.input_ids.tolist() for batch in make]
    assert ids[0] == ids[1] != ids[2]


def test_pictures_are_cut_to_the_nearest_shape():
    config = make_limner(shapes=((32, 32), (32, 64))).config
    assert fitted(picture(0, (100, 90)), config).size == (32, 32)
    assert fitted(picture(0, (100, 190)), config).size == (64, 32)
    assert random.Random(0).random() < 1
