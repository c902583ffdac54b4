"""The state of a reply while it is decoded, and what it asks the de-tokenizer for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from .decoding_options import DecodingOptions
from .events import Event, Finished, TextPiece
from .glyph_text import find_glyph_text
from .messages import EmittedText
from .picture_tokens import PictureTokens
from .text_stream import TextStream
from .utf8 import WHOLE

Part = str | Image.Image


@dataclass
class DrawRequest:
    """One image to be drawn, with what conditions it."""

    row: int
    index: int
    features: Tensor
    """(feature_tokens, vision width), from the output resampler or the visual tokenizer"""
    prompt: Tensor | None
    """(prompt_tokens, width): the backbone's last hidden states up to BOI"""
    prompt_mask: Tensor | None
    size: tuple[int, int]
    previous_images: list[Image.Image]
    """The images before its BOI, newest first."""
    glyph_text: tuple[str, ...] = ()
    """Strings to be written in the image"""


@dataclass(eq=False)
class Row:
    """The state of one reply while it is decoded."""

    index: int
    """Of its conversation in the request"""
    options: DecodingOptions
    emit: Callable[[Event], None]
    generator: torch.Generator
    text: TextStream
    """What it has written since the last image"""
    pictures: list[Image.Image]
    """All images of the conversation so far, oldest first."""
    last_request: str
    """The user's text that is answered"""
    parts: list[Part] = field(default_factory=list)
    num_text_tokens: int = 0
    num_images: int = 0
    size: tuple[int, int] | None = None
    """Height and width of the image to be drawn, set while the row waits for it."""
    lead: list[int] = field(default_factory=list)
    """What announces and begins the next image, as far as it is chosen: shape, length and begin token"""
    tokens: PictureTokens | None = None
    """What the next image is drawn by, where its begin token is chosen; with the codes that have been sampled"""
    prompt: tuple[Tensor, Tensor] | None = None
    """The last hidden states (prompt_tokens, width) up to the begin token of a picture that is sampled, and their mask"""
    draft: Tensor | None = None
    """(num_tokens, num_codes): what the queries' draft adds to the logits of the next image's visual tokens"""
    guided: Row | None = None
    """The row whose visual tokens this one guides: it has a cache with an empty request, and no reply"""
    finish_reason: str = ""
    """Empty while it is decoded"""
    utf8_state: int = WHOLE
    """Of the bytes of ``text`` (`Utf8Table`)"""
    broken: bool = False
    """Its logits held NaN: no token can be chosen"""
    fitting_images: int = 10**9
    """Images of the reply for which the backbone has positions: one more ends it, as too many tokens of text do"""

    @property
    def reply_row(self) -> Row:
        """The row of the reply that it belongs to, itself or the one that it guides."""
        return self.guided or self

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes of the next image that have been sampled."""
        return self.tokens.codes if self.tokens is not None else ()

    @property
    def samples(self) -> bool:
        """Whether its next token is a visual one."""
        return self.guided is None and self.tokens is not None and self.tokens.mode == "tokens" and not self.size

    @property
    def is_ready(self) -> bool:
        """Whether it has ended or waits for an image."""
        row = self.reply_row
        return bool(row.finish_reason or row.size)

    def glyph_text(self) -> tuple[str, ...]:
        """Strings to be written in the next image: those quoted since the last one, else those of the request."""
        reply_text = ""
        for part in self.parts:
            reply_text = reply_text + part if isinstance(part, str) else ""
        return find_glyph_text(reply_text, self.last_request)

    def add_text(self, token: int) -> None:
        """Takes a token of text, which may end the reply."""
        self.num_text_tokens += 1
        if piece := self.text.add(token):
            self.emit(TextPiece(self.index, piece))
        if self.text.stopped:
            self.finish("stop")
        elif self.num_text_tokens >= self.options.max_new_tokens:
            self.finish("length")

    def end_text(self) -> None:
        """The text since the last image becomes a part of the reply."""
        self.utf8_state = WHOLE
        if not self.text.ids:
            return
        rest, text = self.text.end()
        if rest:
            self.emit(TextPiece(self.index, rest))
        if text or isinstance(text, EmittedText):
            self.parts.append(text)

    def add_image(self, image: Image.Image) -> None:
        """Takes the image that the row waited for."""
        self.parts.append(image)
        self.pictures.append(image.copy())  # the reader of the events may paint over its own
        self.num_images, self.size, self.lead = self.num_images + 1, None, []
        self.tokens = self.prompt = self.draft = None

    def finish(self, reason: str) -> None:
        """Ends the reply."""
        self.end_text()
        self.emit(Finished(self.index, reason))
        self.finish_reason = reason  # last: who sees it, in another thread too, finds all events there


def draw_request(
    row: Row, features: Tensor, prompt: tuple[Tensor, Tensor] | None, size: tuple[int, int] | None = None
) -> DrawRequest:
    """What is to be drawn for a row that waits for an image; of ``size`` for one that does not wait yet."""
    size = size or row.size
    assert size is not None
    states, mask = prompt or (None, None)
    return DrawRequest(row.index, row.num_images, features, states, mask, size, row.pictures[::-1], row.glyph_text())
