"""Conversations to joint batches: the stream's part, the pictures, and who draws what from which references."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..mllm.encoding import IGNORED, StreamEncoder
from ..mllm.messages import Message
from ..mllm.stream import StreamBatch, collate
from ..mllm.views import normalise
from .pictures import pixels_of


@dataclass
class JointBatch:
    stream: StreamBatch
    pictures: list[Tensor]
    """8-bit pixels (count, height, width, 3), one tensor a shape"""
    target: list[tuple[int, int]]
    """Of each drawing: which shape, which picture of it"""
    references: list[list[tuple[int, int]]]
    """The pictures before its BOI, newest first, at most ``max_references``"""
    unseen_views: Tensor
    """(views, 3, image_size, image_size) of pictures to be drawn that the stream does not show itself ("queries" mode)"""
    target_views: list[int]
    """Of each drawing: which of `views` is the eye's of it"""
    numbers: list[int]
    """Of each drawing, unique in the batch of all processes: its noise and times come from it"""
    words: list[tuple[str, ...]] = field(default_factory=list)
    """That each drawing is to carry"""
    view_keys: list[str] = field(default_factory=list)
    """`key` of each of `views` and of each picture; empty where nobody asks"""
    picture_keys: list[list[str]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    """Of each conversation, which source of a mixture it is from"""
    left_out: list[str] = field(default_factory=list)
    """Conversations of this batch that could not be used, and why"""
    totals: tuple[int, int] | None = None
    """`counts` of all the batches whose gradients make one step, where those are several"""

    def counts(self) -> tuple[int, int]:
        """What losses are averaged over: decisions of the assistant (labels) and drawings."""
        return int((self.stream.labels[:, 1:] != IGNORED).sum()), len(self.target)

    def views(self) -> Tensor:
        """(views, 3, image_size, image_size): the stream's, then those it does not show."""
        return torch.cat([self.stream.pixel_values, self.unseen_views])

    def to(self, device: torch.device) -> JointBatch:
        return replace(
            self,
            stream=self.stream.to(device),
            pictures=[p.to(device) for p in self.pictures],
            unseen_views=self.unseen_views.to(device),
        )


PICTURES_MOST = 1000
"""More than a conversation has pictures."""


def joint_batch(
    conversations: Sequence[list[Message]],
    encoder: StreamEncoder,
    places: Sequence[int] | None = None,
    keys: bool = False,
) -> JointBatch:
    """A batch of conversations whose image parts hold PIL pictures; ``places`` are theirs in the batch of all processes.

    ``keys`` names every encoder's input, so that what was precomputed can be found.
    """
    config = encoder.config
    encoded = [encoder.encode(messages, training=True) for messages in conversations]
    by_shape: dict[tuple[int, int], list[Any]] = {}
    target, references, unseen, target_views, numbers, words = [], [], [], [], [], []
    stream = collate(encoded, encoder.vocabulary, config)
    before = 0  # views of the conversations before
    for e, number in zip(encoded, range(len(encoded)) if places is None else places, strict=True):
        earlier: list[tuple[tuple[int, int], int]] = []
        shown = {start: before + index for index, (start, _) in enumerate(e.views)}
        before += len(e.views)
        for picture in e.pictures:
            shelf = by_shape.setdefault(picture.shape, [])
            place = (picture.shape, len(shelf))
            shelf.append(torch.from_numpy(pixels_of(picture.image).copy()))
            if picture.drawn:
                target.append(place)
                references.append(earlier[::-1][: config.max_references])
                view = shown.get(picture.begin + 1)
                if view is None:
                    view = len(stream.pixel_values) + len(unseen)
                    unseen.append(normalise(picture.image, config))
                target_views.append(view)
                words.append(picture.words)
                numbers.append(number * PICTURES_MOST + len(earlier))
            earlier.append(place)
    shapes = {shape: index for index, shape in enumerate(by_shape)}
    size = config.image_size
    made = JointBatch(
        stream=stream,
        pictures=[torch.stack(shelf) for shelf in by_shape.values()],
        target=[(shapes[s], i) for s, i in target],
        references=[[(shapes[s], i) for s, i in row] for row in references],
        unseen_views=torch.stack(unseen) if unseen else torch.zeros(0, 3, size, size),
        target_views=target_views,
        numbers=numbers,
        words=words,
    )
    if keys:
        made.view_keys = [key(v) for v in made.views()]
        made.picture_keys = [[key(p) for p in shelf] for shelf in made.pictures]
    return made


def key(tensor: Tensor) -> str:
    """Of an encoder's input, whatever picture of whatever data set it came from."""
    return hashlib.blake2b(tensor.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
