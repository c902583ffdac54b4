"""Interleaved decoding: text token by token, the queries of an image in one forward pass. Yields events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .cache import StreamCache
from .decoding_options import DecodingOptions
from .encoding import Encoded, StreamEncoder, nearest_shape
from .events import Event, Finished, TextPiece
from .glyph_text import find_glyph_text
from .messages import EmittedText
from .stream import StreamModel, collate
from .views import normalise

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


Draw = Callable[[list[DrawRequest]], Generator[Event, None, list[Image.Image]]]
"""Draws all requests, yielding events as it goes, and returns the images in the order of the requests."""


@dataclass
class Row:
    """The state of one conversation while it is decoded."""

    index: int
    generator: torch.Generator
    pictures: list[Image.Image]
    """All images of the conversation so far, oldest first."""
    last_request: str
    """The user's text that is answered"""
    parts: list[Part] = field(default_factory=list)
    pending_ids: list[int] = field(default_factory=list)
    """Text ids since the last image."""
    num_emitted: int = 0
    """Characters of them that were already yielded."""
    num_text_tokens: int = 0
    num_images: int = 0
    size: tuple[int, int] | None = None
    """Height and width of the image to be drawn, set while the row waits for the others."""
    shape_id: int | None = None
    finish_reason: str = ""
    """Empty while it is decoded"""

    def glyph_text(self) -> tuple[str, ...]:
        """Strings to be written in the next image: those quoted since the last one, else those of the request."""
        reply_text = ""
        for part in self.parts:
            reply_text = reply_text + part if isinstance(part, str) else ""
        return find_glyph_text(reply_text, self.last_request)


class Decoder:
    """Decodes a batch of conversations. A row that reached BOI waits until every other row has reached one too or has ended;
    then all waiting rows draw together."""

    def __init__(self, model: StreamModel, encoder: StreamEncoder, options: DecodingOptions) -> None:
        self.model, self.encoder, self.options = model, encoder, options
        self.config, self.vocabulary = model.config, model.vocabulary
        self.warpers: list[LogitsProcessor] = []
        if options.temperature > 0:
            self.warpers.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            self.warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            self.warpers.append(TopPLogitsWarper(options.top_p))
        suppressed_ids = self.vocabulary.not_sampled
        self.begin_image_ids = list(self.vocabulary.shapes) or [self.vocabulary.boi]
        if self.vocabulary.shapes and options.size is not None:
            self.begin_image_ids = [self.vocabulary.shapes[nearest_shape(self.config.shapes, *options.size)]]
            suppressed_ids += [s for s in self.vocabulary.shapes if s != self.begin_image_ids[0]]
        self.suppressed_ids = torch.tensor(suppressed_ids, device=model.device)
        self.begin_image_tensor = torch.tensor(self.begin_image_ids, device=model.device)

    @torch.inference_mode()
    def run(self, encoded: Sequence[Encoded], seeds: Sequence[int], draw: Draw) -> Generator[Event, None, list[Row]]:
        """Decode a batch of conversations; returns the rows with their parts and reasons."""
        rows = [
            Row(i, torch.Generator().manual_seed(seed % 2**63), [p.image for p in e.pictures], e.last_request)
            for i, (e, seed) in enumerate(zip(encoded, seeds, strict=True))
        ]
        # several replies to one conversation: it is fed once
        once = list({id(e): e for e in encoded}.values())
        place = {id(e): i for i, e in enumerate(once)}
        cache = StreamCache(self.model, len(once), keep_hidden=self.config.prompt_tokens > 0)
        logits = self._prefill(cache, once)
        if len(once) < len(rows):
            copies = [place[id(e)] for e in encoded]
            cache.select(copies)
            logits = logits[copies]
        active = rows
        while True:
            yield from self._sample_next(active, logits)
            yield from (Finished(row.index, row.finish_reason) for row in active if row.finish_reason)
            still_active = [i for i, row in enumerate(active) if not row.finish_reason]
            if not still_active:
                return rows
            if len(still_active) < len(active):
                cache.select(still_active)
                active = [active[i] for i in still_active]
            if all(row.size for row in active):
                logits = yield from self._draw(cache, active, draw)
                continue
            ids = [row.pending_ids[-1] if not row.size else self.vocabulary.pad for row in active]
            takes_token = torch.tensor([not row.size for row in active], device=self.model.device)
            embeds = self.model.embed_tokens(torch.tensor(ids, device=self.model.device))[:, None]
            logits = self.model.logits(cache.extend(embeds, takes_token[:, None])[:, -1])

    def _prefill(self, cache: StreamCache, encoded: Sequence[Encoded]) -> Tensor:
        """Feeds all conversations, padded on the left; returns the next token's logits (rows, vocabulary)."""
        model = self.model
        batch = collate(encoded, self.vocabulary, self.config, padding_side="left").to(model.device)
        features = model.get_image_features(model.vision_tower(batch.pixel_values), batch.view_positions)
        embeds = model.build_inputs_embeds(batch.input_ids, batch.feature_mask, features)
        length = embeds.shape[1]
        valid = torch.arange(length, device=model.device) >= length - batch.lengths[:, None]
        return model.logits(cache.extend(embeds, valid)[:, -1])

    def _sample_next(self, active: list[Row], logits: Tensor) -> Generator[Event, None, None]:
        """The next token of every row that does not wait: text, an end of turn, or the beginning of an image."""
        options, vocabulary = self.options, self.vocabulary
        for row, token in zip(active, self._sample(active, logits), strict=True):
            if row.size:
                continue
            if token in self.begin_image_ids:
                yield from self._flush_text(row)
                row.size, row.shape_id = self._size_of(token), token
            elif token in vocabulary.end_of_turn:
                row.finish_reason = "stop"
                yield from self._flush_text(row)
            else:
                row.pending_ids.append(token)
                row.num_text_tokens += 1
                yield from self._emit_text(row)
                if not row.finish_reason and row.num_text_tokens >= options.max_new_tokens:
                    row.finish_reason = "length"
                    yield from self._flush_text(row)

    def _sample(self, active: list[Row], logits: Tensor) -> list[int]:
        """A token for every row, by one copy from the device; those of rows that wait mean nothing."""
        options, begin = self.options, self.begin_image_tensor
        scores = logits.float().index_fill(1, self.suppressed_ids, float("-inf"))
        forced = [options.images == "force" and row.num_images == 0 and not row.pending_ids for row in active]
        if any(forced):
            only_images = torch.full_like(scores, float("-inf")).index_copy(1, begin, scores[:, begin])
            scores = torch.where(torch.tensor(forced, device=scores.device)[:, None], only_images, scores)
        barred = [options.images == "never" or row.num_images >= options.max_images for row in active]
        if any(barred):
            no_images = scores.index_fill(1, begin, float("-inf"))
            scores = torch.where(torch.tensor(barred, device=scores.device)[:, None], no_images, scores)
        if options.temperature == 0:
            return scores.argmax(-1).tolist()
        for warper in self.warpers:
            scores = warper(None, scores)
        # on the CPU, with a generator for each row: the sample is the same alone and in any batch
        rows = zip(active, scores.softmax(-1).cpu(), strict=True)
        return [0 if row.size else int(torch.multinomial(p, 1, generator=row.generator)) for row, p in rows]

    def _size_of(self, token: int) -> tuple[int, int]:
        if self.options.size is not None:
            return self.options.size
        if self.vocabulary.shapes:
            return self.config.shapes[self.vocabulary.shapes.index(token)]
        return self.config.default_size

    def _emit_text(self, row: Row) -> Generator[Event, None, None]:
        """Yields the text that is certain: complete characters that cannot be the beginning of a stop string."""
        text = self.encoder.tokenizer.decode(row.pending_ids)
        stop_index = next((text.find(stop) for stop in self.options.stop if stop in text), None)
        if stop_index is not None:
            row.finish_reason = "stop"
            if stop_index > row.num_emitted:
                yield TextPiece(row.index, text[row.num_emitted : stop_index])
            if stop_index > 0:
                row.parts.append(text[:stop_index])
            row.pending_ids, row.num_emitted = [], 0
            return
        num_withheld = max((len(s) for s in self.options.stop), default=1) - 1
        # replacement characters at the end are bytes of a character still to come
        certain = min(len(text) - num_withheld, len(text.rstrip("�")))
        if certain > row.num_emitted:
            yield TextPiece(row.index, text[row.num_emitted : certain])
            row.num_emitted = certain

    def _flush_text(self, row: Row) -> Generator[Event, None, None]:
        if row.pending_ids:
            text = self.encoder.tokenizer.decode(row.pending_ids)
            if len(text) > row.num_emitted:
                yield TextPiece(row.index, text[row.num_emitted :])
            row.parts.append(EmittedText(text, row.pending_ids))
        row.pending_ids, row.num_emitted = [], 0

    def _draw(self, cache: StreamCache, active: list[Row], draw: Draw) -> Generator[Event, None, Tensor]:
        """Draws for all rows, which wait: one forward for the queries, the images, then their features and EOI. Returns the
        next token's logits.

        ``lead`` is the shape token (where the model has them) and BOI. In the "seen" mode the queries are cropped from the
        cache and the image's features take their positions; in the "queries" mode the queries stay.
        """
        model, vocabulary, config = self.model, self.vocabulary, self.config
        n, count = config.num_queries, len(active)
        cache.compact()
        device = model.device
        lead_ids = [[row.shape_id, vocabulary.boi] if vocabulary.shapes else [vocabulary.boi] for row in active]
        lead = model.embed_tokens(torch.tensor(lead_ids, device=device))
        queries = model.queries.weight.to(lead.dtype).expand(count, -1, -1)
        states = cache.extend(torch.cat([lead, queries], dim=1))[:, -n:]
        features = model.output_resampler(states)
        prompt = prompt_mask = None
        if p := config.prompt_tokens:
            prompt, prompt_mask = cache.hidden[:, :-n][:, -p:], cache.valid[:, :-n][:, -p:]
            # padded to the same length in every batch, so that an image does not depend on its batch
            missing = p - prompt.shape[1]
            prompt, prompt_mask = F.pad(prompt, (0, 0, missing, 0)), F.pad(prompt_mask, (missing, 0))
        requests = [
            DrawRequest(
                row.index,
                row.num_images,
                features[i],
                None if prompt is None else prompt[i],
                None if prompt_mask is None else prompt_mask[i],
                row.size,  # type: ignore[arg-type]  # every row that waits has one
                row.pictures[::-1],
                row.glyph_text(),
            )
            for i, row in enumerate(active)
        ]
        images = yield from draw(requests)
        for row, image in zip(active, images, strict=True):
            row.parts.append(image)
            row.pictures.append(image)
            row.num_images, row.size, row.shape_id = row.num_images + 1, None, None
        eoi = model.embed_tokens(torch.full((count, 1), vocabulary.eoi, device=device))
        if config.drawn_images == "queries":
            return model.logits(cache.extend(eoi)[:, -1])
        cache.crop(n)
        pixels = torch.stack([normalise(image, config) for image in images]).to(device)
        centres = torch.full((count, 2), 0.5, device=device)
        seen = model.get_image_features(model.vision_tower(pixels), centres).to(eoi.dtype)
        return model.logits(cache.extend(torch.cat([seen, eoi], dim=1))[:, -1])
