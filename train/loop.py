"""The loop that every stage shares: batches by step, losses, one optimizer, checkpoints, samples, logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .optimizer import MasterOptimizer, rate_at


@dataclass
class LoopConfig:
    steps: int = 1000
    batch_size: int = 32
    optimizer: str = "adamw"
    """"adamw" or "muon" """
    learning_rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.2
    """Share of the steps over which the learning rate falls to zero."""
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0
    save_every: int = 200
    sample_every: int = 500
    log_every: int = 10
    workers: int = 1
    max_bad_batches: int = 20
    """Batches whose gradient is not finite are skipped and counted; more than these stop the run."""


class Interrupted(Exception):
    """The run was asked to stop; a checkpoint was written first."""


class _Steps(Dataset):
    """Batch number ``step`` is a function of the step alone, so that resuming needs no replay."""

    def __init__(self, make_batch: Callable[[int], Any], steps: int) -> None:
        self.make_batch, self.steps = make_batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        return self.make_batch(step)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C belongs to the main process, which asks the workers to end
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def save_checkpoint(folder: Path, optimizer: MasterOptimizer, step: int, bad: int) -> None:
    """Written beside and renamed, so that a cut never leaves half a checkpoint."""
    fresh = folder / "checkpoint.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in optimizer.state_dict().items()}, fresh / "state.safetensors")
    (fresh / "progress.json").write_text(json.dumps({"step": step, "bad_batches": bad}) + "\n")
    old = folder / "checkpoint"
    if old.exists():
        os.replace(old, folder / "checkpoint.old")
    os.replace(fresh, old)
    shutil.rmtree(folder / "checkpoint.old", ignore_errors=True)


def load_checkpoint(folder: Path, optimizer: MasterOptimizer) -> tuple[int, int]:
    """Step to go on from and bad batches so far; (0, 0) where there is no checkpoint."""
    for name in ("checkpoint", "checkpoint.old"):
        path = folder / name
        if (path / "progress.json").exists():
            optimizer.load_state_dict(load_file(path / "state.safetensors"))
            progress = json.loads((path / "progress.json").read_text())
            return progress["step"], progress["bad_batches"]
    return 0, 0


def fit(
    name: str,
    module: nn.Module,
    make_batch: Callable[[int], Any],
    losses: Callable[[Any, int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    sample: Callable[[int], None] | None = None,
) -> MasterOptimizer:
    """Train what requires a gradient in ``module``; afterwards it holds the averaged (EMA) weights.

    ``losses(batch, step)`` returns a dict whose ``"loss"`` is minimised and whose other entries are logged.
    ``sample(step)`` is called with the averaged weights in place. Raises `Interrupted` on SIGTERM and
    Ctrl-C after writing a checkpoint, and `FloatingPointError` after too many bad batches.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    optimizer = MasterOptimizer(
        module.named_parameters(), config.learning_rate, config.weight_decay, ema_decay=config.ema_decay,
        kind=config.optimizer,
    )  # fmt: skip
    start, bad = load_checkpoint(folder, optimizer)
    if start >= config.steps:
        put(module, optimizer.averaged())
        return optimizer
    stop: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: stop.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    writer = SummaryWriter(folder / "tensorboard")
    loader = DataLoader(
        _Steps(make_batch, config.steps),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
    )
    bar = tqdm(loader, desc=name, initial=start, total=config.steps, mininterval=5, dynamic_ncols=True)
    smooth: dict[str, float] = {}
    step, begun = start, time.monotonic()
    try:
        for step, batch in enumerate(bar, start):
            values = losses(batch, step)
            values["loss"].backward()
            norm = optimizer.step(rate_at(step, config.steps, config.warmup, config.decay), config.clip)
            if norm != norm or norm == float("inf"):
                bad += 1
                tqdm.write(f"{name}: step {step}: gradient not finite, batch skipped ({bad} so far)")
                if bad > config.max_bad_batches:
                    raise FloatingPointError(f"{name}: {bad} batches without a finite gradient, stopping")
                continue
            if step % config.log_every == 0:
                for key, value in values.items():
                    value = float(value.detach())
                    smooth[key] = value if key not in smooth else 0.9 * smooth[key] + 0.1 * value
                    writer.add_scalar(f"{name}/{key}", value, step)
                writer.add_scalar(f"{name}/gradient_norm", norm, step)
                bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
            done = step + 1
            if done % config.save_every == 0 or done == config.steps or stop:
                save_checkpoint(folder, optimizer, done, bad)
                with (folder / "log.jsonl").open("a") as log:
                    seconds = round(time.monotonic() - begun, 1)
                    log.write(json.dumps({"step": done, "seconds": seconds, **smooth}) + "\n")
            if stop and done < config.steps:
                raise Interrupted(f"{name}: stopped at step {done} of {config.steps}; run the same command to go on")
            if sample and (done % config.sample_every == 0 or done == config.steps):
                current = {n: p.detach().clone() for n, p in optimizer.named}
                put(module, optimizer.averaged())
                sample(done)
                put(module, current)
    finally:
        bar.close()
        writer.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    put(module, optimizer.averaged())
    return optimizer


@torch.no_grad()
def put(module: nn.Module, values: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
