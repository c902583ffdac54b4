"""Where the drawings of this folder are gathered; the world's own stay apart from them."""

from __future__ import annotations

from collections.abc import Callable

from limner.train.world.pen import Pen

OBJECTS: dict[str, Callable[[Pen], None]] = {}


def drawing(function: Callable[[Pen], None]) -> Callable[[Pen], None]:
    OBJECTS[function.__name__.replace("_", " ")] = function
    return function
