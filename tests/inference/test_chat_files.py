"""Chats on the disk: what is saved goes on as if it had never been, and nothing of others is replaced."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import make_limner, picture
from limner.inference import chat_files
from limner.inference.chat import Chat
from limner.mllm.messages import EmittedText

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def model():
    return make_limner()


@pytest.fixture
def chat(model):
    """With a picture of the user's and pictures and words of the model's."""
    chat = model.chat(seed=3, num_inference_steps=2, images="force", max_images=1, max_new_tokens=6)
    chat.messages.append(SYSTEM)
    chat.say("draw", images=[picture(1)])
    chat.say("half an emoji \ud83d, caf\udce9, a line\u2028break")
    return chat


def anew(model, chat, text):
    """The next reply of a conversation that is read from its beginning."""
    model.engine.kept.kept.clear()
    reply = chat.say(text)
    chat.undo()
    model.engine.kept.kept.clear()
    return [part if isinstance(part, str) else part.tobytes() for part in reply.parts]


def test_a_loaded_chat_goes_on_as_if_it_had_not_been_saved(model, chat, tmp_path):
    path = chat.save(tmp_path / "talk.jsonl")
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    again = Chat.load(tmp_path.with_name("moved") / path.name, model)
    assert again.options == chat.options and [m["role"] for m in again.messages] == [m["role"] for m in chat.messages]
    assert again.messages[0]["content"] == [{"type": "text", "text": "Be brief."}]
    for ours, theirs in zip(chat.messages[1:], again.messages[1:], strict=True):
        for a, b in zip(ours["content"], theirs["content"], strict=True):
            if a["type"] == "image":
                assert a["image"].tobytes() == b["image"].tobytes()
            else:
                assert a["text"] == b["text"] and getattr(a["text"], "ids", None) == getattr(b["text"], "ids", None)
    assert any(isinstance(p.get("text"), EmittedText) for m in again.messages for p in m["content"])
    assert anew(model, again, "again") == anew(model, chat, "again")
    assert anew(model, Chat.load(again.save(tmp_path.with_name("moved") / path.name), model), "x") == anew(
        model, chat, "x"
    )
    other = Chat.load(tmp_path.with_name("moved") / path.name, model, seed=4)
    assert other.options == chat.options | {"seed": 4} and anew(model, other, "again") != anew(model, chat, "again")


def test_what_the_model_no_longer_sees_is_remembered(model, tmp_path):
    chat = model.chat(images="never", max_new_tokens=2, history=1)
    for _ in range(3):
        chat.say("hello")
    assert chat.forgotten == 1
    again = Chat.load(chat.save(tmp_path / "talk.jsonl"), model)
    assert (again.forgotten, again.dropped, again.options["history"]) == (1, 0, 1)
    again.undo(), again.retry()


def test_a_chat_s_pictures_are_written_once_and_stand_beside_it(model, chat, tmp_path):
    (tmp_path / "talk-01.png").write_bytes(b"mine")
    chat.save(tmp_path / "talk.jsonl")
    held = sorted(p.name for p in tmp_path.iterdir())
    assert held == ["talk-01.png", "talk-02.png", "talk-03.png", "talk-04.png", "talk.jsonl"]
    assert (tmp_path / "talk-01.png").read_bytes() == b"mine"
    chat.save(tmp_path / "talk.jsonl")
    again = Chat.load(tmp_path / "talk.jsonl", model)
    again.say("more")
    again.save(tmp_path / "talk.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == [*held[:4], "talk-05.png", "talk.jsonl"]


def test_nothing_is_replaced_unasked(model, chat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("talk.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"choose another name, such as talk-001\.jsonl, or overwrite it"):
        chat.save("talk.jsonl")
    assert Path("talk.jsonl").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    chat.save("talk.jsonl", overwrite=True)
    assert len(Chat.load("talk.jsonl", model).messages) == 5
    with pytest.raises(ValueError, match=r"such as .*talk-001"):
        model.chat().save(tmp_path / "talk.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    chat.clear()
    with pytest.raises(ValueError, match="overwrite it"):
        chat.save("talk.jsonl")
    assert chat.save("~/home.jsonl") == tmp_path / "home.jsonl" and not Chat.load("~/home.jsonl", model).messages


@pytest.mark.parametrize("writer", ["save_image", "write_text"])
def test_a_save_that_fails_leaves_everything_as_it_was(model, chat, tmp_path, monkeypatch, writer):
    chat.save(tmp_path / "talk.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    chat.say("another")
    chat.say("yet another")
    calls = []

    def full(*_, **__):
        calls.append(1)
        if writer == "write_text" or len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*_, **__)

    real = getattr(chat_files, writer)
    monkeypatch.setattr(chat_files, writer, full)
    with pytest.raises(OSError, match="No space"):
        chat.save(tmp_path / "talk.jsonl")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    chat.save(tmp_path / "talk.jsonl")
    assert len(Chat.load(tmp_path / "talk.jsonl", model).messages) == 9


def test_with_another_model_it_is_refused_and_its_words_can_be_read_anew(model, chat, tmp_path):
    path = chat.save(tmp_path / "talk.jsonl")
    other = make_limner(seed=5)
    other.name = "other"
    with pytest.raises(ValueError, match=r"is a chat with 'limner', not with this model, 'other': load the model"):
        Chat.load(path, other)
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({"messages": saved["messages"]}))
    again = Chat.load(path, other, images="never", max_new_tokens=2)
    assert not any(isinstance(p.get("text"), EmittedText) for m in again.messages for p in m["content"])
    assert again.say("hello") and len(again.messages) == 7


def test_other_adapters_are_told(model, chat, tmp_path):
    path = chat.save(tmp_path / "talk.jsonl")
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["chat"]["adapters"] = {"cat": 0.5}
    path.write_text(json.dumps(saved))
    with pytest.warns(UserWarning, match=r"was held with other adapters \(cat 0\.5\) than are on now \(none\)"):
        Chat.load(path, model)


def test_a_text_that_was_edited_counts_and_control_ids_do_not(model, chat, tmp_path):
    path = chat.save(tmp_path / "talk.jsonl")
    saved = json.loads(path.read_text(encoding="utf-8"))
    part = next(p for p in saved["messages"][2]["content"] if p["type"] == "text")
    place = saved["messages"][2]["content"].index(part)
    for text, ids in (
        ("edited", saved["chat"]["token_ids"][2][place]),
        ("<img>", [model.mllm.vocabulary.boi]),
        ("<|im_end|>", list(model.mllm.vocabulary.end_of_turn)),
        ("x", [10**9]),
        ("x", [-1]),
        ("x", ["y"]),
        ("x", 3),
    ):
        part["text"], saved["chat"]["token_ids"][2][place] = text, ids
        path.write_text(json.dumps(saved))
        loaded = Chat.load(path, model).messages[2]["content"][place]["text"]
        assert loaded == text and not isinstance(loaded, EmittedText)


USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 lines; a chat is one line"),
        ("{", "is no saved chat: Expecting"),
        ("[" * 100_000, "is no saved chat"),
        ('{"messages": ' + "1" * 5000 + "}", "is no saved chat"),
        ("[]", "expected the keys messages and chat"),
        ("{}", "expected the keys messages and chat"),
        ('{"messages": []}\n{"messages": []}', "has 2 lines"),
        ({"messages": [], "more": 1}, "expected the keys"),
        ({"messages": [USER]}, "the assistant is last"),
        ({"messages": [REPLY, USER]}, "take turns"),
        ({"messages": [USER, SYSTEM, REPLY]}, "a system message may come first"),
        ({"messages": [USER, {"role": "robot", "content": "b"}]}, "message 1: message 0 has role|message 1: has role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "gone.png"}]}]},
            "message 0: no such file",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": 3}]}]}, "named by its file"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "a text or a pic",
        ),
        ({"messages": [USER, REPLY], "chat": {"format": 2}}, "expected format 1 of a chat with the keys"),
        ({"messages": [USER, REPLY], "chat": []}, "expected format 1 of a chat with the keys"),
    ],
)
def test_what_is_no_chat_is_refused_in_a_line(model, tmp_path, text, said):
    path = tmp_path / "talk.jsonl"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ValueError, match=said) as error:
        Chat.load(path, model)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["/etc/x.png", "../x.png", "a/../../x.png", r"..\x.png", r"C:\x.png", r"\\host\x.png", "C:x"]
)
def test_pictures_stay_in_the_chat_s_folder(model, tmp_path, name):
    picture(0).save(tmp_path / "x.png")
    (tmp_path / "talks").mkdir()
    path = tmp_path / "talks/talk.jsonl"
    content = [{"type": "image", "image": name}]
    path.write_text(json.dumps({"messages": [{"role": "user", "content": content}, REPLY]}))
    with pytest.raises(ValueError, match="is not in the chat's own folder"):
        Chat.load(path, model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": {"teperature": 1}}, "unknown options teperature"),
        ({"options": {"temperature": -1}}, "temperature"),
        ({"options": {"height": "x", "width": "y", "max_new_tokens": "z"}}, "talk.jsonl"),
        ({"options": {"callback": 1}}, "expected format 1"),
        ({"dropped": 99}, "expected format 1"),
        ({"dropped": True}, "expected format 1"),
        ({"token_ids": []}, "expected format 1"),
        ({"fingerprint": 3}, "expected format 1"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(model, chat, tmp_path, change, said):
    path = chat.save(tmp_path / "talk.jsonl")
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["chat"] |= change
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=said):
        Chat.load(path, model)


def test_messages_and_options_in_other_forms_are_saved(model, tmp_path):
    picture(2).save(tmp_path / "photo.png")
    chat = model.chat(top_k=np.int64(3), stop="END", guidance_interval=(0.1, 0.9), images="never", max_new_tokens=2)
    shown = {"type": "image", "image": tmp_path / "photo.png"}
    chat.messages += [{"role": "user", "content": [shown]}, {"role": "assistant", "content": "A cat."}]
    chat.retry()
    again = Chat.load(chat.save(tmp_path / "talk.jsonl"), model)
    assert again.options["top_k"] == 3 and list(again.options["stop"]) == ["END"]
    assert isinstance(again.messages[0]["content"][0]["image"], Image.Image) and again.say("hello")


def test_a_folder_is_no_chat(model, tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        Chat.load(tmp_path, model)


def test_a_zip_archive_holds_the_whole_conversation(model, chat, tmp_path):
    chat.save(tmp_path / "talk.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["talk.zip"]
    with zipfile.ZipFile(tmp_path / "talk.zip") as archive:
        assert sorted(archive.namelist()) == ["talk-01.png", "talk-02.png", "talk-03.png", "talk.jsonl"]
        archive.extractall(tmp_path / "out")
    loaded = Chat.load(tmp_path / "talk.zip", model)
    assert anew(model, loaded, "more") == anew(model, Chat.load(tmp_path / "out/talk.jsonl", model), "more")
    loaded.say("more")
    loaded.save(tmp_path / "talk.zip")
    assert len(Chat.load(tmp_path / "talk.zip", model).messages) == len(loaded.messages)
    with pytest.raises(ValueError, match=r"choose another name, such as .*talk-001\.zip"):
        chat.clear()
        chat.save(tmp_path / "talk.zip")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.png": b""}, "expected one .jsonl"),
        ({"a.jsonl": b"{}", "b.jsonl": b"{}"}, "expected one .jsonl"),
        ({"a.jsonl": b"{}", "../a.png": b""}, "no folders"),
        ({"a.jsonl": b"{}", "b/a.png": b""}, "no folders"),
        ({"a.jsonl": b"{}"}, "talk.zip is no saved chat: expected the keys"),
        ({"a.jsonl": b'{"messages": []}', "a.png": bytes(3000)}, "unpacks to 3,016 bytes; a chat may have 2,000"),
    ],
)
def test_an_archive_that_is_no_chat_is_refused(model, tmp_path, monkeypatch, files, said):
    monkeypatch.setattr(chat_files, "MAX_ARCHIVE", 2000)
    with zipfile.ZipFile(tmp_path / "talk.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=re.escape(said)):
        Chat.load(tmp_path / "talk.zip", model)


def test_a_broken_archive_is_refused(model, chat, tmp_path):
    data = bytearray(chat.save(tmp_path / "talk.zip").read_bytes())
    data[200:260] = bytes(60)
    (tmp_path / "talk.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"talk\.zip"):
        Chat.load(tmp_path / "talk.zip", model)
