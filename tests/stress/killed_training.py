"""Training that is killed, stopped or runs out of disk, at random moments and at each step of writing a checkpoint."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter  # noqa: F401 - imported once, before the forks
from tqdm import tqdm

from cases import Outcome
from helpers import make_limner, picture
from limner.inference import output
from limner.inference.output import atomic_folder
from limner.train import checkpoints, loop
from limner.train.finetune import finetune, load_config
from limner.train.interrupts import Interrupted
from limner.train.loop import LoopConfig, fit

TITLE = "training is killed, stopped or without disk: it goes on from a whole checkpoint to the same weights"
CASES = 100

STEPS = 40
POINTS: dict[str, list[tuple[object, str]]] = {
    "fit": [
        (checkpoints.dcp, "save"),
        (checkpoints, "_fsync"),
        (checkpoints.os, "replace"),
        (checkpoints.shutil, "rmtree"),
        (loop, "append_line"),
    ],
    "finetune": [
        (checkpoints.dcp, "save"),
        (checkpoints.os, "replace"),
        (checkpoints.shutil, "rmtree"),
        (output.os, "replace"),
        (loop, "append_line"),
    ],
}
"""Where a run is killed or told that the disk is full: functions that write, before and after which it can happen"""


def run_fit(folder: Path) -> None:
    """Train a small network; its weights end in ``folder``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 512), nn.SiLU(), nn.Linear(512, 32)).to(torch.bfloat16)
    config = LoopConfig(
        steps=STEPS,
        batch_size=8,
        learning_rate=1e-2,
        warmup_steps=4,
        save_every=2,
        num_workers=0,
        ema_decay=0.9,
        save_total_limit=2,
    )

    def batch(step: int) -> torch.Tensor:
        return torch.randn(8, 32, generator=torch.Generator().manual_seed(step)).to(torch.bfloat16)

    def losses(x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return {"loss": (model(x).float() - x.float().flip(1)).square().mean()}

    fit("killed", model, batch, losses, config, folder / "run")
    with atomic_folder(folder / "made", owned=Path.is_dir) as fresh:
        save_file({name: value.detach() for name, value in model.named_parameters()}, fresh / "weights.safetensors")


def run_finetune(data: Path, folder: Path) -> None:
    """Fine-tune a small model; the adapter ends in ``folder``."""
    loop_options = ["steps=8", "batch_size=1", "num_workers=0", "warmup_steps=1", "save_every=1"]
    options = ["rank=2", "samples=0", "parts=[mmdit]", *(f"joint.loop.{option}" for option in loop_options)]
    finetune(make_limner(), data, folder / "out", load_config(options))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a finished run made."""
    (path,) = (
        p for p in folder.rglob("*.safetensors") if p.name in ("weights.safetensors", "adapter_model.safetensors")
    )
    return load_file(path)


def start(run: Callable[[], None], log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run in a fork, which has everything imported; its status is 0 if ``run`` returned, 1 if it raised what the command line
    tells in a line, 3 for any other error."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # one that came here would take the fork back into the row
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return pid
    status = 1
    try:
        with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                tqdm.set_lock(threading.RLock())  # not the one that all forks share, which a killed one leaves locked
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
                before()
                run()
                status = 0
            except BaseException as error:  # noqa: BLE001 - told in the log, and by the status
                print(f"{type(error).__name__}: {error}", flush=True)
                status = 1 if isinstance(error, (OSError, Interrupted, KeyboardInterrupt, ValueError)) else 3
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """The status of a run that has ended; one that hangs is killed and has -1."""
    for _ in range(1200):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def accident(rng: random.Random, kind: str, seconds: float) -> tuple[str, Callable[[], None], float, int]:
    """What happens to a run: its name, what is set up in the process, and after how many seconds which signal comes (0: none)."""
    what = rng.choice(
        ("kill", "kill", "stop", "kill in writing", "kill in writing", "full disk in writing", "small disk")
    )
    if what in ("kill", "stop"):
        sent = signal.SIGKILL if what == "kill" else rng.choice((signal.SIGTERM, signal.SIGINT))
        return what, lambda: None, rng.uniform(0, 1.1 * seconds), sent
    if what == "small disk":
        limit = int(10 ** rng.uniform(2, 5.5))  # bytes a file: from none to all of a checkpoint
        return f"{what} of {limit}", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), 0, 0
    module, name = rng.choice(POINTS[kind])
    count, after = rng.randrange(1, 12), rng.random() < 0.5
    real, calls = getattr(module, name), []

    def happens() -> None:
        if what == "kill in writing":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, "No space left on device")

    def called(*given: object, **options: object) -> object:
        calls.append(None)
        if len(calls) == count and not after:
            happens()
        found = real(*given, **options)
        if len(calls) == count and after:
            happens()
        return found

    where = f"{what} {'after' if after else 'before'} {name} {count}"
    return where, lambda: patch.object(module, name, called).start() and None, 0, 0


def check(
    case: random.Random, kind: str, run: Callable[[Path], None], whole: dict, seconds: float, folder: Path
) -> str:
    """One run with up to three accidents, and to its end; what is wrong with it, or nothing."""
    happened = []
    for _ in range(case.randrange(1, 4)):
        what, before, moment, sent = accident(case, kind, seconds)
        happened.append(what)
        pid = start(partial(run, folder), folder / "log.txt", before)
        if sent:
            time.sleep(moment)
            if os.waitpid(pid, os.WNOHANG)[0]:
                continue
            os.kill(pid, sent)
        if (status := wait(pid)) == -1:
            return f"{kind}: {happened}: it hangs"
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 3:
            return f"{kind}: {happened}: it ended in {(folder / 'log.txt').read_text().splitlines()[-1]}"
    status = wait(start(partial(run, folder), folder / "log.txt"))
    said = ["nothing", *(folder / "log.txt").read_text(errors="replace").splitlines()]
    if status and "holds a finished adapter already" not in said[-1]:
        return f"{kind}: {happened}: the run did not go on: {said[-1]}"
    made = weights(folder)
    if made.keys() != whole.keys() or not all(torch.equal(value, whole[name]) for name, value in made.items()):
        return f"{kind}: {happened}: other weights than those of an undisturbed run"
    if left := [str(p.relative_to(folder)) for p in folder.rglob("*.new*") if kind == "fit" or p.is_dir()]:
        return f"{kind}: {happened}: left over: {left}"
    return ""


def run(cases: int, seed: int) -> Outcome:
    """``cases`` runs, one in four of them a whole fine-tuning."""
    torch.set_num_threads(1)
    outcome = Outcome()
    with TemporaryDirectory() as name:
        root = Path(name)
        (root / "data").mkdir()
        for index in range(3):
            picture(index).save(root / "data" / f"{index}.png")
            (root / "data" / f"{index}.txt").write_text(f"a zorp number {index}")
        runs: dict[str, Callable[[Path], None]] = {"fit": run_fit, "finetune": partial(run_finetune, root / "data")}
        undisturbed = {}
        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            run_fit(
                root / "warm"
            )  # imports what is imported late; a fine-tuning would leave threads, and forks that hang
        for kind, work in runs.items():
            folder = root / kind
            folder.mkdir()
            begun = time.monotonic()
            assert not wait(start(partial(work, folder), folder / "log.txt")), (folder / "log.txt").read_text()
            undisturbed[kind] = weights(folder), time.monotonic() - begun
        for number in range(cases):
            kind = "finetune" if number % 4 == 3 else "fit"
            folder = root / str(number)
            folder.mkdir()
            outcome.tried += 1
            if wrong := check(random.Random(f"{seed}/{number}"), kind, runs[kind], *undisturbed[kind], folder):
                outcome.failures.append(f"{number}: {wrong}")
            shutil.rmtree(folder)
    return outcome
