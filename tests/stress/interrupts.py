"""Ctrl-C at any moment of every command but training, and a disk that fills up under those that write.

A command is a process of its own on a tiny model. Stopped, it ends in status 130 and a line; without room, in 2 and a line, and a
chat goes on in both. No traceback, what was there is as it was or replaced as a whole, and nothing else is left behind.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st
from PIL import Image
from released_parts import BUILD_FLAGS, save_llm, save_sd3, save_tower

from cases import Outcome, try_cases
from helpers import make_limner, picture
from limner.inference.chat import Chat
from limner.inference.loading import load
from limner.train.finetune import FinetuneConfig, prepare_adapter

TITLE = "Ctrl-C at every stage of every command; a disk that is full when chats, pictures and models are saved"
CASES = 100

PROGRAM = """
import sys
from limner.app.cli.main import main
print("begun", flush=True)
sys.exit(main(sys.argv[1:]))
"""
"""Python's own start is not Limner's: it counts from here"""
DRAWING = "--model m --device cpu --steps 20 --size 32x32"
COMMANDS = {
    "info": "info m --device cpu",
    "draw": f"draw x {DRAWING} --out out.png",
    "edit": f"edit in.png x {DRAWING} --out out.png",
    "describe": "describe in.png --model m --device cpu --max-new-tokens 40",
    "chat": "chat --model m --device cpu --load talk.jsonl",
    "merge": "merge --model m --device cpu --adapter a --out merged",
    "check": "data check data --model m",
    "filter": "data filter data --out filtered",
    "precompute": "precompute data --model m --device cpu --out ahead",
    "build": f"build --llm llm --vision vision --mmdit sd3 --out built {' '.join(BUILD_FLAGS)}",
    "eval": "eval world --model m --device cpu --limit 1 --only answer --out answers",
    "compare": "compare one two",
}
WRITING = ("draw", "edit", "chat", "merge", "filter", "precompute", "build")
OUTPUTS = {"merge": "merged", "filter": "filtered", "eval": "answers", "precompute": "ahead", "build": "built"}
LINES = "hello\n/save talk.jsonl\nanother picture\n/save talk.jsonl\n/save other.jsonl\n"
LATEST = 1.3
"""Of the time that `limner info` takes, the part until Ctrl-C at the most; what has ended by then has to have ended well"""


@dataclass(frozen=True)
class Case:
    command: str
    moment: float
    """Of Ctrl-C, in the time that `limner info` takes"""
    room: int | None = None
    """Bytes that a file may have, in place of Ctrl-C"""


CASE = st.one_of(
    st.builds(Case, st.sampled_from(sorted(COMMANDS)), st.integers(1, 100).map(lambda part: LATEST * part / 100)),
    # to the power of two, so that small pictures and large weights both meet it
    st.builds(Case, st.sampled_from(WRITING), st.just(0.0), st.integers(5, 17).map(lambda power: 2**power)),
)


def prepare(folder: Path) -> None:
    """What the commands work on, in a folder that each case gets a copy of."""
    model = make_limner()
    model.save_pretrained(folder / "m")
    trainable, training = prepare_adapter(model, FinetuneConfig(rank=2))
    with training:
        training.save(folder / "a", dict(trainable.named_parameters()), {})
    model.requires_grad_(False)
    picture(0).save(folder / "in.png")
    picture(1).save(folder / "out.png")
    (folder / "data").mkdir()
    for index in range(3):
        picture(index).save(folder / f"data/{index}.png")
        (folder / f"data/{index}.txt").write_text(f"picture {index}", encoding="utf-8")
    save_llm(folder / "llm"), save_tower(folder / "vision"), save_sd3(folder / "sd3")
    for name in ("one", "two"):
        run_command(Case("eval", 100.0), folder, 1.0)
        (folder / "answers").rename(folder / name)
    chat = load(folder / "m", device="cpu").chat(num_inference_steps=2, images="force", max_images=1, max_new_tokens=4)
    chat.say("a picture", images=[picture(2)])
    chat.save(folder / "talk.jsonl")


def attempt(prepared: Path, seconds: float, case: Case) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name) / "work"
        shutil.copytree(prepared, folder)
        before = held(folder)
        status, said = run_command(case, folder, seconds)
        assert "Traceback" not in said and "Exception ignored" not in said, said[-1500:]
        if case.room is None:
            # 0: it had ended, or is a chat, which goes on where a reply is stopped
            assert status in (0, 130), (status, said[-800:])
        else:
            lines = [line for line in said.splitlines() if line.startswith("limner: ")]
            assert status == 0 or (status == 2 and len(lines) == 1), (status, said[-800:])
        check(case, folder, before)


def run_command(case: Case, folder: Path, seconds: float) -> tuple[int, str]:
    """Exit status and standard error; ``seconds`` are those of `limner info`."""
    limits = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (case.room, case.room))) if case.room else None
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *COMMANDS[case.command].split()],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limits,
    )
    try:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"begun\n"
        if case.command == "chat":
            process.stdin.write(LINES.encode())
            process.stdin.close()
            process.stdin = None
        if case.room is None:
            try:
                process.wait(case.moment * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        return process.returncode, said.decode("utf-8", "replace")
    finally:
        process.kill()


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check(case: Case, folder: Path, before: dict[str, bytes]) -> None:
    """What was there is whole, and what is new is what the command writes, whole."""
    after = held(folder)
    replaced = {"draw": {"out.png"}, "edit": {"out.png"}, "chat": {"talk.jsonl"}}.get(case.command, set())
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed <= replaced, f"changed or gone: {sorted(changed - replaced)}"
    new = sorted(set(after) - set(before))
    if stray := [name for name in new if not is_own(case.command, name)]:
        raise AssertionError(f"left behind: {stray}")
    Image.open(folder / "out.png").load()
    for name in ("talk.jsonl", "other.jsonl"):
        if (folder / name).exists():
            assert len(Chat.load(folder / name, load(folder / "m", device="cpu")).messages) >= 2
    for name in new:
        if name.endswith(".png"):
            Image.open(folder / name).load()
        elif name.endswith(".jsonl"):
            for line in (folder / name).read_text(encoding="utf-8").splitlines():
                json.loads(line)
    for name in ("merged", "built"):
        if (folder / name).exists():
            load(folder / name, device="cpu")


def is_own(command: str, name: str) -> bool:
    """Whether a file is of those that the command writes in the end."""
    first = name.split("/")[0]
    if name == "ahead/.limner.lock":  # stays: without it two runs could begin at once
        return True
    if any(part.startswith(".") for part in name.split("/")):
        return False
    if command == "chat":
        return first.endswith(".png") or first == "other.jsonl"
    return first == OUTPUTS.get(command)


def run(cases: int, seed: int) -> Outcome:
    with TemporaryDirectory() as name:
        prepare(Path(name))
        begun = time.monotonic()
        status, said = run_command(Case("info", 100.0), Path(name), 1.0)
        assert status == 0, said
        return try_cases(CASE, partial(attempt, Path(name), time.monotonic() - begun), cases, seed)
