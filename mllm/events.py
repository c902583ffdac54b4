"""What happens while a reply is written, in order. ``row`` is the conversation's place in the batch."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class TextPiece:
    row: int
    text: str


@dataclass(frozen=True)
class PictureBegun:
    row: int
    index: int
    """Which picture of its reply, from 0."""
    size: tuple[int, int]
    """Height and width in pixels."""


@dataclass(frozen=True)
class PictureStep:
    row: int
    index: int
    step: int
    """Steps done."""
    steps: int


@dataclass(frozen=True)
class PictureDone:
    row: int
    index: int
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    row: int
    reason: str
    """"stop": the model ended its turn or a stop string came; "length": a limit cut it."""


Event = TextPiece | PictureBegun | PictureStep | PictureDone | Finished
