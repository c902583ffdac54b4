"""Batches of conversations: the stream's inputs, the pictures, and each drawing's target and references."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from PIL import Image
from torch import Tensor

from ..mllm.config import LimnerConfig
from ..mllm.encoding import StreamEncoder
from ..mllm.messages import Message
from ..mllm.stream import StreamBatch, collate
from ..mllm.views import normalise, normalise_pixels, stack_pixels, stretch_pixels


@dataclass
class JointBatch:
    """Conversations, with every picture once, as 8-bit pixels: what the vision tower sees is made of them where the model is."""

    stream: StreamBatch
    """Without its ``pixel_values``: see `views`"""
    config: LimnerConfig
    pictures: list[Tensor]
    """8-bit pixels (count, height, width, 3), one tensor for each shape"""
    target: list[tuple[int, int]]
    """For each drawing: (index of the tensor in ``pictures``, index in it)"""
    references: list[list[tuple[int, int]]]
    """For each drawing: the pictures before its BOI, newest first, at most ``max_references``"""
    tiles: Tensor
    """8-bit pixels (tiles, image_size, image_size, 3) of the tiles of users' pictures"""
    view_index: Tensor
    """(views,): for each of `views` the index of its pixels, counted through all ``pictures`` and then ``tiles``"""
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
        return self.totals or (self.stream.answers.shape[1], len(self.target))

    def views(self) -> Tensor:
        """Inputs of the vision tower (views, 3, image_size, image_size), in the order of their slots in the stream; then those of
        pictures to be drawn that the stream does not show itself ("queries" mode)."""
        size = self.config.image_size
        squares = torch.cat([*(stretch_pixels(pixels, size) for pixels in self.pictures), self.tiles])
        return normalise_pixels(squares.index_select(0, self.view_index), self.config)

    def target_view_index(self, device: torch.device) -> Tensor:
        """``target_views`` as a tensor, copied while the host goes on: indexing by a list would wait for the device."""
        return torch.tensor(self.target_views, dtype=torch.long).to(device, non_blocking=True)

    def to(self, device: torch.device) -> JointBatch:
        """A copy on a device; from pinned memory it is made while the host goes on."""
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> JointBatch:
        """A copy in memory that a GPU reads by itself; `DataLoader` calls it."""
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> JointBatch:
        return replace(
            self,
            stream=self.stream.each_tensor(change),
            pictures=[change(p) for p in self.pictures],
            tiles=change(self.tiles),
            view_index=change(self.view_index),
            text_boxes=change(self.text_boxes),
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
    config, size = encoder.config, encoder.config.image_size
    encoded = [encoder.encode(messages, training=True) for messages in conversations]
    stream = collate(encoded, encoder.vocabulary, config, pixel_values=False)
    by_shape: dict[tuple[int, int], tuple[int, list[Image.Image]]] = {}
    target, references, target_views, drawing_ids, glyph_text, text_boxes = [], [], [], [], [], []
    tiles: list[Image.Image] = []
    views: list[tuple[int | None, int]] = []  # index of the tensor of its pixels (None: a tile) and index in it
    unseen: list[tuple[int, int]] = []
    for conversation, number in zip(encoded, range(len(encoded)) if places is None else places, strict=True):
        earlier: list[tuple[int, int]] = []
        view_at = {start: len(views) + index for index, (start, _) in enumerate(conversation.views)}
        whole: dict[int, tuple[int, int]] = {}  # pictures by the first slot of their view
        for picture in conversation.pictures:
            index, pictures = by_shape.setdefault(picture.shape, (len(by_shape), []))
            place = (index, len(pictures))
            pictures.append(picture.image)
            whole[picture.boi_index + 1] = place
            if picture.drawn:
                target.append(place)
                references.append(earlier[::-1][: config.max_references])
                view = view_at.get(picture.boi_index + 1)
                if view is None:
                    view = len(stream.view_positions) + len(unseen)
                    unseen.append(place)
                target_views.append(view)
                glyph_text.append(picture.glyph_text)
                text_boxes.append(picture.text_box or (math.nan,) * 4)
                drawing_ids.append(number * MAX_PICTURES + len(earlier))
            earlier.append(place)
        for start, shown in conversation.views:
            views.append(whole.get(start) or (None, len(tiles)))
            if start not in whole:
                tiles.append(shown.image)
    counts = [len(pictures) for _, pictures in by_shape.values()]
    begins = [0, *accumulate(counts)]
    made = JointBatch(
        stream=stream,
        config=config,
        pictures=[stack_pixels(pictures) for _, pictures in by_shape.values()],
        target=target,
        references=references,
        tiles=stack_pixels(tiles) if tiles else torch.zeros(0, size, size, 3, dtype=torch.uint8),
        view_index=torch.tensor(
            [begins[-1 if shape is None else shape] + i for shape, i in (*views, *unseen)], dtype=torch.long
        ),
        target_views=target_views,
        drawing_ids=drawing_ids,
        glyph_text=glyph_text,
        text_boxes=torch.tensor(text_boxes).reshape(-1, 4),
    )
    if keys:
        seen = [view.pixel_values for conversation in encoded for _, view in conversation.views]
        hidden = [normalise(Image.fromarray(made.pictures[shape][i].numpy()), config) for shape, i in unseen]
        made.view_keys = [tensor_key(view) for view in (*seen, *hidden)]
        made.picture_keys = [[tensor_key(p) for p in pictures] for pictures in made.pictures]
    return made


def tensor_key(tensor: Tensor) -> str:
    """A hash of an encoder's input: equal pixels have equal keys, whichever data set they come from."""
    return hashlib.blake2b(tensor.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
