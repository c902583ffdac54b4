"""Decoding of a batch: a token of text for every row, or the queries of an image in one forward pass.

Which rows take part, and when, is the caller's to decide (`inference/engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .cache import StreamCache
from .decoding_options import DecodingOptions
from .encoding import Encoded, StreamEncoder, nearest_shape
from .events import Event, Finished, TextPiece
from .glyph_text import find_glyph_text
from .messages import EmittedText
from .stream import StreamModel, collate
from .text_stream import TextStream
from .token_keys import view_keys
from .utf8 import WHOLE
from .views import View

Part = str | Image.Image


@dataclass
class DrawRequest:
    """One image to be drawn, with what conditions it."""

    row: int
    index: int
    features: Tensor
    """(feature_tokens, vision width), from the output resampler"""
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
    shape_id: int | None = None
    finish_reason: str = ""
    """Empty while it is decoded"""
    utf8_state: int = WHOLE
    """Of the bytes of ``text`` (`Utf8Table`)"""
    broken: bool = False
    """Its logits held NaN: no token can be chosen"""
    fitting_images: int = 10**9
    """Images of the reply for which the backbone has positions: one more ends it, as too many tokens of text do"""

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
        self.num_images, self.size, self.shape_id = self.num_images + 1, None, None

    def finish(self, reason: str) -> None:
        """Ends the reply."""
        self.end_text()
        self.emit(Finished(self.index, reason))
        self.finish_reason = reason  # last: who sees it, in another thread too, finds all events there


class Decoder:
    """Decodes rows with one model. A method that feeds tokens takes the rows of a cache in their order."""

    def __init__(self, model: StreamModel, encoder: StreamEncoder) -> None:
        self.model, self.encoder = model, encoder
        self.config, self.vocabulary = model.config, model.vocabulary
        self.begin_image_ids = list(self.vocabulary.shapes) or [self.vocabulary.boi]
        self.suppressed_ids = torch.tensor(self.vocabulary.not_sampled, device=model.device)
        self.begin_image_tensor = torch.tensor(self.begin_image_ids, device=model.device)
        self.utf8 = encoder.utf8
        self.forbidden_bytes: Tensor | None = None
        """(states, vocabulary), True where a token would make no UTF-8; on the device, as wide as the logits"""

    def prefill(
        self,
        encoded: Sequence[Encoded],
        past: StreamCache | None = None,
        keys: Sequence[Sequence[Hashable]] | None = None,
    ) -> tuple[StreamCache, Tensor]:
        """Feeds conversations, or what follows the ``past`` of a single one. Returns their cache and the next token's logits
        (rows, vocabulary). ``keys`` (`token_keys`) are needed where the cache is kept for later."""
        model = self.model
        cache = StreamCache(model, len(encoded)) if past is None else past
        batch = collate(encoded, self.vocabulary, self.config, padding_side="left").to(model.device)
        features = model.get_image_features(model.vision_tower(batch.pixel_values), batch.view_positions)
        embeds = model.build_inputs_embeds(batch.input_ids, batch.feature_index, features)
        lengths = [len(e.input_ids) for e in encoded] if past is None else None
        logits = model.logits(cache.extend(embeds, lengths)[:, -1])
        append_keys(cache, keys or [e.input_ids for e in encoded])
        return cache, logits

    def next_token(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Gives every row its next token: text, an end of turn, or the beginning of an image, for which the row waits. A row
        whose logits hold NaN gets none and has ``broken`` set."""
        for row, token in zip(rows, self.choose(rows, logits), strict=True):
            if token is None:
                row.broken = True
            elif token in self.begin_image_ids and row.num_images >= row.fitting_images:
                row.finish("length")
            elif token in self.begin_image_ids:
                row.end_text()
                row.size, row.shape_id = self._size_of(row, token), token
            elif token in self.vocabulary.end_of_turn:
                row.finish("stop")
            else:
                row.add_text(token)
                if self.utf8 is not None:
                    row.utf8_state = int(self.utf8.following[row.utf8_state, token])

    def choose(self, rows: Sequence[Row], logits: Tensor) -> list[int | None]:
        """A token for every row from logits (rows, vocabulary), by one copy from the device; None for a row that holds NaN."""
        begin = self.begin_image_tensor
        allowed = torch.tensor([self._allowed_begins(row) for row in rows], device=logits.device)
        only_images = [row.options.images == "force" and not row.parts and not row.text.ids for row in rows]
        scores = logits.float().index_fill(1, self.suppressed_ids, float("-inf"))
        scores = self.whole_characters(rows, scores)
        begin_scores = scores[:, begin].masked_fill(~allowed, float("-inf"))
        if any(only_images):
            scores = scores.masked_fill(torch.tensor(only_images, device=logits.device)[:, None], float("-inf"))
        scores = scores.index_copy(1, begin, begin_scores)
        ways = [(row.options.temperature, row.options.top_k, row.options.top_p) for row in rows]
        if all(temperature == 0 for temperature, _, _ in ways):
            best = scores.max(-1)  # NaN is the greatest of all
            return [
                token if token >= 0 else None for token in best.indices.masked_fill(best.values.isnan(), -1).tolist()
            ]
        scores = scores - scores.amax(-1, keepdim=True)  # so that no temperature makes them infinite
        for way in {way for way in ways if way[0] > 0}:
            members = torch.tensor([i for i, own in enumerate(ways) if own == way], device=logits.device)
            scores[members] = warpers(*way)(None, scores[members])
        # on the CPU, with a generator for each row: the sample is the same alone and in any batch
        pairs = list(zip(rows, scores.cpu(), strict=True))
        states = [row.generator.get_state() for row in rows]
        try:
            return [None if own.isnan().any() else pick(row, own) for row, own in pairs]
        except BaseException:  # an interrupt too: the same tokens can be chosen again
            for row, state in zip(rows, states, strict=True):
                row.generator.set_state(state)
            raise

    def whole_characters(self, rows: Sequence[Row], scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) of which those are -inf whose tokens would make a row's bytes no UTF-8."""
        if self.utf8 is None:
            return scores
        if self.forbidden_bytes is None:
            self.forbidden_bytes = torch.from_numpy(self.utf8.forbidden(scores.shape[1])).to(scores.device)
        states = [row.utf8_state for row in rows]
        forbidden = self.forbidden_bytes[states] if any(states) else self.forbidden_bytes[WHOLE]
        return scores.masked_fill(forbidden, float("-inf"))

    def _allowed_begins(self, row: Row) -> list[bool]:
        """Which of `begin_image_ids` may come next."""
        options = row.options
        if options.images == "never" or row.num_images >= options.max_images:
            return [False] * len(self.begin_image_ids)
        if not self.vocabulary.shapes or options.size is None:
            return [True] * len(self.begin_image_ids)
        nearest = nearest_shape(self.config.shapes, *options.size)
        return [i == nearest for i in range(len(self.begin_image_ids))]

    def _size_of(self, row: Row, token: int) -> tuple[int, int]:
        if row.options.size is not None:
            return row.options.size
        if self.vocabulary.shapes:
            return self.config.shapes[self.vocabulary.shapes.index(token)]
        return self.config.default_size

    def feed_tokens(self, rows: Sequence[Row], cache: StreamCache) -> Tensor:
        """Feeds the last token of every row, which is text; returns the next token's logits (rows, vocabulary)."""
        ids = [row.text.ids[-1] for row in rows]
        embeds = self.model.embed_tokens(torch.tensor(ids, device=self.model.device))[:, None]
        logits = self.model.logits(cache.extend(embeds)[:, -1])
        append_keys(cache, [[token] for token in ids])
        return logits

    def feed_queries(self, rows: Sequence[Row], cache: StreamCache) -> list[DrawRequest]:
        """One forward for the queries of rows that wait for an image; returns what is to be drawn.

        Before them come the shape token (where the model has them) and BOI. In the "seen" mode the queries are a branch: they
        are cropped from the cache again. In the "queries" mode they stay.
        """
        model, vocabulary, n = self.model, self.vocabulary, self.config.num_queries
        lead_ids = [[row.shape_id, vocabulary.boi] if vocabulary.shapes else [vocabulary.boi] for row in rows]
        lead = model.embed_tokens(torch.tensor(lead_ids, device=model.device))
        queries = model.queries.weight.to(lead.dtype).expand(len(rows), -1, -1)
        states = cache.extend(torch.cat([lead, queries], dim=1), branch=n)[:, -n:]
        features = model.output_resampler(states)
        prompts = zip(*cache.prompt(), strict=True) if self.config.prompt_tokens else [(None, None)] * len(rows)
        if self.config.drawn_images == "seen":
            cache.crop(n)
        else:
            cache.remember(states)
        queried = [("query", k) for k in range(n)] if self.config.drawn_images == "queries" else []
        append_keys(cache, [[*ids, *queried] for ids in lead_ids])
        requests = []
        for row, own, (prompt, mask) in zip(rows, features, prompts, strict=True):
            assert row.size is not None
            previous = row.pictures[::-1]
            requests.append(
                DrawRequest(row.index, row.num_images, own, prompt, mask, row.size, previous, row.glyph_text())
            )
        return requests

    def feed_images(self, rows: Sequence[Row], cache: StreamCache, images: Sequence[Image.Image]) -> Tensor:
        """Feeds what the stream sees of the images that the rows waited for: in the "seen" mode their features, in the places
        where the queries were, and EOI. Returns the next token's logits (rows, vocabulary)."""
        model, vocabulary = self.model, self.vocabulary
        embeds = model.embed_tokens(torch.full((len(rows), 1), vocabulary.eoi, device=model.device))
        keys: list[list[Hashable]] = [[] for _ in rows]
        if self.config.drawn_images == "seen":
            views = [View(image, self.config) for image in images]
            pixel_values = torch.stack([view.pixel_values for view in views]).to(model.device)
            positions = torch.tensor([view.position for view in views], dtype=torch.float32, device=model.device)
            seen = model.get_image_features(model.vision_tower(pixel_values), positions).to(embeds.dtype)
            embeds = torch.cat([seen, embeds], dim=1)
            keys = [view_keys(view, self.config.image_tokens) for view in views]
        logits = model.logits(cache.extend(embeds)[:, -1])
        append_keys(cache, [[*own, vocabulary.eoi] for own in keys])
        return logits


def append_keys(cache: StreamCache, keys: Sequence[Sequence[Hashable]]) -> None:
    """Says what the last tokens of each row of a cache are."""
    for row, own in zip(cache.keys, keys, strict=True):
        row.extend(own)


@lru_cache(maxsize=64)
def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """What changes the scores of a row that is sampled, in transformers' order."""
    made = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        made.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        made.append(TopPLogitsWarper(top_p))
    return made


def pick(row: Row, scores: Tensor) -> int:
    """The best token, or one by its probability, from scores (vocabulary,)."""
    return sample(row, scores) if row.options.temperature > 0 else int(scores.argmax())


def sample(row: Row, scores: Tensor) -> int:
    """A token by its probability, from scores (vocabulary,)."""
    return int(torch.multinomial(scores.softmax(-1), 1, generator=row.generator))
