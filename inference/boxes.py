"""Boxes in a reply: SEED-X's ``<loc-112><loc-98><loc-40><loc-60>`` (centre x and y, width, height)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

LOCATIONS = 224
"""Coordinates are multiples of 1 / 224 of the image's width and height."""
_BOX = re.compile(r"<loc[-_](\d{1,4})>" * 4)
_MARKED_BOX = re.compile(rf"\s*(?:<box_start>)?{_BOX.pattern}(?:<box_end>)?")
COLORS = ("red", "lime", "blue", "orange", "magenta", "cyan")


@dataclass(frozen=True)
class Box:
    """Edges as fractions of the image's width and height, in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of an image of this size."""
        return (
            round(self.left * width),
            round(self.top * height),
            round(self.right * width),
            round(self.bottom * height),
        )


def parse_boxes(text: str) -> list[Box]:
    """The boxes of a reply, in order. Only four locations in a row are a box."""
    return [_box(*(int(number) / LOCATIONS for number in found.groups())) for found in _BOX.finditer(text)]


def _box(x: float, y: float, width: float, height: float) -> Box:
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Box(*(min(max(edge, 0.0), 1.0) for edge in edges))


def strip_boxes(text: str) -> str:
    """The text without its boxes."""
    return _MARKED_BOX.sub("", text)


def draw_boxes(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """A copy of the image with the outlines of the boxes, each in another colour."""
    drawn = image.convert("RGB").copy()
    line = max(1, round(min(drawn.size) / 150))
    for index, box in enumerate(boxes):
        ImageDraw.Draw(drawn).rectangle(box.pixels(*drawn.size), outline=COLORS[index % len(COLORS)], width=line)
    return drawn
