"""What is carried, worn and played with, traffic, animals, a person."""

from __future__ import annotations

import math

from ..pen import Pen
from .registry import drawing


@drawing
def backpack(p: Pen) -> None:
    p.ring(-0.3, -1.0, 0.3, -0.5, 0.12, "dark")
    p.round(-0.98, 0.0, -0.5, 0.75, 0.2, "dark")
    p.round(0.5, 0.0, 0.98, 0.75, 0.2, "dark")
    p.round(-0.75, -0.8, 0.75, 0.98, 0.4)
    p.round(-0.5, 0.15, 0.5, 0.8, 0.12, "light")
    p.line([(-0.6, -0.15), (0.6, -0.15)], 0.08, "ink")


@drawing
def handbag(p: Pen) -> None:
    p.ring(-0.5, -1, 0.5, 0.3, 0.13, "dark")
    p.poly([(-0.8, -0.3), (0.8, -0.3), (1, 0.9), (-1, 0.9)])
    p.poly([(-0.8, -0.3), (0.8, -0.3), (0.4, 0.25), (-0.4, 0.25)], "dark")
    p.oval(-0.12, 0.08, 0.12, 0.35, "sun")


@drawing
def person(p: Pen) -> None:
    p.oval(-0.28, -1, 0.28, -0.45, "cream")
    p.pie(-0.3, -1.02, 0.3, -0.5, 180, 360, "wood")
    p.line([(-0.35, -0.3), (-0.75, 0.3)], 0.2, "cream")
    p.line([(0.35, -0.3), (0.75, 0.3)], 0.2, "cream")
    p.box(-0.3, 0.3, -0.04, 1, "ink")
    p.box(0.04, 0.3, 0.3, 1, "ink")
    p.poly([(-0.45, -0.45), (0.45, -0.45), (0.35, 0.4), (-0.35, 0.4)])
    for x in (-0.1, 0.1):
        p.oval(x - 0.045, -0.78, x + 0.045, -0.69, "ink", outline=False)


@drawing
def sports_ball(p: Pen) -> None:
    p.oval(-0.95, -0.95, 0.95, 0.95)
    five = [(0.34 * math.sin(i * 2 * math.pi / 5), -0.34 * math.cos(i * 2 * math.pi / 5)) for i in range(5)]
    for x, y in five:
        p.line([(x, y), (x * 2.6, y * 2.6)], 0.09, "ink")
    p.poly(five, "ink")


@drawing
def frisbee(p: Pen) -> None:
    p.oval(-1, -0.5, 1, 0.6, "dark")
    p.oval(-1, -0.62, 1, 0.4)
    p.oval(-0.6, -0.42, 0.6, 0.15, "light")


@drawing
def skis(p: Pen) -> None:
    for x in (-0.5, 0.1):
        p.poly([(x - 0.1, -0.75), (x + 0.12, -1), (x + 0.3, -0.75), (x + 0.3, 1), (x - 0.1, 1)])
        p.box(x - 0.02, -0.1, x + 0.22, 0.3, "ink")
    p.line([(-0.85, -0.7), (-0.85, 0.95)], 0.08, "steel")
    p.line([(0.75, -0.7), (0.75, 0.95)], 0.08, "steel")
    for x in (-0.85, 0.75):
        p.oval(x - 0.14, 0.65, x + 0.14, 0.82, "ink")


@drawing
def snowboard(p: Pen) -> None:
    p.round(-0.42, -1, 0.42, 1, 0.4)
    for y in (-0.45, 0.3):
        p.round(-0.34, y, 0.34, y + 0.22, 0.08, "ink")
    p.line([(-0.2, -0.1), (0.2, -0.1)], 0.09, "light")
    p.line([(-0.2, 0.08), (0.2, 0.08)], 0.09, "light")


@drawing
def skateboard(p: Pen) -> None:
    for x in (-0.55, 0.55):
        p.box(x - 0.15, 0.15, x + 0.15, 0.3, "steel")
        p.oval(x - 0.22, 0.2, x + 0.22, 0.64, "cream")
    p.poly([(-1, -0.35), (-0.85, -0.38), (-0.65, -0.08), (0.65, -0.08), (0.85, -0.38), (1, -0.35), (0.75, 0.15),
            (-0.75, 0.15)])  # fmt: skip


@drawing
def surfboard(p: Pen) -> None:
    p.poly(p.curve([(0, -1), (0.42, -0.4), (0.45, 0.3), (0.2, 0.95), (-0.2, 0.95), (-0.45, 0.3), (-0.42, -0.4)]))
    p.line([(0, -0.85), (0, 0.9)], 0.1, "cream")
    p.line([(-0.4, 0.2), (0.4, 0.2)], 0.12, "cream")


@drawing
def baseball_bat(p: Pen) -> None:
    p.poly([(0.5, -0.98), (0.98, -0.5), (-0.52, 0.72), (-0.72, 0.52)])
    p.poly([(-0.52, 0.72), (-0.72, 0.52), (-0.9, 0.7), (-0.7, 0.9)], "ink")
    p.oval(-1, 0.65, -0.65, 1, "dark")


@drawing
def baseball_glove(p: Pen) -> None:
    for x, top in ((-0.62, -0.55), (-0.28, -0.9), (0.06, -0.98), (0.4, -0.8)):
        p.round(x - 0.17, top, x + 0.17, 0.2, 0.16)
    p.poly(p.curve([(-0.8, -0.1), (0.5, -0.1), (0.95, -0.35), (1, -0.05), (0.6, 0.5), (0.3, 0.95), (-0.5, 0.95)]))
    p.oval(-0.25, -0.05, 0.25, 0.45, "cream")


@drawing
def tennis_racket(p: Pen) -> None:
    for offset in (-0.3, 0.0, 0.3):
        p.line([(offset, -0.92), (offset, 0.12)], 0.05, "steel")
        p.line([(-0.5, -0.4 + offset), (0.5, -0.4 + offset)], 0.05, "steel")
    p.ring(-0.62, -1, 0.62, 0.2, 0.16)
    p.line([(-0.25, 0.12), (0, 0.42)], 0.13)
    p.line([(0.25, 0.12), (0, 0.42)], 0.13)
    p.round(-0.13, 0.35, 0.13, 1, 0.08, "ink")


@drawing
def truck(p: Pen) -> None:
    p.box(-1, -0.7, 0.25, 0.45)
    p.poly([(0.25, -0.3), (0.65, -0.3), (0.98, 0.05), (0.98, 0.45), (0.25, 0.45)], "light")
    p.poly([(0.38, -0.18), (0.6, -0.18), (0.8, 0.06), (0.38, 0.06)], "glass")
    for x in (-0.6, -0.1, 0.65):
        p.oval(x - 0.24, 0.3, x + 0.24, 0.78, "ink")
        p.oval(x - 0.09, 0.45, x + 0.09, 0.63, "cream")


@drawing
def motorcycle(p: Pen) -> None:
    for x in (-0.62, 0.62):
        p.oval(x - 0.38, 0.1, x + 0.38, 0.86, "ink")
        p.oval(x - 0.17, 0.31, x + 0.17, 0.65, "steel")
    p.line([(0.62, 0.48), (0.3, -0.55), (0.1, -0.65)], 0.13, "steel")
    p.poly([(-0.75, -0.1), (0.3, -0.2), (0.45, 0.1), (0.1, 0.55), (-0.3, 0.55)])
    p.poly([(-0.95, -0.35), (-0.1, -0.25), (-0.1, -0.05), (-0.7, -0.05)], "ink")
    p.oval(0.3, -0.55, 0.62, -0.25, "sun")


@drawing
def parking_meter(p: Pen) -> None:
    p.box(-0.12, 0.1, 0.12, 0.95, "steel")
    p.box(-0.4, 0.85, 0.4, 1, "ink")
    p.round(-0.5, -0.6, 0.5, 0.3, 0.15)
    p.pie(-0.5, -1, 0.5, -0.1, 180, 360)
    p.pie(-0.34, -0.84, 0.34, -0.2, 180, 360, "glass")
    p.line([(0, -0.52), (0.15, -0.72)], 0.07, "lamp")
    p.box(-0.2, -0.2, 0.2, -0.08, "ink")
    p.box(-0.05, -0.02, 0.05, 0.2, "ink")


@drawing
def fire_hydrant(p: Pen) -> None:
    p.box(-0.62, 0.75, 0.62, 1)
    p.box(-0.4, -0.4, 0.4, 0.75)
    p.pie(-0.45, -0.95, 0.45, 0.05, 180, 360)
    p.box(-0.12, -1, 0.12, -0.85, "dark")
    p.box(-0.55, -0.5, 0.55, -0.32, "dark")
    for x in (-0.62, 0.62):
        p.box(x - 0.22, 0.0, x + 0.22, 0.36, "dark")
    p.oval(-0.24, -0.08, 0.24, 0.4, "cream")
    p.oval(-0.1, 0.06, 0.1, 0.26, "dark")


def _legs(p: Pen, *xs: float, ink: str = "main", top: float = 0.2) -> None:
    for x in xs:
        p.box(x - 0.1, top, x + 0.1, 0.98, ink)


@drawing
def cow(p: Pen) -> None:
    _legs(p, -0.75, -0.4, 0.15, 0.45)
    p.line([(-0.88, -0.3), (-1, 0.3)], 0.1, "dark")
    p.round(-0.9, -0.45, 0.6, 0.42, 0.25)
    p.oval(-0.7, -0.35, -0.25, 0.1, "cream")
    p.oval(-0.1, -0.1, 0.3, 0.3, "cream")
    p.poly([(0.36, -0.72), (0.3, -1), (0.52, -0.75)], "cream")
    p.poly([(0.78, -0.75), (0.98, -1), (0.94, -0.7)], "cream")
    p.round(0.35, -0.8, 0.95, -0.05, 0.2)
    p.oval(0.4, -0.25, 1, 0.12, "cream")
    for x in (0.53, 0.77):
        p.oval(x - 0.06, -0.55, x + 0.06, -0.42, "ink", outline=False)


@drawing
def horse(p: Pen) -> None:
    _legs(p, -0.7, -0.42, 0.1, 0.36)
    p.poly(p.curve([(-0.75, -0.2), (-1, 0.1), (-0.95, 0.6), (-0.82, 0.2)]), "dark")
    p.oval(-0.85, -0.35, 0.5, 0.42)
    p.poly([(0.1, -0.05), (0.35, -0.85), (0.6, -0.95), (0.62, -0.4), (0.45, 0.2)])
    p.poly([(0.1, -0.15), (0.3, -0.95), (0.48, -1), (0.3, -0.2)], "dark")
    p.round(0.35, -0.92, 1, -0.45, 0.2)
    p.oval(0.56, -0.8, 0.68, -0.67, "ink", outline=False)


@drawing
def zebra(p: Pen) -> None:
    _legs(p, -0.7, -0.42, 0.1, 0.36)
    p.oval(-0.85, -0.35, 0.5, 0.42)
    p.poly([(0.1, -0.05), (0.35, -0.85), (0.6, -0.95), (0.62, -0.4), (0.45, 0.2)])
    for x in (-0.6, -0.35, -0.1, 0.15):
        p.line([(x, -0.28), (x + 0.04, 0.34)], 0.11, "ink")
    for y in (-0.65, -0.4):
        p.line([(0.28, y), (0.55, y + 0.08)], 0.1, "ink")
    p.poly([(0.14, -0.3), (0.28, -1), (0.5, -1), (0.36, -0.75)], "ink")
    p.round(0.38, -0.92, 0.98, -0.48, 0.2)
    p.round(0.8, -0.84, 1, -0.5, 0.1, "ink")
    p.oval(0.54, -0.8, 0.66, -0.67, "ink", outline=False)


@drawing
def bear(p: Pen) -> None:
    for x in (-0.72, -0.3, 0.15, 0.5):
        p.round(x - 0.17, 0.2, x + 0.17, 0.95, 0.1)
    p.oval(-0.98, -0.5, 0.65, 0.6)
    p.oval(0.2, -0.95, 0.48, -0.65, "dark")
    p.oval(0.65, -0.95, 0.93, -0.65, "dark")
    p.oval(0.12, -0.85, 0.98, -0.0)
    p.oval(0.5, -0.4, 1, -0.05, "cream")
    p.oval(0.75, -0.4, 0.95, -0.24, "ink", outline=False)
    for x in (0.42, 0.68):
        p.oval(x - 0.06, -0.6, x + 0.06, -0.46, "ink", outline=False)
