"""`limner chat` on a tiny model."""

import io
import sys
from types import SimpleNamespace

import pytest
from command_line import run

from helpers import picture


class Piped(io.TextIOWrapper):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data))


def test_chat_reads_piped_input_and_goes_on_after_mistakes(capsys, folder, tmp_path, monkeypatch):
    picture(1).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    lines = [
        b"/help",
        b"/image in.png",
        b"hello",
        b"\xff\xfe not utf-8",
        b"/nonsense",
        b"/image gone.png",
        b"/size 33x33",
        b"/size 16x32",
        b"/steps 0",
        b"/steps 2",
        b"/guidance much",
        b"/guidance 2.5",
        b"/set",
        b"/set teperature 1",
        b"/set sampeler auto",
        b"/set temperature -1",
        b"/set guidance_interval 0.2 0.8",
        b"/set image-guidance-scale 1.5",
        b"/set max-new-tokens 8",
        b"/set images force",
        b"/set images auto",
        b"/set size auto",
        b"/set",
        b"/size 16x32",
        b"/seed x",
        b"/seed 4",
        b"/retry",
        b"/undo",
        b"/save talk.jsonl",
        b"",
        b"/clear",
        b"/undo",
        b"/quit",
        b"never reached",
    ]
    monkeypatch.setattr(sys, "stdin", Piped(b"\n".join(lines)))
    status, out, err = run(capsys, "chat", "--model", folder)
    assert status == 0 and "/undo" in out and (tmp_path / "talk.jsonl").exists()
    for words in (
        "no command /nonsense",
        "no such file",
        "multiples of",
        "at least 1",
        "whole number",
        "nothing to undo",
        "--guidance",
        "Did you mean --temperature?",
        "Did you mean --sampler?",
        "temperature -1.0",
    ):
        assert words in err
    assert "seed 0, height 16, width 32, num_inference_steps 2, guidance_scale 2.5\n" in out
    assert (
        "seed 0, num_inference_steps 2, guidance_scale 2.5, guidance_interval (0.2, 0.8), image_guidance_scale 1.5, "
        "max_new_tokens 8\n"
    ) in out


def test_a_chat_is_saved_and_taken_up_again(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text("mine")
    picture(1).save("my photo.png")
    lines = [
        "/image 'my photo.png' ",
        "hello",
        r"/image my\ photo.png",
        "/save mine.jsonl",
        "/save ~/talk.jsonl",
        "/load x",
    ]
    monkeypatch.setattr(sys, "stdin", Piped("\n".join(lines).encode()))
    options = ("--model", folder, "--images", "never", "--max-new-tokens", "2")
    status, out, err = run(capsys, "chat", *options)
    assert status == 0 and f"{tmp_path / 'talk.jsonl'}\n(without the picture that goes with your next message)\n" in out
    assert "or overwrite it: /save --overwrite mine.jsonl\n" in err and "this conversation would be lost" in err
    assert (tmp_path / "mine.jsonl").read_text() == "mine"
    lines = ["more", "/save", "/save --overwrite mine.jsonl", "/clear", f"/load {tmp_path}/mine.jsonl", "/undo", "/set"]
    monkeypatch.setattr(sys, "stdin", Piped("\n".join(lines).encode()))
    status, out, err = run(capsys, "chat", "--model", folder, "--load", "talk.jsonl", "--max-new-tokens", "3")
    assert status == 0 and "limner:" not in err
    assert "(talk.jsonl: 1 exchange)\n" in out and f"({tmp_path / 'mine.jsonl'}: 2 exchanges)\n" in out
    assert "images never" in out and "max_new_tokens 3" in out and "seed 0" in out
    for words, said in (
        (("chat", "--load", "gone.jsonl"), "no such file: gone.jsonl"),
        (("chat", "--model", folder, "--load", "my photo.png"), "is no saved chat"),
    ):
        monkeypatch.setattr(sys, "stdin", Piped(b""))
        status, out, err = run(capsys, *words)
        assert status == 2 and said in err and err.count("\n") == 1


def test_an_adapter_of_a_chat_is_weighted_by_its_folder_or_its_name(folder, tmp_path, capsys, monkeypatch):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load
    from limner.train.finetune import FinetuneConfig, prepare_adapter

    model = load(folder, device="cpu")
    for name in ("a/cat v1.5", "b/cat v1.5"):
        trainable, training = prepare_adapter(model, FinetuneConfig(rank=2))
        with training:
            training.save(tmp_path / name, dict(trainable.named_parameters()), {})
    monkeypatch.chdir(tmp_path)
    repl = Repl(model, {"seed": 0})
    for line, active in (
        (r"/adapter a/cat\ v1.5:0.5", "cat v1.5 0.5"),
        ("/adapter 'b/cat v1.5'", "cat v1.5 0.5, cat v1.5-2 1"),
        ("/adapter cat v1.5-2:0.25", "cat v1.5 0.5, cat v1.5-2 0.25"),
        ("/adapter a/cat v1.5:-1", "cat v1.5 -1, cat v1.5-2 0.25"),
        ("/adapter more=a/cat v1.5:2", "cat v1.5 -1, cat v1.5-2 0.25, more 2"),
        ("/adapter off", "none"),
    ):
        repl.answer(line)
        assert capsys.readouterr().out == f"adapters: {active}\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_reply_for_which_there_is_no_memory_is_a_line_and_the_chat_goes_on(folder, capsys, monkeypatch, error):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load

    repl = Repl(load(folder, device="cpu"), {"images": "never", "max_new_tokens": 2})
    repl.answer("hello")
    repl.pending = [picture(0)]
    original = repl.model.stream

    def full(*_, **__):
        raise error

    monkeypatch.setattr(repl.model, "stream", full)
    capsys.readouterr()
    repl.answer("hello")
    said = capsys.readouterr().err
    assert said == "limner: there is not enough memory for this; the conversation is as it was before\n"
    assert len(repl.chat.messages) == 2 and len(repl.pending) == 1
    monkeypatch.setattr(repl.model, "stream", original)
    repl.answer("again")
    assert len(repl.chat.messages) == 4 and not repl.pending


def test_a_reader_that_goes_away_ends_the_chat(folder, monkeypatch):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    repl = Repl(load(folder, device="cpu"), {"images": "never", "max_new_tokens": 2})
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        repl.answer("/help")


def test_words_of_a_model_are_shown_without_their_escape_sequences(folder, capsys, monkeypatch):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load
    from limner.mllm.events import Finished, TextPiece

    repl = Repl(load(folder, device="cpu"), {})

    def written(*_, **__):
        yield TextPiece(0, "\x1b]52;c;cm0gLXJm\x07\x1b[2JHello\r\x9b1m \u202e한")
        yield Finished(0, "stop")
        return [SimpleNamespace(message=lambda: {"role": "assistant", "content": []})]

    monkeypatch.setattr(repl.model, "stream", written)
    repl.answer("hello")
    assert capsys.readouterr().out == r"\x1b]52;c;cm0gLXJm\x07\x1b[2JHello\r\x9b1m \u202e한" + "\n"


def test_a_chat_s_options_are_those_of_the_command_line(folder, capsys):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load

    repl = Repl(load(folder), {"seed": 0})
    capsys.readouterr()  # loading has a progress bar
    for line in ("/size 16x32", "/steps 3", "/guidance 2", "/seed -4", "/set history 2", "/set stop 'the end'"):
        repl.answer(line)
    assert not capsys.readouterr().err
    assert repl.chat.options == {
        "seed": -4,
        "height": 16,
        "width": 32,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "stop": ("the end",),
        "history": 2,
    }
    for name in ("size", "steps", "guidance_scale", "stop", "seed", "history"):
        repl.answer(f"/set {name} auto")
    assert not repl.chat.options


def test_a_long_conversation_is_told_once(folder, capsys):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load

    repl = Repl(load(folder), {"height": None, "width": None, "num_inference_steps": 2, "images": "never"})
    repl.chat.options["history"] = 1
    said = []
    for _ in range(4):
        repl.answer("hello")
        said.append("has become long" in capsys.readouterr().err)
    assert said == [False, False, True, False]


def test_ctrl_c_while_drawing_loses_nothing(folder, monkeypatch, capsys):
    from limner.app.cli.repl import Repl
    from limner.inference.loading import load
    from limner.mllm.events import PictureStep

    repl = Repl(load(folder), {"seed": 0, "height": None, "width": None, "num_inference_steps": 50})
    repl.chat.options["images"] = "force"
    original = repl.model.stream

    def interrupted(*args, **kwargs):
        for event in original(*args, **kwargs):
            if isinstance(event, PictureStep) and event.step == 2:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(repl.model, "stream", interrupted)
    repl.answer("draw")
    assert repl.chat.messages == [] and "stopped" in capsys.readouterr().err
    monkeypatch.setattr(repl.model, "stream", original)
    repl.chat.options |= {"images": "never", "max_new_tokens": 2}
    repl.answer("hello")
    assert len(repl.chat.messages) == 2
    before = list(repl.chat.messages)
    repl.chat.options |= {"images": "force", "max_new_tokens": 8}
    monkeypatch.setattr(repl.model, "stream", interrupted)
    repl.answer("/retry")
    assert repl.chat.messages == before, "a retry that was stopped keeps the turn"
