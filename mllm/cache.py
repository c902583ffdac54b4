"""The decoding state of a batch: keys and values of its rows, padded on the left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from .masks import attention_masks, causal_mask
from .stream import StreamModel


class StreamCache:
    """Rows of any lengths; the columns before a row's first token are padding, which nothing attends to.

    Rows can be taken out and joined to those of another cache of the same model. Sliding-window layers keep their whole past
    too: the masks apply the windows, and a sliding cache, which drops old columns, could not be cropped back.
    """

    def __init__(self, model: StreamModel, rows: int) -> None:
        self.model = model
        self.past = DynamicCache()
        self.lengths = [0] * rows
        """Tokens of each row"""
        self.hidden = torch.zeros(rows, 0, model.width, dtype=model.dtype, device=model.device)
        """(rows, at most ``prompt_tokens``, width): the last hidden states, which condition a drawing"""
        self.keys: list[list[Hashable]] = [[] for _ in range(rows)]
        """What each row's tokens are (`token_keys`)"""

    @property
    def columns(self) -> int:
        return max(self.lengths, default=0)

    def extend(self, embeds: Tensor, lengths: Sequence[int] | None = None, branch: int = 0) -> Tensor:
        """Runs the backbone over embeddings (rows, tokens, width); returns the hidden states (rows, tokens, width).

        In an empty cache the rows may have other ``lengths``, padded on the left. The last ``branch`` tokens are left out of
        `hidden`: they will be cropped. `keys` are the caller's to append.
        """
        tokens = embeds.shape[1]
        assert lengths is None or not self.columns, "only an empty cache takes padding"
        past, device = self.columns, embeds.device
        grown = list(lengths or (length + tokens for length in self.lengths))
        padding = torch.tensor([past + tokens - length for length in grown], device=device)
        size = (len(grown), tokens, past + tokens)
        masks = attention_masks(*causal_mask(padding, past), size, self.model.llm.config, device, embeds.dtype)
        positions = torch.arange(past, past + tokens, device=device) - padding[:, None]
        hidden = self.model.backbone(embeds, masks, positions.clamp(min=0), self.past)
        self.lengths = grown
        self.remember(hidden[:, : tokens - branch])
        return hidden

    def remember(self, states: Tensor) -> None:
        """Appends states (rows, tokens, width) to `hidden`, of which only what conditions a drawing is kept."""
        if kept := self.model.config.prompt_tokens:
            self.hidden = torch.cat([self.hidden, states], 1)[:, -kept:]

    def prompt(self) -> tuple[Tensor, Tensor]:
        """The last hidden states (rows, prompt_tokens, width) and their mask (rows, prompt_tokens), with as many columns in
        every batch, so that an image does not depend on its batch."""
        wanted = self.model.config.prompt_tokens
        known = torch.tensor([min(length, self.hidden.shape[1]) for length in self.lengths], device=self.hidden.device)
        mask = torch.arange(wanted, device=self.hidden.device) >= wanted - known[:, None]
        return F.pad(self.hidden, (0, 0, wanted - self.hidden.shape[1], 0)), mask

    def crop(self, tokens: int) -> None:
        """Drops the last ``tokens`` of every row, a branch: `hidden` never had them."""
        self.past.crop(-tokens)
        self.lengths = [length - tokens for length in self.lengths]

    def copy(self) -> StreamCache:
        """One that can be extended and leaves this one as it is; they share tensors."""
        made = StreamCache(self.model, 0)
        made.past.layers = [copy.copy(layer) for layer in self.past.layers]
        made.lengths, made.hidden, made.keys = list(self.lengths), self.hidden, [list(keys) for keys in self.keys]
        return made

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """Within it an error, an interrupt too, leaves the cache as it was: layers that have taken tokens give them back."""
        columns, lengths, hidden, counts = self.columns, self.lengths, self.hidden, list(map(len, self.keys))
        try:
            yield
        except BaseException:  # raised again: Ctrl-C must not leave some layers with tokens that the others lack
            for layer in self.past.layers:
                if layer.is_initialized:
                    layer.keys, layer.values = layer.keys[:, :, :columns], layer.values[:, :, :columns]
            self.lengths, self.hidden = lengths, hidden
            for keys, count in zip(self.keys, counts, strict=True):
                del keys[count:]
            raise

    def prefix(self, length: int) -> StreamCache:
        """The first ``length`` tokens of a single row. `hidden` is empty unless they are all of it."""
        assert len(self.lengths) == 1 and length <= self.columns
        if length == self.columns:
            return self.copy()
        part = self._changed(lambda x: x[:, :, :length], [length])
        part.keys = [self.keys[0][:length]]
        return part

    def take(self, rows: Sequence[int]) -> StreamCache:
        """A cache of these rows; a row may come several times."""
        if list(rows) == list(range(len(self.lengths))):
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.hidden.device)
        lengths = [self.lengths[row] for row in rows]
        first = self.columns - max(lengths, default=0)
        taken = self._changed(lambda x: x.index_select(0, index)[:, :, first:], lengths)
        taken.hidden, taken.keys = self.hidden.index_select(0, index), [list(self.keys[row]) for row in rows]
        return taken

    @staticmethod
    def join(caches: Sequence[StreamCache]) -> StreamCache:
        """The rows of all caches, in order."""
        if len(caches) == 1:
            return caches[0]
        joined = StreamCache(caches[0].model, 0)
        joined.lengths = [length for cache in caches for length in cache.lengths]
        joined.keys = [keys for cache in caches for keys in cache.keys]
        columns = joined.columns

        def stack(parts: Sequence[Tensor], missing: Sequence[int]) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, n, 0)) for x, n in zip(parts, missing, strict=True)])

        missing = [columns - cache.columns for cache in caches]
        for number, layers in enumerate(zip(*(cache.past.layers for cache in caches), strict=True)):
            if layers[0].is_initialized:
                keys, values = ([getattr(layer, name) for layer in layers] for name in ("keys", "values"))
                joined.past.update(stack(keys, missing), stack(values, missing), number)
        most = max(cache.hidden.shape[1] for cache in caches)
        joined.hidden = stack([c.hidden for c in caches], [most - c.hidden.shape[1] for c in caches])
        return joined

    def _changed(self, change: Callable[[Tensor], Tensor], lengths: list[int]) -> StreamCache:
        """A cache of changed keys and values, each (rows, heads, columns, head width), without `hidden` and `keys`."""
        changed = StreamCache(self.model, len(lengths))
        changed.lengths = lengths
        for number, layer in enumerate(self.past.layers):
            if layer.is_initialized:  # one that shares another's keys has none of its own
                changed.past.update(change(layer.keys), change(layer.values), number)
        return changed
