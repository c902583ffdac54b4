"""Batches from one or several sources as a function of (seed, step): resuming needs no replay.

Conversations of about one length share a batch: a pool of batches is drawn, sorted and dealt out again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Protocol

from PIL import Image

from ...inference.adapters import with_weight
from ...inference.fitting import fitted
from ...mllm.encoding import StreamEncoder
from ...mllm.messages import Message
from ...world import talk
from ...world.sampling import rng_for
from ...world.scene import Scene, render
from .. import parallel
from ..data import JointBatch, joint_batch
from .example import Example, shuffled, with_opened

POOL = 128
"""Batches in a pool: what keeps padding near 3 % of the tokens on nano's mixture (64: 6 %, 96: 4 %)."""


class Told(Protocol):
    """A source of conversations: the ``place``-th is a function of (seed, place)."""

    def tell(self, seed: int, place: int) -> list[Message]: ...

    def name(self, seed: int, place: int) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes when what it tells does."""
        ...


@dataclass(frozen=True)
class Rendered:
    """A picture of the drawn world, drawn when it is needed."""

    scene: Scene

    def open(self) -> Image.Image:
        return render(self.scene)


@dataclass(frozen=True)
class World:
    """The drawn world, without end: all it talks about, or some kinds of conversation only."""

    kinds: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return f"world/{'+'.join(self.kinds)}"

    def name(self, seed: int, place: int) -> str:
        return f"world {seed}/{place}"

    def tell(self, seed: int, place: int) -> list[Message]:
        return [
            {
                **m,
                "content": [{**p, "image": Rendered(p["image"])} if p["type"] == "image" else p for p in m["content"]],
            }
            for m in talk.conversation(rng_for(seed, place, "world"), self.kinds).messages
        ]


@dataclass(frozen=True)
class Finite:
    """Examples of a data set, every one once an epoch, in another order each time."""

    examples: Sequence[Example]
    draw_share: float = 0.8
    planned: float = 0.0
    fingerprint: str = ""
    """The data set's (`Report.fingerprint`)"""

    def example(self, seed: int, place: int) -> Example:
        count = len(self.examples)
        return self.examples[shuffled(count, seed, place // count, "order")[place % count]]

    def tell(self, seed: int, place: int) -> list[Message]:
        return self.example(seed, place).tell(rng_for(seed, place, "told"), self.draw_share, self.planned)

    def name(self, seed: int, place: int) -> str:
        return self.example(seed, place).where


class Mixture:
    """Sources with weights, dealt into batches of ``batch_size`` conversations over all processes."""

    def __init__(
        self,
        sources: Sequence[tuple[Told, float]],
        encoder: StreamEncoder,
        batch_size: int,
        seed: int,
        pool: int = POOL,
    ) -> None:
        """Raises ValueError for weights that are no shares."""
        whole = sum(weight for _, weight in sources)
        if not sources or whole <= 0 or any(weight < 0 for _, weight in sources):
            raise ValueError(f"weights {[weight for _, weight in sources]}: none below 0, and some above")
        least = 2 / (pool * batch_size)  # less would not come once a pool
        if any(weight / whole < least for _, weight in sources):
            raise ValueError(f"weights {[weight for _, weight in sources]}: each share must be at least {least:.3f}")
        self.sources, self.weights = zip(*sources, strict=True)
        self.upto = [sum(weight for _, weight in sources[: i + 1]) / whole for i in range(len(sources))]
        self.encoder, self.batch_size, self.seed, self.pool = encoder, batch_size, seed, pool
        self.keys = False
        """Whether batches name their encoders' inputs (`joint_batch`)"""
        self._dealt: tuple[int, list[list[tuple[int, int, int]]]] | None = None

    @property
    def fingerprints(self) -> list[str]:
        """What it is mixed of, for a run to know its data again."""
        return [source.fingerprint for source in self.sources]

    def counts(self, told: int) -> list[int]:
        """How many of the first ``told`` conversations come from each source."""
        marks = [0, *(round(told * share) for share in self.upto)]
        return [b - a for a, b in pairwise(marks)]

    def dealt(self, pool: int) -> list[list[tuple[int, int, int]]]:
        """The batches of a pool: (source, place, tokens) of every conversation."""
        if self._dealt is None or self._dealt[0] != pool:
            size = self.pool * self.batch_size
            before, after = self.counts(pool * size), self.counts((pool + 1) * size)
            found = []
            for source, (start, end) in enumerate(zip(before, after, strict=True)):
                for place in range(start, end):
                    drawn, tokens = measure(self.encoder, self.sources[source].tell(self.seed, place))
                    found.append((drawn, tokens, source, place))
            found.sort()
            batches = [
                [(source, place, tokens) for _, tokens, source, place in found[i : i + self.batch_size]]
                for i in range(0, size, self.batch_size)
            ]
            random.Random(f"{self.seed}/dealt/{pool}").shuffle(batches)
            self._dealt = (pool, batches)
        return self._dealt[1]

    def told(self, step: int) -> tuple[list[list[Message]], list[int], list[int]]:
        """This process's conversations of a step, pictures not yet opened, their places in the whole batch, and their
        sources."""
        pool, index = divmod(step, self.pool)
        batch = self.dealt(pool)[index]
        mine = parallel.share([float(tokens) for _, _, tokens in batch])
        told = [self.sources[batch[i][0]].tell(self.seed, batch[i][1]) for i in mine]
        return told, mine, [batch[i][0] for i in mine]

    def names(self, step: int) -> list[str]:
        """What a step's conversations are, over all processes."""
        pool, index = divmod(step, self.pool)
        return [self.sources[source].name(self.seed, place) for source, place, _ in self.dealt(pool)[index]]

    def __call__(self, step: int) -> JointBatch:
        """Conversations whose pictures cannot be read are left out and named in the batch. Raises ValueError when none is
        left."""
        fit = partial(fitted, config=self.encoder.config)
        opened, places, sources, left_out = [], [], [], []
        for messages, place, source in zip(*self.told(step), strict=True):
            try:
                opened.append(with_opened(messages, fit))
                places.append(place)
                sources.append(source)
            except (ValueError, OSError) as error:
                left_out.append(f"{self.names(step)[place]}: {error}")
        if not opened:
            raise ValueError(f"every conversation of step {step} is broken; the first: {left_out[0]}")
        made = joint_batch(opened, self.encoder, places, self.keys)
        made.sources, made.left_out = sources, left_out
        return made


def measure(encoder: StreamEncoder, messages: Sequence[Message]) -> tuple[int, int]:
    """Drawings, and about how many tokens a training row takes with their queries (tiles left out)."""
    config = encoder.config
    drawn, tokens = 0, round(len(messages) * template_tokens(encoder))
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                tokens += len(encoder.text_ids(part["text"]))
            else:
                tokens += config.image_tokens + 2
                drawn += message["role"] == "assistant"
    return drawn, tokens + drawn * (1 + config.num_queries)


@lru_cache(maxsize=4)
def template_tokens(encoder: StreamEncoder) -> float:
    """What the chat template adds to a message, on average over a question and its answer."""
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    one, two = (len(encoder.encode(turn * n, training=True).input_ids) for n in (1, 2))
    return (two - one) / 2 - len(encoder.text_ids("x"))


def sources_of(
    data: Sequence[str], encoder: StreamEncoder, longest: int, draw_share: float
) -> list[tuple[Told, float]]:
    """``DATA`` or ``DATA:WEIGHT`` each; "world" is the drawn world, "world/describe+answer" these kinds of its conversations,
    "stream:FOLDER" shards too large to list. Every other set is read, checked and reported.

    Raises ValueError for one that cannot be used.
    """
    from . import readers
    from .check import check
    from .shards import Shards

    sources: list[tuple[Told, float]] = []
    for given in data:
        name, weight = with_weight(given)
        if name == "world" or name.startswith("world/"):
            sources.append((World(talk.kinds(name.removeprefix("world").lstrip("/"))), weight))
            continue
        if name.startswith("stream:"):
            shards = Shards(name.removeprefix("stream:"), draw_share)
            print(f"{name}: {shards.total:,} examples in {len(shards.paths)} shards, checked as they come", flush=True)
            sources.append((shards, weight))
            continue
        print(f"checking {name}", flush=True)
        report = check(readers.read(name), encoder, longest)
        print(report.table(), flush=True)
        report.require()
        sources.append((Finite(report.examples, draw_share, fingerprint=report.fingerprint), weight))
    return sources
