"""Decoding of a batch: a token of text or of a picture for every row, or the queries of an image in one forward pass.

Which rows take part, and when, is the caller's to decide (`inference/engine.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .cache import StreamCache
from .encoding import Encoded, StreamEncoder
from .events import PictureBegun
from .picture_grammar import PictureGrammar, PictureRules, picture_rules
from .picture_tokens import PictureTokens
from .rows import DrawRequest, Row, draw_request
from .sampling import choose_tokens, guide_logits
from .stream import StreamModel, collate
from .token_keys import view_keys
from .utf8 import WHOLE
from .views import View


class Decoder:
    """Decodes rows with one model. A method that feeds tokens takes the rows of a cache in their order."""

    def __init__(self, model: StreamModel, encoder: StreamEncoder) -> None:
        self.model, self.encoder = model, encoder
        self.config, self.vocabulary = model.config, model.vocabulary
        self.grammar = PictureGrammar(self.config, self.vocabulary)
        self.begin_image_ids = self.grammar.first(PictureRules())
        self.suppressed_ids = torch.tensor(self.grammar.never_chosen, device=model.device)
        self.decision_ids = torch.tensor(self.grammar.decisions, device=model.device)
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
        embeds = model.embed_stream(batch, model.vision_tower(batch.pixel_values))
        lengths = [len(e.input_ids) for e in encoded] if past is None else None
        logits = model.logits(cache.extend(embeds, lengths)[:, -1])
        append_keys(cache, keys or [e.input_ids for e in encoded])
        return cache, logits

    def next_token(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Gives every row its next token: text, an end of turn, a visual token, or what announces or begins an image. A row that
        has begun one by queries, or has all visual tokens of one, waits for it. A row whose logits hold NaN gets no token and has
        ``broken`` set."""
        rows, logits = self.guide(rows, logits)
        for row, token in zip(rows, self.choose(rows, logits), strict=True):
            if token is None:
                row.broken = True
            elif row.samples:
                self._add_code(row, token)
            elif token in self.grammar.decisions and not row.lead and row.num_images >= row.fitting_images:
                row.finish("length")
            elif token in self.grammar.decisions:
                self._lead_to_image(row, token)
            elif token in self.vocabulary.end_of_turn:
                row.finish("stop")
            else:
                row.add_text(token)
                if self.utf8 is not None:
                    row.utf8_state = int(self.utf8.following[row.utf8_state, token])

    def guide(self, rows: Sequence[Row], logits: Tensor) -> tuple[Sequence[Row], Tensor]:
        """Rows of replies and their logits, moved away from those of the rows that guide them."""
        guides = {row.guided: place for place, row in enumerate(rows) if row.guided is not None}
        if not guides:
            return rows, logits
        places = [place for place, row in enumerate(rows) if row.guided is None]
        replies, kept = [rows[place] for place in places], logits[places]
        guided = [place for place, row in enumerate(replies) if row in guides]
        own, empty = kept[guided].float(), logits[[guides[replies[place]] for place in guided]].float()
        scale = own.new_tensor([replies[place].options.token_guidance_scale for place in guided])[:, None]
        kept = kept.float()
        kept[guided] = guide_logits(own, empty, scale)
        return replies, kept

    def _lead_to_image(self, row: Row, token: int) -> None:
        """Takes a token that announces or begins an image."""
        if not row.lead:
            row.end_text()
        row.lead.append(token)
        begins = {begin: mode for mode, begin in self.vocabulary.begins.items()}
        if not self.config.lengths and token not in begins:
            (token,) = self.grammar.following(token, PictureRules())  # after a shape: no forward to decide that
            row.lead.append(token)
        if token in begins:
            announced = [self.grammar.length_of[t] for t in row.lead if t in self.grammar.length_of]
            row.tokens = PictureTokens(begins[token], (*announced, self.config.num_queries)[0])
            if row.samples:
                row.emit(PictureBegun(row.index, row.num_images, self._size_of(row)))
            else:
                row.size = self._size_of(row)

    def _add_code(self, row: Row, token: int) -> None:
        """Takes a visual token, which may be a picture's last."""
        assert row.tokens is not None
        row.tokens = replace(row.tokens, codes=(*row.tokens.codes, token - self.vocabulary.codes.start))
        if len(row.tokens.codes) == row.tokens.length:
            row.size = self._size_of(row)

    def choose(self, rows: Sequence[Row], logits: Tensor) -> list[int | None]:
        """A token for every row from logits (rows, vocabulary), by one copy from the device; None for a row that holds NaN."""
        scores = self._allowed_scores(rows, logits)
        ways = [
            (row.options.image_temperature, row.options.image_top_k, row.options.image_top_p)
            if row.samples
            else (row.options.temperature, row.options.top_k, row.options.top_p)
            for row in rows
        ]
        return choose_tokens(scores, ways, [row.generator for row in rows])

    def _allowed_scores(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        """Scores (rows, vocabulary), -inf where a token may not come next: words and decisions where no picture is going on,
        decisions alone on the way to one, and within one visual tokens."""
        decisions, device = self.decision_ids, logits.device
        allowed = torch.tensor([self._allowed_decisions(row) for row in rows], device=device)
        only_images = [
            bool(row.lead) or (row.options.images == "force" and not row.parts and not row.text.ids) for row in rows
        ]
        scores = logits.float().index_fill(1, self.suppressed_ids, float("-inf"))
        scores = self.whole_characters(rows, scores)
        decision_scores = scores[:, decisions].masked_fill(~allowed, float("-inf"))
        if any(only_images):
            scores = scores.masked_fill(torch.tensor(only_images, device=device)[:, None], float("-inf"))
        scores = scores.index_copy(1, decisions, decision_scores)
        if sampling := [place for place, row in enumerate(rows) if row.samples]:
            own = slice(self.vocabulary.codes.start, self.vocabulary.codes.stop)
            scores[sampling, own] = logits[sampling, own].float()  # all else is -inf
        return scores

    def whole_characters(self, rows: Sequence[Row], scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) of which those are -inf whose tokens would make a row's bytes no UTF-8."""
        if self.utf8 is None:
            return scores
        if self.forbidden_bytes is None:
            self.forbidden_bytes = torch.from_numpy(self.utf8.forbidden(scores.shape[1])).to(scores.device)
        states = [row.utf8_state for row in rows]
        forbidden = self.forbidden_bytes[states] if any(states) else self.forbidden_bytes[WHOLE]
        return scores.masked_fill(forbidden, float("-inf"))

    def _allowed_decisions(self, row: Row) -> list[bool]:
        """Which of the grammar's decisions may come next; none within a picture."""
        no_more = row.options.images == "never" or row.num_images >= row.options.max_images
        if row.samples or (no_more and not row.lead):
            allowed: list[int] = []
        else:
            rules = picture_rules(row.options, self.config)
            allowed = self.grammar.following(row.lead[-1], rules) if row.lead else self.grammar.first(rules)
        return [token in allowed for token in self.grammar.decisions]

    def _size_of(self, row: Row) -> tuple[int, int]:
        if row.options.size is not None:
            return row.options.size
        if self.vocabulary.shapes:
            return self.config.shapes[self.vocabulary.shapes.index(row.lead[0])]
        return self.config.default_size

    def tell_tokens(self, row: Row, image: Image.Image) -> None:
        """Lets the image that a row waited for say what it is drawn by, where another one may be drawn otherwise."""
        if row.tokens is not None and self.config.lengths_of(row.tokens.mode):
            row.tokens.attach(image, self.config.visual_codes)

    def needs_guide(self, row: Row) -> bool:
        """Whether its visual tokens, of which none is sampled yet, are to be guided."""
        return row.samples and not row.codes and row.options.token_guidance_scale != 1

    def prefill_guides(self, rows: Sequence[Row]) -> StreamCache:
        """A cache of rows that guide these: an empty request, and what announces the picture. What begins it is fed to both."""
        empty = [self.encoder.empty_prompt() for _ in rows]
        for prompt, row in zip(empty, rows, strict=True):
            prompt.add(row.lead[:-1])
        return self.prefill(empty)[0]

    def feed_tokens(self, rows: Sequence[Row], cache: StreamCache) -> tuple[StreamCache, Tensor]:
        """Feeds the last token of every row, of its text or of a picture, and the queries of a draft after what begins a picture
        of visual tokens. Returns the rows' cache, which may be another one, and the next token's logits (rows, vocabulary)."""
        ids = [self._last_token(row.reply_row) for row in rows]
        embeds = self.model.embed_tokens(torch.tensor(ids, device=self.model.device))[:, None]
        hidden = cache.extend(embeds)[:, -1]
        begun = [place for place, row in enumerate(rows) if row.reply_row.samples and not row.reply_row.codes]
        if begun and self.config.prompt_tokens:
            states, mask = cache.prompt()
            for place in begun:
                rows[place].prompt = states[place].clone(), mask[place].clone()
        append_keys(cache, [[] if self._on_branch(row) else [token] for row, token in zip(rows, ids, strict=True)])
        if begun and self.model.draft is not None:
            cache, states = self._feed_draft([rows[place] for place in begun], cache, begun)
            hidden = hidden.index_copy(0, torch.tensor(begun, device=hidden.device), states)
        return cache, self._with_drafts(rows, self.model.logits(hidden))

    def _feed_draft(self, rows: Sequence[Row], cache: StreamCache, places: Sequence[int]) -> tuple[StreamCache, Tensor]:
        """Feeds the queries to the rows in these places of a cache alone, which get their draft. Returns the cache of all its
        rows, and the last query's states (places, width)."""
        model, n = self.model, self.config.draft_queries
        others = [place for place in range(len(cache.lengths)) if place not in places]
        kept, own = cache.take(others), cache.take(places)
        states = own.extend(model.queries.weight.to(model.dtype).expand(len(places), -1, -1), branch=n)
        for row, draft in zip(rows, model.draft_logits(model.output_resampler(states)), strict=True):
            row.draft = draft
        back = sorted(range(len(cache.lengths)), key=[*others, *places].__getitem__)
        return StreamCache.join([kept, own] if others else [own]).take(back), states[:, -1]

    def _with_drafts(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        """Logits (rows, vocabulary), with what their drafts add to those of the visual token that comes next."""
        drafted = [place for place, row in enumerate(rows) if row.draft is not None and row.reply_row.samples]
        if not drafted:
            return logits
        logits, codes = logits.float(), self.vocabulary.codes
        for place in drafted:
            row = rows[place]
            assert row.draft is not None
            logits[place, codes.start : codes.stop] += row.draft[len(row.reply_row.codes)]
        return logits

    def _last_token(self, row: Row) -> int:
        if row.codes:
            return self.vocabulary.codes[row.codes[-1]]
        return row.lead[-1] if row.lead else row.text.ids[-1]

    def _on_branch(self, row: Row) -> bool:
        """Whether the token that was fed last is cropped from the cache again."""
        return self.config.has_branches and row.samples and bool(row.codes)

    def feed_blocks(self, rows: Sequence[Row], caches: Sequence[StreamCache]) -> tuple[list[DrawRequest], StreamCache]:
        """What is to be drawn for rows that wait for an image, and their cache; ``caches`` of a row each are changed."""
        queried, sampled = ([i for i, row in enumerate(rows) if bool(row.codes) == tokens] for tokens in (False, True))
        requests: list[DrawRequest] = []
        joined: list[StreamCache] = []
        for places, feed in ((queried, self.feed_queries), (sampled, self.decode_codes)):
            if places:
                joined.append(StreamCache.join([caches[place] for place in places]))
                requests += feed([rows[place] for place in places], joined[-1])
        order = [*queried, *sampled]
        back = [order.index(place) for place in range(len(rows))]
        return [requests[place] for place in back], StreamCache.join(joined).take(back)

    def feed_queries(self, rows: Sequence[Row], cache: StreamCache) -> list[DrawRequest]:
        """One forward for the queries of rows that wait for an image; returns what is to be drawn.

        Before them comes what has not been fed yet: BOI and, in models without length tokens, the shape token. In the "seen" mode
        the queries are a branch: they are cropped from the cache again. In the "queries" mode they stay.
        """
        model = self.model
        lengths = [row.tokens.length if row.tokens else self.config.num_queries for row in rows]
        n = max(lengths)
        lead_ids = [row.lead[-1:] if self.config.lengths else row.lead for row in rows]
        lead = model.embed_tokens(torch.tensor(lead_ids, device=model.device))
        queries = model.queries.weight[:n].to(lead.dtype).expand(len(rows), -1, -1)
        states = cache.extend(torch.cat([lead, queries], dim=1), branch=n)[:, -n:]
        padded = F.pad(states, (0, 0, 0, self.config.num_queries - n))
        features = model.query_features(padded, torch.tensor(lengths, device=model.device))
        prompts = list(zip(*cache.prompt(), strict=True)) if self.config.prompt_tokens else [None] * len(rows)
        if self.config.drawn_images == "seen":
            cache.crop(n)
        else:
            cache.remember(states)
        queried = [("query", k) for k in range(n)] if self.config.drawn_images == "queries" else []
        append_keys(cache, [[*ids, *queried] for ids in lead_ids])
        return [draw_request(*own) for own in zip(rows, features, prompts, strict=True)]

    def decode_codes(self, rows: Sequence[Row], cache: StreamCache) -> list[DrawRequest]:
        """What is to be drawn for rows that have sampled all visual tokens of an image, each with a cache of its own."""
        features = self.model.decode_codes([row.codes for row in rows])
        return [draw_request(row, own, row.prompt) for row, own in zip(rows, features, strict=True)]

    def decode_prefix(self, row: Row) -> DrawRequest:
        """What is to be drawn of an image whose visual tokens are not all sampled yet."""
        (features,) = self.model.decode_codes([row.codes])
        return draw_request(row, features, row.prompt, self._size_of(row))

    def without_branch(self, row: Row, cache: StreamCache) -> StreamCache:
        """A copy of the cache of a waiting row, cropped back to what begins its image: where its visual tokens are a branch."""
        own = cache.copy()
        if self.config.has_branches and row.codes:
            if fed := self.config.draft_queries + len(row.codes) - 1:  # the last code was not
                own.crop(fed)
            if row.prompt is not None:
                own.hidden = row.prompt[0][None]
        return own

    def feed_images(self, rows: Sequence[Row], cache: StreamCache, images: Sequence[Image.Image]) -> Tensor:
        """Feeds what the stream sees of the images that the rows waited for: in the "seen" mode their features, in the places
        where the queries were, and EOI; the last visual token, where they stay in the stream. Returns the next token's logits
        (rows, vocabulary)."""
        model, vocabulary = self.model, self.vocabulary
        in_stream = self.config.seen_images == "tokens"
        ids = [[self._last_token(row)] if in_stream else [] for row in rows]
        embeds = model.embed_tokens(torch.tensor([[*own, vocabulary.eoi] for own in ids], device=model.device))
        keys: list[list[Hashable]] = [list(own) for own in ids]
        if self.config.has_branches:
            views = [View(image, self.config) for image in images]
            pixel_values = torch.stack([view.pixel_values for view in views]).to(model.device)
            positions = torch.tensor([view.position for view in views], dtype=torch.float32, device=model.device)
            seen = model.get_image_features(model.vision_tower(pixel_values), positions).to(embeds.dtype)
            embeds = torch.cat([seen, embeds], dim=1)
            keys = [view_keys(view) for view in views]
        logits = model.logits(cache.extend(embeds)[:, -1])
        append_keys(cache, [[*own, vocabulary.eoi] for own in keys])
        return logits


def append_keys(cache: StreamCache, keys: Sequence[Sequence[Hashable]]) -> None:
    """Says what the last tokens of each row of a cache are."""
    for row, own in zip(cache.keys, keys, strict=True):
        row.extend(own)
