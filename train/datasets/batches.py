"""Batches of a finite set as a function of (seed, step): resuming needs no replay."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from ...mllm.encoding import StreamEncoder
from ...mllm.messages import Message
from .. import parallel
from ..data import JointBatch, cost, joint_batch
from .example import Example, with_opened
from .fit import fitted


@lru_cache(maxsize=4)
def order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """A permutation of an epoch's examples."""
    indices = list(range(count))
    random.Random(f"{seed}/order/{epoch}").shuffle(indices)
    return tuple(indices)


def chosen(count: int, per_step: int, seed: int, step: int) -> list[int]:
    """Which of ``count`` examples step ``step`` trains on: every one once an epoch."""
    places = range(step * per_step, (step + 1) * per_step)
    return [order(count, seed, place // count)[place % count] for place in places]


def finite_batch(
    examples: Sequence[Example],
    encoder: StreamEncoder,
    per_step: int,
    draw_share: float,
    seed: int,
    replay: Callable[[random.Random], list[Message]] | None,
    replayed: int,
    step: int,
) -> JointBatch:
    """``per_step`` examples of the set and ``replayed`` conversations of what the base learned before; this process's
    share of them."""
    rng = random.Random(f"{seed}/told/{step}")
    told = [examples[i].tell(rng, draw_share) for i in chosen(len(examples), per_step, seed, step)]
    if replay is not None:
        told += [replay(rng) for _ in range(replayed)]
    mine = parallel.share([cost(messages) for messages in told])
    fit = partial(fitted, config=encoder.config)
    return joint_batch([with_opened(told[i], fit) for i in mine], encoder, mine)
