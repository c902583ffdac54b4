"""Batches of text alone: conversations without their pictures, several in a row (packing; Krell et al. 2021, arXiv:2107.02027).

Nothing is rendered or seen. The tokens around a picture's features stay, the shape token and BOI with their labels, and every
token keeps the position that it has where the features are.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial

import torch
from PIL import Image
from torch import Tensor

from ..mllm.encoding import IGNORE_INDEX, Encoded, StreamEncoder
from ..mllm.masks import MaskMod
from ..mllm.messages import Message
from ..world.sampling import rng_for
from . import parallel
from .data import JointBatch
from .datasets.example import Openable, map_pictures, open_picture
from .datasets.mixture import ConversationSource, Mixture, SceneImage, Told, WeightedSources
from .picture_shares import ALL_QUERIES, PictureShares, with_tokens

MAX_TRIES = 64
"""After so many conversations in which a user shows a picture a source counts as one without text alone."""
FURTHER = 2**40
"""Places of a source are so far apart where another conversation stands in: beyond the first epochs of any data set"""
ROW_TOKENS = 512
"""Of a row, by default: nano's conversations, of 100 tokens in the mean, fill 95 % of such rows"""
ROUNDED = 64
"""The tokens of a row are a multiple of it: few shapes, for which kernels are chosen or compiled once"""


@dataclass
class TextBatch:
    """Packed conversations."""

    input_ids: Tensor
    """(rows, tokens)"""
    labels: Tensor
    """(rows, tokens), -100 where the loss ignores them"""
    position_ids: Tensor
    """(rows, tokens), from 0 in each conversation"""
    conversation: Tensor
    """(rows, tokens): which conversation of its row a token belongs to; -1 is padding"""
    totals: tuple[int, int] | None = None
    """`counts` summed over the batches of one step, with gradient accumulation"""

    def counts(self) -> tuple[int, int]:
        """The number of labels, over which the loss is averaged, and of drawings, as `JointBatch.counts` has them."""
        return self.totals or (int((self.labels[:, 1:] != IGNORE_INDEX).sum()), 0)

    def to(self, device: torch.device) -> TextBatch:
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "totals"}
        return replace(self, **tensors)

    def mask(self) -> tuple[MaskMod, MaskMod]:
        """The mask and the distances (`attention_masks`): a token sees the earlier ones of its own conversation."""
        own, positions = self.conversation, self.position_ids

        def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (own[batch, query] == own[batch, key]) & (key <= query)

        def distance(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return positions[batch, query] - positions[batch, key]

        return allowed, distance


class TextBatches(WeightedSources):
    """Sources with weights, dealt into batches of ``batch_size`` conversations over all processes: a function of (seed, step).

    Conversations in which a user shows a picture are passed over: what is said of it does not follow from the text.
    """

    def __init__(
        self,
        sources: Sequence[tuple[ConversationSource, float]],
        encoder: StreamEncoder,
        batch_size: int,
        seed: int,
        row_tokens: int = ROW_TOKENS,
        shares: PictureShares = ALL_QUERIES,
    ) -> None:
        """``shares`` are `Mixture`'s. Raises ValueError for weights that are no shares."""
        super().__init__(sources, seed)
        self.encoder, self.batch_size, self.row_tokens, self.shares = encoder, batch_size, row_tokens, shares

    def dealt(self, step: int) -> list[tuple[ConversationSource, int]]:
        """A step's sources and places over all processes."""
        places = self.places(step * self.batch_size, (step + 1) * self.batch_size)
        return [(source, place) for source, own in zip(self.sources, places, strict=True) for place in own]

    def names(self, step: int) -> list[str]:
        """Names of a step's conversations over all processes, for messages."""
        return [source.name(self.seed, place) for source, place in self.dealt(step)]

    def __call__(self, step: int) -> TextBatch:
        """This process's conversations of a step. Raises ValueError where a source has no text alone."""
        own = list(enumerate(self.dealt(step)))[parallel.rank() :: parallel.world_size()]
        chosen = partial(with_tokens, config=self.encoder.config, shares=self.shares)
        told = [
            chosen(self.told(*dealt), rng=rng_for(self.seed, step, f"picture tokens of text/{number}"))
            for number, dealt in own
        ]
        encoded = [text_alone(self.encoder, messages) for messages in told]
        return packed(encoded, self.encoder.vocabulary.pad, self.row_tokens)

    def told(self, source: ConversationSource, place: int) -> list[Message]:
        """The conversation of a place or, where a user shows a picture in it, another one."""
        for attempt in range(MAX_TRIES):
            messages = source.sample(self.seed, place + attempt * FURTHER)
            if not shows_picture(messages):
                return messages
        name = source.name(self.seed, place)
        raise ValueError(f"{name}: in each of {MAX_TRIES} conversations a user shows a picture; none is text alone")


@dataclass
class MixedBatch:
    """A batch of conversations with pictures, and text alone beside it."""

    joint: JointBatch
    text: TextBatch
    totals: tuple[int, int] | None = None
    """`counts` summed over the batches of one step, with gradient accumulation"""

    def counts(self) -> tuple[int, int]:
        """The number of labels of both, and of drawings."""
        (tokens, drawings), (more, _) = self.joint.counts(), self.text.counts()
        return self.totals or (tokens + more, drawings)

    @property
    def left_out(self) -> list[str]:
        """Conversations that could not be used, and why."""
        return self.joint.left_out


class MixedBatches:
    """A mixture with text alone beside each of its batches, dealt as the mixture is (`loading.PooledBatches`)."""

    def __init__(self, joint: Mixture, text: TextBatches) -> None:
        self.joint, self.text, self.pool = joint, text, joint.pool
        self.tell, self.deal, self.names = joint.tell, joint.deal, joint.names

    @property
    def fingerprints(self) -> list[str]:
        """Fingerprints of the sources, by which a resumed run checks its data."""
        return [*self.joint.fingerprints, *self.text.fingerprints]

    def __call__(self, step: int) -> MixedBatch:
        return MixedBatch(self.joint(step), self.text(step))

    def make(self, step: int, batch: Sequence[Told]) -> MixedBatch:
        """A step of conversations that were dealt to it."""
        return MixedBatch(self.joint.make(step, batch), self.text(step))


def shows_picture(messages: Sequence[Message]) -> bool:
    """Whether a message that is not the assistant's has a picture."""
    return any(
        part["type"] == "image"
        for message in messages
        if message["role"] != "assistant" and not isinstance(message["content"], str)
        for part in message["content"]
    )


def text_alone(encoder: StreamEncoder, messages: Sequence[Message]) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and positions of a conversation without the tokens of image features and queries."""
    blank = map_pictures(list(messages), blank_picture)  # only their shapes are read
    encoded = encoder.encode(blank, training=True)
    left_out = feature_tokens(encoded, encoder)
    kept = [i for i in range(len(encoded.input_ids)) if i not in left_out]
    return [encoded.input_ids[i] for i in kept], [encoded.labels[i] for i in kept], kept


def feature_tokens(encoded: Encoded, encoder: StreamEncoder) -> set[int]:
    """Indices of the image features and queries of a conversation."""
    config = encoder.config
    spans = [(start, view.tokens) for start, view in encoded.views]
    spans += [(start, config.num_queries) for start in encoded.queries]
    return {index for start, count in spans for index in range(start, start + count)}


def blank_picture(source: Openable) -> Image.Image:
    """A picture of the shape of ``source``; one of the world is not drawn for that."""
    if isinstance(source, SceneImage):
        return blank(source.scene.width, source.scene.height)
    return blank(*open_picture(source).size)


@lru_cache(maxsize=64)
def blank(width: int, height: int) -> Image.Image:
    return Image.new("L", (width, height))


def packed(conversations: Sequence[tuple[list[int], list[int], list[int]]], pad: int, row_tokens: int) -> TextBatch:
    """Conversations (`text_alone`) in rows of ``row_tokens`` tokens or, where one is longer, of as many as the longest has."""
    rows = pack([len(ids) for ids, _, _ in conversations], row_tokens)
    longest = max(sum(len(conversations[i][0]) for i in row) for row in rows)
    width = -(-max(row_tokens, longest) // ROUNDED) * ROUNDED
    shape = (len(rows), width)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORE_INDEX)
    positions, conversation = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for row, members in enumerate(rows):
        begin = 0
        for number, index in enumerate(members):
            own_ids, own_labels, own_positions = conversations[index]
            span = slice(begin, begin + len(own_ids))
            ids[row, span], labels[row, span] = torch.tensor(own_ids), torch.tensor(own_labels)
            positions[row, span], conversation[row, span] = torch.tensor(own_positions), number
            begin = span.stop
    return TextBatch(ids, labels, positions, conversation)


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of ``lengths`` in rows of at most ``room`` together, by best fit, the longest first; one longer than that has a row
    of its own."""
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # what is left of each row, ascending
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect.bisect_left(left, (lengths[index], 0))
        if at == len(left):
            rows.append([])
            space, row = max(room, lengths[index]), len(rows) - 1
        else:
            space, row = left.pop(at)
        rows[row].append(index)
        bisect.insort(left, (space - lengths[index], row))
    return rows
