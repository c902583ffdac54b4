"""What a reader yields: something that can be told as a conversation, and where it was found."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ...inference.images import decode_image, load_image
from ...mllm.messages import Message, checked
from ...world.sampling import rng_for

DRAW = ("{}", "draw {}", "Draw {}.", "a picture of {}", "a photo of {}", "please draw {}", "show me {}")
"""How a caption is asked for; the caption alone comes first and often (see `Captioned.tell`)."""
DESCRIBE = ("Describe this picture.", "What is in this picture?", "What do you see?")


@dataclass(frozen=True)
class Stored:
    """A picture inside another file: bytes of a table's cell, or a stretch of a tar."""

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
        return decode_image(io.BytesIO(self.read()), self.name)


class Openable(Protocol):
    """A picture that is made or found when it is needed."""

    def open(self) -> Image.Image: ...


Source = Path | Openable


def opened(source: Source) -> Image.Image:
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

    def tell(self, rng: random.Random, draw_share: float, planned: float = 0.0) -> list[Message]:
        return self.messages


@dataclass(frozen=True)
class Captioned:
    """One picture with one or more captions: drawn from a caption, or described by it."""

    picture: Source
    captions: tuple[str, ...]
    where: str
    shares: tuple[float, ...] = ()
    """How often each caption is taken, in any unit; equally often where empty"""

    def pictures(self) -> Iterator[Source]:
        yield self.picture

    def tell(self, rng: random.Random, draw_share: float, planned: float = 0.0) -> list[Message]:
        """``planned`` is the share of drawings that follow a plan: the fullest caption, said before the picture."""
        (caption,) = rng.choices(self.captions, self.shares or None)
        shown = {"type": "image", "image": self.picture}
        if rng.random() < draw_share:
            form = DRAW[0] if rng.random() < 0.3 else rng.choice(DRAW[1:])
            plan = []
            if planned and rng.random() < planned:
                fullest = max(self.captions, key=len).rstrip(".")
                plan = [text(f"{fullest[:1].upper()}{fullest[1:]}:")]
            return [said("user", text(form.format(caption.rstrip(".")))), said("assistant", *plan, shown)]
        # the picture first or the words
        asked = [shown, text(rng.choice(DESCRIBE))][:: rng.choice((1, -1))]
        return [said("user", *asked), said("assistant", text(caption))]


Example = Conversation | Captioned


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def said(role: str, *content: dict[str, Any]) -> Message:
    return {"role": role, "content": list(content)}


@dataclass(frozen=True)
class Problem:
    """Something that was left out, and why."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@lru_cache(maxsize=16)
def shuffled(count: int, seed: int, epoch: int, purpose: str) -> tuple[int, ...]:
    """The numbers below ``count`` in an order that depends on the rest (`rng_for`)."""
    order = list(range(count))
    rng_for(seed, epoch, purpose).shuffle(order)
    return tuple(order)


def with_opened(messages: list[Message], fit: Any) -> list[Message]:
    """The messages with every picture opened, made to fit by ``fit(image)``, and checked."""
    return checked(
        [
            {
                **m,
                "content": [
                    {**p, "image": fit(opened(p["image"]))} if p["type"] == "image" else p for p in m["content"]
                ],
            }
            for m in messages
        ]
    )
