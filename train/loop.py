"""The loop that every stage shares: batches by step, losses, one optimizer, checkpoints, samples, logs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoints, parallel, tracking
from .optimizer import MasterOptimizer, rate_at


@dataclass
class LoopConfig:
    steps: int = 1000
    batch_size: int = 32
    optimizer: str = "adamw"
    """"adamw" or "muon" """
    learning_rate: float = 1e-3
    warmup: int = 100
    schedule: str = "linear"
    """How the rate falls at the end: "linear", "cosine", or "constant" for not at all"""
    decay: float = 0.2
    """Share of the steps over which the learning rate falls to zero; 1 for all after the warm-up."""
    accumulate: int = 1
    """Batches whose gradients make one step"""
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0
    save_every: int = 200
    sample_every: int = 500
    """0 for never; else also after the last step"""
    log_every: int = 10
    tracker: str = "tensorboard"
    """Where the figures go: "tensorboard", or any other tracker of accelerate whose package is installed ("wandb", …)"""
    workers: int | None = 1
    """Processes that make batches. None is one where a GPU trains and none on a CPU: where batches are quickly made, one takes
    more from the products than it saves"""
    keep: int = 1
    """Newest checkpoints to keep, besides the best one by validation loss."""
    parallel: str = "ddp"
    """How several processes share the work: "ddp", "fsdp", "hsdp"; one process alone needs none of it."""
    max_bad_batches: int = 20
    """Batches whose gradient is not finite are skipped and counted; more than these stop the run."""


TOLERATED = 0.01
"""Share of the examples that may be broken."""


class Interrupted(Exception):
    """The run was asked to stop; a checkpoint was written first."""


def _leave_interrupts(_: int) -> None:
    """Ctrl-C belongs to the main process, which asks the workers to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def fit(
    name: str,
    module: nn.Module,
    make_batch: Callable[[int], Any],
    losses: Callable[[Any, int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    sample: Callable[[int], float | None] | None = None,
) -> MasterOptimizer:
    """Train what requires a gradient in ``module``; afterwards it holds the averaged (EMA) weights.

    ``losses(batch, step)`` returns a dict whose ``"loss"`` is minimised and whose other entries are logged; with
    several processes each is this one's share of a sum. ``sample(step)`` is called with the averaged weights in place
    (not while they are sharded) and may return a validation loss, by which the best checkpoint is kept. Raises
    `Interrupted` on SIGTERM and Ctrl-C after writing a checkpoint, `FloatingPointError` after too many bad batches,
    OSError when a checkpoint cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objective = parallel.spread(parallel.Objective(module, losses), config.parallel)
    sharded = any(parallel.is_spread(p) for p in module.parameters())
    optimizer = MasterOptimizer(
        module.named_parameters(),
        config.learning_rate,
        config.weight_decay,
        ema_decay=config.ema_decay,
        kind=config.optimizer,
    )
    progress = checkpoints.load(folder / "checkpoints", optimizer)
    if progress.step >= config.steps:
        put(module, optimizer.averaged())
        return optimizer
    if progress.step:
        print(f"{name}: going on from step {progress.step} of {config.steps}", flush=True)
    first = parallel.rank() == 0
    tracker = tracking.begin(config.tracker, folder) if first else None
    stop: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: stop.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    workers = config.workers
    if workers is None:
        workers = int(optimizer.masters[0].device.type != "cpu")
    # batch number ``step`` is a function of the step alone, so that resuming needs no replay
    loader = DataLoader(
        range(progress.step * config.accumulate, config.steps * config.accumulate),
        batch_size=None,
        collate_fn=make_batch,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_interrupts,
    )
    bar = tqdm(
        range(progress.step, config.steps),
        desc=name,
        initial=progress.step,
        total=config.steps,
        mininterval=5,
        dynamic_ncols=True,
        disable=not first,
    )
    smooth: dict[str, float] = {}
    begun = time.monotonic()
    try:
        batches = enumerate(loader, progress.step * config.accumulate)
        for step in bar:
            values: dict[str, Tensor] = {}
            for number, batch, share in together([next(batches) for _ in range(config.accumulate)]):
                count_broken(name, batch, progress, (number + 1) * config.batch_size)
                parts = {key: value * share for key, value in objective(batch, number).items()}
                backward(parts["loss"])
                values |= {key: values.get(key, 0) + value.detach() for key, value in parts.items()}
            rate = rate_at(step, config.steps, config.warmup, config.decay, config.schedule)
            norm = optimizer.step(rate, config.clip)
            progress.step = done = step + 1
            bad = norm != norm or norm == float("inf")
            if bad:
                progress.bad_batches += 1
                tqdm.write(
                    f"{name}: step {step}: gradient not finite, batch skipped ({progress.bad_batches} so far)"
                    f"{names(make_batch, step, config.accumulate)}"
                )
                if progress.bad_batches > config.max_bad_batches:
                    raise FloatingPointError(
                        f"{name}: {progress.bad_batches} batches without a finite gradient, stopping"
                    )
            if step % config.log_every == 0 and not bad:
                logged = {f"{name}/gradient_norm": norm}
                for key, value in values.items():
                    # the loss was scaled for the gradients' average, the others are shares of a sum
                    value = parallel.total(float(value)) / (parallel.size() if key == "loss" else 1)
                    smooth[key] = value if key not in smooth else 0.9 * smooth[key] + 0.1 * value
                    logged[f"{name}/{key}"] = value
                if tracker:
                    tracker.log(logged, step=step)
                bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
            stopping = bool(parallel.most(len(stop)))
            saving = done % config.save_every == 0 or done == config.steps or stopping
            due = config.sample_every and (done % config.sample_every == 0 or done == config.steps)
            if sample and due and not sharded and not stopping:
                value = sampled(sample, module, optimizer, done) if first else None
                if value is not None and (progress.best is None or value < progress.best):
                    progress.best, progress.best_step, saving = value, done, True
                saving = bool(parallel.most(saving))
            if saving:
                checkpoints.save(folder / "checkpoints", optimizer, progress, config.keep)
                if first:
                    with (folder / "log.jsonl").open("a") as log:
                        seconds = round(time.monotonic() - begun, 1)
                        log.write(json.dumps({"step": done, "seconds": seconds, **smooth}) + "\n")
            if stopping and done < config.steps:
                raise Interrupted(f"{name}: stopped at step {done} of {config.steps}; run the same command to go on")
    finally:
        bar.close()
        if tracker:
            tracker.finish()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    put(module, optimizer.averaged())
    if sharded:
        parallel.gather(module)
    return optimizer


def together(batches: Sequence[tuple[int, Any]]) -> list[tuple[int, Any, float]]:
    """The numbered batches of one step, and the share of each in its loss.

    Their gradients make the step that one large batch would: batches that count what their losses are averaged over
    (`JointBatch.counts`) are told the counts of all of them, those of other stages are of one size.
    """
    if len(batches) == 1 or not hasattr(batches[0][1], "counts"):
        return [(number, batch, 1 / len(batches)) for number, batch in batches]
    totals = tuple(map(sum, zip(*(batch.counts() for _, batch in batches), strict=True)))
    return [(number, replace(batch, totals=totals), 1.0) for number, batch in batches]


def backward(loss: Tensor) -> None:
    """Or nothing, where a batch has nothing for what learns: all are words, and only drawing is learned."""
    if loss.requires_grad:
        loss.backward()


def count_broken(name: str, batch: Any, progress: checkpoints.Progress, seen: int) -> None:
    """Say what a batch had to leave out. Raises ValueError when it is more than 1 % of what was seen (of 1,000 at least)."""
    broken = getattr(batch, "left_out", [])
    for line in broken:
        tqdm.write(f"{name}: left out {line}")
    progress.left_out += int(parallel.total(len(broken))) if hasattr(batch, "left_out") else 0
    if progress.left_out > TOLERATED * max(seen, 1000):
        raise ValueError(
            f"{name}: {progress.left_out} of {seen} examples are broken, more than {TOLERATED:.0%}; stopping"
        )


def names(make_batch: Callable[[int], Any], step: int, accumulate: int) -> str:
    """What a step trained on, for a message, where the batches know."""
    of = getattr(make_batch, "names", None)
    if of is None:
        return ""
    return ": " + ", ".join(n for k in range(step * accumulate, (step + 1) * accumulate) for n in of(k))


def sampled(
    sample: Callable[[int], float | None], module: nn.Module, optimizer: MasterOptimizer, step: int
) -> float | None:
    """``sample(step)`` with the averaged weights in place of the current ones."""
    current = {n: p.detach().clone() for n, p in optimizer.named}
    put(module, optimizer.averaged())
    try:
        with parallel.alone():
            return sample(step)
    finally:
        put(module, current)


@torch.no_grad()
def put(module: nn.Module, values: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
