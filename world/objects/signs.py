"""What carries words: no classes of GenEval's. Their words come with the pen."""

from __future__ import annotations

from .shapes import Drawing, box, drawing, poly, write

WRITING: dict[str, tuple[float, float, float, float]] = {
    "sign": (-0.88, -0.53, 0.88, 0.23),
    "banner": (-0.78, -0.37, 0.78, 0.32),
    "t-shirt": (-0.48, -0.35, 0.48, 0.3),
}
"""Left, top, right and bottom of the words in the thing's own box"""

SIGNS: dict[str, Drawing] = {
    "sign": drawing(
        box(-0.08, 0.3, 0.08, 1, "wood"),
        box(-1, -0.65, 1, 0.35),
        write(*WRITING["sign"]),
    ),
    "banner": drawing(
        poly([(-1, -0.25), (-0.7, -0.25), (-0.7, 0.55), (-1, 0.55), (-0.88, 0.15)], "dark"),
        poly([(1, -0.25), (0.7, -0.25), (0.7, 0.55), (1, 0.55), (0.88, 0.15)], "dark"),
        box(-0.86, -0.45, 0.86, 0.4),
        write(*WRITING["banner"]),
    ),
    "t-shirt": drawing(
        poly(
            [
                (-0.35, -0.85),
                (-0.15, -0.72),
                (0.15, -0.72),
                (0.35, -0.85),
                (1, -0.45),
                (0.8, -0.05),
                (0.55, -0.2),
                (0.55, 0.9),
                (-0.55, 0.9),
                (-0.55, -0.2),
                (-0.8, -0.05),
                (-1, -0.45),
            ]
        ),
        write(*WRITING["t-shirt"]),
    ),
}
