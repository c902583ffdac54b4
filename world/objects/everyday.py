"""What people ask for first and GenEval does not have: house and tree, sun, moon and star, heart, hat and shoe, animals."""

from __future__ import annotations

import math

from .shapes import Drawing, box, curve, drawing, line, oval, pie, poly, rounded

_STAR = [
    (radius * math.sin(i * math.pi / 5), 0.08 - radius * math.cos(i * math.pi / 5))
    for i, radius in enumerate((1.05, 0.44) * 5)
]
_RAYS = [
    [(r * math.sin(a + turn), -r * math.cos(a + turn)) for r, turn in ((0.55, -0.3), (1.0, 0), (0.55, 0.3))]
    for a in (i * math.pi / 4 for i in range(8))
]
_HEART = curve(
    [
        (0, -0.5), (0.22, -0.82), (0.58, -0.93), (0.95, -0.62), (0.94, -0.1), (0.5, 0.52), (0, 0.98),
        (-0.5, 0.52), (-0.94, -0.1), (-0.95, -0.62), (-0.58, -0.93), (-0.22, -0.82),
    ]
)  # fmt: skip
_MOON = [(0.95 * math.cos(a), 0.97 * math.sin(a)) for a in (math.pi * (0.32 + i * 1.36 / 16) for i in range(17))]
_MOON += [(0.42 + 0.72 * math.cos(a), 0.72 * math.sin(a)) for a in (math.pi * (1.6 - i * 1.2 / 14) for i in range(15))]

OBJECTS: dict[str, Drawing] = {
    "house": drawing(
        box(0.42, -0.92, 0.66, -0.3, "dark"),
        box(-0.78, -0.15, 0.78, 0.98),
        poly([(-1, -0.1), (0, -1), (1, -0.1)], "dark"),
        box(-0.17, 0.35, 0.17, 0.98, "strap"),
        *(box(x - 0.17, 0.1, x + 0.17, 0.44, "glass") for x in (-0.5, 0.5)),
        *(line([(x, 0.1), (x, 0.44)], 0.05, "ink") for x in (-0.5, 0.5)),
    ),
    "tree": drawing(
        poly([(-0.16, 0.2), (0.16, 0.2), (0.26, 1), (-0.26, 1)], "spot"),
        oval(-0.98, -0.45, 0.1, 0.45),
        oval(-0.1, -0.45, 0.98, 0.45),
        oval(-0.68, -1, 0.68, 0.2),
        oval(-0.42, -0.75, -0.05, -0.38, "light", outline=False),
    ),
    "flower": drawing(
        line([(0, 0.1), (0, 1)], 0.13, "leaf"),
        poly(curve([(0, 0.75), (0.45, 0.35), (0.7, 0.5), (0.4, 0.82)]), "leaf"),
        *(
            oval(x - 0.28, y - 0.28, x + 0.28, y + 0.28)
            for x, y in ((0.42 * math.sin(a), -0.35 - 0.42 * math.cos(a)) for a in (i * math.pi / 3 for i in range(6)))
        ),
        oval(-0.24, -0.59, 0.24, -0.11, "cream"),
        oval(-0.11, -0.46, 0.11, -0.24, "ink", outline=False),
    ),
    "fish": drawing(
        poly([(-0.45, 0.0), (-1, -0.55), (-0.85, 0.0), (-1, 0.55)], "dark"),
        poly([(-0.2, -0.35), (0.1, -0.8), (0.4, -0.4)], "dark"),
        oval(-0.65, -0.52, 0.98, 0.52),
        oval(0.45, -0.28, 0.75, 0.02, "cream"),
        oval(0.56, -0.19, 0.7, -0.05, "ink", outline=False),
        *(line([(x, -0.25), (x - 0.12, 0.0), (x, 0.25)], 0.07, "light") for x in (-0.2, 0.1)),
        line([(0.78, 0.18), (0.95, 0.12)], 0.07, "ink"),
    ),
    "sun": drawing(
        *(poly(ray) for ray in _RAYS),
        oval(-0.6, -0.6, 0.6, 0.6),
        *(oval(x - 0.07, -0.2, x + 0.07, -0.02, "ink", outline=False) for x in (-0.2, 0.2)),
        line([(-0.22, 0.16), (-0.1, 0.28), (0.1, 0.28), (0.22, 0.16)], 0.07, "ink"),
    ),
    "moon": drawing(
        poly(_MOON),
        oval(-0.72, -0.2, -0.5, 0.02, "dark", outline=False),
        oval(-0.55, 0.25, -0.38, 0.42, "dark", outline=False),
    ),
    "star": drawing(poly(_STAR), line([(-0.12, -0.35), (-0.3, 0.0)], 0.09, "light")),
    "heart": drawing(poly(_HEART), oval(-0.62, -0.6, -0.32, -0.25, "light", outline=False)),
    "hat": drawing(
        oval(-1, 0.2, 1, 0.75, "dark"),
        poly(
            curve(
                [
                    (-0.6, 0.45),
                    (-0.55, -0.5),
                    (-0.2, -0.75),
                    (0, -0.6),
                    (0.2, -0.75),
                    (0.55, -0.5),
                    (0.6, 0.45),
                    (0, 0.6),
                ]
            )
        ),
        poly([(-0.61, 0.12), (0.61, 0.12), (0.61, 0.4), (0, 0.52), (-0.61, 0.4)], "ink"),
    ),
    "rabbit": drawing(
        *(oval(x - 0.15, -1, x + 0.15, -0.1) for x in (-0.24, 0.24)),
        *(oval(x - 0.06, -0.85, x + 0.06, -0.3, "cream", outline=False) for x in (-0.24, 0.24)),
        oval(0.35, 0.5, 0.75, 0.9, "cream"),
        oval(-0.55, 0.1, 0.55, 1),
        oval(-0.25, 0.35, 0.25, 0.95, "cream", outline=False),
        oval(-0.5, -0.45, 0.5, 0.35),
        *(oval(x - 0.07, -0.2, x + 0.07, -0.02, "ink", outline=False) for x in (-0.2, 0.2)),
        oval(-0.09, 0.04, 0.09, 0.16, "lamp", outline=False),
    ),
    "duck": drawing(
        poly([(0.6, -0.52), (1, -0.42), (0.98, -0.24), (0.6, -0.2)], "sun"),
        poly(
            curve(
                [
                    (-1, -0.15),
                    (-0.7, 0.1),
                    (-0.2, 0.05),
                    (0.12, -0.05),
                    (0.1, -0.4),
                    (0.2, -0.75),
                    (0.5, -0.88),
                    (0.75, -0.65),
                    (0.72, -0.3),
                    (0.62, -0.05),
                    (0.82, 0.3),
                    (0.7, 0.7),
                    (0.2, 0.92),
                    (-0.5, 0.88),
                    (-0.88, 0.5),
                ]
            )
        ),
        poly(curve([(-0.6, 0.3), (0.05, 0.22), (0.3, 0.4), (0.05, 0.62), (-0.35, 0.62)]), "dark"),
        oval(0.46, -0.62, 0.6, -0.46, "cream"),
        oval(0.5, -0.58, 0.58, -0.5, "ink", outline=False),
    ),
    "shoe": drawing(
        poly(
            curve([(-0.85, -0.55), (-0.25, -0.55), (0.0, -0.1), (0.6, 0.05), (0.95, 0.3), (0.95, 0.55), (-0.9, 0.55)])
        ),
        box(-0.95, 0.45, 0.98, 0.7, "cream"),
        *(line([(x, y), (x + 0.22, y - 0.16)], 0.08, "cream") for x, y in ((-0.16, -0.15), (0.02, 0.02), (0.22, 0.12))),
        oval(-0.86, -0.66, -0.2, -0.42, "dark"),
        rounded(-0.98, 0.45, -0.5, 0.8, 0.06, "ink"),
        pie(0.3, 0.15, 0.95, 0.75, 270, 360, "light"),
    ),
}
