"""On the table, in the kitchen, at the desk, in the bathroom."""

from __future__ import annotations

from ..pen import Pen
from .registry import drawing


@drawing
def orange(p: Pen) -> None:
    p.oval(-0.9, -0.85, 0.9, 0.95)
    p.poly([(0, -0.8), (0.3, -1), (0.65, -0.9), (0.35, -0.7)], "leaf")
    p.oval(-0.08, -0.82, 0.1, -0.66, "wood")
    for x, y in ((-0.4, 0.1), (0.1, 0.45), (0.4, -0.1), (-0.1, -0.3), (-0.35, 0.55), (0.55, 0.4)):
        p.oval(x - 0.05, y - 0.05, x + 0.05, y + 0.05, "dark", outline=False)


@drawing
def broccoli(p: Pen) -> None:
    p.poly([(-0.22, 0.1), (0.22, 0.1), (0.28, 1), (-0.28, 1)], "light")
    p.poly([(-0.2, 0.35), (-0.6, 0.0), (-0.45, -0.15), (-0.1, 0.15)], "light")
    p.poly([(0.2, 0.35), (0.6, 0.0), (0.45, -0.15), (0.1, 0.15)], "light")
    for x, y, r in ((-0.6, -0.2, 0.38), (0.6, -0.2, 0.38), (-0.35, -0.6, 0.4), (0.35, -0.6, 0.4), (0, -0.3, 0.42)):
        p.oval(x - r, y - r, x + r, y + r)


@drawing
def hot_dog(p: Pen) -> None:
    p.round(-0.95, -0.5, 0.95, 0.35, 0.4, "cream")
    p.round(-1, -0.25, 1, 0.2, 0.22)
    p.round(-0.95, 0.05, 0.95, 0.55, 0.25, "cream")
    p.line([(-0.8, -0.1), (-0.5, 0.05), (-0.2, -0.12), (0.1, 0.05), (0.4, -0.12), (0.75, 0.03)], 0.11, "sun")


@drawing
def sandwich(p: Pen) -> None:
    p.poly([(-0.95, 0.75), (0.95, 0.75), (0.1, -0.75)])
    p.poly([(-0.98, 0.55), (0.98, 0.55), (0.98, 0.72), (-0.98, 0.72)], "cream")
    p.line([(-0.95, 0.5), (-0.6, 0.62), (-0.3, 0.48), (0, 0.62), (0.3, 0.48), (0.6, 0.62), (0.95, 0.5)], 0.13, "leaf")
    p.poly([(-0.98, 0.72), (0.98, 0.72), (0.9, 0.95), (-0.9, 0.95)])


@drawing
def bowl(p: Pen) -> None:
    p.pie(-1, -1.05, 1, 0.85, 0, 180)
    p.oval(-1, -0.32, 1, 0.12, "cream")
    p.poly([(-0.4, 0.75), (0.4, 0.75), (0.48, 0.95), (-0.48, 0.95)], "dark")


@drawing
def fork(p: Pen) -> None:
    p.round(-0.14, 0.0, 0.14, 1, 0.12)
    p.poly(p.curve([(-0.45, -0.45), (0.45, -0.45), (0.3, 0.0), (0, 0.15), (-0.3, 0.0)]))
    for x in (-0.38, -0.13, 0.13, 0.38):
        p.box(x - 0.08, -1, x + 0.08, -0.35)


@drawing
def knife(p: Pen) -> None:
    p.poly([(-0.18, 0.2), (-0.18, -1), (0.1, -0.8), (0.26, -0.4), (0.26, 0.2)], "steel")
    p.round(-0.2, 0.18, 0.28, 1, 0.14)
    for y in (0.4, 0.75):
        p.oval(-0.04, y - 0.07, 0.1, y + 0.07, "cream")


@drawing
def spoon(p: Pen) -> None:
    p.round(-0.12, -0.2, 0.12, 1, 0.1)
    p.oval(-0.42, -1, 0.42, -0.05)
    p.oval(-0.25, -0.85, 0.12, -0.3, "light", outline=False)


@drawing
def bench(p: Pen) -> None:
    for y in (-0.75, -0.4):
        p.box(-1, y, 1, y + 0.24)
    for x in (-0.75, 0.75):
        p.box(x - 0.08, -0.85, x + 0.08, 0.85, "ink")
    p.box(-1, 0.02, 1, 0.26)
    p.box(-1, 0.26, 1, 0.4, "dark")


@drawing
def dining_table(p: Pen) -> None:
    p.poly([(-0.7, -0.55), (0.7, -0.55), (1, -0.1), (-1, -0.1)])
    p.box(-1, -0.1, 1, 0.1, "dark")
    for x in (-0.85, 0.85):
        p.box(x - 0.1, 0.1, x + 0.1, 0.95)
    for x in (-0.4, 0.4):
        p.box(x - 0.07, 0.1, x + 0.07, 0.6, "dark")
    p.oval(-0.35, -0.48, 0.35, -0.2, "cream")


@drawing
def toilet(p: Pen) -> None:
    p.round(-0.85, -1, -0.25, 0.2, 0.12)
    p.box(-0.7, -0.85, -0.4, -0.72, "steel")
    p.poly([(-0.45, 0.3), (0.55, 0.3), (0.25, 0.98), (-0.4, 0.98)])
    p.pie(-0.65, -0.55, 0.95, 0.85, 0, 180)
    p.oval(-0.65, 0.0, 0.95, 0.3, "cream")


@drawing
def sink(p: Pen) -> None:
    p.line([(0, -0.1), (0, -0.75), (0.4, -0.75), (0.4, -0.45)], 0.18, "steel")
    p.box(-0.35, -0.55, -0.18, -0.15, "steel")
    p.box(-1, -0.15, 1, 0.12)
    p.pie(-0.8, -0.75, 0.8, 0.75, 0, 180)
    p.box(-0.15, 0.72, 0.15, 1, "steel")


@drawing
def refrigerator(p: Pen) -> None:
    p.round(-0.6, -1, 0.6, 0.9, 0.1)
    p.line([(-0.58, -0.3), (0.58, -0.3)], 0.08, "ink")
    p.box(-0.45, -0.8, -0.33, -0.45, "steel")
    p.box(-0.45, -0.1, -0.33, 0.45, "steel")
    for x in (-0.4, 0.4):
        p.box(x - 0.1, 0.9, x + 0.1, 1, "ink")


@drawing
def oven(p: Pen) -> None:
    p.round(-0.9, -0.95, 0.9, 0.95, 0.08)
    for x in (-0.6, -0.2, 0.2, 0.6):
        p.oval(x - 0.13, -0.82, x + 0.13, -0.56, "cream")
    p.box(-0.7, -0.2, 0.7, 0.7, "ink")
    p.box(-0.5, 0.0, 0.5, 0.55, "sun")
    p.box(-0.7, -0.42, 0.7, -0.28, "steel")


@drawing
def microwave(p: Pen) -> None:
    p.round(-1, -0.65, 1, 0.65, 0.1)
    p.box(-0.85, -0.48, 0.4, 0.48, "glass")
    p.box(0.42, -0.5, 0.5, 0.5, "steel")
    p.box(0.6, -0.48, 0.9, -0.25, "ink")
    for y in (0.0, 0.25, 0.45):
        for x in (0.66, 0.84):
            p.oval(x - 0.07, y - 0.07, x + 0.07, y + 0.07, "cream")


@drawing
def toaster(p: Pen) -> None:
    for x in (-0.55, 0.1):
        p.round(x, -0.95, x + 0.45, 0.0, 0.15, "wood")
    p.round(-0.85, -0.4, 0.75, 0.75, 0.25)
    p.box(0.75, -0.1, 0.98, 0.1, "ink")
    p.box(-0.6, 0.75, -0.4, 0.9, "ink")
    p.box(0.3, 0.75, 0.5, 0.9, "ink")
    p.line([(-0.55, 0.15), (0.45, 0.15)], 0.08, "light")


@drawing
def laptop(p: Pen) -> None:
    p.round(-0.75, -0.85, 0.75, 0.25, 0.08)
    p.box(-0.6, -0.7, 0.6, 0.1, "glass")
    p.poly([(-0.75, 0.25), (0.75, 0.25), (1, 0.75), (-1, 0.75)], "steel")
    p.poly([(-0.6, 0.34), (0.6, 0.34), (0.68, 0.5), (-0.68, 0.5)], "ink")
    p.box(-1, 0.75, 1, 0.87)


@drawing
def computer_keyboard(p: Pen) -> None:
    p.round(-1, -0.48, 1, 0.52, 0.1)
    for row in range(3):
        for column in range(7):
            x, y = -0.78 + column * 0.26, -0.28 + row * 0.22
            p.box(x - 0.09, y - 0.07, x + 0.09, y + 0.07, "cream", outline=False)
    p.box(-0.5, 0.32, 0.5, 0.44, "cream", outline=False)


@drawing
def computer_mouse(p: Pen) -> None:
    p.line([(0, -0.6), (0.15, -0.8), (0.45, -0.82), (0.5, -1)], 0.1, "ink")
    p.round(-0.58, -0.65, 0.58, 0.95, 0.55)
    p.line([(-0.55, -0.05), (0.55, -0.05)], 0.07, "ink")
    p.line([(0, -0.62), (0, -0.05)], 0.07, "ink")
    p.round(-0.12, -0.5, 0.12, -0.15, 0.1, "cream")


@drawing
def tv_remote(p: Pen) -> None:
    p.round(-0.4, -1, 0.4, 1, 0.2)
    p.oval(-0.14, -0.88, 0.14, -0.62, "lamp")
    for y in (-0.4, -0.1, 0.2):
        for x in (-0.2, 0.2):
            p.oval(x - 0.12, y - 0.11, x + 0.12, y + 0.11, "cream")
    p.oval(-0.25, 0.42, 0.25, 0.88, "steel")


@drawing
def cell_phone(p: Pen) -> None:
    p.round(-0.55, -1, 0.55, 1, 0.18)
    p.box(-0.42, -0.75, 0.42, 0.66, "glass")
    p.oval(-0.1, 0.74, 0.1, 0.92, "cream")
    p.line([(-0.15, -0.87), (0.15, -0.87)], 0.07, "cream")


@drawing
def hair_drier(p: Pen) -> None:
    p.poly([(-0.15, 0.1), (0.35, 0.1), (0.45, 1), (0.05, 1)], "dark")
    p.oval(-0.3, -0.75, 0.85, 0.35)
    p.poly([(-0.2, -0.5), (-0.95, -0.65), (-0.95, 0.25), (-0.2, 0.1)])
    p.box(-1, -0.68, -0.86, 0.28, "ink")
    p.oval(0.1, -0.45, 0.6, 0.05, "steel")


@drawing
def toothbrush(p: Pen) -> None:
    p.poly([(-0.95, 0.0), (1, 0.12), (1, 0.4), (-0.95, 0.28)])
    for i in range(5):
        x = -0.9 + i * 0.15
        p.box(x, -0.38, x + 0.11, 0.05, "cream")
    p.line([(0.3, 0.22), (0.85, 0.27)], 0.08, "light")


@drawing
def scissors(p: Pen) -> None:
    p.poly([(-0.5, -1), (-0.3, -0.95), (0.2, 0.25), (0.0, 0.3)], "steel")
    p.poly([(0.5, -1), (0.3, -0.95), (-0.2, 0.25), (0.0, 0.3)], "steel")
    p.ring(-0.85, 0.2, -0.05, 0.98, 0.18)
    p.ring(0.05, 0.2, 0.85, 0.98, 0.18)
    p.oval(-0.09, -0.02, 0.09, 0.16, "ink")
