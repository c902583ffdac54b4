"""Results: nothing that was there is lost, and what is written appears whole or not at all."""

import io
import json
import re
import resource
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

import limner
from helpers import make_limner, picture
from limner.app.cli import main as cli
from limner.app.cli.options import Loading
from limner.inference import output
from limner.inference.chat import Chat
from limner.inference.model_folders import embedded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_limner(shapes=((32, 32), (16, 32))).save_pretrained(path)
    return path


def test_a_folder_for_results_holds_nothing_else(tmp_path):
    assert output.check_folder(tmp_path / "a/b") == tmp_path / "a/b" and not (tmp_path / "a").exists()
    (tmp_path / ".git").mkdir()
    output.check_folder(tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty: it holds notes\.md; choose a new folder"):
        output.check_folder(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.md is a file"):
        output.check_folder(tmp_path / "notes.md/below")
    with pytest.raises(ValueError, match="name is empty"), output.atomic_folder(""):
        pass
    output.check_folder(tmp_path, "notes.md")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    output.write_text(path, "first")
    with pytest.raises(OSError, match="full"), output.atomic_file(path) as fresh:
        fresh.write_text("half")
        raise OSError("the disk is full")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "link").hardlink_to(path)
    output.write_text(path, "second")
    assert (tmp_path / "link").read_text() == "first", "another file takes its place: nobody reads half of it"
    output.write_text(path, '{"a": "\ud83d é"}')
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "\ud83d é"}


@pytest.mark.parametrize("room", [4096, 2**16])
def test_a_full_disk_is_an_error_of_the_system_whoever_writes(room, tmp_path):
    """transformers' tokenizer, the first to be without room, says it by a plain exception, safetensors by one of its own."""
    model = make_limner()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            model.save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not any(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(OSError, match="full"), output.atomic_folder(target) as fresh:
        (fresh / "weights").write_text("half")
        raise OSError("the disk is full")
    assert not list(tmp_path.iterdir())
    for text in ("one", "two"):
        with output.atomic_folder(target, ("old",), owned=lambda _: True) as fresh:
            (fresh / "part").mkdir()
            (fresh / "part/weights").write_text(text)
        if text == "one":
            (target / "README.md").write_text("mine")
            (target / "old").mkdir()
    assert (target / "part/weights").read_text() == "two" and (target / "README.md").read_text() == "mine"
    assert {p.name for p in target.iterdir()} == {"part", "README.md"} and [*tmp_path.iterdir()] == [target]
    with (
        pytest.raises(ValueError, match="holds part, which is not of what is saved"),
        output.atomic_folder(target) as f,
    ):
        (f / "part").mkdir()
    assert (target / "part/weights").read_text() == "two"


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_folder_that_cannot_be_replaced_is_as_it_was(failing, tmp_path, monkeypatch):
    """Whichever of the renames fails."""
    target, real, calls = tmp_path / "model", output.os.rename, []
    for name in ("a", "b", "old"):
        (target / name).mkdir(parents=True)
        (target / name / "weights").write_text(f"first {name}")

    def rename(source, place):
        calls.append(source)
        if len(calls) == failing:
            raise OSError("no rights")
        real(source, place)

    monkeypatch.setattr(output.os, "rename", rename)
    replaced = output.atomic_folder(target, ("old",), owned=lambda _: True)
    with pytest.raises(OSError, match="no rights"), replaced as fresh:
        for name in ("a", "b"):
            (fresh / name).mkdir()
            (fresh / name / "weights").write_text("second")
    assert {p.parent.name: p.read_text() for p in target.rglob("weights")} == {
        n: f"first {n}" for n in ("a", "b", "old")
    }
    assert list(tmp_path.iterdir()) == [target]


def test_a_model_saved_over_another_leaves_none_of_its_parts(tmp_path):
    import shutil

    shutil.copytree(embedded("nano"), tmp_path / "a")
    model = limner.load(tmp_path / "a", device="cpu", dtype="float32")
    model.delete_adapter("student")
    with torch.no_grad():
        model.mllm.llm.model.norm.weight.mul_(1.01)
    readme = (tmp_path / "a/README.md").read_text()
    model.save_pretrained(tmp_path / "a")
    again = limner.load(tmp_path / "a", device="cpu")
    assert again.student_steps is None and (tmp_path / "a/README.md").read_text() == readme
    (tmp_path / "mine/vision").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds vision, which is not"):
        model.save_pretrained(tmp_path / "mine")


def test_pictures_take_names_that_are_free(folder, tmp_path, monkeypatch, capsys):
    """The picture that is edited is not replaced, neither by default nor by name."""
    monkeypatch.chdir(tmp_path)
    drawing = ["--model", str(folder), "--steps", "1"]
    assert cli.main(["draw", "a cat", *drawing]) == 0
    first = (tmp_path / "limner-001.png").read_bytes()
    assert cli.main(["edit", "limner-001.png", "make it blue", *drawing]) == 0
    assert (tmp_path / "limner-002.png").exists()
    assert cli.main(["edit", "limner-001.png", "blue", "--out", "./limner-001.png", *drawing]) == 2
    assert "is the picture that is read" in capsys.readouterr().err
    assert (tmp_path / "limner-001.png").read_bytes() == first


@pytest.mark.parametrize("name", ["apple.psd", "apple.mpg", "apple.pdf", "apple"])
def test_a_format_that_is_not_written_is_refused_before_anything_is_drawn(name, tmp_path, capsys):
    assert cli.main(["draw", "a cat", "--model", "no/such", "--out", str(tmp_path / name)]) == 2
    assert "no picture format that is written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300 + ".png", "cannot write .*File name too long"),
        ("no/such/a.png", "no folder"),
        (".png", "no ending is no picture format"),
        ("folder.png", "it is a folder"),
        ("guarded/a.png", "cannot write guarded/a.png: Permission denied"),
        ("shown.png", "shown.png is the picture that is read"),
        ("link.png", "link.png is the picture that is read"),
    ],
)
def test_where_no_picture_can_be_written_nothing_is_drawn(name, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder.png", "guarded"):
        (tmp_path / folder).mkdir()
    picture(1).save("shown.png")
    (tmp_path / "link.png").symlink_to("shown.png")
    before = sorted(tmp_path.rglob("*"))
    touch = Path.touch

    def guarded(path, *_, **__):
        if path.parent.name == "guarded":
            raise PermissionError(13, "Permission denied")
        touch(path)

    monkeypatch.setattr(Path, "touch", guarded)
    commands = [["edit", "shown.png", "blue"], ["describe", "shown.png", "--boxes"]]
    for command in commands if "read" in said else [*commands, ["draw", "a cat"]]:
        assert cli.main([*command, "--model", "no/such", "--out", name]) == 2
        assert re.search(said, capsys.readouterr().err)
    with pytest.raises(ValueError, match=said):
        output.check_picture_path(Path(name), Path("shown.png"))
    assert sorted(tmp_path.rglob("*")) == before


def test_two_that_draw_at_once_keep_both_pictures(tmp_path, monkeypatch):
    """Each has found the same name free."""
    monkeypatch.chdir(tmp_path)
    free, found = output.free_path, iter([Path("a-1.png")] * 2)
    monkeypatch.setattr(output, "free_path", lambda _: next(found, None) or free("a-{}.png"))
    paths = [output.save_new_image(picture(number), "a-{}.png") for number in (1, 2)]
    assert [str(path) for path in paths] == ["a-1.png", "a-2.png"]
    assert Image.open("a-1.png").tobytes() == picture(1).tobytes()
    monkeypatch.setattr(output, "save_image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.save_new_image(picture(1), "a-{}.png")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("ending", output.IMAGE_SUFFIXES)
def test_every_format_is_written(ending, tmp_path):
    output.save_image(picture(1), tmp_path / f"a{ending}")
    assert Image.open(tmp_path / f"a{ending}").size == (32, 32) and len(list(tmp_path.iterdir())) == 1


def talk(model) -> Chat:
    chat = model.chat(images="force", num_inference_steps=1, max_new_tokens=1)
    chat.say("draw")
    return chat


def test_a_saved_chat_replaces_only_itself(tmp_path):
    model = make_limner()
    chat = talk(model)
    for name in ("photo.png", "train.jsonl", "talk-01.png"):
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"must end in \.jsonl"):
        chat.save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="not this conversation's"):
        chat.save(tmp_path / "train.jsonl")
    path = chat.save(tmp_path / "talk.jsonl")
    assert all((tmp_path / name).read_bytes() == b"mine" for name in ("photo.png", "train.jsonl", "talk-01.png"))
    chat.say("caf\udce9, half an emoji \ud83d")
    before = {p.name for p in tmp_path.iterdir()}
    chat.save(path)
    assert {p.name for p in tmp_path.iterdir()} - before == {"talk-03.png"}, "a picture is written once"
    saved = json.loads(path.read_text(encoding="utf-8"))["messages"]
    assert saved[2]["content"][0]["text"] == "caf\udce9, half an emoji \ud83d"
    drawn = [part["image"] for m in saved for part in m["content"] if part["type"] == "image"]
    assert drawn == ["talk-02.png", "talk-03.png"]
    with pytest.raises(ValueError, match="not this conversation's"):
        talk(model).save(path)


def test_a_reply_without_memory_costs_nobody_the_conversation(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = b"hello\n/steps 10000000000000\ndraw a red apple\n/steps 1\n/save\n/save\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    model = limner.load(folder, device="cpu")
    from limner.app.cli.repl import Repl

    repl = Repl(model, {"seed": 0, "height": None, "width": None, "num_inference_steps": 1, "images": "force"})
    assert repl.run("hi") == 0
    said = capsys.readouterr()
    assert (
        "not enough memory for this; the conversation is as it was before" in said.err and "Traceback" not in said.err
    )
    assert said.out.count("conversation-001.jsonl") == 2
    assert len(json.loads((tmp_path / "conversation-001.jsonl").read_text())["messages"]) == 4

    def broken(*_, **__):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(repl.chat, "stream", broken)
    repl.answer("hello")
    said = capsys.readouterr().err
    assert "Traceback" in said and "RuntimeError: a fault of ours; the conversation is as it was before" in said


def test_a_command_without_memory_ends_in_one_line(monkeypatch, capsys):
    def without(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Loading, "load", without)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == "limner: there is not enough memory for this\n"
    monkeypatch.setattr(Loading, "load", lambda _: (_ for _ in ()).throw(RuntimeError("a fault of ours")))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main(["info"])


def test_models_load_in_threads(folder):
    """Two at once, twice, and one alone afterwards."""
    wrong, start = [], threading.Barrier(2)

    def work():
        start.wait()
        try:
            limner.load("nano", device="cpu")
        except Exception as error:  # noqa: BLE001 - asserted on below
            wrong.append(error)

    for _ in range(2):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    limner.load(folder, device="cpu")


def test_names_as_long_as_they_may_be_and_links_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a-1.png").symlink_to("gone.png")
    assert output.save_new_image(picture(1), "a-{}.png") == Path("a-2.png") and Path("a-1.png").is_symlink()
    name = Path("a prompt" * 31 + ".png")
    output.check_picture_path(name)
    output.save_image(picture(1), name)
    assert Image.open(name).size == (32, 32)
