"""What a reader yields: an example that becomes a conversation, and where it was found."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ...inference.images import decode_image, load_image, to_rgb
from ...mllm.messages import Message, normalize_messages
from ...world.sampling import rng_for

DRAW_REQUESTS = ("{}", "draw {}", "Draw {}.", "a picture of {}", "a photo of {}", "please draw {}", "show me {}")
"""Requests for a drawing of a caption; the first, the caption alone, is the most frequent."""
DESCRIBE_REQUESTS = ("Describe this picture.", "What is in this picture?", "What do you see?")


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture inside another file: the bytes of a table's cell, or a range of a tar."""

    name: str
    data: bytes = b""
    archive: Path | None = None
    offset: int = 0
    size: int = 0

    def read(self) -> bytes:
        if self.archive is None:
            return self.data
        with self.archive.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)

    def open(self) -> Image.Image:
        return decode_image(io.BytesIO(self.read()), self.name, to_rgb)


class Openable(Protocol):
    """A picture that is rendered or read when needed."""

    def open(self) -> Image.Image: ...


Source = Path | Openable


def open_picture(source: Source) -> Image.Image:
    """The picture, upright and RGB. Raises ValueError naming it when it cannot be read."""
    return load_image(source) if isinstance(source, Path) else source.open()


@dataclass(frozen=True)
class Conversation:
    """Messages whose image parts hold a `Source`."""

    messages: list[Message]
    where: str

    def pictures(self) -> Iterator[Source]:
        for message in self.messages:
            yield from (part["image"] for part in message["content"] if part["type"] == "image")

    def sample(self, rng: random.Random, draw_share: float, plan_share: float = 0.0) -> list[Message]:
        return self.messages


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture with one or more captions: the assistant draws it from a caption, or describes it."""

    picture: Source
    captions: tuple[str, ...]
    where: str
    shares: tuple[float, ...] = ()
    """How often each caption is taken, in any unit; equally often where empty"""

    def pictures(self) -> Iterator[Source]:
        yield self.picture

    def sample(self, rng: random.Random, draw_share: float, plan_share: float = 0.0) -> list[Message]:
        """A conversation in which the picture is drawn, with probability ``draw_share``, or described.

        ``plan_share`` is the share of drawings after a plan: the longest caption, written before the picture.
        """
        (caption,) = rng.choices(self.captions, self.shares or None)
        asked = caption.rstrip(".") or caption  # "..." is asked for as it is: nothing would be no message
        picture = {"type": "image", "image": self.picture}
        if rng.random() < draw_share:
            form = DRAW_REQUESTS[0] if rng.random() < 0.3 else rng.choice(DRAW_REQUESTS[1:])
            plan = []
            if plan_share and rng.random() < plan_share:
                fullest = max(self.captions, key=len).rstrip(".")
                plan = [text(f"{fullest[:1].upper()}{fullest[1:]}:")]
            return [
                chat_message("user", text(form.format(asked))),
                chat_message("assistant", *plan, picture),
            ]
        # the picture first or the words
        question = [picture, text(rng.choice(DESCRIBE_REQUESTS))][:: rng.choice((1, -1))]
        return [chat_message("user", *question), chat_message("assistant", text(caption))]


Example = Conversation | CaptionedPicture


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def chat_message(role: str, *content: dict[str, Any]) -> Message:
    return {"role": role, "content": list(content)}


@dataclass(frozen=True)
class Problem:
    """An example that was left out: where it was found, and why."""

    where: str
    why: str
    pictures: int = 0
    """Pictures that are lost with it, as far as they are known"""

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@lru_cache(maxsize=16)
def shuffled(count: int, seed: int, epoch: int, purpose: str) -> tuple[int, ...]:
    """The numbers below ``count`` in an order that depends on the rest (`rng_for`)."""
    order = list(range(count))
    rng_for(seed, epoch, purpose).shuffle(order)
    return tuple(order)


def map_pictures(messages: list[Message], change: Callable[[Any], Any]) -> list[Message]:
    """The messages with ``change(picture)`` in place of every picture."""
    return [
        {
            **message,
            "content": [
                {**part, "image": change(part["image"])} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def open_pictures(messages: list[Message], fit: Callable[[Image.Image], Image.Image]) -> list[Message]:
    """The messages with every picture opened, made to fit by ``fit(image)``, which scales and crops it about its centre, and
    checked."""
    opened = map_pictures(messages, open_picture)
    fitted = map_pictures(opened, fit)
    for before, after in zip(opened, fitted, strict=True):
        for own, part in zip(before["content"], after["content"], strict=True):
            if "text_box" in part:
                part["text_box"] = fitted_box(part["text_box"], own["image"].size, part["image"].size)
    return normalize_messages(fitted)


def fitted_box(box: Sequence[float], before: tuple[int, int], after: tuple[int, int]) -> tuple[float, ...]:
    """Left, top, right and bottom, as fractions, in a picture scaled and cropped about its centre from one size to another."""
    covered = max(new / old for new, old in zip(after, before, strict=True))
    scales = [old * covered / new for new, old in zip(after, before, strict=True)] * 2
    return tuple(0.5 + (edge - 0.5) * scale for edge, scale in zip(box, scales, strict=True))
