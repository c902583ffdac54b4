"""The world's objects: one small function each, drawn with a `Pen` in a box from (-1, -1) to (1, 1), y down.

A drawing fills its box, has one recolourable colour (``"main"``, with ``"dark"`` and ``"light"`` derived
from it) and may use the fixed colours of `INKS` for details. To add an object, write a function named
after the GenEval class (spaces become underscores) and decorate it with ``@drawing``.
"""

from . import common, indoors, outdoors  # noqa: F401 - importing them fills OBJECTS, in this order
from .registry import OBJECTS, drawing
from .signs import SIGNS

__all__ = ["OBJECTS", "SIGNS", "drawing"]
