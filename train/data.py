"""Batches of conversations: the stream's inputs, the pictures, and each drawing's target and references."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..mllm.encoding import IGNORE_INDEX, StreamEncoder
from ..mllm.messages import Message
from ..mllm.stream import StreamBatch, collate
from ..mllm.views import normalise


@dataclass
class JointBatch:
    stream: StreamBatch
    pictures: list[Tensor]
    """8-bit pixels (count, height, width, 3), one tensor for each shape"""
    target: list[tuple[int, int]]
    """For each drawing: (index of the tensor in ``pictures``, index in it)"""
    references: list[list[tuple[int, int]]]
    """For each drawing: the pictures before its BOI, newest first, at most ``max_references``"""
    unseen_views: Tensor
    """(views, 3, image_size, image_size) of pictures to be drawn that the stream does not show itself ("queries" mode)"""
    target_views: list[int]
    """For each drawing: the index in `views` of the vision tower's input of the drawn picture"""
    drawing_ids: list[int]
    """For each drawing: a number unique over the batch of all processes, which seeds its noise and timesteps"""
    glyph_text: list[tuple[str, ...]] = field(default_factory=list)
    """For each drawing: the text that is to be written in it"""
    text_boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    """(drawings, 4): left, top, right and bottom of where it stands, as fractions of the picture; NaN where that is not told"""
    view_keys: list[str] = field(default_factory=list)
    """`tensor_key` of each of `views` and of each picture, if they were requested"""
    picture_keys: list[list[str]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    """For each conversation: which source of a mixture it is from"""
    left_out: list[str] = field(default_factory=list)
    """Conversations of this batch that could not be used, and why"""
    totals: tuple[int, int] | None = None
    """`counts` summed over the batches of one step, with gradient accumulation"""

    def counts(self) -> tuple[int, int]:
        """What losses are averaged over: the number of the assistant's tokens (labels) and of drawings, of this batch or, with
        gradient accumulation, of all batches of the step."""
        return self.totals or (int((self.stream.labels[:, 1:] != IGNORE_INDEX).sum()), len(self.target))

    def views(self) -> Tensor:
        """(views, 3, image_size, image_size): the stream's, then those it does not show."""
        return torch.cat([self.stream.pixel_values, self.unseen_views])

    def to(self, device: torch.device) -> JointBatch:
        return replace(
            self,
            stream=self.stream.to(device),
            pictures=[p.to(device) for p in self.pictures],
            unseen_views=self.unseen_views.to(device),
            text_boxes=self.text_boxes.to(device),
        )


MAX_PICTURES = 1000
"""An upper bound of the pictures of one conversation."""


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
    by_shape: dict[tuple[int, int], tuple[int, list[Tensor]]] = {}
    target, references, target_views, drawing_ids, glyph_text, text_boxes = [], [], [], [], [], []
    unseen: list[Tensor] = []
    stream = collate(encoded, encoder.vocabulary, config)
    views_before = 0  # views of the conversations before
    for conversation, number in zip(encoded, range(len(encoded)) if places is None else places, strict=True):
        earlier: list[tuple[int, int]] = []
        view_at = {start: views_before + index for index, (start, _) in enumerate(conversation.views)}
        views_before += len(conversation.views)
        for picture in conversation.pictures:
            index, pictures = by_shape.setdefault(picture.shape, (len(by_shape), []))
            place = (index, len(pictures))
            pictures.append(torch.from_numpy(np.array(picture.image.convert("RGB"))))
            if picture.drawn:
                target.append(place)
                references.append(earlier[::-1][: config.max_references])
                view = view_at.get(picture.boi_index + 1)
                if view is None:
                    view = len(stream.pixel_values) + len(unseen)
                    unseen.append(normalise(picture.image, config))
                target_views.append(view)
                glyph_text.append(picture.glyph_text)
                text_boxes.append(picture.text_box or (math.nan,) * 4)
                drawing_ids.append(number * MAX_PICTURES + len(earlier))
            earlier.append(place)
    made = JointBatch(
        stream=stream,
        pictures=[torch.stack(pictures) for _, pictures in by_shape.values()],
        target=target,
        references=references,
        unseen_views=torch.stack(unseen) if unseen else torch.zeros(0, 3, config.image_size, config.image_size),
        target_views=target_views,
        drawing_ids=drawing_ids,
        glyph_text=glyph_text,
        text_boxes=torch.tensor(text_boxes).reshape(-1, 4),
    )
    if keys:
        made.view_keys = [tensor_key(v) for v in made.views()]
        made.picture_keys = [[tensor_key(p) for p in pictures] for pictures in made.pictures]
    return made


def tensor_key(tensor: Tensor) -> str:
    """A hash of an encoder's input: equal pixels have equal keys, whichever data set they come from."""
    return hashlib.blake2b(tensor.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
