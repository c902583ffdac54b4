"""The loop that every stage shares: batches by step, losses, one optimizer, checkpoints, samples, logs."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoints, parallel, tracking
from .optimizer import OPTIMIZERS, SCHEDULES, MasterOptimizer, learning_rate_factor
from .option_checks import check_choice, check_numbers, check_shares


@dataclass
class LoopConfig:
    steps: int = 1000
    batch_size: int = 32
    optimizer: str = "adamw"
    """"adamw" or "muon" """
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: str = "linear"
    """How the rate falls at the end: "linear", "cosine", or "constant" for not at all"""
    decay_ratio: float = 0.2
    """Share of the steps over which the learning rate falls to zero; 1 for all after the warm-up."""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients make one step"""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    save_every: int = 200
    sample_every: int = 500
    """0 for never; else also after the last step"""
    log_every: int = 10
    tracker: str = "tensorboard"
    """Where metrics are logged: "tensorboard", or any other tracker of accelerate whose package is installed ("wandb", …)"""
    num_workers: int | None = 1
    """Processes that make batches. None means one if a GPU trains and 0 on a CPU, where a worker would take more time from the
    matrix products than it saves."""
    save_total_limit: int = 1
    """Newest checkpoints to keep, besides the best one by validation loss."""
    parallel: str = "ddp"
    """Data parallelism over several processes: "ddp", "fsdp" or "hsdp"; one process alone ignores it."""
    max_bad_batches: int = 20
    """Batches whose gradient is not finite are skipped and counted; more than these stop the run."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "steps",
            "batch_size",
            "gradient_accumulation_steps",
            "save_every",
            "log_every",
            "save_total_limit",
            least=1,
        )
        check_numbers(
            self,
            "learning_rate",
            "warmup_steps",
            "weight_decay",
            "sample_every",
            "num_workers",
            "max_bad_batches",
            least=0,
        )
        check_numbers(self, "max_grad_norm", above=0)
        check_numbers(self, "ema_decay", least=0, below=1)
        check_shares(self, "decay_ratio")
        check_choice(self, "optimizer", OPTIMIZERS)
        check_choice(self, "schedule", SCHEDULES)
        check_choice(self, "parallel", parallel.STRATEGIES)
        tracking.check_tracker(self.tracker)


MAX_SKIPPED_SHARE = 0.01
"""Share of the examples that may be broken before training stops."""


class Interrupted(Exception):
    """SIGTERM or Ctrl-C stopped the run, after a checkpoint was written."""


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
    objective = parallel.shard(parallel.Objective(module, losses), config.parallel)
    sharded = any(parallel.is_sharded(p) for p in module.parameters())
    optimizer = MasterOptimizer(
        module.named_parameters(),
        config.learning_rate,
        config.weight_decay,
        ema_decay=config.ema_decay,
        kind=config.optimizer,
    )
    progress = checkpoints.load(folder / "checkpoints", optimizer)
    if progress.step >= config.steps:
        load_parameters(module, optimizer.averaged())
        return optimizer
    if progress.step:
        print(f"{name}: going on from step {progress.step} of {config.steps}", flush=True)
    first = parallel.rank() == 0
    tracker = tracking.start_tracker(config.tracker, folder) if first else None
    stop: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: stop.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    on_gpu = optimizer.named[0][1].device.type != "cpu"
    workers = int(on_gpu) if config.num_workers is None else config.num_workers
    # batch number ``step`` is a function of the step alone, so that resuming needs no replay
    steps = range(progress.step * config.gradient_accumulation_steps, config.steps * config.gradient_accumulation_steps)
    loader: DataLoader[Any] = DataLoader(
        steps,  # type: ignore[arg-type]  # torch takes any sequence
        batch_size=None,
        collate_fn=make_batch,  # type: ignore[arg-type]  # of one item, without a batch size
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
        batches = enumerate(loader, progress.step * config.gradient_accumulation_steps)
        for step in bar:
            values: dict[str, Tensor] = {}
            for number, batch, share in with_shared_totals(
                [next(batches) for _ in range(config.gradient_accumulation_steps)]
            ):
                count_skipped(name, batch, progress, (number + 1) * config.batch_size)
                parts = {key: value * share for key, value in objective(batch, number).items()}
                backward(parts["loss"])
                values |= {key: values.get(key, 0) + value.detach() for key, value in parts.items()}
            rate = learning_rate_factor(step, config.steps, config.warmup_steps, config.decay_ratio, config.schedule)
            norm = optimizer.step(rate, config.max_grad_norm)
            progress.step = done = step + 1
            finite = math.isfinite(norm)
            if not finite:
                progress.bad_batches += 1
                tqdm.write(
                    f"{name}: step {step}: gradient not finite, batch skipped ({progress.bad_batches} so far)"
                    f"{batch_names(make_batch, step, config.gradient_accumulation_steps)}"
                )
                if progress.bad_batches > config.max_bad_batches:
                    raise FloatingPointError(
                        f"{name}: {progress.bad_batches} batches without a finite gradient, stopping"
                    )
            if step % config.log_every == 0 and finite:
                logged = {f"{name}/gradient_norm": norm}
                for key, total in values.items():
                    # the loss was scaled for the gradients' average, the others are shares of a sum
                    value = parallel.sum_over_processes(float(total)) / (parallel.world_size() if key == "loss" else 1)
                    smooth[key] = value if key not in smooth else 0.9 * smooth[key] + 0.1 * value
                    logged[f"{name}/{key}"] = value
                if tracker:
                    tracker.log(logged, step=step)
                bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
            stopping = bool(parallel.max_over_processes(len(stop)))
            saving = done % config.save_every == 0 or done == config.steps or stopping
            due = config.sample_every and (done % config.sample_every == 0 or done == config.steps)
            if sample and due and not sharded and not stopping:
                measured = sample_with_averages(sample, module, optimizer, done) if first else None
                if measured is not None and (progress.best is None or measured < progress.best):
                    progress.best, progress.best_step, saving = measured, done, True
                saving = bool(parallel.max_over_processes(saving))
            if saving:
                checkpoints.save(folder / "checkpoints", optimizer, progress, config.save_total_limit)
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
    load_parameters(module, optimizer.averaged())
    if sharded:
        parallel.unshard(module)
    return optimizer


def with_shared_totals(batches: Sequence[tuple[int, Any]]) -> list[tuple[int, Any, float]]:
    """The numbered batches of one step (gradient accumulation), and the weight of each loss.

    Their gradients make the step that one large batch would: batches that count what their losses are averaged over
    (`JointBatch.counts`) get the totals of all of them; those of other stages are equally large.
    """
    if len(batches) == 1 or not hasattr(batches[0][1], "counts"):
        return [(number, batch, 1 / len(batches)) for number, batch in batches]
    totals = tuple(map(sum, zip(*(batch.counts() for _, batch in batches), strict=True)))
    return [(number, replace(batch, totals=totals), 1.0) for number, batch in batches]


def backward(loss: Tensor) -> None:
    """Back-propagate, unless no trained parameter takes part: a batch of text alone while only drawing is learned."""
    if loss.requires_grad:
        loss.backward()


def count_skipped(name: str, batch: Any, progress: checkpoints.RunState, seen: int) -> None:
    """Print the examples that a batch had to skip.

    Raises ValueError when they are more than `MAX_SKIPPED_SHARE` of the examples so far (of 1,000 at least).
    """
    skipped = getattr(batch, "left_out", [])
    for line in skipped:
        tqdm.write(f"{name}: left out {line}")
    progress.left_out += int(parallel.sum_over_processes(len(skipped))) if hasattr(batch, "left_out") else 0
    if progress.left_out > MAX_SKIPPED_SHARE * max(seen, 1000):
        raise ValueError(
            f"{name}: {progress.left_out} of {seen} examples are broken, more than {MAX_SKIPPED_SHARE:.0%}; stopping"
        )


def batch_names(make_batch: Callable[[int], Any], step: int, accumulate: int) -> str:
    """The examples of a step for an error message, if the batches know them."""
    of = getattr(make_batch, "names", None)
    if of is None:
        return ""
    return ": " + ", ".join(n for k in range(step * accumulate, (step + 1) * accumulate) for n in of(k))


def sample_with_averages(
    sample: Callable[[int], float | None], module: nn.Module, optimizer: MasterOptimizer, step: int
) -> float | None:
    """``sample(step)`` while the module holds the averaged weights; afterwards it holds the current ones again."""
    current = {n: p.detach().clone() for n, p in optimizer.named}
    load_parameters(module, optimizer.averaged())
    try:
        with parallel.single_process():
            return sample(step)
    finally:
        load_parameters(module, current)


def load_parameters(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy ``values`` into the parameters of these names; the others stay."""
    unknown = module.load_state_dict(values, strict=False).unexpected_keys
    assert not unknown, unknown
