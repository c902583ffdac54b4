"""Readers: every layout gives examples, and everything broken is named with its file and line, never skipped in silence."""

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import limner
from helpers import make_limner, picture
from helpers import png_bytes as png
from helpers import write_lines as lines
from limner.app.cli.main import main
from limner.inference.resizing import resize_to_shape
from limner.train.datasets.check import check
from limner.train.datasets.example import CaptionedPicture, Conversation, Problem, open_picture
from limner.train.datasets.mixture import ExampleSource, Mixture, WorldSource, conversation_size, load_sources
from limner.train.datasets.readers import read


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
    assert open_picture(examples[0].picture).tobytes() == picture(0).tobytes()
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


def test_captions_come_as_often_as_their_probabilities_say(folder):
    rows = [
        {"file_name": "0.png", "text": ["short", "long and full", "never"], "probabilities": [0.25, 0.75, 0]},
        {"file_name": "1.png", "text": ["a", "b"], "probabilities": [1]},
        {"file_name": "2.png", "text": ["a", "b"], "probabilities": [1, -1]},
        {"file_name": "2.png", "text": ["a", "b"], "probabilities": [0, 0]},
    ]
    lines(folder / "metadata.jsonl", rows)
    examples, problems = split(read(folder))
    assert [e.captions for e in examples] == [("short", "long and full")]
    assert [p.split("probabilities ")[1] for p in problems] == [
        f"{given}: one for each of the 2 captions, none below 0, not all 0" for given in ("[1]", "[1, -1]", "[0, 0]")
    ]
    told = [examples[0].sample(random.Random(seed), draw_share=0.0) for seed in range(400)]
    said = Counter(answer["content"][0]["text"] for _, answer in told)
    assert set(said) == {"short", "long and full"} and 0.65 < said["long and full"] / 400 < 0.85
    first = Counter(asked["content"][0]["type"] for asked, _ in told)
    assert min(first["image"], first["text"]) > 150  # the picture or the words


def test_conversations_and_their_mistakes(folder):
    good = {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "x"}]},
            {"role": "assistant", "content": "a cat"},
        ]
    }
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
        (
            "unknown role 'robot'",
            "no reply of the assistant",
            "leaves the data set's folder",
            "leaves the data set's folder",
            "is a URL",
            "a part must be",
            "not JSON",
        ),
        problems,
        strict=True,
    ):
        assert said in problem


def test_llava(folder):
    row = {
        "id": 1,
        "image": "1.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}],
    }
    (folder / "llava.json").write_text(json.dumps([row, row | {"image": ["1.png", "2.png"]}]))
    examples, problems = split(read(folder / "llava.json"))
    content = examples[0].messages[0]["content"]
    assert [p["type"] for p in content] == ["image", "text"] and content[1]["text"] == "What is it?"
    assert problems == [f"{folder}/llava.json[1]: 1 of 2 pictures have no <image> mark"]


def test_edits_of_one_and_of_several_turns(folder):
    one = {"source": "0.png", "target": "1.png", "instruction": "make it blue"}
    public = {"input_image": "0.png", "edited_image": "1.png", "edit": "make it blue"}
    several = {
        "source": "0.png",
        "turns": [{"instruction": "blue", "target": "1.png"}, {"instruction": "red", "target": "2.png"}],
    }
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
    assert [open_picture(e.picture).tobytes() for e in examples] == [picture(1).tobytes(), picture(2).tobytes()]
    assert "0.tar:3: no caption" in problems[0]
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:700])
    _, problems = split(read(tmp_path))
    assert any("archive is broken" in p for p in problems)


def test_parquet_with_pictures_inside(tmp_path):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(
        [{"image": {"bytes": png(1), "path": "1.png"}, "text": "a cat"}, {"image": None, "text": "nothing"}]
    )
    parquet.write_table(table, tmp_path / "data.parquet")
    examples, problems = split(read(tmp_path))
    assert open_picture(examples[0].picture).tobytes() == picture(1).tobytes() and examples[0].captions == ("a cat",)
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
        report.raise_if_unusable()
    with pytest.raises(ValueError, match="all 6 examples"):
        check(read(folder), model.encoder, 3).raise_if_unusable()
    assert "this model's context holds 3" in check(read(folder), model.encoder, 3).table()


def captions(messages):
    return messages[0]["content"][0]["text"]


def test_every_example_comes_once_an_epoch_whatever_the_batch():
    model = make_limner()
    examples = [CaptionedPicture(Path(f"{i}.png"), (f"{i}" * 3,), "x") for i in range(10)]
    for size, pool in ((3, 1), (4, 5), (7, 2)):
        mixture = Mixture([(ExampleSource(examples, 1.0), 1.0)], model.encoder, size, 1, pool)
        places = sorted(told.place for p in range(10) for batch in mixture.pool_batches(p) for told in batch)
        assert places == list(range(10 * size * pool))
    source = ExampleSource(examples, 1.0)
    for epoch in range(3):
        seen = {source.sample(1, epoch * 10 + k)[1]["content"][0]["image"] for k in range(10)}
        assert seen == {e.picture for e in examples}
    first, second = ([captions(source.sample(seed, k)) for k in range(10)] for seed in (1, 2))
    assert first == [captions(source.sample(1, k)) for k in range(10)] != second


def test_a_drawing_may_follow_a_plan():
    example = CaptionedPicture(Path("0.png"), ("a cat.", "a red cat on grass."), "x")
    plans = Counter()
    for seed in range(400):
        asked, answered = example.sample(random.Random(seed), 1.0, plan_share=0.7)
        plans[tuple(part.get("text") for part in answered["content"])] += 1
        assert "cat" in asked["content"][0]["text"] and answered["content"][-1]["image"] == example.picture
    assert set(plans) == {("A red cat on grass:", None), (None,)} and 240 < plans["A red cat on grass:", None] < 320
    assert all(len(example.sample(random.Random(seed), 1.0)[1]["content"]) == 1 for seed in range(50))


def test_sources_come_by_their_weights():
    model = make_limner(shapes=((128, 128), (96, 160), (160, 96)))
    ten = ExampleSource([CaptionedPicture(Path(f"{i}.png"), ("x",), "x") for i in range(10)])
    mixture = Mixture([(ten, 0.3), (WorldSource(), 0.1)], model.encoder, 7, 0, pool=3)
    for pool in range(4):
        sources = [told.source for batch in mixture.pool_batches(pool) for told in batch]
        assert len(sources) == 21 and abs(sources.count(0) - 0.75 * 21) <= 1
    assert mixture.counts(4000) == [3000, 1000]
    for weights in ([-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="none below 0"):
            Mixture([(ten, weights[0]), (WorldSource(), weights[1])], model.encoder, 2, 0)


def test_the_world_can_be_asked_for_some_kinds_of_conversation():
    ((only, weight),) = load_sources(["world/refuse:2"], None, 0, 0.8)
    assert weight == 2 and only == WorldSource(("refuse",))
    for place in range(20):
        said = only.sample(0, place)[-1]["content"][0]["text"]
        assert any(words in said for words in ("I can't draw", "我还不会画", "못 그려요"))
    assert load_sources(["world"], None, 0, 0.8) == [(WorldSource(), 1.0)]
    assert load_sources(["world/two_pictures"], None, 0, 0.8)[0][0].kinds == ("several",), (
        "as recipes of before call it"
    )
    ((validation, _), (plain, _)) = load_sources(["world-validation/draw", "world"], None, 0, 0.8, phrasings=0.0)
    assert validation == WorldSource(("draw",), 1.0, validation=True) and plain.phrasings == 0
    assert len({source.fingerprint for source in (validation, plain, WorldSource(), WorldSource(("draw",), 1.0))}) == 4
    assert validation.sample(0, 3) != WorldSource(("draw",), 1.0).sample(0, 3)
    with pytest.raises(ValueError, match="no conversations of the kind 'deny'; there are draw, describe"):
        load_sources(["world/refuse+deny"], None, 0, 0.8)


def test_batches_are_a_function_of_seed_and_step(folder):
    model = make_limner()
    for index, words in enumerate(("a cat\none cat", "a dog", "a bus")):
        (folder / f"{index}.txt").write_text(words)
    ids = []
    for step in (2, 9, 2):  # a fresh one each time, as after resuming
        mixture = Mixture(load_sources([f"{folder}:2"], model.encoder, 1024, 0.5), model.encoder, 4, 0, pool=4)
        ids.append(mixture(step).stream.input_ids.tolist())
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.slow
def test_padding_stays_below_five_percent_on_the_world():
    """Rows as they are trained on, main stream and branches, of one pool of batches of 32 with nano's tokenizer."""
    encoder = limner.load("nano", device="cpu").encoder
    mixture = Mixture([(WorldSource(), 1.0)], encoder, 32, 3)
    spent = needed = 0
    for batch in mixture.pool_batches(0):
        rows = []
        for _, place, drawings, tokens, _ in batch:
            told = WorldSource().sample(3, place)
            messages = [
                {
                    **m,
                    "content": [
                        {**p, "image": Image.new("RGB", (128, 128))} if p["type"] == "image" else p
                        for p in m["content"]
                    ],
                }
                for m in told
            ]
            encoded = encoder.encode(messages, training=True)
            rows.append((len(encoded.input_ids), sum(p.drawn for p in encoded.pictures)))
            assert conversation_size(encoder, told) == (rows[-1][1], tokens) == (drawings, tokens)
            assert abs(len(encoded.input_ids) + 16 * rows[-1][1] - tokens) <= 2
        spent += len(rows) * (max(n for n, _ in rows) + 16 * max(drawn for _, drawn in rows))
        needed += sum(n + 16 * drawn for n, drawn in rows)
    print(f"padding: {1 - needed / spent:.3f}")
    assert needed >= 0.95 * spent


def test_pictures_are_cut_to_the_nearest_shape():
    config = make_limner(shapes=((32, 32), (32, 64))).config
    assert resize_to_shape(picture(0, (100, 90)), config).size == (32, 32)
    assert resize_to_shape(picture(0, (100, 190)), config).size == (64, 32)


def test_the_check_shows_what_the_model_will_see(folder, capsys):
    """The command line's first three examples: roles, texts, the system prompt, and where each picture stands."""
    rows = [
        {
            "system": "Be brief.",
            "source_img": "0.png",
            "mask_img": "1.png",
            "instruction": "blue\x1b[31m",
            "target_img": "2.png",
        },
        *({"file_name": "1.png", "text": f"a cat {n}"} for n in range(200)),
        {"image": "2.png"},
        {"source": "2.png", "target": "none.png", "edit": "x"},
    ]
    lines(folder / "data.jsonl", rows)
    assert main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    for line in (
        "layouts   200 captions, 1 edits",
        "not used  fields mask_img",
        "left out  2, with 3 pictures",
        "1. " + f"{folder}/data.jsonl:1: ",
        "    Be brief.<|im_end|>",
        "<img>[a picture seen, 128 x 128 of 32 x 32]</img>blue\\x1b[31m<|im_end|>",
        "    <shape_128x128><img>[a picture drawn, 128 x 128 of 32 x 32]</img><|im_end|>",
        "1 of 2 pictures drawn",
    ):
        assert line in said, line
    assert said.count(" learned, ") == 3 and "data.jsonl:4:" not in said.split("1. ")[1]


def test_a_drawings_queries_count_as_tokens_of_its_conversation(folder):
    """They stand behind the last token: a conversation that ends with a drawing takes their positions, too."""
    model = make_limner(num_queries=40, image_tokens=4)
    rows = [{"file_name": "1.png", "text": "a cat"}]
    (example,) = read(lines(folder / "metadata.jsonl", rows))
    (tokens,) = check([example], model.encoder, 1024).tokens
    (problem,) = check([example], model.encoder, tokens).problems
    assert "this model's context holds" in problem.why


def test_a_caption_of_full_stops_is_still_a_message():
    example = CaptionedPicture(Path("a.png"), ("...",), "a")
    said = {example.sample(random.Random(seed), 1.0)[0]["content"][0]["text"] for seed in range(40)}
    assert "..." in said and all("..." in words for words in said)


def test_an_empty_name_is_not_the_folder_where_one_stands():
    with pytest.raises(ValueError, match="name is empty"):
        read("")
