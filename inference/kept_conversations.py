"""Caches of conversations that have been answered: one that goes on is fed what is new in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from ..mllm.cache import StreamCache
from ..mllm.stream import StreamModel
from ..mllm.token_keys import common_length
from .adapters import weights_version


@dataclass(eq=False)
class Kept:
    """A conversation as a model has read it."""

    cache: StreamCache
    """Of one row"""
    weights: tuple[Hashable, ...]
    """Of the model when it read them: after a change of them the cache is of no use"""


class KeptConversations:
    """The last ones, as many as hold ``max_tokens`` together; the very last is kept whatever its length."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.kept: list[Kept] = []
        """Oldest first"""

    def store(self, cache: StreamCache) -> None:
        """Keeps the cache (one row) of a conversation, in place of those that it contains."""
        if not self.max_tokens:
            return
        (keys,) = cache.keys
        self.kept = [old for old in self.kept if old.cache.model is not cache.model or not contains(keys, old.cache)]
        self.kept.append(Kept(cache, weights_version(cache.model)))
        while len(self.kept) > 1 and sum(old.cache.columns for old in self.kept) > self.max_tokens:
            self.kept.pop(0)

    def drop_unless(self, holds: Callable[[StreamModel], bool]) -> None:
        """Drops those of models that are gone: each would hold its model's adapters."""
        self.kept = [old for old in self.kept if holds(old.cache.model)]

    def longest(self, keys: Sequence[Hashable], model: StreamModel) -> tuple[int, StreamCache] | None:
        """The cache that has the most tokens in common with a conversation, and their number; None where none has any."""
        weights = weights_version(model)
        self.kept = [old for old in self.kept if old.cache.model is not model or old.weights == weights]
        found = [(common_length(old.cache.keys[0], keys), old) for old in self.kept if old.cache.model is model]
        # of equal ones that which need not be cut
        length, best = max(found, key=lambda pair: (pair[0], -pair[1].cache.columns), default=(0, None))
        return (length, best.cache) if best is not None and length else None


def contains(keys: Sequence[Hashable], cache: StreamCache) -> bool:
    """Whether a conversation begins with all that a cache of one row holds."""
    return common_length(cache.keys[0], keys) == cache.columns
