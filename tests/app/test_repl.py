"""Commands of `limner chat` on a tiny model: candidates, masks, what the tab key offers."""

import numpy as np
import pytest
from PIL import Image

from helpers import make_limner, picture, psnr
from limner.app.cli import completion, line_input
from limner.app.cli.repl import HELP, Repl
from limner.inference.picture_metadata import read_metadata


@pytest.fixture(scope="module")
def model():
    return make_limner(shapes=((32, 32), (16, 32)))


@pytest.fixture
def repl(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"seed": 3, "images": "force", "max_images": 1, "max_new_tokens": 3, "height": 32, "width": 32}
    return Repl(model, options)


def said(capsys, repl, line):
    capsys.readouterr()
    repl.answer(line)
    out = capsys.readouterr()
    return out.out + out.err


def test_candidates_are_numbered_and_saved_and_one_is_kept(repl, capsys, tmp_path):
    repl.answer("draw")
    before = list(repl.chat.messages)
    shown = said(capsys, repl, "/candidates 3")
    assert [line[:2] for line in shown.splitlines()[::2]][:3] == ["1.", "2.", "3."] and "(/choose 1 to 3" in shown
    assert shown.splitlines()[1::2] == ["limner-002.png", "limner-003.png", "limner-004.png"]
    assert [read_metadata(tmp_path / f"limner-00{n}.png").seed for n in (1, 2, 3, 4)] == [3, 3, 4, 5]
    assert repl.chat.messages == before
    for number in (3, 2):  # one may think again
        assert said(capsys, repl, f"/choose {number}") == f"(kept {number})\n"
        kept = repl.chat.messages[-1]["content"][0]["image"]
        assert kept.tobytes() == Image.open(f"limner-00{number + 1}.png").tobytes() and len(repl.chat.messages) == 2
    assert "there is no candidate 4; there are 1 to 3" in said(capsys, repl, "/choose 4")
    assert "it must be a whole number" in said(capsys, repl, "/choose")
    repl.answer("again")
    assert "nothing to choose" in said(capsys, repl, "/choose 1"), "they answered another message"
    repl.answer("/undo")
    assert said(capsys, repl, "/candidates").count("limner-") == 4
    repl.answer("/clear")
    assert "nothing to choose" in said(capsys, repl, "/choose 1")
    for line, words in (("/candidates", "the conversation is empty"), ("/candidates many", "whole number")):
        assert words in said(capsys, repl, line)
    repl.answer("draw")
    assert "n is 0" in said(capsys, repl, "/candidates 0")


def test_a_mask_is_of_the_next_message_alone(repl, capsys):
    assert "there is no picture to edit" in said(capsys, repl, "/mask 0,0,8,8")
    repl.answer("draw")
    before = np.asarray(Image.open("limner-001.png"))
    assert said(capsys, repl, "/mask 4,8,20,30") == "(your next message edits what lies in 4,8,20,30 of 32 x 32)\n"
    repl.answer("a cat")
    after = np.asarray(Image.open("limner-002.png"))
    changed = (before != after).any(-1)
    assert (
        changed[8:30, 4:20].any() and not changed[:, 20:].any() and not changed[:8].any() and not changed[:, :4].any()
    )
    repl.answer("/retry")
    assert not (np.asarray(Image.open("limner-003.png")) != before).any(-1)[:8].any()
    repl.answer("a cat")
    assert (np.asarray(Image.open("limner-004.png")) != np.asarray(Image.open("limner-003.png"))).any(-1)[:8].any()


def test_a_mask_may_be_a_file_and_of_a_picture_that_is_shown(repl, capsys):
    picture(1).save("in.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 32, 16))
    mask.save("my mask.png")
    repl.answer("/image in.png")
    assert "0,0,32,16" in said(capsys, repl, "/mask my mask.png")
    repl.answer("a cat")
    assert psnr(np.asarray(Image.open("limner-001.png"))[16:], np.asarray(picture(1))[16:]) == 99
    for line, words in (
        ("/mask", "/mask needs"),
        ("/mask gone.png", "no such file"),
        ("/mask 1,2,3", "is not left, top"),
    ):
        assert words in said(capsys, repl, line)
    repl.answer("/mask 0,0,8,8")
    repl.answer("/mask off")
    assert repl.mask is None


def test_a_message_that_fails_keeps_the_mask(repl, capsys, monkeypatch):
    repl.answer("draw")
    repl.answer("/mask 0,0,8,8")
    monkeypatch.setattr(repl.model, "stream", lambda *_, **__: 1 / 0)
    repl.answer("a cat")
    assert repl.mask is not None
    monkeypatch.undo()


def test_without_metadata(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repl = Repl(model, {"images": "force", "max_images": 1, "max_new_tokens": 3}, metadata=False)
    repl.answer("a secret")
    repl.answer("/save talk.jsonl")
    assert len(list(tmp_path.glob("*.png"))) == 2 and not any(map(read_metadata, tmp_path.glob("*.png")))


def test_every_command_has_its_help_and_its_completion(repl):
    assert {*completion.COMMANDS} == {*repl.commands, "quit"}
    assert all(f"/{name}" in HELP for name in completion.COMMANDS)


def test_what_the_tab_key_offers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "a b"))
    (tmp_path / "a b").mkdir()
    for name in ("a b/one.png", "a b/talk.jsonl", "ab.png", ".hidden.png", "bad\x1bname.png"):
        (tmp_path / name).touch()
    offered = completion.completions
    assert offered("hello") == offered("") == [] and offered("/u") == ["/undo"] and offered("/cl") == ["/clear"]
    assert offered("/s") == ["/save ", "/seed ", "/size ", "/steps ", "/set "]
    assert offered("/image ") == ["/image a b/", "/image ab.png"] and offered("/image x/") == []
    assert offered("/image a b/") == ["/image a b/one.png", "/image a b/talk.jsonl"]
    assert offered("/load a b/") == ["/load a b/talk.jsonl"] and offered("/load ~/") == ["/load ~/talk.jsonl"]
    assert offered("/image .h") == ["/image .hidden.png"]
    assert offered("/mask o") == ["/mask off"] and offered("/save -") == ["/save --overwrite "]
    assert offered("/adapter ca", lambda: ["cactus", "dog"]) == ["/adapter cactus"]
    assert offered("/set max-new") == ["/set max_new_tokens "] and offered("/set seed x") == [] == offered("/undo x")
    assert {"/set sampler ", "/set steps ", "/set history "} <= {*offered("/set ")}


def test_completions_are_given_as_readline_asks_for_them(monkeypatch):
    asked = []

    class Readline:
        line = "/image my ph and more"
        get_line_buffer = staticmethod(lambda: Readline.line)
        get_begidx = staticmethod(lambda: 10)
        get_endidx = staticmethod(lambda: 12)

    def found(line):
        asked.append(line)
        return ["/image my photo.png", "/image my phone.png"]

    monkeypatch.setattr(line_input, "readline", Readline)
    complete = line_input.Completer(found)
    assert [complete("ph", state) for state in range(3)] == ["photo.png", "phone.png", None]
    assert asked == ["/image my ph"], "up to the cursor, once"
