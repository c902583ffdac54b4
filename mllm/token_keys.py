"""What is in a cache, token by token: a conversation that begins like another one need not be fed again."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import replace

from .encoding import IGNORE_INDEX, Encoded
from .views import View


def view_keys(view: View) -> list[Hashable]:
    """Keys of the features of one view: of its pixels, so that an image which was changed in place counts as another one."""
    digest = hashlib.blake2b(view.image.tobytes(), digest_size=16).digest()
    return [(digest, view.image.size, view.position, number) for number in range(view.tokens)]


def token_keys(encoded: Encoded) -> list[Hashable]:
    """A key for every token of a conversation: its id, or that of the view whose feature is there."""
    keys: list[Hashable] = list(encoded.input_ids)
    for start, view in encoded.views:
        keys[start : start + view.tokens] = view_keys(view)
    return keys


def common_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """How many keys two conversations have in common from the beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def replies_end(encoded: Encoded) -> int:
    """Where the last reply ends; 0 in a conversation without one."""
    return next((i + 1 for i in reversed(range(len(encoded.labels))) if encoded.labels[i] != IGNORE_INDEX), 0)


def split_point(encoded: Encoded, wanted: int) -> int:
    """The last place up to ``wanted`` that is not between the features of a view."""
    inside = [start for start, view in encoded.views if start < wanted < start + view.tokens]
    return inside[0] if inside else wanted


def rest_of(encoded: Encoded, start: int) -> Encoded:
    """The tokens from ``start`` on, which is not between the features of a view; images to be drawn are left out."""
    return replace(
        encoded,
        input_ids=encoded.input_ids[start:],
        labels=encoded.labels[start:],
        views=[(place - start, view) for place, view in encoded.views if place >= start],
        queries=[],
        pictures=[],
    )
