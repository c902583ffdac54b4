"""Events of a reply, in the order in which they happen. ``row`` is the index of the conversation in the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image


@dataclass(frozen=True)
class TextPiece:
    """A further piece of the reply's text."""

    row: int
    text: str


@dataclass(frozen=True)
class PictureBegun:
    """The drawing of an image begins."""

    row: int
    index: int
    """Index of the image in its reply, from 0."""
    size: tuple[int, int]
    """Height and width in pixels."""


@dataclass(frozen=True)
class PictureStep:
    """A step of a drawing is done, or, with step 0, what the first visual tokens of a picture give is drawn."""

    row: int
    index: int
    step: int
    """Number of steps done, of ``steps``."""
    steps: int
    image: Image.Image | None = None
    """As the picture stands, at as many of the steps as ``partial_images`` asked for"""


@dataclass(frozen=True)
class PictureDone:
    """An image is drawn."""

    row: int
    index: int
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """The reply has ended."""

    row: int
    reason: str
    """"stop": the model ended its turn or a stop string came; "length": a limit cut it."""


Event = TextPiece | PictureBegun | PictureStep | PictureDone | Finished

Result = TypeVar("Result")


def consume(events: Generator[Event, None, Result], callback: Callable[[Event], None] | None = None) -> Result:
    """What the generator returns in the end; ``callback`` gets its events, and ends it by raising. Raises ValueError for one
    that cannot be called."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback is {callback!r:.60}; it must be a function of an event")
    with contextlib.closing(events):  # at once: a traceback that somebody keeps would hold it open
        while True:
            try:
                event = next(events)
            except StopIteration as stopped:
                return stopped.value
            if callback is not None:
                callback(event)


def each_event(
    events: Generator[Event, None, Result], change: Callable[[Event], Event]
) -> Generator[Event, None, Result]:
    """The events as ``change`` gives them; returns what they return."""
    with contextlib.closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as stopped:
                return stopped.value
            yield change(event)
