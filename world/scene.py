"""A scene is a typed description; `render` turns it into pixels of any size, `label_map` into patch labels."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .objects import OBJECTS, SIGNS, WRITING
from .objects.shapes import Drawing
from .pen import BOARD, COLORS, CONTROLS, STYLES, Ink, Pen, mix

BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    # upper and lower colour
    "plain": ((222, 222, 226), (222, 222, 226)),
    "sky": ((150, 208, 246), (150, 208, 246)),
    "grass": ((190, 228, 246), (132, 200, 104)),
    "sand": ((214, 234, 240), (236, 210, 150)),
    "night": ((44, 50, 96), (62, 70, 118)),
    "room": ((246, 226, 206), (186, 134, 92)),
}
SIZES: dict[str, float] = {"small": 0.15, "medium": 0.21, "large": 0.30}
"""Half the side of an object's box, as a fraction of the picture's shorter side."""

BROAD = 1.5
"""How much larger than other things a sign is: its letters are then some ten pixels wide or more"""

NEAR: dict[str, float] = {"small": 0.4, "medium": 0.65, "large": 0.95}
"""How light a thing is on a depth map: the large ones are near"""
MASKED = (128, 128, 128)

SUPERSAMPLE = 2
HORIZON = 0.6
"""Where the lower colour of a background begins, as a fraction of the height"""
REACH = 1.2
"""How far from its centre a thing's points and lines reach, in halves of its box, if not farther (`_reach`)"""


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Raises ValueError for a name, colour or size that cannot be drawn."""

    name: str
    color: str
    size: str
    x: float
    """Centre, as a fraction of the width."""
    y: float
    """Centre, as a fraction of the height."""
    words: str = ""
    """What is written on it, where it is one of `SIGNS`"""

    def __post_init__(self) -> None:
        if self.name not in OBJECTS and self.name not in SIGNS:
            raise ValueError(f"no drawing of {self.name!r}; there are {', '.join(sorted(OBJECTS))}")
        if self.color not in COLORS:
            raise ValueError(f"no colour {self.color!r}; there are {', '.join(COLORS)}")
        if self.size not in SIZES:
            raise ValueError(f"no size {self.size!r}; there are {', '.join(SIZES)}")


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Raises ValueError for a style or a background that cannot be drawn."""

    things: tuple[Thing, ...]
    background: str = "plain"
    height: int = 128
    width: int = 128
    style: str = "flat"
    hole: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom, as fractions, of what is masked: a grey box to be filled"""

    def __post_init__(self) -> None:
        if self.style not in (*STYLES, *CONTROLS):
            raise ValueError(f"no style {self.style!r}; there are {', '.join(STYLES)}")
        if self.background not in BACKGROUNDS:
            raise ValueError(f"no background {self.background!r}; there are {', '.join(BACKGROUNDS)}")

    def with_changed(self, thing: Thing, **changes: Any) -> Scene:
        """The scene with other fields of one of its things."""
        return replace(self, things=tuple(replace(t, **changes) if t is thing else t for t in self.things))

    def half(self, thing: Thing) -> float:
        """Half the side of a thing's box in pixels."""
        return SIZES[thing.size] * min(self.height, self.width) * (BROAD if thing.name in SIGNS else 1)

    def box(self, thing: Thing) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a thing in pixels."""
        half = self.half(thing)
        x, y = thing.x * self.width, thing.y * self.height
        return x - half, y - half, x + half, y + half

    def text_box(self) -> tuple[float, float, float, float] | None:
        """Left, top, right and bottom, as fractions, of where the first thing that carries words has them; None without words."""
        for thing in self.things:
            if thing.words:
                half, sides = self.half(thing), (self.width, self.height) * 2
                centre = (thing.x * self.width, thing.y * self.height) * 2
                box = zip(WRITING[thing.name], centre, sides, strict=True)
                left, top, right, bottom = ((middle + part * half) / side for part, middle, side in box)
                return left, top, right, bottom
        return None


def ground(ink: Ink, style: str) -> Ink:
    """A background's colour in a style."""
    if style in CONTROLS:
        return (0, 0, 0)
    return (
        mix(ink, BOARD, 0.85)
        if style == "chalk"
        else mix(ink, (255, 255, 255), {"pastel": 0.5, "outline": 0.3}.get(style, 0))
    )


def render(scene: Scene, scale: float = 1.0) -> Image.Image:
    """The picture of a scene, RGB, ``scale`` times its height and width."""
    height, width = round(scene.height * scale), round(scene.width * scale)
    upper, lower = (ground(ink, scene.style) for ink in BACKGROUNDS[scene.background])
    size = width * SUPERSAMPLE, height * SUPERSAMPLE
    image = _background(width, height, upper, lower).copy()
    # large enough for its lines to be smooth is only what is drawn: most of a picture is background
    for box, things in _areas(scene, scale * SUPERSAMPLE, size):
        left, top, right, bottom = box
        part = Image.new("RGB", (right - left, bottom - top), upper)
        canvas = ImageDraw.Draw(part)
        if lower != upper and bottom > HORIZON * size[1]:
            canvas.rectangle((0, max(0, HORIZON * size[1] - top), right, bottom), lower)
        _draw(scene, canvas, scale * SUPERSAMPLE, things, (left, top))
        if scene.hole is not None:
            x0, y0, x1, y1 = _hole(scene.hole, size)
            if x1 >= left and y1 >= top:
                canvas.rectangle((max(0, x0 - left), max(0, y0 - top), x1 - left, y1 - top), MASKED)
        image.paste(part.reduce(SUPERSAMPLE), (left // SUPERSAMPLE, top // SUPERSAMPLE))
    return image


@functools.lru_cache(maxsize=64)
def _background(width: int, height: int, upper: Ink, lower: Ink) -> Image.Image:
    image = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), upper)
    if lower != upper:
        ImageDraw.Draw(image).rectangle((0, HORIZON * image.height, image.width, image.height), lower)
    return image.reduce(SUPERSAMPLE)


Box = tuple[int, int, int, int]


def _areas(scene: Scene, scale: float, size: tuple[int, int]) -> list[tuple[Box, list[int]]]:
    """Boxes, of which none overlaps another, of all that is drawn on a canvas of ``size``, and the numbers of their things."""
    found: list[tuple[Box, list[int]]] = []
    boxes = [(_reached(scene, thing, scale, size), [number]) for number, thing in enumerate(scene.things)]
    if scene.hole is not None:
        boxes.append((_even_box(_hole(scene.hole, size), size), []))
    for box, things in boxes:
        if box[0] >= box[2] or box[1] >= box[3]:
            continue  # outside
        while near := [
            a for a in found if a[0][0] < box[2] and box[0] < a[0][2] and a[0][1] < box[3] and box[1] < a[0][3]
        ]:
            for area in near:
                found.remove(area)
                other = area[0]
                box = min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])
                things = sorted(things + area[1])
        found.append((box, things))
    return found


def _hole(hole: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    return hole[0] * size[0], hole[1] * size[1], hole[2] * size[0], hole[3] * size[1]


def _reached(scene: Scene, thing: Thing, scale: float, size: tuple[int, int]) -> Box:
    """Left, top, right and bottom of all that a thing draws on, on a canvas of ``size``, width and height."""
    reach = _reach(OBJECTS.get(thing.name) or SIGNS[thing.name]) * scene.half(thing) * scale + SUPERSAMPLE
    x, y = thing.x * scene.width * scale, thing.y * scene.height * scale
    return _even_box((x - reach, y - reach, x + reach, y + reach), size)


@functools.cache
def _reach(draw: Drawing) -> float:
    """How far from its centre a thing is drawn, in halves of its box: `REACH`, or more for one that was added and leaves its
    box."""
    half = 100
    image = Image.new("L", (8 * half, 8 * half), 0)
    draw(Pen(ImageDraw.Draw(image), 4 * half, 4 * half, half, "red", 1, style="sketch"))
    farthest = max((abs(side / half - 4) for side in image.getbbox() or ()), default=0.0)
    return max(REACH, farthest + 0.05)


def _even_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The pixels of the picture that a box touches, as a box on the canvas."""
    left, top, right, bottom = (math.floor(side / SUPERSAMPLE) * SUPERSAMPLE for side in box)
    width, height = size
    return max(0, left), max(0, top), min(width, right + SUPERSAMPLE), min(height, bottom + SUPERSAMPLE)


def label_map(scene: Scene, rows: int, columns: int) -> np.ndarray:
    """Which thing covers most of each patch: (rows, columns) of 0 (none) or 1 + its index."""
    cells = 4  # the map is drawn at four cells a patch and side
    image = Image.new("L", (scene.width, scene.height), 0)
    _draw(scene, ImageDraw.Draw(image), 1.0, range(len(scene.things)), flat=True)
    small = image.resize((columns * cells, rows * cells), Image.Resampling.NEAREST)
    labels = np.asarray(small).reshape(rows, cells, columns, cells)
    votes = np.stack([(labels == k).sum((1, 3)) for k in range(len(scene.things) + 1)])
    votes[0] //= 2  # a third of the patch is enough to name it
    return votes.argmax(0)


def _draw(
    scene: Scene,
    canvas: ImageDraw.ImageDraw,
    scale: float,
    things: Iterable[int],
    corner: tuple[int, int] = (0, 0),
    flat: bool = False,
) -> None:
    """Draw the things of these numbers; ``flat``: in the number 1 + theirs."""
    for number in things:
        thing = scene.things[number]
        half = scene.half(thing) * scale
        x, y = thing.x * scene.width * scale, thing.y * scene.height * scale
        ink = number + 1 if flat else None
        pen = Pen(canvas, x, y, half, thing.color, ink, thing.words, scene.style, NEAR[thing.size], corner)
        (OBJECTS.get(thing.name) or SIGNS[thing.name])(pen)
