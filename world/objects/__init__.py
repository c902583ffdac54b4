"""The world's objects: one small drawing each, made with a `Pen` in a box from (-1, -1) to (1, 1), y down.

A drawing fills its box, has one recolourable colour (``"main"``, with ``"dark"`` and ``"light"`` derived
from it) and may use the fixed colours of `INKS` for details. To add an object, add a row under the name of its
GenEval class. A drawing is any function of a pen: one of `drawing`'s or one written by hand.
"""

from . import common, everyday, indoors, outdoors
from .signs import SIGNS, WRITING

GENEVAL = common.OBJECTS | indoors.OBJECTS | outdoors.OBJECTS
"""GenEval's eighty classes"""
OBJECTS = GENEVAL | everyday.OBJECTS
"""All of them; new ones come last, as the judge numbers them"""

__all__ = ["GENEVAL", "OBJECTS", "SIGNS", "WRITING"]
