"""Records of other projects, each as its documentation writes it, and the conversations that they become."""

import base64
import json

import pytest

from helpers import png_bytes as png
from helpers import write_lines as lines
from limner.train.datasets.example import CaptionedPicture, Problem
from limner.train.datasets.notes import Notes
from limner.train.datasets.readers import read


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(png(ord(name)))
    return tmp_path


def one(folder, row, notes=None):
    (found,) = read(lines(folder / "data.jsonl", [row]), notes)
    return found


def told(example):
    """Roles with texts and pictures' names, or what is wrong."""
    if isinstance(example, Problem):
        return example.why
    if isinstance(example, CaptionedPicture):
        return example.picture.name, *example.captions
    return [
        (m["role"][0], *(p["text"] if p["type"] == "text" else p["image"].name for p in m["content"]))
        for m in example.messages
    ]


SEEN = [("u", "a.png", "what?"), ("a", "red")]
EDITED = [("u", "a.png", "make it blue"), ("a", "b.png")]
CHAT = [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "red"}]
TALK = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "what?", "image": None}]

READ = {
    "LLaMA-Factory, ms-swift": ({"messages": CHAT, "images": ["a.png"]}, SEEN),
    "TRL": ({"messages": [{"role": "user", "content": PARTS}, CHAT[1]], "images": ["a.png"]}, SEEN),
    "TRL without parts": ({"messages": [{"role": "user", "content": "what?"}, CHAT[1]], "images": ["a.png"]}, SEEN),
    "Qwen2-VL's parts": (
        {"messages": [{"role": "user", "content": [{"image": "a.png"}, {"text": "what?"}]}, CHAT[1]]},
        SEEN,
    ),
    "a part that is plain text": (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, "what?"]}, CHAT[1]]},
        SEEN,
    ),
    "LLaVA": ({"id": 1, "image": "a.png", "conversations": TALK}, SEEN),
    "LLaVA of several pictures": (
        {
            "image": ["a.png", "b.png"],
            "conversations": [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "b"}],
        },
        [("u", "a.png", "or", "b.png", "?"), ("a", "b")],
    ),
    "LLaVA beside a column of the other": ({"images": None, "image": "a.png", "conversations": TALK}, SEEN),
    "ShareGPT": (
        {
            "system": "In French.",
            "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "bonjour"}],
        },
        [("s", "In French."), ("u", "hello"), ("a", "bonjour")],
    ),
    "InternLM-XComposer": (
        {
            "image": ["a.png"],
            "conversations": [{"from": "user", "value": "<ImageHere> what?"}, {"from": "assistant", "value": "red"}],
        },
        SEEN,
    ),
    "Qwen-VL": (
        {
            "conversations": [
                {"from": "user", "value": "Picture 1: <img>a.png</img>\nwhat?"},
                {"from": "assistant", "value": "red"},
            ]
        },
        SEEN,
    ),
    "conversations as JSON in a column": ({"image": "a.png", "conversations": json.dumps(TALK)}, SEEN),
    "MiniCPM-V": ({"id": "0", "image": "a.png", "conversations": CHAT}, SEEN),
    "MiniCPM-V of several pictures": (
        {
            "image": {"<image_00>": "a.png", "<image_01>": "b.png"},
            "conversations": [{"role": "user", "content": "<image_01> after <image_00>?"}, CHAT[1]],
        },
        [("u", "b.png", "after", "a.png", "?"), ("a", "red")],
    ),
    "MiniCPM-V without a mark": (
        {"image": "a.png", "conversations": [{"role": "user", "content": "what?"}, CHAT[1]]},
        SEEN,
    ),
    "SEED-X": ({"image": "a.png", "data": ["what?", "red", "sure?", "yes"]}, [*SEEN, ("u", "sure?"), ("a", "yes")]),
    "SEED-X with a slash": ({"image": "/a.png", "data": ["what?", "red"]}, SEEN),
    "SEED-X without a picture": ({"image": "none", "data": ["hi", "hello"]}, [("u", "hi"), ("a", "hello")]),
    "SEED-X's edits": (
        {"source_image": "a.png", "target_image": "b.png", "instruction": "make it blue"},
        EDITED,
    ),
    "SEED-X's edits with a reply": (
        {
            "source_image": "a.png",
            "target_image": "b.png",
            "instruction": "blue",
            "instruction_new": "make it blue",
            "response": "Here.",
        },
        [EDITED[0], ("a", "Here.", "b.png")],
    ),
    "InstructPix2Pix on the hub": (
        {"original_image": "a.png", "edit_prompt": "make it blue", "edited_image": "b.png"},
        EDITED,
    ),
    "UltraEdit": (
        {"source_image": "a.png", "edited_image": "b.png", "edit_prompt": "make it blue", "mask_image": "c.png"},
        EDITED,
    ),
    "MagicBrush": (
        {
            "img_id": "327",
            "turn_index": 2,
            "source_img": "a.png",
            "mask_img": "c.png",
            "instruction": "make it blue",
            "target_img": "b.png",
        },
        EDITED,
    ),
    "HQ-Edit": (
        {"input_image": "a.png", "output_image": "b.png", "edit": "make it blue", "input": "red", "output": "blue"},
        EDITED,
    ),
    "an image folder with several pictures a row": (
        {"source_file_name": "a.png", "target_file_name": "b.png", "instruction": "make it blue"},
        EDITED,
    ),
    "SEED-Story": (
        {"id": 1, "images": ["a.png", "b.png", "c.png"], "captions": ["one", "two", "three"], "orders": [0, 1, 2]},
        [("u", "one", "a.png"), ("a", "two", "b.png", "three", "c.png")],
    ),
    "OmniGen2 edits": (
        {"task_type": "edit", "instruction": "make it blue", "input_images": ["a.png"], "output_image": "b.png"},
        EDITED,
    ),
    "OmniGen2 drawings": (
        {"task_type": "t2i", "instruction": "a square", "input_images": None, "output_image": "b.png"},
        [("u", "a square"), ("a", "b.png")],
    ),
    "OmniGen2 understanding": ({"instruction": "what?", "input_images": ["a.png"], "output_text": "red"}, SEEN),
    "OmniGen": (
        {
            "task_type": "image_edit",
            "instruction": "put <img><|image_2|></img> on <img><|image_1|></img>",
            "input_images": ["a.png", "b.png"],
            "output_image": "c.png",
        },
        [("u", "put", "b.png", "on", "a.png"), ("a", "c.png")],
    ),
    "Alpaca": (
        {"instruction": "add", "input": "1 2", "output": "3", "system": "Count.", "history": [["hi", "hello"]]},
        [("s", "Count."), ("u", "hi"), ("a", "hello"), ("u", "add\n1 2"), ("a", "3")],
    ),
    "Alpaca with pictures": ({"instruction": "<image>what?", "input": "", "output": "red", "images": ["a.png"]}, SEEN),
    "questions": ({"image": "a.png", "question": "what?", "answer": "red"}, SEEN),
    "captions": ({"file_name": "a.png", "text": "a cat"}, ("a.png", "a cat")),
    "captions in a column of any name": ({"file_name": "a.png", "additional_feature": "a cat"}, ("a.png", "a cat")),
    "tags": ({"image": "a.png", "tags": ["cat", "red"]}, ("a.png", "cat, red")),
    "a picture in a list": ({"images": ["a.png"], "caption": "a cat"}, ("a.png", "a cat")),
}


@pytest.mark.parametrize("name", READ)
def test_records_of_other_projects(folder, name):
    row, expected = READ[name]
    assert told(one(folder, row)) == expected


REFUSED = {
    "preference pairs": ({"conversations": TALK[:1], "chosen": TALK[1], "rejected": TALK[1]}, "preference training"),
    "a reply marked as bad": ({"instruction": "hi", "output": "no", "kto_tag": False}, "a bad one"),
    "a reply that is not learned": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "no", "weight": 0}]},
        "turn 1 is marked as not to be learned",
    ),
    "a mark without a picture": ({"messages": CHAT}, "turn 0 holds more <image> marks than pictures (0)"),
    "a numbered mark without a picture": (
        {"images": ["a.png"], "conversations": [{"from": "human", "value": "<|image_2|>?"}, TALK[1]]},
        "holds <|image_2|>, but no picture is called that",
    ),
    "a picture without a mark": (
        {"images": ["a.png", "b.png"], "messages": CHAT},
        "1 of 2 pictures have no <image> mark",
    ),
    "two system prompts": ({"system": "x", "messages": [{"role": "system", "content": "y"}, CHAT[1]]}, "which one"),
    "a tool's answer": (
        {"conversations": [{"from": "observation", "value": "{}"}, *TALK]},
        "unknown role 'observation'",
    ),
    "a film": (
        {"messages": [{"role": "user", "content": "?"}, CHAT[1]], "videos": ["a.mp4"]},
        "videos cannot be learned",
    ),
    "a text under another name": ({"messages": [{"role": "user", "text": "hi"}, CHAT[1]]}, "turn 0 must have content"),
    "a call of a tool in place of words": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]},
        "turn 1 must have content",
    ),
    "boxes that are not put in": (
        {"messages": CHAT, "images": ["a.png"], "objects": {"ref": ["x"], "bbox": [[1, 2, 3, 4]]}},
        "write it into the texts",
    ),
    "a question without an answer": ({"data": ["what?", "red", "and?"]}, "questions and answers in turn"),
    "a story with a scene too few": ({"images": ["a.png"], "captions": ["one", "two"]}, "2 captions beside 1 images"),
    "a number as a caption": ({"image": "a.png", "caption": 7}, "the caption is 7, not text"),
    "two pictures for a caption": ({"images": ["a.png", "b.png"], "caption": "x"}, "holds 2 pictures in place of one"),
    "ai-toolkit's placeholder": ({"image": "a.png", "caption": "[trigger] on grass"}, "your trigger word"),
    "a column that is no caption": ({"file_name": "a.png", "label": "3"}, "no known layout"),
    "nothing known": ({"a": 1}, "fields a are no known layout; known are messages, conversations (LLaVA, ShareGPT)"),
    "no layout": (
        {"file_name": "a.png", "target": "b.png", "tekst": "x"},
        "fields file_name, target, tekst are no known layout; edits need source or source_image or source_img or src_img; ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_learned_wrongly_is_refused_by_name(folder, name):
    row, said = REFUSED[name]
    assert said in told(one(folder, row))


def test_words_that_look_like_marks_are_words_in_parts_without_pictures(folder):
    said = [{"type": "text", "text": "what does <image> mean in SVG?"}]
    assert told(one(folder, {"messages": [{"role": "user", "content": said}, CHAT[1]]}))[0] == ("u", said[0]["text"])


def test_pictures_however_they_are_named(folder):
    (folder / "sub").mkdir()
    (folder / "sub/é.png").write_bytes(png(7))  # accents composed
    data = base64.b64encode(png(8)).decode()
    for given, name in (
        ("sub\\é.png", "é.png"),
        ("./sub/../a.png", "a.png"),
        ("sub/e\u0301.png", "é.png"),  # accents apart
        (str(folder / "a.png"), "a.png"),
        (f"file://{folder}/sub/%C3%A9.png", "é.png"),
        ({"path": "a.png", "bytes": None}, "a.png"),
        ([{"path": "a.png"}], "a.png"),
    ):
        assert told(one(folder, {"image": given, "text": "x"})) == (name, "x")
    for given in (data, f"data:image/png;base64,{data}", {"bytes": None, "url": f"data:image/png;base64,{data}"}):
        assert one(folder, {"image": given, "text": "x"}).picture.read() == png(8)
    openai = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]
    anthropic = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]
    for content in (openai, anthropic):
        (found,) = one(folder, {"messages": [{"role": "user", "content": content}, CHAT[1]]}).pictures()
        assert found.read() == png(8)
    for given, said in (
        ("https://x.org/a.png", "is a URL"),
        ("s3://x/a.png", "is a URL"),
        ("C:\\data\\a.png", "leaves the data set's folder"),
        (str(folder.parent / "a.png"), "leaves the data set's folder"),
        ("../a.png", "leaves the data set's folder"),
        ("x" * 300 + ".png", "no such picture"),
        ("a\0.png", "no such picture"),
        ("data:image/png;base64,!!", "is broken"),
        (7, "must be a path or bytes"),
    ):
        assert said in told(one(folder, {"image": given, "text": "x"})), given


def test_fields_that_nothing_was_made_of_are_counted(folder):
    notes = Notes()
    rows = [
        {"id": 1, "source_img": "a.png", "mask_img": "c.png", "instruction": "blue", "target_img": "b.png"},
        {"id": 2, "image": "a.png", "text": "a cat", "caption": None, "url": ""},
        {"messages": [CHAT[1] | {"tool_calls": [1]}, {"role": "user", "content": "hi"}]},
    ]
    assert not [found for found in read(lines(folder / "data.jsonl", rows), notes) if isinstance(found, Problem)]
    assert notes.fields == {"id": 2, "mask_img": 1, "turns: tool_calls": 1}
    assert notes.layouts == {"edits": 1, "captions": 1, "messages": 1}
    said = "\n".join(notes.lines())
    assert "1 edits" in said and "not used  fields id (2), mask_img" in said
