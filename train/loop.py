"""The loop that every stage shares: batches by step, losses, one optimizer, logs, validation, samples, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoints, parallel, tracking
from .interrupts import Interrupted, stop_signals
from .loading import batch_loader, choose_workers
from .optimizer import OPTIMIZERS, SCHEDULES, MasterOptimizer, learning_rate_factor, training_buffers
from .option_checks import check_choice, check_numbers, check_shares

MIN_RATE = 1e-10
"""Of weights of 0.001 and more, fp32 keeps no smaller differences."""


@dataclass(frozen=True)
class LoopConfig:
    steps: int = 1000
    batch_size: int = 32
    optimizer: str = "adamw"
    """"adamw" or "muon" """
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    """Steps over which the learning rate rises: at most half of all, so that a short run reaches it too (`warmup`)"""
    schedule: str = "linear"
    """How the rate falls at the end: "linear", "cosine", or "constant" for not at all"""
    decay_ratio: float = 0.2
    """Share of the steps over which the learning rate falls to zero; 1 for all after the warm-up."""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients make one step"""
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    """Gradients of a larger norm are scaled down to it; 0 and None leave all as they are"""
    ema_decay: float = 0.0
    save_every: int = 200
    """Steps between checkpoints; one is also written after the last step and where a run is stopped. 0: only these"""
    sample_every: int = 500
    """Steps between validation losses and sheets of samples: 0 for never, else also after the last step"""
    log_every: int = 10
    """Steps between figures of the losses; 0 for none"""
    tracker: str = "tensorboard"
    """Where metrics are logged: "tensorboard", or any other tracker of accelerate whose package is installed ("wandb", …)"""
    num_workers: int | None = None
    """Processes that make batches; None is by the machine (`choose_workers`), 0 the process that trains."""
    save_total_limit: int = 1
    """Newest checkpoints to keep, besides the best one by validation loss."""
    parallel: str = "ddp"
    """Data parallelism over several processes: "ddp", "fsdp" or "hsdp"; one process alone ignores it."""
    max_bad_batches: int = 20
    """Steps whose gradient or loss is not finite are skipped and counted; more than these in a row stop the run."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "steps",
            "batch_size",
            "gradient_accumulation_steps",
            "save_total_limit",
            least=1,
        )
        check_numbers(
            self,
            "warmup_steps",
            "weight_decay",
            "max_grad_norm",
            "save_every",
            "sample_every",
            "log_every",
            "num_workers",
            "max_bad_batches",
            least=0,
        )
        check_numbers(self, "learning_rate", least=0, most=1)  # a step of AdamW or Muon is about as large as the rate
        if 0 < self.learning_rate < MIN_RATE:
            raise ValueError(f"learning_rate is {self.learning_rate}; below {MIN_RATE} no weight changes")
        if self.learning_rate * self.weight_decay > 1:
            raise ValueError(
                f"weight_decay is {self.weight_decay}; times the learning rate, {self.learning_rate}, it must be at most 1"
            )
        check_numbers(self, "ema_decay", least=0, below=1)
        check_shares(self, "decay_ratio")
        check_choice(self, "optimizer", OPTIMIZERS)
        check_choice(self, "schedule", SCHEDULES)
        check_choice(self, "parallel", parallel.STRATEGIES)
        tracking.check_tracker(self.tracker)

    @property
    def warmup(self) -> int:
        """`warmup_steps`, at most half of the steps."""
        return min(self.warmup_steps, max(1, self.steps // 2))

    def warmup_note(self) -> str:
        """What to say of a warm-up that is cut to half of the run; empty for one that fits."""
        if self.warmup == self.warmup_steps:
            return ""
        return f"warm-up   {self.warmup} steps in place of {self.warmup_steps}: half of the run's {self.steps}"


CHECK_EVERY = 10
"""Steps on a GPU after which the gradients' norms are looked at, without ``log_every``: the host waits for the device then."""
MAX_SKIPPED_SHARE = 0.01
"""Share of the examples that may be broken before training stops."""
SURE_STEPS = 1000
"""After so many steps without any gradient a run has nothing to learn from."""


def fit(
    name: str,
    module: nn.Module,
    make_batch: Callable[[int], Any],
    losses: Callable[[Any, int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    validation: Callable[[], dict[str, Tensor]] | None = None,
    sample: Callable[[int], None] | None = None,
) -> MasterOptimizer:
    """Train what requires a gradient in ``module``; afterwards it holds the averaged (EMA) weights and buffers, whole on every
    process.

    ``losses(batch, step)`` returns a dict whose ``"loss"`` is minimised and whose other entries are logged; with several
    processes each is this one's share of a sum. Every ``sample_every`` steps, with averaged weights in place, ``validation()``
    gives such losses of a fixed batch, by which the best checkpoint is kept, and ``sample(step)`` draws: on the first process
    alone, and not while weights are sharded. Raises `Interrupted` on SIGTERM and Ctrl-C after writing a checkpoint,
    `FloatingPointError` after too many bad batches, OSError when a checkpoint cannot be written or the disk has no room for it,
    ValueError where nothing can be or was learned.
    """
    if not config.learning_rate:
        raise ValueError(f"{name}: learning_rate is 0, by which nothing is learned")
    trainer = Trainer(name, module, losses, config, folder, validation, sample)
    if trainer.progress.step < config.steps:
        trainer.train(make_batch)
    trainer.check_learned()
    if trainer.first and (bad := trainer.progress.bad_batches):
        print(f"{name}: {bad} of {config.steps} steps were skipped: their gradient was not finite", flush=True)
    load_parameters(module, trainer.optimizer.averaged())
    parallel.unshard(trainer.forward)
    return trainer.optimizer


class Trainer:
    """A run of `fit`: what it keeps from step to step, and what is done in a step."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        losses: Callable[[Any, int], dict[str, Tensor]],
        config: LoopConfig,
        folder: Path,
        validation: Callable[[], dict[str, Tensor]] | None,
        sample: Callable[[int], None] | None,
    ) -> None:
        self.name, self.module, self.losses, self.config, self.folder = name, module, losses, config, folder
        self.validation, self.sample = validation, sample
        folder.mkdir(parents=True, exist_ok=True)
        self.forward = parallel.shard(module, config.parallel)
        self.sharded = any(parallel.is_sharded(p) for p in module.parameters())
        self.optimizer = MasterOptimizer(
            module.named_parameters(),
            config.learning_rate,
            config.weight_decay,
            ema_decay=config.ema_decay,
            kind=config.optimizer,
            buffers=training_buffers(module),
        )
        self.progress = checkpoints.load(folder / "checkpoints", self.optimizer)
        self.first = parallel.rank() == 0
        if self.first and self.progress.step < config.steps:
            kept = config.save_total_limit + (validation is not None)
            checkpoints.check_space(folder / "checkpoints", self.optimizer.state_bytes, kept)
        self.smooth: dict[str, float] = {}
        self.unchecked: list[tuple[int, Tensor]] = []
        """Steps whose gradients' norms were not looked at yet"""
        waits = self.optimizer.named[0][1].device.type == "cpu" or parallel.world_size() > 1
        self.check_every = 1 if waits else config.log_every or CHECK_EVERY
        self.begun = time.monotonic()

    def train(self, make_batch: Callable[[int], Any]) -> None:
        """The steps that are left."""
        config, begin, accumulate = self.config, self.progress.step, self.config.gradient_accumulation_steps
        if self.first and (note := config.warmup_note()):
            print(note, flush=True)
        if begin:
            print(f"{self.name}: going on from step {begin} of {config.steps}", flush=True)
        tracker = tracking.start_tracker(config.tracker, self.folder) if self.first else None
        with stop_signals() as stop:
            bar = tqdm(
                range(begin, config.steps),
                desc=self.name,
                initial=begin,
                total=config.steps,
                mininterval=5,
                dynamic_ncols=True,
                disable=not self.first,
            )
            try:
                batches = enumerate(self.load_batches(make_batch), begin * accumulate)
                for step in bar:
                    values, norm = self.step(step, [next(batches) for _ in range(accumulate)])
                    self.unchecked.append((step, norm))
                    done, last = step + 1, step + 1 == config.steps
                    logged = bool(config.log_every) and step % config.log_every == 0
                    stopping = bool(parallel.max_over_processes(len(stop)))
                    due = bool(config.sample_every) and (done % config.sample_every == 0 or last)
                    saved = stopping or last or (bool(config.save_every) and done % config.save_every == 0)
                    if logged or due or saved or len(self.unchecked) >= self.check_every:
                        self.check_norms(partial(batch_names, make_batch, accumulate=accumulate))
                    if logged and math.isfinite(norm):
                        self.log(step, values, float(norm), tracker)
                        bar.set_postfix({k: f"{v:.4f}" for k, v in self.smooth.items()}, refresh=False)
                    best = due and not stopping and self.evaluate()
                    if best or saved:
                        self.save()
                    if done == SURE_STEPS:
                        self.check_learned()
                    if stopping and not last:
                        raise Interrupted(
                            f"{self.name}: stopped at step {done} of {config.steps}; run the same command to go on"
                        )
            finally:
                bar.close()
                if tracker:
                    tracker.finish()

    def load_batches(self, make_batch: Callable[[int], Any]) -> Iterable[Any]:
        """The batches that are left. Batch number ``k`` is a function of ``k`` alone, so that resuming needs no replay."""
        config, accumulate = self.config, self.config.gradient_accumulation_steps
        device = self.optimizer.named[0][1].device
        workers = choose_workers(config.num_workers, device.type != "cpu")
        if self.first and config.num_workers is None:
            print(f"{self.name}: {workers or 'no'} worker processes make batches (num_workers)", flush=True)
        left = range(self.progress.step * accumulate, config.steps * accumulate)
        return batch_loader(make_batch, left, workers, pin_memory=device.type == "cuda")

    def step(self, step: int, batches: Sequence[tuple[int, Any]]) -> tuple[dict[str, Tensor], Tensor]:
        """One update from numbered batches. Returns this process's share of the losses, and the gradient's norm: not finite where
        the gradient or the loss is not, and the weights stay as they are. Nothing here waits for the device."""
        config = self.config
        values: dict[str, Tensor] = {}
        for number, batch, share in with_shared_totals(batches):
            count_skipped(self.name, batch, self.progress, (number + 1) * config.batch_size)
            parts = {key: value * share for key, value in self.forward(self.losses, batch, number).items()}
            backward(parts["loss"])
            values |= {key: values.get(key, 0) + value.detach() for key, value in parts.items()}
        self.progress.step = step + 1
        rate = learning_rate_factor(step, config.steps, config.warmup, config.decay_ratio, config.schedule)
        # the loss too: an infinite one may have a finite gradient, with a target token of probability zero
        loss = parallel.sum_tensor(values["loss"])
        return values, self.optimizer.step(rate, config.max_grad_norm or 0.0, loss)

    def check_norms(self, names: Callable[[int], str]) -> None:
        """Look at the gradients' norms of the steps since the last time, and count those that are not finite; ``names(step)`` are
        its examples."""
        norms = torch.stack([norm for _, norm in self.unchecked]).tolist()
        for (step, _), norm in zip(self.unchecked, norms, strict=True):
            if math.isfinite(norm):
                self.progress.bad_in_a_row = 0
            else:
                self.count_bad_batch(step, names(step))
        self.unchecked.clear()

    def count_bad_batch(self, step: int, names: str) -> None:
        """Say that a step's gradient was not finite. Raises FloatingPointError if that were too many in a row."""
        self.progress.bad_batches += 1
        self.progress.bad_in_a_row += 1
        row, so_far = self.progress.bad_in_a_row, self.progress.bad_batches
        if self.first:
            tqdm.write(f"{self.name}: step {step}: gradient not finite, batch skipped ({so_far} so far){names}")
        if row > self.config.max_bad_batches:
            raise FloatingPointError(
                f"{self.name}: {row} batches in a row without a finite gradient, stopping; a lower learning_rate or "
                "dtype=float32 may help"
            )

    def check_learned(self) -> None:
        """Raises ValueError where nothing was learned in any of the steps so far."""
        steps, bad = self.progress.step, self.progress.bad_batches
        if not self.optimizer.updates:
            dtype = str(self.optimizer.named[0][1].dtype).removeprefix("torch.")
            why = f"zero in {steps} of {steps} steps: the data has nothing to learn for what is trained, or losses of weight 0"
            if bad:
                why = f"not finite in {bad} of {steps} steps: nor are the weights, or what they give is too large for {dtype}"
            raise ValueError(f"{self.name}: nothing was learned: the gradient was {why}")

    def log(self, step: int, values: dict[str, Tensor], norm: float, tracker: GeneralTracker | None) -> None:
        """Smooth the losses for the bar and `save`, and hand them to the tracker; those that are finite (a PSNR may not be)."""
        totals = {key: value for key, value in parallel.total_losses(values).items() if math.isfinite(value)}
        for key, value in totals.items():
            self.smooth[key] = value if key not in self.smooth else 0.9 * self.smooth[key] + 0.1 * value
        if tracker:
            figures = {"gradient_norm": norm} | totals
            tracker.log({f"{self.name}/{key}": value for key, value in figures.items()}, step=step)

    @torch.no_grad()
    def evaluate(self) -> bool:
        """Validation loss and samples by the averaged weights; whether the loss is the lowest so far."""
        if self.validation is None and self.sample is None:
            return False
        loss, step = None, self.progress.step
        with self.averaged_weights():
            if self.validation is not None:
                values = parallel.total_losses(self.forward(self.validation))
                loss = validation_loss(values)
                if self.first:
                    shown = {k: round(v, 5) if math.isfinite(v) else None for k, v in values.items()}  # as JSON has it
                    append_line(self.folder / "validation.jsonl", {"step": step} | shown)
            if self.sample is not None and self.first and not self.sharded:
                with parallel.single_process():
                    self.sample(step)
        if loss is None or not math.isfinite(loss) or (self.progress.best is not None and loss >= self.progress.best):
            return False
        self.progress.best, self.progress.best_step = loss, step
        return True

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within it the module holds the averaged weights, or this process's shards of them, and is in evaluation mode."""
        parallel.reshard(self.forward)
        now = dict(self.optimizer.named) | self.optimizer.buffers
        current = {name: value.detach().clone() for name, value in now.items()}
        training = [unit for unit in self.module.modules() if unit.training]
        load_parameters(self.module, self.optimizer.averaged())
        self.module.eval()
        try:
            yield
        finally:
            parallel.reshard(self.forward)
            load_parameters(self.module, current)
            for unit in training:
                unit.training = True

    def save(self) -> None:
        """Write a checkpoint, and a line of the smoothed losses to ``log.jsonl``."""
        checkpoints.save(self.folder / "checkpoints", self.optimizer, self.progress, self.config.save_total_limit)
        if self.first:
            seconds = round(time.monotonic() - self.begun, 1)
            append_line(self.folder / "log.jsonl", {"step": self.progress.step, "seconds": seconds, **self.smooth})


def with_shared_totals(batches: Sequence[tuple[int, Any]]) -> list[tuple[int, Any, float]]:
    """The numbered batches of one step (gradient accumulation), and the weight of each loss.

    Their gradients make the step that one large batch would: batches that count what their losses are averaged over
    (`JointBatch.counts`, a dict's "counts") get the totals of all of them; those of other stages are equally large.
    """
    first = batches[0][1]
    if isinstance(first, dict) and "counts" in first:
        sums = sum(batch["counts"] for _, batch in batches)
        return [(number, batch | {"counts": sums}, 1.0) for number, batch in batches]
    if len(batches) == 1 or not hasattr(first, "counts"):
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


def batch_names(make_batch: Callable[[int], Any], step: int, *, accumulate: int) -> str:
    """The examples of a step for an error message, if the batches know them."""
    of = getattr(make_batch, "names", None)
    if of is None:
        return ""
    return ": " + ", ".join(n for k in range(step * accumulate, (step + 1) * accumulate) for n in of(k))


def validation_loss(values: dict[str, float]) -> float:
    """The loss by which the best checkpoint is chosen: the flow loss, which tracks quality (SD3, section 5.3), or the sum of all
    if nothing is drawn."""
    return values.get("flow", values["loss"])


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Add a line of JSON to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def load_parameters(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy ``values`` into the parameters and buffers of these names; the others stay."""
    unknown = module.load_state_dict(values, strict=False).unexpected_keys
    assert not unknown, unknown
