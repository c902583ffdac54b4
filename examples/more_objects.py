"""What nano has never seen: each a small function that draws with a `Pen`. `new_object.py` teaches one of them."""

from __future__ import annotations

from collections.abc import Callable

from limner.world.pen import Pen

OBJECTS: dict[str, Callable[[Pen], None]] = {}
"""Apart from the world's own"""
PLURALS = {"butterfly": "butterflies", "cactus": "cacti", "snowman": "snowmen"}


def drawing(function: Callable[[Pen], None]) -> Callable[[Pen], None]:
    OBJECTS[function.__name__.replace("_", " ")] = function
    return function


@drawing
def cactus(p: Pen) -> None:
    p.poly([(-0.5, 0.45), (0.5, 0.45), (0.36, 1), (-0.36, 1)], "wood")
    p.round(-0.92, -0.5, -0.55, 0.1, 0.18)
    p.round(-0.75, -0.12, -0.1, 0.14, 0.1)
    p.round(0.55, -0.7, 0.92, -0.05, 0.18)
    p.round(0.1, -0.25, 0.75, 0.0, 0.1)
    p.round(-0.28, -1, 0.28, 0.5, 0.28)
    for x in (-0.1, 0.1):
        p.line([(x, -0.75), (x, 0.35)], 0.05, "dark")


@drawing
def castle(p: Pen) -> None:
    p.box(-0.98, -0.6, -0.5, 0.98)
    p.box(0.5, -0.6, 0.98, 0.98)
    for x in (-0.98, -0.62, 0.5, 0.86):
        p.box(x, -0.9, x + 0.14, -0.55)
    p.box(-0.5, -0.1, 0.5, 0.98, "dark")
    for x in (-0.45, -0.1, 0.25):
        p.box(x, -0.35, x + 0.2, -0.05, "dark")
    p.round(-0.22, 0.35, 0.22, 1, 0.2, "wood")
    for x in (-0.74, 0.74):
        p.box(x - 0.08, -0.2, x + 0.08, 0.15, "ink")


@drawing
def mushroom(p: Pen) -> None:
    p.round(-0.3, -0.2, 0.3, 0.98, 0.2, "cream")
    p.pie(-1, -1, 1, 0.9, 180, 360)
    for x, y, r in ((-0.5, -0.35, 0.17), (0.05, -0.65, 0.17), (0.55, -0.3, 0.15)):
        p.oval(x - r, y - r, x + r, y + r, "cream", outline=False)


@drawing
def butterfly(p: Pen) -> None:
    for side in (-1, 1):
        p.poly(p.curve([(0, -0.1), (side * 0.5, -0.95), (side * 0.98, -0.75), (side * 0.85, -0.1), (side * 0.3, 0.1)]))
        p.poly(p.curve([(0, 0.0), (side * 0.75, 0.1), (side * 0.8, 0.75), (side * 0.35, 0.9)]), "dark")
        p.oval(side * 0.6 - 0.13, -0.6, side * 0.6 + 0.13, -0.34, "cream", outline=False)
        p.line([(0, -0.55), (side * 0.2, -0.95)], 0.06, "ink")
    p.round(-0.1, -0.6, 0.1, 0.85, 0.1, "ink")


@drawing
def snowman(p: Pen) -> None:
    p.oval(-0.65, 0.0, 0.65, 1)
    p.oval(-0.45, -0.65, 0.45, 0.2)
    p.box(-0.3, -1, 0.3, -0.6, "ink")
    p.box(-0.5, -0.66, 0.5, -0.54, "ink")
    for x in (-0.17, 0.17):
        p.oval(x - 0.06, -0.4, x + 0.06, -0.28, "ink", outline=False)
    p.poly([(-0.05, -0.22), (0.45, -0.12), (-0.05, -0.08)], "sun")
    for y in (0.3, 0.6):
        p.oval(-0.07, y - 0.07, 0.07, y + 0.07, "ink", outline=False)


@drawing
def rocket(p: Pen) -> None:
    p.poly([(-0.35, 0.3), (-0.85, 0.85), (-0.3, 0.75)], "dark")
    p.poly([(0.35, 0.3), (0.85, 0.85), (0.3, 0.75)], "dark")
    p.poly([(-0.2, 0.75), (0, 1), (0.2, 0.75)], "sun")
    p.poly(p.curve([(0, -1), (0.38, -0.35), (0.38, 0.35), (0.3, 0.78), (-0.3, 0.78), (-0.38, 0.35), (-0.38, -0.35)]))
    p.oval(-0.2, -0.35, 0.2, 0.05, "glass")


@drawing
def crown(p: Pen) -> None:
    p.poly([(-0.9, 0.7), (-1, -0.55), (-0.5, 0.0), (0, -0.85), (0.5, 0.0), (1, -0.55), (0.9, 0.7)])
    p.box(-0.92, 0.5, 0.92, 0.85, "dark")
    for x, y in ((-0.97, -0.6), (0, -0.87), (0.97, -0.6)):
        p.oval(x - 0.12, y - 0.12, x + 0.12, y + 0.12, "lamp")
    for x in (-0.5, 0, 0.5):
        p.oval(x - 0.12, 0.55, x + 0.12, 0.79, "glass")
