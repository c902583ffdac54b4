"""What carries words: no classes of GenEval's. Their words come with the pen."""

from __future__ import annotations

from collections.abc import Callable

from ..pen import Pen

SIGNS: dict[str, Callable[[Pen], None]] = {}


def carrying(name: str) -> Callable[[Callable[[Pen], None]], Callable[[Pen], None]]:
    def kept(function: Callable[[Pen], None]) -> Callable[[Pen], None]:
        SIGNS[name] = function
        return function

    return kept


@carrying("sign")
def sign(p: Pen) -> None:
    p.box(-0.08, 0.3, 0.08, 1, "wood")
    p.box(-1, -0.65, 1, 0.35)
    p.write(-0.88, -0.53, 0.88, 0.23)


@carrying("banner")
def banner(p: Pen) -> None:
    p.poly([(-1, -0.25), (-0.7, -0.25), (-0.7, 0.55), (-1, 0.55), (-0.88, 0.15)], "dark")
    p.poly([(1, -0.25), (0.7, -0.25), (0.7, 0.55), (1, 0.55), (0.88, 0.15)], "dark")
    p.box(-0.86, -0.45, 0.86, 0.4)
    p.write(-0.78, -0.37, 0.78, 0.32)


@carrying("t-shirt")
def t_shirt(p: Pen) -> None:
    p.poly([(-0.35, -0.85), (-0.15, -0.72), (0.15, -0.72), (0.35, -0.85), (1, -0.45), (0.8, -0.05), (0.55, -0.2), (0.55, 0.9),
            (-0.55, 0.9), (-0.55, -0.2), (-0.8, -0.05), (-1, -0.45)])  # fmt: skip
    p.write(-0.48, -0.35, 0.48, 0.3)
