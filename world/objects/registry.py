"""Where the drawings are gathered."""

from __future__ import annotations

from collections.abc import Callable

from ..pen import Pen

OBJECTS: dict[str, Callable[[Pen], None]] = {}


def drawing(function: Callable[[Pen], None]) -> Callable[[Pen], None]:
    OBJECTS[function.__name__.replace("_", " ")] = function
    return function
