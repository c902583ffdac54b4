"""Folders, tables and tars as other programs and systems leave them."""

import bz2
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from helpers import png_bytes as png
from helpers import write_lines as lines
from limner.train.datasets.example import CaptionedPicture, Problem, open_picture
from limner.train.datasets.notes import Notes
from limner.train.datasets.readers import read
from limner.train.datasets.shards import ShardSource


def split(found):
    found = list(found)
    return [e for e in found if not isinstance(e, Problem)], [str(p) for p in found if isinstance(p, Problem)]


def pictures(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))


def captions(found):
    return {e.picture.name: e.captions for e in found if isinstance(e, CaptionedPicture)}


def pack(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_kohyas_folders(tmp_path):
    pictures(tmp_path, "10_cat/a.png", "10_cat/B.PNG", "1_red_car/c.png")
    (tmp_path / "10_cat/a.caption").write_text("a cat on grass")
    (tmp_path / "10_cat/a.npz").write_bytes(b"latents")
    notes = Notes()
    found, problems = split(read(tmp_path, notes))
    assert captions(found) == {"a.png": ("a cat on grass",), "B.PNG": ("cat",), "c.png": ("red car",)} and not problems
    assert notes.files == {"a.npz": 1}
    assert any("10 repeats of 10_cat are not used" in line for line in notes.lines())


def test_kohyas_metadata(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    meta = {"a.png": {"caption": "a cat", "tags": "red, grass"}, "b.png": {"tags": "dog"}, "c.png": "a bus"}
    (tmp_path / "meta_cap.json").write_text(json.dumps(meta))
    assert captions(split(read(tmp_path))[0]) == {
        "a.png": ("a cat, red, grass",),
        "b.png": ("dog",),
        "c.png": ("a bus",),
    }


def test_cocos_captions(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    coco = {
        "info": {"year": 2017},
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "id": 5, "caption": "a cat"}, {"image_id": 1, "id": 6, "caption": "a red cat"}],
    }
    (tmp_path / "captions_train2017.json").write_text(json.dumps(coco))
    found, problems = split(read(tmp_path))
    assert captions(found) == {"a.png": ("a cat", "a red cat")}
    assert len(problems) == 1 and "[1]: fields id, file_name are no known layout" in problems[0]


def test_conversations_with_nothing_beside_them(tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (tmp_path / "one.json").write_text(json.dumps(talk))
    (tmp_path / "two.json").write_text(json.dumps([talk, talk]))
    for name, count in (("one", 1), ("two", 2)):
        assert [len(e.messages) for e in read(tmp_path / f"{name}.json")] == [2] * count


def test_captions_beside_pictures_in_every_spelling(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "é.png", "d.jpg", "e.png")
    (tmp_path / "a.txt").write_bytes("a cat\r\na red cat\r\n".encode("utf-8-sig"))
    (tmp_path / "b.png.txt").write_text("a dog")
    (tmp_path / "e\u0301.TXT").write_text("a bus")  # as macOS stores it
    (tmp_path / "d.json").write_text(json.dumps({"caption": "a tree", "score": 3}))
    (tmp_path / "d.caption").write_text("an oak")
    (tmp_path / "e.txt").write_bytes("a house".encode("utf-16"))
    for clutter in ("._a.png", "._a.txt", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", ".git/a.json"):
        (tmp_path / clutter).parent.mkdir(exist_ok=True)
        (tmp_path / clutter).write_bytes(b"\0\5\x16\7")
    (tmp_path / "README.txt").write_text("about")
    notes = Notes()
    found, problems = split(read(tmp_path, notes))
    assert captions(found) == {
        "a.png": ("a cat", "a red cat"),
        "b.png": ("a dog",),
        "é.png": ("a bus",),
        "d.jpg": ("an oak",),
    }
    assert len(problems) == 1 and "e.txt: not UTF-8 text" in problems[0]
    assert notes.files == {"README.txt": 1, "d.json (a second caption)": 1}


def test_a_sidecar_of_json(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "a tree", "score": 3}))
    (tmp_path / "b.json").write_text(json.dumps({"score": 3}))
    notes = Notes()
    found, problems = split(read(tmp_path, notes))
    assert captions(found) == {"a.png": ("a tree",)} and notes.fields == {"score": 1}
    assert len(problems) == 1 and "b.json: fields file_name, score are no known layout" in problems[0]


def test_ai_toolkits_placeholder_is_not_learned(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("[trigger] on grass")
    assert "your trigger word" in split(read(tmp_path))[1][0]


def test_instructpix2pix_folders(tmp_path):
    pictures(
        tmp_path, "0000001/11_0.jpg", "0000001/11_1.jpg", "0000001/12_0.jpg", "0000002/13_0.jpg", "0000002/13_1.jpg"
    )
    (tmp_path / "0000001/prompt.json").write_text(json.dumps({"input": "a", "edit": "make it blue", "output": "b"}))
    lines(tmp_path / "0000001/metadata.jsonl", [{"seed": 11, "clip_sim_0": 0.3}])
    (tmp_path / "0000002/prompt.json").write_text("{}")
    (tmp_path / "seeds.json").write_text(json.dumps([["0000001", [11, 12]]]))
    notes = Notes()
    found, problems = split(read(tmp_path, notes))
    ((asked, answered),) = (e.messages for e in found)
    assert asked["content"][1]["text"] == "make it blue" and answered["content"][0]["image"].name == "11_1.jpg"
    assert "12_0.jpg: no pair" in problems[0] and "13_0.jpg" in problems[1] and len(problems) == 2
    assert notes.files == {"metadata.jsonl": 1, "seeds.json": 1}


def test_what_datasets_saved(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    rows = {"image": [str(tmp_path / "a.png")], "text": ["a cat"], "views": [[str(tmp_path / "b.png")]]}
    kind = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "views": datasets.List(datasets.Image())}
    )
    table = datasets.Dataset.from_dict(rows, features=kind)
    table.save_to_disk(tmp_path / "saved/one")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "saved/splits")
    pictures(tmp_path / "saved", "c.png")
    (tmp_path / "saved/c.txt").write_text("a dog")
    notes = Notes()
    found, problems = split(read(tmp_path / "saved", notes))
    assert [e.captions[0] for e in found] == ["a cat", "a cat", "a dog"] and not problems
    assert open_picture(found[0].picture).tobytes() == Image.open(tmp_path / "a.png").convert("RGB").tobytes()
    assert notes.fields == {"views": 2} and any("not for training" in name for name in notes.files)
    (tmp_path / "saved/one/state.json").write_text("{}")
    with pytest.raises(ValueError, match="no data set that datasets loads"):
        list(read(tmp_path / "saved/one"))


def test_the_hubs_cache(tmp_path):
    cache = tmp_path / "datasets--o--n"
    pictures(cache, "blobs/1")
    lines(cache / "blobs/2", [{"file_name": "images/a.png", "text": "a cat"}])
    for revision in ("abc", "def"):
        (cache / "snapshots" / revision / "images").mkdir(parents=True)
        (cache / "snapshots" / revision / "images/a.png").symlink_to(cache / "blobs/1")
        (cache / "snapshots" / revision / "metadata.jsonl").symlink_to(cache / "blobs/2")
    assert captions(read(cache / "snapshots/abc")) == {"a.png": ("a cat",)}
    with pytest.raises(ValueError, match="holds 2 revisions"):
        list(read(cache))
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("def\n")
    (found,) = read(cache)
    assert found.where.startswith(f"{cache}/snapshots/def")


def test_a_linked_folder_and_a_circle_of_links(tmp_path):
    pictures(tmp_path, "elsewhere/a.png")
    (tmp_path / "elsewhere/a.txt").write_text("a cat")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data")
    assert captions(read(tmp_path / "data")) == {"a.png": ("a cat",)}


def test_several_layouts_in_one_folder(tmp_path):
    pictures(tmp_path, "images/a.png", "plain/b.png", "plain/lost.png", "meta/c.png", "meta/d.png")
    (tmp_path / "notes").mkdir()
    lines(tmp_path / "notes/talk.jsonl", [{"image": "images/a.png", "data": ["what?", "red"]}])  # relative to the set
    (tmp_path / "plain/b.txt").write_text("a dog")
    (tmp_path / "meta/metadata.csv").write_text("file_name,text\nc.png,a bus\n")
    lines(tmp_path / "meta/dropped.jsonl", [{"where": "x", "why": "y"}])
    (tmp_path / "dataset_info.json").write_text('{"splits": {}}')
    pack(tmp_path / "0.tar", {"e.png": png(9), "e.txt": b"a tree"})
    notes = Notes()
    found, problems = split(read(tmp_path, notes))
    assert not problems and notes.layouts == {
        "captions": 2,
        "questions and answers (SEED-X)": 1,
        "pictures with .txt": 1,
    }
    assert len(found) == 4
    assert notes.files == {"dropped.jsonl": 1, "dataset_info.json": 1}
    assert sorted(p.name for p in notes.pictures) == ["d.png", "lost.png"]
    assert "2 pictures that no example shows" in "\n".join(notes.lines())


def test_a_split_that_is_not_for_training_is_not_learned(tmp_path):
    pictures(tmp_path, "train/a.png", "test/b.png", "cats/test/c.png")
    for name in ("train/a", "test/b", "cats/test/c"):
        (tmp_path / f"{name}.txt").write_text(name)
    notes = Notes()
    assert set(captions(read(tmp_path, notes))) == {"a.png", "c.png"}
    assert sum(notes.files.values()) == 2
    shutil.rmtree(tmp_path / "test")
    shutil.rmtree(tmp_path / "train")
    for name in ("train.jsonl", "validation.jsonl"):
        lines(tmp_path / name, [{"instruction": name, "output": "x"}])
    assert [e.messages[0]["content"][0]["text"] for e in read(tmp_path) if not isinstance(e, CaptionedPicture)] == [
        "train.jsonl"
    ]


def test_tables_of_every_kind(tmp_path):
    pictures(tmp_path, "a.png")
    row = {"file_name": "a.png", "text": "a cat, red"}
    text = json.dumps(row) + "\n"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), tmp_path / "t.parquet")
    for name, data in {
        "a.jsonl": b"\xef\xbb\xbf" + (text + text).replace("\n", "\r\n").encode(),
        "a.ndjson": (text + text).encode(),
        "a.jsonl.gz": gzip.compress((text + text).encode()),
        "a.json.bz2": bz2.compress(json.dumps([row, row]).encode()),
        "a.json": (text + text).encode(),  # lines, as `datasets` takes them
        "b.json": json.dumps({"data": [row, row]}, indent=1).encode(),
        "a.csv": b'\xef\xbb\xbffile_name,text\r\na.png,"a cat, red"\r\na.png,"a cat, red"\r\n',
        "b.csv": b"file_name;text\na.png;a cat, red\na.png;a cat, red\n",
        "a.tsv": b"file_name\ttext\na.png\ta cat, red\na.png\ta cat, red\n",
    }.items():
        (tmp_path / name).write_bytes(data)
        assert [e.captions for e in read(tmp_path / name)] == [("a cat, red",)] * 2, name
    assert [e.captions for e in read(tmp_path / "t.parquet")] == [("a cat, red",)] * 2


def test_tables_that_are_broken(tmp_path):
    pictures(tmp_path, "a.png")
    rows = "".join(json.dumps({"file_name": "a.png", "text": f"cat {n}"}) + "\n" for n in range(2000))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-2000])
    found, problems = split(read(tmp_path / "cut.jsonl.gz"))
    assert found and len(problems) == 1 and "broken or cut short after line" in problems[0]
    for name, data, said in (
        ("u.jsonl", rows.encode("utf-16"), "UTF-16"),
        ("u.csv", "file_name,text\na.png,x\n".encode("utf-16"), "UTF-16"),
        ("l.csv", "file_name,text\na.png,caf\xe9\n".encode("latin-1"), "l.csv: not UTF-8"),
        ("s.json", b'{"learning_rate": 1}', "expected a list of examples"),
        ("n.json", b"[[1, 2]]", "expected a list of examples"),
        ("t.json", b'{"a": ', "not JSON"),
        ("z.jsonl.zst", b"(\xb5/\xfd", "needs zstandard"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=said):
            list(read(tmp_path / name))


def test_rows_of_csv_that_are_not_whole_count_line_by_line(tmp_path):
    pictures(tmp_path, "a.png")
    table = tmp_path / "metadata.csv"
    table.write_text('file_name,text\na.png,a red cat, sitting\na.png,a dog\na.png\n\na.png,"two\nlines"\n')
    found, problems = split(read(tmp_path))
    assert [e.captions for e in found] == [("a dog",), ("two\nlines",)]
    assert "metadata.csv:2: 3 cells for 2 columns" in problems[0] and "metadata.csv:4: 1 cells" in problems[1]
    table.write_text('file_name,text\na.png,"a cat\na.png,a dog\na.png,"a bus"\na.png,a tree\na.png,"the end\n')
    found, problems = split(read(tmp_path))
    assert [e.captions for e in found] == [("a tree",)]
    assert [p.split(": not CSV")[0].rpartition(":")[2] for p in problems] == ["2", "3", "4", "6"]


def test_tars_with_dots_in_their_names(tmp_path):
    path = pack(
        tmp_path / "s.tar",
        {
            **{f"v1.{n}.{e}": d for n in range(3) for e, d in (("png", png(n)), ("txt", b"a cat"))},
            **{"b.jpg": png(4), "b.txt": b"a dog", "b.seg.png": png(5), "b.cls": b"1"},
            **{"c.source.png": png(6), "c.target.png": png(7), "c.instruction.txt": b"make it blue"},
            **{"d.0.png": png(8), "d.1.png": png(8), "d.2.png": png(8), "d.2.txt": b"a tree"},
        },
    )
    notes = Notes()
    found, problems = split(read(path, notes))
    assert [e.where.rpartition(":")[2] for e in found] == ["v1.0", "v1.1", "v1.2", "b", "c", "d.2"]
    assert found[1].picture.read() == png(1) and found[3].picture.read() == png(4)
    assert [p["image"].name.rpartition(":")[2] for m in found[4].messages for p in m["content"] if "image" in p] == [
        "c.source.png",
        "c.target.png",
    ]
    assert len(problems) == 2 and all("no caption" in problem for problem in problems)
    assert notes.fields == {"seg": 1, "members: .cls": 1}


def test_tars_with_conversations(tmp_path):
    talk = {"conversations": [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "b"}]}
    path = pack(
        tmp_path / "s.tar",
        {
            **{"__MACOSX/._1.png": b"\0", "./._1.json": b"\0"},
            **{"1.0.png": png(0), "1.1.png": png(1), "1.json": json.dumps({**talk, "__key__": "1"}).encode()},
            **{"2.jpg": png(2), "2.json": json.dumps({"image": "coco/2.jpg", "data": ["what?", "red"]}).encode()},
            **{"3.json": json.dumps({"messages": [{"role": "assistant", "content": "hi"}]}).encode()},
        },
    )
    found, problems = split(read(path))
    assert not problems
    assert [[p.read() for p in e.pictures()] for e in found] == [[png(0), png(1)], [png(2)], []]


def test_a_file_with_holes_in_a_tar_is_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "a.txt").write_text("a cat")
    os.truncate(tmp_path / "a.png", 2_000_000)
    subprocess.run(["tar", "-cS", "-f", "s.tar", "a.png", "a.txt"], cwd=tmp_path, check=True)
    _, problems = split(read(tmp_path / "s.tar"))
    assert "s.tar:a.png: a link or a file with holes" in problems[0]


def test_tars_that_would_lose_something(tmp_path):
    path = pack(tmp_path / "s.tar", {"a.png": png(0), "a.txt": b"a cat"})
    with tarfile.open(path, "a") as archive:
        for name, link in (("b.png", "a.png"),):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, link
            archive.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    found, problems = split(read(path))
    assert found[0].picture.read() == png(0)
    assert "s.tar:b.png: a link or a file with holes" in problems[0] and "a second member of this name" in problems[1]
    (tmp_path / "z.tar").write_bytes(gzip.compress(path.read_bytes()))
    found, problems = split(read(tmp_path / "z.tar"))
    assert not found and "archive is broken" in problems[0]


def test_counts_of_an_older_index_are_taken_again(tmp_path):
    pack(tmp_path / "s.tar", {f"v1.{n}.{e}": d for n in range(3) for e, d in (("png", png(n)), ("txt", b"a cat"))})
    assert ShardSource(tmp_path).total == 3
    index = json.loads((tmp_path / "limner-index.json").read_text())
    (tmp_path / "limner-index.json").write_text(json.dumps({"sizes": index["sizes"], "counts": [1]}))
    assert ShardSource(tmp_path).total == 3
