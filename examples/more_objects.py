"""What nano has never seen: each a small function that draws with a `Pen`. `new_object.py` teaches one of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from limner.world.pen import Pen

OBJECTS: dict[str, Callable[[Pen], None]] = {}
"""Apart from the world's own"""
PLURALS = {"cactus": "cacti", "fish": "fish", "snowman": "snowmen"}


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
def house(p: Pen) -> None:
    p.box(-0.75, -0.15, 0.75, 0.98)
    p.box(0.4, -0.95, 0.62, -0.3, "dark")
    p.poly([(-1, -0.1), (0, -1), (1, -0.1)], "dark")
    p.box(-0.18, 0.35, 0.18, 0.98, "wood")
    for x in (-0.5, 0.5):
        p.box(x - 0.16, 0.1, x + 0.16, 0.42, "glass")


@drawing
def mushroom(p: Pen) -> None:
    p.round(-0.3, -0.2, 0.3, 0.98, 0.2, "cream")
    p.pie(-1, -1, 1, 0.9, 180, 360)
    for x, y, r in ((-0.5, -0.35, 0.17), (0.05, -0.65, 0.17), (0.55, -0.3, 0.15)):
        p.oval(x - r, y - r, x + r, y + r, "cream", outline=False)


@drawing
def fish(p: Pen) -> None:
    p.poly([(0.45, 0), (1, -0.6), (0.85, 0), (1, 0.6)], "dark")
    p.poly([(-0.3, -0.45), (0.2, -0.9), (0.3, -0.35)], "dark")
    p.oval(-1, -0.55, 0.65, 0.55)
    p.oval(-0.75, -0.22, -0.5, 0.03, "cream")
    p.oval(-0.68, -0.15, -0.57, -0.04, "ink", outline=False)
    for x in (-0.15, 0.15):
        p.line([(x, -0.3), (x + 0.1, 0), (x, 0.3)], 0.07, "dark")


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
def flower(p: Pen) -> None:
    p.line([(0, 0.1), (0, 1)], 0.14, "leaf")
    p.poly([(0, 0.75), (0.45, 0.4), (0.35, 0.75)], "leaf")
    for i in range(6):
        x, y = 0.42 * math.cos(i * math.pi / 3), -0.35 + 0.42 * math.sin(i * math.pi / 3)
        p.oval(x - 0.28, y - 0.28, x + 0.28, y + 0.28)
    p.oval(-0.24, -0.59, 0.24, -0.11, "sun")
