"""The decoding state of a batch: the key-value cache, and each row's positions and valid columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache

from .masks import attention_masks, decode_mask
from .stream import StreamModel


class StreamCache:
    """A column may be invalid in some rows (padding, or the row waited for others); ``valid`` masks it and `compact`
    removes it.

    Sliding-window layers keep their whole past too: the masks apply the windows, and a sliding cache, which drops old
    columns, could not be cropped back.
    """

    def __init__(self, model: StreamModel, rows: int, keep_hidden: bool) -> None:
        self.model, self.keep_hidden = model, keep_hidden
        self.past = DynamicCache()
        device = model.device
        self.positions = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.valid = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.hidden = torch.zeros(rows, 0, model.width, dtype=model.dtype, device=device)

    @property
    def next_position(self) -> Tensor:
        """(rows,) the position after each row's last valid column."""
        if self.valid.shape[1] == 0:
            return self.valid.new_zeros(self.valid.shape[0], dtype=torch.long)
        return torch.where(self.valid, self.positions + 1, 0).amax(1)

    def extend(self, embeds: Tensor, valid: Tensor | None = None) -> Tensor:
        """Runs the backbone over embeddings (rows, tokens, width); ``valid`` (rows, tokens) is False for padding. Returns the
        hidden states (rows, tokens, width)."""
        if valid is None:
            valid = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        positions = (self.next_position[:, None] + valid.cumsum(1) - 1).clamp(min=0)
        self.positions = torch.cat([self.positions, positions], 1)
        self.valid = torch.cat([self.valid, valid], 1)
        allowed, distance = decode_mask(positions, self.positions, self.valid)
        masks = attention_masks(allowed, distance, self.model.llm.config, embeds.dtype)
        hidden = self.model.backbone(embeds, masks, positions, self.past)
        if self.keep_hidden:
            self.hidden = torch.cat([self.hidden, hidden], 1)
        return hidden

    def crop(self, tokens: int) -> None:
        """Drops the last ``tokens`` columns."""
        self.past.crop(-tokens)
        self.positions, self.valid = self.positions[:, :-tokens], self.valid[:, :-tokens]
        self.hidden = self.hidden[:, :-tokens]

    def select(self, rows: list[int]) -> None:
        """Keeps only these rows."""
        index = torch.tensor(rows, device=self.valid.device)
        self._each(lambda x: x.index_select(0, index))

    def compact(self) -> None:
        """Moves every row's valid columns to the right, in order, so that all padding is on the left."""
        max_length = int(self.valid.sum(1).max())
        # checked for every row: that the longest row has no invalid columns says nothing of the others
        padded = (self.valid[:, 1:] >= self.valid[:, :-1]).all()
        if max_length == self.valid.shape[1] and padded:
            return
        # a stable sort puts invalid columns first and keeps the order of the others
        order = self.valid.int().argsort(dim=1, stable=True)[:, -max_length:]

        def gather(x: Tensor) -> Tensor:
            if x.ndim == 4:  # (rows, heads, columns, head width)
                return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
            return x.gather(1, order if x.ndim == 2 else order[..., None].expand(-1, -1, x.shape[2]))

        self._each(gather)

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        """A change of rows or columns of the cache and of what goes with it; DynamicCache itself can only select rows."""
        for layer in self.past.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)
        self.positions, self.valid = change(self.positions), change(self.valid)
        if self.keep_hidden:
            self.hidden = change(self.hidden)
