"""Batches made by worker processes beside the training: which, in which order, by how many."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader

from .interrupts import leave_interrupts

PREFETCHED = 4
"""Batches that each worker is ahead"""
MAX_WORKERS = 16
"""More make batches faster than a GPU takes them, and every one has memory of its own."""
CORES_WITH_WORKER = 4
"""Cores from which a worker is worth one of them, where the others train"""


@runtime_checkable
class PooledBatches(Protocol):
    """Batches that are dealt from pools (`Mixture`): step ``k`` is of pool ``k // pool``, which is told in ``pool`` parts."""

    pool: int

    def tell(self, pool: int, part: int) -> list[Any]: ...

    def deal(self, pool: int, told: Sequence[Any]) -> list[list[Any]]: ...

    def make(self, step: int, batch: Sequence[Any]) -> Any: ...


def choose_workers(num_workers: int | None, on_gpu: bool) -> int:
    """The number of worker processes, for None by the machine: beside a GPU one for every core but this process's own, which
    several processes share. On a CPU one or, where it would take more time from the matrix products than it saves, none."""
    if num_workers is not None:
        return num_workers
    cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(MAX_WORKERS, cores - 1)) if on_gpu else int(cores >= CORES_WITH_WORKER)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batch_loader(
    make_batch: Callable[[int], Any], steps: range, workers: int, pin_memory: bool = False
) -> Iterable[Any]:
    """``make_batch(step)`` of every step, in their order, made by so many worker processes; 0: by this one."""
    options: dict[str, Any] = {"batch_size": None, "num_workers": workers, "pin_memory": pin_memory}
    if workers:
        options |= {"prefetch_factor": PREFETCHED, "worker_init_fn": leave_interrupts}
        if isinstance(make_batch, PooledBatches):
            return pooled_batches(make_batch, steps, options)
    return DataLoader(steps, collate_fn=make_batch, **options)  # type: ignore[arg-type]  # torch takes any sequence


@dataclass(frozen=True)
class Part:
    """A part of a pool: to be told, and what was told."""

    pool: int
    number: int
    told: Sequence[Any] = ()


class PoolWorker:
    """The dataset whose items are what workers have to do."""

    def __init__(self, batches: PooledBatches) -> None:
        self.batches = batches

    def __getitem__(self, task: Part | tuple[int, Sequence[Any]] | None) -> Any:
        """A part told, the batch made of a step's share of its pool, or None, for a worker that has to wait."""
        if task is None:
            return None
        if isinstance(task, Part):
            return Part(task.pool, task.number, self.batches.tell(task.pool, task.number))
        return self.batches.make(*task)


def pool_parts(pool: int, count: int) -> Iterator[Part]:
    """So many parts of a pool, to be told."""
    return (Part(pool, number) for number in range(count))


def pooled_batches(batches: PooledBatches, steps: range, options: dict[str, Any]) -> Iterator[Any]:
    """Batches of pools whose conversations are each told once, by one of the workers, whatever their number.

    A pool's parts are told while the batches of the pool before it are made; the first pool, by all workers at once, before there
    is a batch. What was told goes to the worker that makes a batch of it. Two pools at most are kept, without pixels.
    """
    told: dict[int, list[Part]] = defaultdict(list)

    def tasks() -> Iterator[Part | tuple[int, Sequence[Any]] | None]:
        pools = range(steps.start // batches.pool, (steps.stop - 1) // batches.pool + 1)
        parts = pool_parts(pools[0], batches.pool)
        for pool in pools:
            yield from parts
            while len(told[pool]) < batches.pool:
                yield None
            dealt = batches.deal(pool, [t for part in told.pop(pool) for t in part.told])
            parts = pool_parts(pool + 1, batches.pool if pool + 1 in pools else 0)
            for step in range(max(steps.start, pool * batches.pool), min(steps.stop, (pool + 1) * batches.pool)):
                yield step, dealt[step % batches.pool]
                yield from islice(parts, 2)  # so that all have come when this pool ends

    for result in DataLoader(PoolWorker(batches), sampler=tasks(), **options):  # type: ignore[arg-type]
        if isinstance(result, Part):
            told[result.pool].append(result)
        elif result is not None:
            yield result
