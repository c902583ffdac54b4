"""Batches from one or several sources as a function of (seed, step): resuming needs no replay.

Conversations of about one length share a batch: a pool of batches is drawn, sorted and dealt out again.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import ClassVar, NamedTuple, Protocol

from PIL import Image

from ...inference.adapters import split_weight
from ...inference.resizing import resize_to_shape
from ...mllm.encoding import StreamEncoder
from ...mllm.messages import Message
from ...world import talk
from ...world.sampling import rng_for
from ...world.scene import Scene, render
from .. import parallel
from ..data import JointBatch, joint_batch
from ..picture_shares import ALL_QUERIES, PictureShares, with_tokens
from .check import check_dataset
from .example import Example, map_pictures, open_pictures, shuffled
from .shards import ShardSource

POOL_BATCHES = 192
"""Batches in a pool, a number that keeps padding near 5 % of the tokens on nano's mixture (128: 6 %, 256: 4 %)."""
MANY_DRAWINGS = 3
"""Conversations of so many drawings and more are sorted by their tokens alone: there are few of each number"""


class ConversationSource(Protocol):
    """A source of conversations: the ``place``-th is a function of (seed, place)."""

    @property
    def kept(self) -> bool:
        """Whether a conversation takes more time to make than memory to keep: one that names its pictures, and not one that
        holds them."""
        ...

    def sample(self, seed: int, place: int) -> list[Message]: ...

    def name(self, seed: int, place: int) -> str: ...

    @property
    def fingerprint(self) -> str:
        """A text that changes when the conversations do."""
        ...


@dataclass(frozen=True)
class SceneImage:
    """A picture of the drawn world, drawn when it is needed."""

    scene: Scene

    def open(self) -> Image.Image:
        return render(self.scene)


@dataclass(frozen=True)
class WorldSource:
    """Endless conversations of the drawn world, of all kinds or of some."""

    kinds: tuple[str, ...] = ()
    phrasings: float = talk.PHRASINGS_SHARE
    """Share of strangers' words where there are some"""
    validation: bool = False
    """Whether those are the ones kept for validation"""
    kept: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        words = "" if self.phrasings == talk.PHRASINGS_SHARE else f", phrasings {self.phrasings}"
        return f"world/{'+'.join(self.kinds)}{words}{', of validation' if self.validation else ''}"

    def name(self, seed: int, place: int) -> str:
        return f"world {seed}/{place}"

    def sample(self, seed: int, place: int) -> list[Message]:
        rng = rng_for(seed, place, "world")
        told = talk.conversation(rng, self.kinds, self.phrasings, self.validation)
        return map_pictures(told.messages, SceneImage)


@dataclass(frozen=True)
class ExampleSource:
    """The examples of a data set: each once an epoch, in an order of that epoch."""

    examples: Sequence[Example]
    draw_share: float = 0.8
    plan_share: float = 0.0
    fingerprint: str = ""
    """The data set's (`Report.fingerprint`)"""
    kept: ClassVar[bool] = False

    def example(self, seed: int, place: int) -> Example:
        count = len(self.examples)
        return self.examples[shuffled(count, seed, place // count, "order")[place % count]]

    def sample(self, seed: int, place: int) -> list[Message]:
        return self.example(seed, place).sample(rng_for(seed, place, "told"), self.draw_share, self.plan_share)

    def name(self, seed: int, place: int) -> str:
        return self.example(seed, place).where


class Told(NamedTuple):
    """A conversation of a pool, before its pictures are opened."""

    source: int
    place: int
    drawings: int
    tokens: int
    pickled: bytes
    """Its messages; empty where the source makes them again (``kept``)"""


class WeightedSources:
    """Sources with weights, of whose first ``total`` conversations each has its share, whatever the total."""

    def __init__(self, sources: Sequence[tuple[ConversationSource, float]], seed: int) -> None:
        """Raises ValueError for weights that are no shares."""
        whole = sum(weight for _, weight in sources)
        if not sources or whole <= 0 or any(weight < 0 for _, weight in sources):
            raise ValueError(f"weights {[weight for _, weight in sources]}: none below 0, and some above")
        self.sources, self.weights = zip(*sources, strict=True)
        self.cumulative_shares = [sum(weight for _, weight in sources[: i + 1]) / whole for i in range(len(sources))]
        self.seed = seed

    @property
    def fingerprints(self) -> list[str]:
        """Fingerprints of the sources, by which a resumed run checks its data."""
        return [source.fingerprint for source in self.sources]

    def counts(self, total: int) -> list[int]:
        """How many of the first ``total`` conversations come from each source."""
        marks = [0, *(round(total * share) for share in self.cumulative_shares)]
        return [b - a for a, b in pairwise(marks)]

    def places(self, begin: int, end: int) -> list[range]:
        """The places of each source among the conversations from ``begin`` up to ``end``, which is not among them."""
        return list(map(range, self.counts(begin), self.counts(end)))


class Mixture(WeightedSources):
    """Sources with weights, dealt into batches of ``batch_size`` conversations over all processes.

    A pool's conversations are told once, in parts (`tell`), and dealt (`deal`); a batch is made of those it was dealt (`make`).
    Whoever tells and makes, `fit`'s worker processes or the caller of the mixture, the batches are the same.
    """

    def __init__(
        self,
        sources: Sequence[tuple[ConversationSource, float]],
        encoder: StreamEncoder,
        batch_size: int,
        seed: int,
        pool: int = POOL_BATCHES,
        shares: PictureShares = ALL_QUERIES,
    ) -> None:
        """``shares`` say how pictures are drawn, where the model has several ways. Raises ValueError for weights that are no
        shares."""
        super().__init__(sources, seed)
        whole = sum(self.weights)
        least = 2 / (pool * batch_size)  # less would not come once a pool
        if any(weight / whole < least for _, weight in sources):
            raise ValueError(f"weights {[weight for _, weight in sources]}: each share must be at least {least:.3f}")
        self.encoder, self.batch_size, self.pool, self.shares = encoder, batch_size, pool, shares
        self.keys = False
        """Whether batches name their encoders' inputs (`joint_batch`)"""
        self._pool_batches: tuple[int, list[list[Told]]] | None = None

    def tell(self, pool: int, part: int) -> list[Told]:
        """A part of a pool, about as many conversations as a batch has; ``part`` is below ``self.pool``."""
        size = self.pool * self.batch_size
        return [
            self._told(source, place)
            for source, places in enumerate(self.places(pool * size, (pool + 1) * size))
            for place in places[part :: self.pool]
        ]

    def _told(self, source: int, place: int) -> Told:
        messages = self.sources[source].sample(self.seed, place)
        pickled = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL) if self.sources[source].kept else b""
        return Told(source, place, *conversation_size(self.encoder, messages), pickled)

    def deal(self, pool: int, told: Sequence[Told]) -> list[list[Told]]:
        """The batches of a pool from all of its conversations: those of a batch are of about one length."""
        found = sorted(told, key=lambda t: (min(t.drawings, MANY_DRAWINGS), t.tokens, t.source, t.place))
        batches = [found[i : i + self.batch_size] for i in range(0, len(found), self.batch_size)]
        random.Random(f"{self.seed}/dealt/{pool}").shuffle(batches)
        return batches

    def pool_batches(self, pool: int) -> list[list[Told]]:
        """The batches of a pool, told by this process; the latest pool is kept."""
        if self._pool_batches is None or self._pool_batches[0] != pool:
            told = [t for part in range(self.pool) for t in self.tell(pool, part)]
            self._pool_batches = (pool, self.deal(pool, told))
        return self._pool_batches[1]

    def names(self, step: int) -> list[str]:
        """Names of a step's conversations over all processes, for messages."""
        pool, index = divmod(step, self.pool)
        return [self.sources[told.source].name(self.seed, told.place) for told in self.pool_batches(pool)[index]]

    def __call__(self, step: int) -> JointBatch:
        """This process's conversations of a step. Raises ValueError as `make` does."""
        pool, index = divmod(step, self.pool)
        return self.make(step, self.pool_batches(pool)[index])

    def make(self, step: int, batch: Sequence[Told]) -> JointBatch:
        """This process's conversations of a step's batch. Those whose pictures cannot be read are left out and named; where none
        is left, the conversations of the pool's next batch stand in.

        Raises ValueError when none of the pool can be read.
        """
        kept, left_out = self.read_batch(batch)
        if not kept:
            pool, index = divmod(step, self.pool)
            batches = self.pool_batches(pool)
            read = (self.read_batch(other)[0] for other in batches[index + 1 :] + batches[:index])
            kept = next((found for found in read if found), [])
        if not kept:
            raise ValueError(f"every conversation of step {step} and of its pool is broken; the first: {left_out[0]}")
        opened, places, sources = map(list, zip(*kept, strict=True))
        chosen = partial(with_tokens, config=self.encoder.config, shares=self.shares)
        chance = [rng_for(self.seed, step, f"picture tokens/{place}") for place in places]
        opened = [chosen(own, rng=rng) for own, rng in zip(opened, chance, strict=True)]
        made = joint_batch(opened, self.encoder, places, self.keys)
        made.sources, made.left_out = sources, left_out
        return made

    def read_batch(self, batch: Sequence[Told]) -> tuple[list[tuple[list[Message], int, int]], list[str]]:
        """This process's conversations of a batch with their places in it and their sources, and those that cannot be read."""
        fit = partial(resize_to_shape, config=self.encoder.config)
        kept, left_out = [], []
        for place in parallel.balanced_indices([float(told.tokens) for told in batch]):
            told = batch[place]
            source = self.sources[told.source]
            messages = pickle.loads(told.pickled) if told.pickled else source.sample(self.seed, told.place)
            try:
                kept.append((open_pictures(messages, fit), place, told.source))
            except (ValueError, OSError) as error:
                left_out.append(f"{source.name(self.seed, told.place)}: {error}")
        return kept, left_out


def conversation_size(encoder: StreamEncoder, messages: Sequence[Message]) -> tuple[int, int]:
    """(drawings, tokens) of a conversation: about the length of its training row with the drawings' queries, without tiles."""
    config = encoder.config
    drawings, tokens = 0, round(len(messages) * template_tokens(encoder))
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                tokens += len(encoder.text_ids(part["text"]))
            else:
                tokens += config.view_tokens + 2
                drawings += message["role"] == "assistant"
    return drawings, tokens + drawings * (1 + config.max_drawing)


@lru_cache(maxsize=4)
def template_tokens(encoder: StreamEncoder) -> float:
    """Tokens that the chat template adds to a message, averaged over a question and its answer."""
    turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    one, two = (len(encoder.encode(turn * n, training=True).input_ids) for n in (1, 2))
    return (two - one) / 2 - len(encoder.text_ids("x"))


def load_sources(
    data: Sequence[str],
    encoder: StreamEncoder,
    max_length: int,
    draw_share: float,
    phrasings: float = talk.PHRASINGS_SHARE,
) -> list[tuple[ConversationSource, float]]:
    """``DATA`` or ``DATA:WEIGHT`` each; "world" is the drawn world, "world/describe+answer" these kinds of its conversations,
    "world-validation" the same in the strangers' phrasings that training never says, "stream:FOLDER" a folder of shards that are
    read when needed. Every other set is read, checked and reported at once. ``phrasings`` is the share of strangers' words in the
    world.

    Raises ValueError for one that cannot be used.
    """
    sources: list[tuple[ConversationSource, float]] = []
    for given in data:
        streamed = given.startswith("stream:")
        name, weight = split_weight(given.removeprefix("stream:"))
        source: ConversationSource
        if streamed:
            source = ShardSource(name, draw_share)
            print(f"{given}: {source.total:,} examples in {len(source.paths)} shards, checked as they come", flush=True)
        elif (world := name.partition("/"))[0] == "world":
            source = WorldSource(talk.kinds(world[2]), phrasings)
        elif world[0] == "world-validation":
            source = WorldSource(talk.kinds(world[2]), 1.0, validation=True)
        else:
            report = check_dataset(name, encoder, max_length)
            source = ExampleSource(report.examples, draw_share, fingerprint=report.fingerprint)
        sources.append((source, weight))
    return sources
