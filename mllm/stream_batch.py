"""Batches of conversations for `StreamModel`: ids, labels, and where images, queries and visual tokens go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import LimnerConfig
from .encoding import IGNORE_INDEX, Encoded
from .views import View
from .vocabulary import Vocabulary


def no_index() -> Tensor:
    """An index of nothing."""
    return torch.zeros(0, dtype=torch.long)


@dataclass
class StreamBatch:
    """A batch of conversations, padded on one side (`collate`)."""

    input_ids: Tensor
    """(batch, tokens)"""
    labels: Tensor
    """(batch, tokens), -100 where the loss ignores them"""
    lengths: Tensor
    """(batch,) tokens that are not padding"""
    feature_index: Tensor
    """(slots,) where the views' features or visual tokens go, counted through the whole batch"""
    query_index: Tensor
    """(slots,) where queries go ("queries" mode)"""
    pixel_values: Tensor
    """(views, 3, image_size, image_size), in the order of their slots; none where their features are given to the model"""
    view_positions: Tensor
    """(views, 2): centres (x, y) in [0, 1] within their images; used only by models with tiles"""
    drawing_row: Tensor
    """(drawings,) row of each image to be drawn, ascending"""
    drawing_boi: Tensor
    """(drawings,) index of the token that begins it"""
    branch_boi: Tensor
    """(batch, branches) index of the token that begins each branch, -1 where a row has fewer; without columns where drawings
    stay in the main stream"""
    answers: Tensor
    """(2, answers): row and column of each state that predicts a token which the labels count"""
    feature_source: Tensor = field(default_factory=no_index)
    """(slots,) which of the views' visual tokens (views · visual_lengths[-1]) goes there; empty where features do"""
    drawing_length: Tensor = field(default_factory=no_index)
    """(drawings,) how many queries or visual tokens it has"""
    token_drawing: Tensor = field(default_factory=no_index)
    """(token drawings,) which of them are drawn by visual tokens"""
    token_view: Tensor = field(default_factory=no_index)
    """(token drawings,) the view of the drawn picture"""

    def to(self, device: torch.device) -> StreamBatch:
        return self.each_tensor(lambda tensor: tensor.to(device))

    def padded(self, pad: int, columns: int) -> StreamBatch:
        """Padded on the right with the token ``pad`` to ``columns`` columns."""
        tokens = self.input_ids.shape[1]
        more = columns - tokens
        assert more >= 0
        if not more:
            return self

        def moved(index: Tensor) -> Tensor:
            return index + index // tokens * more

        return replace(
            self,
            input_ids=F.pad(self.input_ids, (0, more), value=pad),
            labels=F.pad(self.labels, (0, more), value=IGNORE_INDEX),
            feature_index=moved(self.feature_index),
            query_index=moved(self.query_index),
        )

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> StreamBatch:
        """A batch with ``change(tensor)`` in place of every tensor."""
        return StreamBatch(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


def collate(
    encoded: Sequence[Encoded],
    vocabulary: Vocabulary,
    config: LimnerConfig,
    padding_side: Literal["left", "right"] = "right",
    pixel_values: bool = True,
) -> StreamBatch:
    """Pads conversations (`StreamEncoder.encode`) to one batch; with ``pixel_values`` or without."""
    lengths = torch.tensor([len(e.input_ids) for e in encoded])
    length = int(lengths.max())
    begins = length - lengths if padding_side == "left" else torch.zeros_like(lengths)
    # numpy, where a row takes a tenth of the time
    ids = np.full((len(encoded), length), vocabulary.pad)
    labels = np.full_like(ids, IGNORE_INDEX)
    features, queries = (np.zeros(ids.shape, dtype=bool) for _ in range(2))
    views = [view for e in encoded for _, view in e.views]
    for row, (begin, e) in enumerate(zip(begins.tolist(), encoded, strict=True)):
        ids[row, begin : begin + len(e.input_ids)] = e.input_ids
        labels[row, begin : begin + len(e.labels)] = e.labels
        for start, view in e.views:
            features[row, begin + start : begin + start + view.tokens] = True
        for start in e.queries:
            queries[row, begin + start : begin + start + config.num_queries] = True
    pixels = [view.pixel_values for view in views] if pixel_values else []
    drawn = [(row, picture.boi_index) for row, e in enumerate(encoded) for picture in e.pictures if picture.drawn]
    drawing_row, drawing_boi = torch.tensor(drawn, dtype=torch.long).reshape(-1, 2).T.contiguous()
    drawing_boi = begins[drawing_row] + drawing_boi
    in_row = [[picture.boi_index for picture in e.pictures if picture.drawn] for e in encoded]
    branches = max(map(len, in_row)) if config.has_branches else 0
    branch_boi = torch.full((len(encoded), branches), -1)
    for row, bois in enumerate(in_row[: len(encoded) if branches else 0]):
        branch_boi[row, : len(bois)] = begins[row] + torch.tensor(bois, dtype=torch.long)
    drawn_by, token_drawing, token_view = drawing_tokens(encoded)
    size = config.image_size
    return StreamBatch(
        input_ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        lengths=lengths,
        feature_index=torch.from_numpy(features.reshape(-1).nonzero()[0]),
        feature_source=view_codes(views, config),
        query_index=torch.from_numpy(queries.reshape(-1).nonzero()[0]),
        pixel_values=torch.stack(pixels) if pixels else torch.zeros(0, 3, size, size, dtype=torch.float32),
        view_positions=torch.tensor([view.position for view in views], dtype=torch.float32).reshape(-1, 2),
        drawing_row=drawing_row,
        drawing_boi=drawing_boi,
        drawing_length=drawn_by,
        token_drawing=token_drawing,
        token_view=token_view,
        branch_boi=branch_boi,
        answers=torch.from_numpy(np.stack((labels[:, 1:] != IGNORE_INDEX).nonzero())),
    )


def view_codes(views: Sequence[View], config: LimnerConfig) -> Tensor:
    """`StreamBatch.feature_source` of views."""
    if config.seen_images == "features":
        return no_index()
    every = config.visual_lengths[-1]
    return torch.tensor([i * every + k for i, view in enumerate(views) for k in range(view.tokens)], dtype=torch.long)


def drawing_tokens(encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """`StreamBatch.drawing_length`, `token_drawing` and `token_view` of conversations."""
    lengths: list[int] = []
    token_drawing: list[int] = []
    token_view: list[int] = []
    views = 0
    for e in encoded:
        view_at = {start: views + index for index, (start, _) in enumerate(e.views)}
        views += len(e.views)
        for picture in (picture for picture in e.pictures if picture.drawn):
            assert picture.tokens is not None
            place = picture.boi_index + 1
            if picture.tokens.mode == "tokens" and place in view_at:  # else its codes are known: nothing is trained
                token_drawing.append(len(lengths))
                token_view.append(view_at[place])
            lengths.append(picture.tokens.length)
    as_tensor = partial(torch.tensor, dtype=torch.long)
    return as_tensor(lengths), as_tensor(token_drawing), as_tensor(token_view)
