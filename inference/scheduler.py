"""The scheduler: of what there is to do for all requests, it does one unit of work at a time.

A unit is short: a conversation is read, every row that writes gets a token, or some pictures advance by one evaluation of the
network. Words and pictures take turns, so that neither stops the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image

from ..detokenizer.detokenizer import NOT_FINITE, NotFiniteError
from ..mllm.cache import StreamCache
from ..mllm.decoding import Decoder
from ..mllm.encoding import Encoded, StreamEncoder
from ..mllm.events import PictureBegun, PictureDone, PictureStep
from ..mllm.stream import StreamModel
from ..mllm.token_keys import replies_end, rest_of, split_point, token_keys
from .adapters import Adapters
from .drawing import begin_drawing
from .generation_config import GenerationConfig
from .isolation import isolated
from .kept_conversations import KeptConversations
from .kept_pixels import with_kept_pixels
from .offload import ModelOffload
from .requests import PictureGroup, PrefixDrawing, Request, RequestRow, RowGroup, guiding_row


@dataclass(frozen=True)
class EngineLimits:
    """What may be in the engine at once; what is beyond waits for its turn. Raises ValueError for less than one row or token."""

    rows: int = 64
    """Replies"""
    tokens: int | None = None
    """Tokens in the caches of all rows, with what their replies may add; None for no limit"""
    kept_tokens: int = 8192
    """Tokens in the caches of conversations that were answered and may go on (``keep_cache``); 0 keeps none"""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.kept_tokens < 0 or (self.tokens is not None and self.tokens < 1):
            raise ValueError(
                f"rows {self.rows} and tokens {self.tokens} must be at least 1, kept_tokens {self.kept_tokens} at least 0"
            )


class EngineModel(Protocol):
    """What the engine needs of a model (`Limner`)."""

    encoder: StreamEncoder
    mllm: StreamModel
    adapters: Adapters
    offload: ModelOffload | None


class Scheduler:
    """The rows and pictures of all requests of one model, and what is done next for them."""

    def __init__(self, model: EngineModel, limits: EngineLimits | None = None) -> None:
        self.model, self.limits = model, limits or EngineLimits()
        self.submitted: deque[Request] = deque()
        self.queue: list[RequestRow] = []
        """Rows that have not been read yet, in the order in which they came"""
        self.writing: list[RowGroup] = []
        """A group for each set of adapters"""
        self.waiting: list[RowGroup] = []
        """Single rows that have reached BOI"""
        self.drawing: list[PictureGroup] = []
        """The one whose turn is next comes first"""
        self.prefixes: list[PrefixDrawing] = []
        """Nobody waits for these: they are of rows that write"""
        self.kept = KeptConversations(self.limits.kept_tokens)
        self.seconds = {"words": 0.0, "pictures": 0.0}
        """Spent on each since both were there"""

    def check(self, encoded: Encoded, config: GenerationConfig) -> None:
        """Raises ValueError for a conversation that with its reply is beyond the limits."""
        needed = self.max_tokens(encoded, config)
        if self.limits.tokens is not None and needed > self.limits.tokens:
            raise ValueError(
                f"the conversation and its reply may take {needed} tokens; this engine holds {self.limits.tokens}. "
                "Shorten it, or lower max_new_tokens or max_images"
            )

    @property
    def image_positions(self) -> int:
        """Positions that a picture of a reply takes: its shape, its length, BOI, its features, queries or visual tokens, EOI."""
        stream = self.model.encoder.config
        return 3 + bool(stream.lengths) + max(stream.image_tokens, stream.max_drawing)

    def fitting_images(self, encoded: Encoded, config: GenerationConfig) -> int:
        """How many pictures fit behind a conversation and the longest text of its reply, at most ``max_images``."""
        left = self.model.mllm.max_position_embeddings - len(encoded.input_ids) - config.max_new_tokens
        return 0 if config.images == "never" else min(config.max_images, max(0, left // self.image_positions))

    def max_tokens(self, encoded: Encoded, config: GenerationConfig) -> int:
        images = self.fitting_images(encoded, config)
        return len(encoded.input_ids) + config.max_new_tokens + images * self.image_positions

    @isolated
    @torch.inference_mode()
    def step(self) -> None:
        """One unit of work: of what there is to do, what keeps others waiting least."""
        while self.submitted:
            self.queue += self.submitted.popleft().rows
        begun: list[PictureGroup | PrefixDrawing] = [*self.drawing, *self.prefixes]
        drawing = [pictures for pictures in begun if pictures.drawing.latents is None]
        drawn, ready, offloaded = self._drawn(), self._ready(), self.model.offload is not None
        if offloaded and (drawing or drawn):  # its halves take turns as seldom as can be: all words, then all pictures
            return self._advance(drawing) if drawing else self._finish(drawn)
        if admitted := self._admissible():
            return self._read(admitted)
        if drawn:
            return self._finish(drawn)
        if ready and not (offloaded and self.writing):
            return self._begin(ready)
        kind = "words" if self.writing else "pictures"
        if self.writing and drawing:
            kind = min(self.seconds, key=lambda name: self.seconds[name])  # neither keeps the other waiting
        else:
            self.seconds = {"words": 0.0, "pictures": 0.0}
        began = time.monotonic()
        if kind == "words":
            for group in list(self.writing):
                self._write(group)
        elif drawing:
            self._advance(drawing)
        self.seconds[kind] += time.monotonic() - began

    def _rows(self) -> Iterator[RequestRow]:
        """All that have room in a cache."""
        for group in (*self.writing, *self.waiting, *(pictures.group for pictures in self.drawing)):
            yield from group.rows

    def _admissible(self) -> list[RequestRow]:
        """The first rows of the queue that there is room for, of one request."""
        if not self.queue:
            return []
        there = list(self._rows())
        rows, tokens = len(there), sum(row.max_tokens for row in there)
        admitted: list[RequestRow] = []
        for row in self.queue:
            rows, tokens = rows + 1, tokens + row.max_tokens
            full = rows > self.limits.rows or (self.limits.tokens is not None and tokens > self.limits.tokens)
            if full or row.request is not self.queue[0].request:
                break
            admitted.append(row)
        return admitted

    def _read(self, rows: list[RequestRow]) -> None:
        """Feeds the conversations of these rows, each once; their replies begin."""
        request = rows[0].request
        with self._failing(request):
            self._bring("mllm")
            decoder = Decoder(self.model.adapters.view_with("mllm", request.adapters), self.model.encoder)
            once = list({id(row.encoded): row.encoded for row in rows}.values())
            if request.keep_cache:
                self.kept.drop_unless(self.model.adapters.holds)
                read = [self._read_rest(decoder, encoded) for encoded in once]
                cache, logits = StreamCache.join([own for own, _ in read]), torch.cat([own for _, own in read])
            else:
                cache, logits = decoder.prefill(once)
            place = {id(encoded): i for i, encoded in enumerate(once)}
            copies = [place[id(row.encoded)] for row in rows]
            group = RowGroup(decoder, rows, cache.take(copies), logits[copies])
            self.queue, self.writing = [row for row in self.queue if row not in rows], [*self.writing, group]
            self._choose(group)

    def _read_rest(self, decoder: Decoder, encoded: Encoded) -> tuple[StreamCache, torch.Tensor]:
        """Feeds what is new in a conversation."""
        config = decoder.config
        keys = token_keys(encoded)
        length, cache = self.kept.longest(keys, decoder.model) or (0, None)
        # no further than the last reply: a first question that is asked again is answered bit for bit as before
        start = min(length, replies_end(encoded), len(keys) - 1)
        if cache is not None and start < cache.columns:
            # the last hidden states condition a drawing, and a cache has those at its own end alone
            start = max(0, min(start, len(keys) - config.prompt_tokens))
        start = split_point(encoded, start)
        if cache is None or not start:
            return decoder.prefill([encoded], keys=[keys])
        return decoder.prefill([rest_of(encoded, start)], cache.prefix(start), keys=[keys[start:]])

    def _write(self, group: RowGroup) -> None:
        """The next token of all rows."""
        for row in group.rows:
            self._begin_prefix(group.decoder, row)
        if group not in self.writing:  # all its requests have failed
            return
        with self._failing(*(row.request for row in group.rows)):
            self._bring("mllm")
            if group.logits is None and not group.leaving:  # else an interrupt came before the last ones were used
                self._add_guides(group)
                with group.cache.restored_on_error():
                    group.cache, group.logits = group.decoder.feed_tokens(group.rows, group.cache)
            self._choose(group)

    def _begin_prefix(self, decoder: Decoder, row: RequestRow) -> None:
        """Begins a drawing of the visual tokens that a row has, where it is to be shown after as many."""
        reached = (row.num_images, len(row.codes))
        if row.samples and reached[1] in self._shown_prefixes(row) and row.prefix != reached:
            with self._failing(row.request):
                detokenizer = self.model.adapters.view_with("detokenizer", row.request.drawing_adapters)
                wanted = [decoder.decode_prefix(row)]
                drawing = begin_drawing(detokenizer, wanted, decoder.config, row.request.config, row.request.seeds)
                self.prefixes, row.prefix = [*self.prefixes, PrefixDrawing(row, detokenizer, drawing)], reached

    def _shown_prefixes(self, row: RequestRow) -> Sequence[int]:
        """The numbers of its visual tokens, before it has all, after which a row's next picture is shown."""
        tokens, count = row.tokens, row.request.config.partial_images
        offloaded = self.model.offload is not None  # its halves would change places for each
        if not count or tokens is None or tokens.mode != "tokens" or offloaded:
            return ()
        return [length for length in self.model.encoder.config.visual_lengths if length < tokens.length][-count:]

    def _add_guides(self, group: RowGroup) -> None:
        """Rows that begin to sample a picture get rows that guide them, which go on and leave with them."""
        guided = {row.guided for row in group.rows}
        begun = [row for row in group.rows if group.decoder.needs_guide(row) and row not in guided]
        if begun:
            cache = StreamCache.join([group.cache, group.decoder.prefill_guides(begun)])
            group.rows, group.cache = [*group.rows, *map(guiding_row, begun)], cache

    def _choose(self, group: RowGroup) -> None:
        """Chooses the next tokens, if an interrupt has not come after that; the rows go where they belong."""
        if group.logits is not None:
            group.decoder.next_token(group.rows, group.logits)
            group.logits = None
        broken = {row.request for row in group.rows if row.broken}
        self._part(group)
        self._join(group)
        for request in broken:
            with self._failing(request):
                raise NotFiniteError(f"the model's words {NOT_FINITE}")

    def _part(self, group: RowGroup) -> None:
        """Rows that have ended and rows that wait for a picture leave the group."""
        leaving = group.leaving
        if not leaving:
            return
        singles = [group.take([row]) for row in leaving if row.guided is None]
        rest = group.take([row for row in group.rows if row not in leaving])
        waiting = [*self.waiting, *(single for single in singles if single.rows[0].size)]
        writing = self.writing if rest.rows else [other for other in self.writing if other is not group]
        # at once, so that an interrupt finds a row in one place
        group.rows, group.cache, self.waiting, self.writing = rest.rows, rest.cache, waiting, writing
        for single in singles:
            if single.rows[0].finish_reason and single.rows[0].request.keep_cache:
                self.kept.store(single.cache)

    def _join(self, group: RowGroup) -> None:
        """Rows that write go on together with those of the same model."""
        others = [other for other in self.writing if other is not group]
        for other in others if group.rows else []:
            if other.decoder.model is group.decoder.model and other.logits is None and not other.leaving:
                joined = StreamCache.join([other.cache, group.cache])
                other.rows, other.cache, self.writing = other.rows + group.rows, joined, others
                return

    def _ready(self) -> list[RowGroup]:
        """Waiting rows of one model. The rows of a request draw together: when all have reached a picture or have ended."""
        writing = {row.request for group in self.writing for row in group.rows}
        ready = [single for single in self.waiting if single.rows[0].request not in writing]
        return [single for single in ready if single.decoder.model is ready[0].decoder.model]

    def _begin(self, waiting: list[RowGroup]) -> None:
        """Runs the queries of waiting rows, or decodes their visual tokens, and begins their drawings, one for each request and
        size."""
        rows = [single.rows[0] for single in waiting]
        decoder = waiting[0].decoder
        with self._failing(*(row.request for row in rows)):
            self._bring("mllm")
            caches = [decoder.without_branch(row, single.cache) for row, single in zip(rows, waiting, strict=True)]
            asked, cache = decoder.feed_blocks(rows, caches)
            self._bring("detokenizer")
            members: dict[tuple[Request, tuple[int, int]], list[int]] = {}
            for i, own in enumerate(asked):
                members.setdefault((rows[i].request, own.size), []).append(i)
            begun = []
            for (request, _), places in members.items():
                with self._failing(request):
                    detokenizer = self.model.adapters.view_with("detokenizer", request.drawing_adapters)
                    wanted = [asked[i] for i in places]
                    drawing = begin_drawing(detokenizer, wanted, decoder.config, request.config, request.seeds)
                    group = RowGroup(decoder, [rows[i] for i in places], cache.take(places))
                    begun.append(PictureGroup(group, [own.index for own in wanted], detokenizer, drawing))
            begun = [pictures for pictures in begun if pictures.request.error is None]
            left = [single for single in self.waiting if single not in waiting]
            self.waiting, self.drawing = left, [*self.drawing, *begun]
            for row, own in zip(rows, asked, strict=True):
                if not row.codes:  # else it said so before it sampled them
                    row.emit(PictureBegun(own.row, own.index, own.size))

    def _advance(self, drawing: Sequence[PictureGroup | PrefixDrawing]) -> None:
        """One evaluation of the network for the drawings whose turn it is, and all others of their shape."""
        first = drawing[0]
        together = [
            pictures
            for pictures in drawing
            if pictures.detokenizer is first.detokenizer and pictures.drawing.shape == first.drawing.shape
        ]
        with self._failing(*(pictures.request for pictures in together)):
            self._bring("detokenizer")
            before = [pictures.drawing.done for pictures in together]
            first.detokenizer.advance([pictures.drawing for pictures in together])
            for pictures, done in zip(together, before, strict=True):
                if isinstance(pictures, PrefixDrawing):
                    self._show_prefix(pictures)
                elif pictures.drawing.done > done:
                    self._tell_step(pictures)
            self.drawing = sorted(self.drawing, key=lambda pictures: pictures in together)  # others have the next turn

    def _show_prefix(self, prefix: PrefixDrawing) -> None:
        """Says what the first visual tokens of a picture give, if that is drawn."""
        if prefix.drawing.latents is not None:
            (pixels,) = prefix.detokenizer.decode(prefix.drawing).numpy()
            image, row = Image.fromarray(pixels), prefix.row
            self.prefixes = [other for other in self.prefixes if other is not prefix]
            row.emit(PictureStep(row.index, row.num_images, 0, prefix.drawing.total, image))

    def _tell_step(self, pictures: PictureGroup) -> None:
        """Says that a step is done, with the pictures as they stand where it is one of those at which they are shown."""
        drawing, rows = pictures.drawing, pictures.group.rows
        count = pictures.request.config.partial_images
        left = [count - len(self._shown_prefixes(row)) for row in rows]
        shows = [drawing.done in {round(k * drawing.total / (n + 1)) for k in range(1, n + 1)} for n in left]
        pixels = pictures.detokenizer.decode(drawing).numpy() if any(shows) and drawing.done < drawing.total else None
        for place, (row, index) in enumerate(zip(rows, pictures.indices, strict=True)):
            image = Image.fromarray(pixels[place]) if pixels is not None and shows[place] else None
            row.emit(PictureStep(row.index, index, drawing.done, drawing.total, image))

    def _drawn(self) -> list[PictureGroup]:
        """Pictures of one model that are drawn. The rows of a request go on together: when all their pictures are there."""
        drawing = {pictures.request for pictures in self.drawing if pictures.drawing.latents is None}
        drawn = [pictures for pictures in self.drawing if pictures.request not in drawing]
        return [pictures for pictures in drawn if pictures.group.decoder.model is drawn[0].group.decoder.model]

    def _finish(self, drawn: list[PictureGroup]) -> None:
        """Decodes pictures and goes on with their replies."""
        rows = [row for pictures in drawn for row in pictures.group.rows]
        decoder = drawn[0].group.decoder
        with self._failing(*(row.request for row in rows)):
            self._bring("detokenizer")
            images: list[Image.Image] = []
            for pictures in drawn:
                with self._failing(pictures.request):
                    pixels = pictures.detokenizer.decode(pictures.drawing)
                    if pictures.request.config.keep == "exact":
                        edited = [row.edited for row in pictures.group.rows]
                        pixels = with_kept_pixels(pixels, edited, pictures.detokenizer.autoencoder)
                    images += map(Image.fromarray, pixels.numpy())
            if any(row.request.error for row in rows):
                return  # the others' turn comes again
            self._bring("mllm")
            cache = StreamCache.join([pictures.group.cache.copy() for pictures in drawn])
            logits = decoder.feed_images(rows, cache, images)
            indices = [index for pictures in drawn for index in pictures.indices]
            for row, index, image in zip(rows, indices, images, strict=True):
                if row.num_images == index:  # else it has the image, and an interrupt came then
                    decoder.tell_tokens(row, image)
                    row.add_image(image)
                    row.emit(PictureDone(row.index, index, image))
            group = RowGroup(decoder, rows, cache, logits)
            rest = [pictures for pictures in self.drawing if pictures not in drawn]
            self.drawing, self.writing = rest, [*self.writing, group]
            self.prefixes = [prefix for prefix in self.prefixes if prefix.row not in rows]
            self._choose(group)

    @contextmanager
    def _failing(self, *requests: Request) -> Iterator[None]:
        """Within it an error ends these requests, and no others. An interrupt ends none: what was going on is done again."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised where the events are waited for
            for request in requests:
                request.error = error
            self._drop(requests)

    def _drop(self, requests: Sequence[Request]) -> None:
        self.queue = [row for row in self.queue if row.request not in requests]
        for groups in (self.writing, self.waiting):
            for group in list(groups):
                gone = [row for row in group.rows if row.request in requests]
                if len(gone) == len(group.rows):
                    groups.remove(group)
                elif gone:
                    group.drop(gone)
        self.drawing = [pictures for pictures in self.drawing if pictures.request not in requests]
        self.prefixes = [prefix for prefix in self.prefixes if prefix.request not in requests]

    def _bring(self, half: str) -> None:
        """The half of an offloaded model onto its device."""
        offload = self.model.offload
        if offload is not None and offload.resident != half:
            if half == "mllm":
                self.model.adapters.views.clear()  # they would hold what is to leave the device
            offload.bring(half)
