"""The command line on a tiny model: results, and one clear line for every mistake."""

import io
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from command_line import run
from PIL import Image

from helpers import picture
from limner.app.cli.terminal import graphics
from limner.app.cli.terminal_pictures import show
from limner.inference.model_folders import WEIGHTS


def test_draw_edit_describe_info(capsys, folder, tmp_path):
    out = tmp_path / "a.png"
    status, text, _ = run(
        capsys, "draw", "a cat", "--model", folder, "--out", str(out), "--seed", "1", "--size", "16x32"
    )
    assert status == 0 and Image.open(out).size == (32, 16) and str(out) in text
    first = out.read_bytes()
    run(capsys, "draw", "a cat", "--model", folder, "--out", str(out), "--seed", "1", "--size", "16x32")
    assert out.read_bytes() == first
    status, _, _ = run(capsys, "edit", str(out), "blue", "--model", folder, "--out", str(tmp_path / "b.png"))
    assert status == 0 and (tmp_path / "b.png").exists()
    status, _, _ = run(capsys, "describe", str(out), "--model", folder)
    assert status == 0
    status, text, _ = run(capsys, "info", "--model", folder)
    assert status == 0 and "backbone" in text and "parameters" in text
    status, text, _ = run(capsys, "info", "--model", folder, "--memory")
    whole = next(line for line in text.splitlines() if line.startswith("  in all"))
    total = [float(value) for value in whole.split()[2:]]
    assert status == 0 and total[0] > 0 and total[0] == pytest.approx(2 * total[1], abs=0.11)


def test_a_picture_says_how_it_was_drawn_and_the_command_draws_it_again(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ("--model", folder, "--out", "cat.png")
    for words in (
        ("draw", "it's a 고양이"),
        (
            "draw",
            "a cat",
            "--seed",
            "-4",
            "--steps",
            "2",
            "--temperature",
            "0.5",
            "--stop",
            "-x",
            "--guidance-interval",
            "0",
            "1",
        ),
        ("draw", "--", "-40 degrees"),
    ):
        status, _, _ = run(capsys, *words[:1], *model, *words[1:])
        first = (tmp_path / "cat.png").read_bytes()
        status, said, _ = run(capsys, "info", "cat.png")
        command = shlex.split(said.splitlines()[-1])
        assert status == 0 and command[:2] == ["limner", "draw"] and command[command.index("--model") + 1] == "tiny"
        at = command.index("--model")
        status, _, _ = run(capsys, "draw", *model, *command[2:at], *command[at + 2 :])
        again = (tmp_path / "cat.png").read_bytes()
        assert status == 0 and Image.open(io.BytesIO(again)).tobytes() == Image.open(io.BytesIO(first)).tobytes()
    run(capsys, "draw", "it's a secret", "--no-metadata", *model)
    assert b"secret" not in (tmp_path / "cat.png").read_bytes()
    status, said, _ = run(capsys, "info", "cat.png")
    assert (
        said
        == f"cat.png: {Image.open('cat.png').width} x {Image.open('cat.png').height}, PNG; it does not say how it was drawn\n"
    )
    run(capsys, "edit", "cat.png", "blue", "--model", folder, "--out", "b.png", "--no-metadata")
    assert b"blue" not in (tmp_path / "b.png").read_bytes()


def test_info_goes_by_what_is_there_not_by_its_name(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(capsys, "draw", "a cat", "--model", folder, "--out", "cat.png")
    (tmp_path / "cat.png").rename("model")
    shutil.copytree(folder, "tiny.png")
    (tmp_path / "note.png").write_text("no picture")
    status, said, _ = run(capsys, "info", "model")
    assert status == 0 and "prompt                 a cat\n" in said
    status, said, _ = run(capsys, "info", "tiny.png")
    assert status == 0 and said.startswith("tiny.png: ") and "backbone" in said
    student = WEIGHTS / "nano" / "student"
    base = json.loads((student / "limner_adapter.json").read_text())["base_fingerprint"]
    status, said, _ = run(capsys, "info", str(student))
    assert (
        status == 0
        and f"for the model          nano (weights {base[:12]})" in said
        and "student_steps          4" in said
    )
    for words, error in (
        (("note.png",), "note.png is not a picture"),
        (("model", "--memory"), "--memory is for models"),
        ((str(WEIGHTS / "nano" / "student"), "--memory"), "--memory is for models"),
        (("nothing.png",), "unknown model 'nothing.png'"),
    ):
        status, _, err = run(capsys, "info", *words)
        assert status == 2 and error in err and err.count("\n") == 1


def test_edit_changes_what_a_mask_marks(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(0).save("in.png")
    mask = Image.new("RGBA", (32, 32), "red")
    mask.paste((0, 0, 0, 0), (4, 8, 20, 30))
    mask.save("mask one.png")
    drawn = []
    for given in ("4,8,20,30", " 4, 8, 20, 30 ", "mask one.png", "'mask one.png'"):
        status, _, err = run(capsys, "edit", "in.png", "a cat", "--mask", given, "--model", folder, "--out", "out.png")
        drawn.append(np.asarray(Image.open("out.png")))
        assert status == 0
    assert all((one == drawn[0]).all() for one in drawn)
    changed = (drawn[0] != np.asarray(picture(0))).any(-1)
    assert changed[8:30, 4:20].mean() > 0.9 and not changed[:, 20:].any() and not changed[:8].any()
    for given, error in (
        ("4,8,20", "is not left, top, right and bottom"),
        ("4,8,20,33", "does not lie in the picture"),
        ("-4,8,20,30", "does not lie in the picture"),
        ("gone.png", "no such file: gone.png"),
        ("in.txt", "no such file: in.txt"),
    ):
        status, _, err = run(capsys, "edit", "in.png", "a cat", f"--mask={given}", "--model", "no/such")
        assert status == 2 and error in err, "before anything loads"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("draw", "x", "--model", "giga"), "unknown model"),
        (("draw", ""), "prompt is empty"),
        (("draw", "x", "--out", "x.txt"), "no picture format"),
        (("draw", "x", "--out", "no/where/x.png"), "no folder"),
        (("draw", "x", "--size", "big"), "not HxW"),
        (("draw", "x", "--size", "0x64", "--model", "no/such"), "cannot draw 0 x 64 pixels"),
        (("edit", "https://example.com/a.png", "x"), "--allow-url example.com"),
        (("describe", "https://example.com/a.png", "--allow-url", "https://example.com/"), "allow_urls names hosts"),
        (("chat", "--allow-url", "a b"), "allow_urls names hosts"),
        (("describe", "none.png"), "no such file"),
        (("edit", "none.png", "x"), "no such file"),
        (("train", "giga"), "no recipe"),
        (("train", "nano", "joint.loop.colour=1"), "unknown key 'colour' in joint.loop"),
        (("train", "nano", "--stages", "lunch"), "no stage"),
        (("eval", "world", "--limit", "-1"), "negative"),
    ],
)
def test_mistakes_get_one_clear_line(capsys, folder, arguments, words):
    if arguments[0] in ("eval", "draw") and "--model" not in arguments:
        arguments = (*arguments, "--model", folder)
    status, _, err = run(capsys, *arguments)
    assert status == 2 and words in err.splitlines()[-1]


@pytest.mark.parametrize("options", [("--steps", "-1"), ("--size", "33x32"), ("--size", "4096x32")])
def test_drawing_options_that_make_no_sense(capsys, folder, tmp_path, options):
    status, _, err = run(capsys, "draw", "x", "--model", folder, "--out", str(tmp_path / "x.png"), *options)
    assert status == 2 and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x.png").exists()


def test_ways_to_show_pictures():
    image = picture(0, (12, 8))
    assert (
        graphics({"TERM": "xterm-kitty"}, True) == "kitty" and graphics({"TERM_PROGRAM": "iTerm.app"}, True) == "iterm2"
    )
    assert graphics({"TERM": "xterm-256color"}, False) == "none"
    assert graphics({"TERM": "xterm-256color"}, True) == "blocks"
    assert graphics({"TERM": "dumb"}, True) == graphics({"TERM": "xterm", "NO_COLOR": "1"}, True) == "none"
    for inside in ({"TMUX": "x", "TERM": "xterm-kitty"}, {"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}):
        assert graphics(inside, True) == "blocks", "no protocol but sixel comes through"
    blocks = show(image, "blocks", 8)
    assert blocks.count("▀") == 8 * 6
    r, g, b = image.getpixel((0, 0))
    assert blocks.startswith(f"\x1b[38;2;{r};{g};{b}m")
    assert show(image, "kitty").startswith("\x1b_Ga=T,f=100,m=")
    assert "inline=1" in show(image, "iterm2")
    sixel = show(image, "sixel")
    assert sixel.startswith('\x1bPq"1;1;8;12') and sixel.endswith("\x1b\\\n") and sixel.count("-") == 2
    assert show(image, "none") == ""


def test_a_sixel_picture_decodes_to_its_pixels():
    image = picture(0, (4, 4)).resize((26, 45), Image.Resampling.NEAREST)
    body = show(image, "sixel").removeprefix('\x1bPq"1;1;26;45').removesuffix("\x1b\\\n")
    colors, decoded, x, y = {}, np.zeros((48, 26, 3), int), 0, 0
    for define, color, command, count, bits in re.findall(r"#(\d+);2;([\d;]+)|(#\d+|[$-])|!?(\d*)([?-~])", body):
        if define:
            colors[f"#{define}"] = [int(v) for v in color.split(";")]
        elif command.startswith("#"):
            ink = colors[command]
        elif command:
            x, y = 0, y + 6 * (command == "-")
        else:
            for row in range(6):
                if (ord(bits) - 63) >> row & 1:
                    decoded[y + row, x : x + int(count or 1)] = ink
            x += int(count or 1)
    assert np.abs(decoded[:45] * 2.55 - np.asarray(image)).max() < 1.3


def test_overrides_of_a_recipe_may_come_after_options(capsys):
    from limner.app.cli.main import main

    assert main(["train", "tiny", "--stages", "joint", "joint.loop.nonsense=1"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["info", "--nonsense=1"]) == 2
    assert "Unknown option: --nonsense" in capsys.readouterr().err
    assert main(["train", "tiny", "--nonsense=1"]) == 2


def test_options_that_would_do_nothing_are_refused(capsys, folder, tmp_path):
    picture(1).save(tmp_path / "in.png")
    for command, words in (
        (("describe", str(tmp_path / "in.png"), "--out", "x.png"), "needs --boxes"),
        (("describe", str(tmp_path / "in.png"), "--boxes", "--out", "x.nonsense"), "no picture format"),
        (("draw", "x", "--backend", "sd3", "--offload"), "--offload is for a Limner model"),
        (("draw", "x", "--backend", "sd3", "--bits", "8"), "--bits is for a Limner model"),
    ):
        status, _, err = run(capsys, *command, "--model", folder)
        assert status == 2 and words in err


@pytest.mark.parametrize("device", ["meta", "cpu,meta", "tpu", "cpu,cpu,cpu"])
def test_a_device_that_computes_nothing_is_refused(device, folder, capsys):
    status, _, said = run(capsys, "draw", "a cat", "--model", folder, "--device", device)
    assert status == 2 and device.split(",")[-1] in said and said.count("\n") == 1
