"""What is in the engine: requests, their rows, and the groups of rows that write or wait for pictures."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from ..detokenizer.detokenizer import Detokenizer, Drawing
from ..mllm.cache import StreamCache
from ..mllm.decoding import Decoder
from ..mllm.encoding import Encoded
from ..mllm.events import Event
from ..mllm.rows import Row
from .adapters import Adapter
from .generation_config import GenerationConfig
from .kept_pixels import kept_size
from .picture_metadata import PictureMetadata
from .reply import Reply

ActiveAdapters = Sequence[tuple[Adapter, float]]


@dataclass(eq=False)
class Request:
    """One call: conversations that are answered with the same options."""

    encoded: Sequence[Encoded]
    """A conversation for each row; several replies to one share the object"""
    seeds: Sequence[int]
    config: GenerationConfig
    adapters: ActiveAdapters = ()
    """Of the words"""
    drawing_adapters: ActiveAdapters = ()
    keep_cache: bool = False
    """The conversation may go on: begin from what is kept of it, and keep it"""
    metadata: Sequence[PictureMetadata] = ()
    """Of each row's pictures, as far as it is known before they are drawn"""
    rows: list[RequestRow] = field(default_factory=list)
    events: deque[Event] = field(default_factory=deque)
    error: Exception | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    """Told of its events"""

    def options(self, encoded: Encoded) -> GenerationConfig:
        """Of a reply to this conversation. Raises ValueError where it is to keep pixels and has another size than the picture."""
        if self.config.keep == "exact" and encoded.pictures:
            return kept_size(self.config, encoded.pictures[-1].image)
        return self.config

    @property
    def over(self) -> bool:
        """Whether all events are there."""
        return self.error is not None or all(row.finish_reason for row in self.rows)

    @property
    def replies(self) -> list[Reply]:
        """When it is over."""
        return [Reply(row.parts, row.finish_reason) for row in self.rows]


@dataclass(eq=False)
class RequestRow(Row):
    """A row and what asked for it."""

    request: Request = None  # type: ignore[assignment]  # fields of the base have defaults
    encoded: Encoded = None  # type: ignore[assignment]
    max_tokens: int = 0
    """Its conversation and the longest reply to it"""
    prefix: tuple[int, int] = (0, 0)
    """Image of the reply, and how many of its visual tokens were drawn last before all were there"""

    @property
    def edited(self) -> Image.Image | None:
        """The newest picture before the reply, which its pictures are edits of; None where there is none."""
        return self.encoded.pictures[-1].image if self.encoded.pictures else None

    def add_image(self, image: Image.Image) -> None:
        """Takes the image that the row waited for, which from here on says how it was drawn."""
        for metadata in self.request.metadata[self.index : self.index + 1]:
            plan = self.parts[-1] if self.parts and isinstance(self.parts[-1], str) else ""
            metadata.of_picture(image, plan, self.num_images).attach(image)
        super().add_image(image)


def guiding_row(row: RequestRow) -> RequestRow:
    """One that guides the visual tokens of a row (`Decoder.guide`); it says nothing of its own."""
    return replace(row, guided=row, parts=[], pictures=[])


@dataclass(eq=False)
class RowGroup:
    """Rows of one model, and their cache."""

    decoder: Decoder
    rows: list[RequestRow]
    cache: StreamCache
    logits: torch.Tensor | None = None
    """Of the next tokens, where these have not been chosen yet"""

    @property
    def leaving(self) -> list[RequestRow]:
        """Rows that have ended or that wait for a picture."""
        return [row for row in self.rows if row.is_ready]

    def take(self, rows: Sequence[RequestRow]) -> RowGroup:
        """These rows of it."""
        index = [i for i, row in enumerate(self.rows) if row in rows]
        logits = None if self.logits is None else self.logits[index]
        return RowGroup(self.decoder, [self.rows[i] for i in index], self.cache.take(index), logits)

    def drop(self, rows: Sequence[RequestRow]) -> None:
        """Leaves these rows out."""
        rest = self.take([row for row in self.rows if row not in rows])
        self.rows, self.cache, self.logits = rest.rows, rest.cache, rest.logits


@dataclass(eq=False)
class PictureGroup:
    """Rows of one request whose pictures, of one size, are being drawn."""

    group: RowGroup
    indices: list[int]
    """Of each row's picture in its reply"""
    detokenizer: Detokenizer
    drawing: Drawing

    @property
    def request(self) -> Request:
        return self.group.rows[0].request


@dataclass(eq=False)
class PrefixDrawing:
    """What the first visual tokens of a picture give, drawn while its row samples the others."""

    row: RequestRow
    detokenizer: Detokenizer
    drawing: Drawing

    @property
    def request(self) -> Request:
        return self.row.request
