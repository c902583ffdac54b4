"""The shapes that a drawing lists: each is a call of the `Pen` method of its name, made when the object is drawn.

`rounded` is `Pen.round`, under a name that does not hide Python's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import methodcaller

from ..pen import Pen

Shape = Callable[[Pen], None]
Drawing = Callable[[Pen], None]

curve = Pen.curve
poly = partial(methodcaller, "poly")
box = partial(methodcaller, "box")
rounded = partial(methodcaller, "round")
oval = partial(methodcaller, "oval")
ring = partial(methodcaller, "ring")
pie = partial(methodcaller, "pie")
line = partial(methodcaller, "line")
write = partial(methodcaller, "write")


def drawing(*shapes: Shape) -> Drawing:
    """A drawing of these shapes, the first at the back."""

    def draw(pen: Pen) -> None:
        for shape in shapes:
            shape(pen)

    return draw
