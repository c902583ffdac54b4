"""A pen that draws vector shapes in an object's own box, in its colour, onto a supersampled canvas."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from PIL import ImageDraw, ImageFont

Point = tuple[float, float]
Ink = tuple[int, int, int]

COLORS: dict[str, Ink] = {
    "red": (222, 38, 38),
    "orange": (250, 140, 22),
    "yellow": (250, 222, 40),
    "green": (36, 160, 60),
    "blue": (36, 84, 226),
    "purple": (134, 48, 190),
    "pink": (250, 140, 196),
    "brown": (124, 74, 36),
    "black": (34, 34, 38),
    "white": (248, 248, 248),
}
INKS: dict[str, Ink] = {
    "ink": (60, 60, 66),
    "cream": (250, 240, 214),
    "wood": (166, 112, 64),
    "leaf": (70, 190, 90),
    "steel": (170, 176, 186),
    "glass": (176, 222, 244),
    "sun": (252, 206, 60),
    "lamp": (236, 70, 60),
}
OUTLINE: Ink = (60, 60, 66)
BOARD: Ink = (38, 62, 54)
"""What chalk draws on"""


@functools.cache
def mix(a: Ink, b: Ink, amount: float) -> Ink:
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


STYLES = ("flat", "outline", "chalk", "pastel")
CONTROLS = ("edges", "silhouette", "sketch", "depth")
"""Not to be drawn: what a picture is drawn from"""


def area_ink(ink: Ink, style: str) -> Ink:
    """An area's colour in a style."""
    if style in CONTROLS:
        return (0, 0, 0) if style in ("edges", "sketch") else (255, 255, 255)
    if style == "outline":
        return mix(ink, (255, 255, 255), 0.8)
    if style == "chalk":
        return mix(ink, BOARD, 0.6)
    return mix(ink, (255, 255, 255), 0.5) if style == "pastel" else ink


def line_ink(ink: Ink, style: str) -> Ink:
    """The line around an area of this ink."""
    if style in CONTROLS:
        return (255, 255, 255)
    if style == "outline":
        return mix(ink, OUTLINE, 0.1) if sum(ink) < 700 else (170, 170, 178)
    if style == "chalk":
        return mix(ink, (255, 255, 255), 0.4)
    return mix(OUTLINE, (255, 255, 255), 0.4) if style == "pastel" else OUTLINE


WIDEST_LETTER = "M"
"""It fills its cell; most letters leave a third of theirs free."""


@functools.cache
def _inks(color: str) -> dict[str, Ink]:
    """All inks of an object of this colour by name."""
    main = COLORS[color]
    inks = {"main": main, "dark": mix(main, (0, 0, 0), 0.28), "light": mix(main, (255, 255, 255), 0.35)}
    # wooden details, and what they are of where the object itself is brown
    inks["spot"] = INKS["ink" if color == "brown" else "wood"]
    inks["strap"] = INKS["cream" if color == "brown" else "wood"]
    if color == "black":  # there is nothing darker, so the shade goes the other way
        inks["dark"] = mix(main, (255, 255, 255), 0.15)
    return INKS | inks


@functools.cache
def _widest_letter() -> tuple[float, float, float, float]:
    """Box of the widest letter at a font size of 100."""
    return ImageFont.load_default(100).getbbox(WIDEST_LETTER, anchor="mm", stroke_width=2)


_font = functools.lru_cache(maxsize=64)(ImageFont.load_default)


class Pen:
    """Draws one object. ``flat`` replaces every ink by one value: that is how label maps are made. ``corner`` is where the
    canvas lies in the picture, left and top: it may be a part of it."""

    def __init__(
        self,
        canvas: ImageDraw.ImageDraw,
        x: float,
        y: float,
        half: float,
        color: str,
        flat: int | None = None,
        words: str = "",
        style: str = "flat",
        near: float = 1.0,
        corner: tuple[int, int] = (0, 0),
    ) -> None:
        self.left, self.top = corner
        self.canvas, self.x, self.y, self.half, self.color, self.flat = canvas, x, y, half, color, flat
        self.words, self.style, self.near = words, style, near
        self.inks = _inks(color)
        self.edge = max(1, round(half * 0.07))

    def ink(self, name: str, line: bool = False) -> Ink | int:
        """Of an area, or of a line by itself."""
        if self.flat is not None:
            return self.flat
        ink = self.inks[name]
        if self.style == "flat":
            return ink
        drawn = line and self.style in ("outline", "chalk", *CONTROLS)
        return self.dimmed(line_ink(ink, self.style) if drawn else area_ink(ink, self.style))

    def outline(self, wanted: bool, ink: str = "main") -> Ink | int | None:
        if self.flat is not None:
            return self.flat
        if not wanted:
            return None
        return OUTLINE if self.style == "flat" else self.dimmed(line_ink(self.inks[ink], self.style))

    def dimmed(self, ink: Ink) -> Ink:
        """Grey by how near it is, on a depth map."""
        return mix((0, 0, 0), ink, self.near) if self.style == "depth" else ink

    def at(self, points: Sequence[Point]) -> list[Point]:
        x, y, half, left, top = self.x, self.y, self.half, self.left, self.top
        if self.style == "sketch":  # an unsteady hand, the same every time
            points = [(a + 0.07 * math.sin(9 * b + 5 * a), b + 0.07 * math.sin(8 * a - 6 * b)) for a, b in points]
        return [(x + px * half - left, y + py * half - top) for px, py in points]  # in this order: no other rounding

    def corners(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        (a, b), (c, d) = self.at([(x0, y0), (x1, y1)])
        return a, b, c, d

    def poly(self, points: Sequence[Point], ink: str = "main") -> None:
        self.canvas.polygon(self.at(points), self.ink(ink), self.outline(True, ink), self.edge)

    def box(self, x0: float, y0: float, x1: float, y1: float, ink: str = "main", outline: bool = True) -> None:
        self.canvas.rectangle(self.corners(x0, y0, x1, y1), self.ink(ink), self.outline(outline, ink), self.edge)

    def round(self, x0: float, y0: float, x1: float, y1: float, radius: float, ink: str = "main") -> None:
        corners = self.corners(x0, y0, x1, y1)
        self.canvas.rounded_rectangle(corners, radius * self.half, self.ink(ink), self.outline(True, ink), self.edge)

    def oval(self, x0: float, y0: float, x1: float, y1: float, ink: str = "main", outline: bool = True) -> None:
        self.canvas.ellipse(self.corners(x0, y0, x1, y1), self.ink(ink), self.outline(outline, ink), self.edge)

    def ring(self, x0: float, y0: float, x1: float, y1: float, width: float, ink: str = "main") -> None:
        self.canvas.ellipse(
            self.corners(x0, y0, x1, y1), None, self.ink(ink, line=True), max(2, round(width * self.half))
        )

    def pie(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, ink: str = "main") -> None:
        self.canvas.pieslice(
            self.corners(x0, y0, x1, y1), start, end, self.ink(ink), self.outline(True, ink), self.edge
        )

    def line(self, points: Sequence[Point], width: float, ink: str = "main") -> None:
        self.canvas.line(self.at(points), self.ink(ink, line=True), max(1, round(width * self.half)), joint="curve")

    def write(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """The pen's words as large as the box holds them, light on what is dark and dark on what is light. Every letter has a
        cell as wide as the others', as on a departure board: where it stands follows from its number."""
        if not self.words or self.flat is not None:
            return
        left, top, right, bottom = self.corners(x0, y0, x1, y1)
        box = _widest_letter()
        cell = min((right - left) / len(self.words), (bottom - top) * (box[2] - box[0]) / (box[3] - box[1]))
        size = 110 * cell / (box[2] - box[0])
        light = sum(part * share for part, share in zip(COLORS[self.color], (0.3, 0.59, 0.11), strict=True)) < 140
        ink, font = COLORS["white" if light else "black"], _font(size)
        for number, letter in enumerate(self.words):
            x = (left + right) / 2 + (number - (len(self.words) - 1) / 2) * cell
            self.canvas.text((x, (top + bottom) / 2), letter, ink, font, anchor="mm", stroke_width=size / 28)

    @staticmethod
    def curve(points: Sequence[Point], steps: int = 4) -> list[Point]:
        """A closed Catmull-Rom curve through the points (Catmull and Rom 1974)."""
        smooth = []
        for i in range(len(points)):
            p0, p1, p2, p3 = (points[(i + k) % len(points)] for k in (-1, 0, 1, 2))
            for t in (step / steps for step in range(steps)):
                x, y = (
                    0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)
                    for a, b, c, d in zip(p0, p1, p2, p3, strict=True)
                )
                smooth.append((x, y))
        assert all(math.isfinite(v) for point in smooth for v in point)
        return smooth
