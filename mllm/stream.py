"""The stream model: backbone, vision tower, learned queries, input and output resampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from ..resamplers import Resampler
from .config import LimnerConfig
from .masks import Masks, attention_masks, branch_mask, check_backbone
from .stream_batch import StreamBatch, collate
from .vision_tower import VisionTower
from .visual_tokens.draft import CodeDraft, check_draft
from .vocabulary import Vocabulary

__all__ = ["StreamBatch", "StreamModel", "StreamOutput", "collate"]


@dataclass
class StreamOutput:
    """What `StreamModel.forward` returns."""

    hidden: Tensor
    """(batch, tokens, width): last hidden states of the main stream"""
    query_states: Tensor
    """(drawings, num_queries, width): last hidden states of the queries; of no meaning where a drawing has fewer queries or
    visual tokens without a draft, and none where pictures are seen as tokens"""
    codes: Tensor | None
    """(token drawings, visual_lengths[-1]): all codes of the pictures that are drawn by visual tokens; None where none is"""
    code_states: Tensor | None
    """(token drawings, visual_lengths[-1], width): the last hidden state that predicts each code"""
    draft_features: Tensor | None
    """(token drawings, feature_tokens, vision width): the image features of the queries before the codes; None without a draft"""
    prompt: Tensor | None
    """(drawings, prompt_tokens, width), the last states up to and including what begins the drawing"""
    prompt_mask: Tensor | None


def check_tokenizer(
    visual_tokenizer: nn.Module | None, config: LimnerConfig, vocabulary: Vocabulary, llm: PreTrainedModel
) -> None:
    """Raises ValueError for a visual tokenizer that does not fit ``config``, and for a backbone without room for its codes."""
    if visual_tokenizer is None and not config.visual_codes:
        return
    wanted = (config.visual_codes, config.visual_lengths[-1:], config.feature_tokens)
    own: Any = getattr(visual_tokenizer, "config", None)
    has = (0, (), 0) if own is None else (own.num_codes, (own.num_tokens,), own.feature_tokens)
    names = ("visual_codes", "the last of visual_lengths", "feature_tokens")
    for name, value, found in zip(names, wanted, has, strict=True):
        if value != found:
            one, other = (
                values[0] if isinstance(values, tuple) and values else values or 0 for values in (value, found)
            )
            there = "there is no visual tokenizer" if own is None else f"the visual tokenizer has {other}"
            raise ValueError(f"{name} of the config is {one}, and {there}: they must be the same")
    if config.draft_by_queries:
        check_draft(own)
    rows = llm.get_input_embeddings().num_embeddings
    if vocabulary.codes.stop > rows:
        raise ValueError(
            f"the visual tokens have the ids {vocabulary.codes.start} to {vocabulary.codes.stop - 1}, and the backbone has "
            f"{rows} embeddings: resize_token_embeddings makes room"
        )


class StreamModel(nn.Module):
    """Reads and writes: text, and the query states that condition a drawing.

    A model with visual tokens holds their ``visual_tokenizer``, which is frozen: ``encode`` gives codes (batch, num_tokens) of
    vision features, ``decode`` image features (batch, feature_tokens, vision width) of codes. Raises ValueError for a backbone
    with layers that cannot be masked or cropped (`check_backbone`), and for a tokenizer that does not fit (`check_tokenizer`).
    """

    slot_ids: Tensor
    block_ids: Tensor

    def __init__(
        self,
        llm: PreTrainedModel,
        vision_tower: VisionTower,
        config: LimnerConfig,
        vocabulary: Vocabulary,
        visual_tokenizer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_backbone(llm.config)
        check_tokenizer(visual_tokenizer, config, vocabulary, llm)
        self.config, self.vocabulary = config, vocabulary
        self.llm, self.vision_tower = llm, vision_tower
        self.width = width = llm.config.hidden_size
        attention: dict[str, Any] = {"heads": config.resampler_heads, "qk_norm": config.resampler_qk_norm}
        self.input_resampler = Resampler(
            vision_tower.width, width, config.image_tokens, local=config.local_image_tokens, **attention
        )
        self.output_resampler = Resampler(width, vision_tower.width, config.feature_tokens, **attention)
        self.queries = nn.Embedding(config.num_queries, width)
        nn.init.normal_(self.queries.weight, std=0.02)
        # as in SEED-X: a tile's centre, (x, y, 1 - x, 1 - y) / 2, weighs four learned vectors
        self.tile_embed = nn.Parameter(torch.zeros(4, width)) if config.tile_grids else None
        self.visual_tokenizer: Any = visual_tokenizer
        self.draft: CodeDraft | None = None
        """Where pictures of visual tokens begin with the queries"""
        if config.draft_by_queries:
            own: Any = getattr(visual_tokenizer, "config", None)
            self.draft = CodeDraft(own.num_tokens, own.vector_width)
        self.register_buffer("slot_ids", torch.tensor(vocabulary.slots), persistent=False)
        block = torch.tensor([*vocabulary.slots, *vocabulary.codes])  # what stands in pictures, and never among words
        self.register_buffer("block_ids", block, persistent=False)
        self.boi_delta: nn.Parameter | None = None
        """An adapter's change of BOI (rows, width), see `add_boi_delta`"""

    @property
    def device(self) -> torch.device:
        return self.queries.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.queries.weight.dtype

    @property
    def max_position_embeddings(self) -> int:
        """Tokens that the backbone takes; where its config has no such number, more than any conversation has.

        "longrope" has other angles for all of a batch, and for tokens that are in a cache already, where its longest row passes
        ``original_max_position_embeddings``: that is the most here.
        """
        config = self.llm.config
        most = getattr(config, "max_position_embeddings", None) or 10**9
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") != "longrope":
            return most
        return min(most, rope.get("original_max_position_embeddings") or most)

    def get_image_features(self, vision_features: Tensor, view_positions: Tensor | None) -> Tensor:
        """Features of `VisionTower` (views, patches, vision width) to image tokens (views, image_tokens, width).

        ``view_positions`` (views, 2) are needed only by models with tiles.
        """
        tokens = self.input_resampler(vision_features.to(self.dtype))
        if self.tile_embed is not None:
            assert view_positions is not None
            places = torch.cat([view_positions, 1 - view_positions], dim=-1).to(tokens) / 2
            tokens = tokens + (places @ self.tile_embed)[:, None]
        return tokens

    @property
    def has_tied_embeddings(self) -> bool:
        """Whether the backbone's input embeddings are its output head's."""
        return self.llm.get_input_embeddings().weight is self.llm.get_output_embeddings().weight

    def add_boi_delta(self) -> None:
        """A change of BOI, zero at first: of its embedding and, where the head is not tied to it, of its row of the head. An
        adapter that trained both tables would be as large as they are."""
        rows = 1 if self.has_tied_embeddings else 2
        self.boi_delta = nn.Parameter(torch.zeros(rows, self.width, device=self.device, dtype=self.dtype))

    @torch.no_grad()
    def merge_boi_delta(self) -> None:
        """Write the change of BOI, if there is one, into the backbone's tables."""
        if self.boi_delta is None:
            return
        delta, self.boi_delta = self.boi_delta, None
        self.llm.get_input_embeddings().weight[self.vocabulary.boi] += delta[0]
        if not self.has_tied_embeddings:
            self.llm.get_output_embeddings().weight[self.vocabulary.boi] += delta[1]

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Ids of any shape to embeddings (..., width), an adapter's change of BOI included."""
        embeds = self.llm.get_input_embeddings()(ids)
        if self.boi_delta is not None:
            embeds = embeds + (ids == self.vocabulary.boi)[..., None] * self.boi_delta[0]
        return embeds

    def embed_emitted(self, ids: Tensor) -> Tensor:
        """Ids of any shape that the model emitted to embeddings (..., width): a slot is that of its query.

        Not for a prompt, where slots are those of image features too (`build_inputs_embeds`).
        """
        matches = ids[..., None] == self.slot_ids[: self.config.num_queries]
        queries = self.queries.weight[matches.int().argmax(-1)]
        embeds = self.embed_tokens(ids)
        return torch.where(matches.any(-1, keepdim=True), queries.to(embeds.dtype), embeds)

    def build_inputs_embeds(
        self, input_ids: Tensor, feature_index: Tensor, features: Tensor, query_index: Tensor | None = None
    ) -> Tensor:
        """Ids (batch, tokens) to embeddings (batch, tokens, width), with image features and queries in their slots.

        ``feature_index`` and ``query_index`` (slots,), counted through the whole batch, are the slots of ``features`` (views,
        image_tokens, width) and of queries. Raises ValueError when there are more or fewer slots than features.
        """
        slots, num_features = len(feature_index), features.shape[0] * features.shape[1]
        if slots != num_features:
            raise ValueError(f"{slots} slots for {num_features} image features")
        # the embedding rows of slots are never read, so that frozen and tied embeddings need no special case
        plain = torch.where(torch.isin(input_ids, self.slot_ids), self.vocabulary.pad, input_ids)
        embeds = self.embed_tokens(plain)
        rows = embeds.flatten(0, 1)
        if num_features:
            rows = rows.index_copy(0, feature_index, features.flatten(0, 1).to(rows.dtype))
        if query_index is not None and len(query_index):
            blocks = len(query_index) // self.config.num_queries
            rows = rows.index_copy(0, query_index, self.queries.weight.repeat(blocks, 1).to(rows.dtype))
        return rows.view_as(embeds)

    def backbone(
        self, embeds: Tensor, masks: Masks, position_ids: Tensor, past_key_values: Cache | None = None
    ) -> Tensor:
        """Last hidden states (batch, tokens, width), after the final norm."""
        return self.llm.base_model(
            inputs_embeds=embeds,
            attention_mask=masks,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
        ).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) to logits (..., vocabulary), an adapter's change of BOI included, Gemma's soft cap not."""
        logits = self.llm.get_output_embeddings()(hidden)
        if self.boi_delta is not None:
            boi = logits[..., self.vocabulary.boi] + hidden @ self.boi_delta[-1]
            logits = logits.index_copy(-1, self.slot_ids.new_tensor([self.vocabulary.boi]), boi[..., None])
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) to logits (..., vocabulary), Gemma's soft cap included."""
        return self._capped(self.head(hidden))

    def _capped(self, logits: Tensor) -> Tensor:
        cap = getattr(self.llm.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Codes of any shape to the embeddings (..., width) of their visual tokens."""
        return self.embed_tokens(codes + self.vocabulary.codes.start)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) to logits (..., visual_codes): the visual tokens' part of `logits`, without the words'."""
        head, codes = self.llm.get_output_embeddings(), self.vocabulary.codes
        own = slice(codes.start, codes.stop)
        return self._capped(F.linear(hidden, head.weight[own], None if head.bias is None else head.bias[own]))

    def embed_stream(self, batch: StreamBatch, vision_features: Tensor) -> Tensor:
        """A batch and the vision features of its views (views, patches, vision width) to embeddings (batch, tokens, width): an
        image is seen as features of the input resampler, or as visual tokens."""
        if self.config.seen_images == "features":
            features = self.get_image_features(vision_features, batch.view_positions)
            return self.build_inputs_embeds(batch.input_ids, batch.feature_index, features, batch.query_index)
        ids = batch.input_ids.flatten()
        if len(batch.feature_index):
            codes = self.encode_views(vision_features).flatten()[batch.feature_source]
            ids = ids.index_copy(0, batch.feature_index, codes + self.vocabulary.codes.start)
        return self.embed_tokens(ids.view_as(batch.input_ids))

    @torch.no_grad()
    def encode_views(self, vision_features: Tensor) -> Tensor:
        """Vision features (views, patches, vision width) to codes (views, visual_lengths[-1])."""
        return self.visual_tokenizer.encode(vision_features)

    def branch_tokens(self, batch: StreamBatch) -> int:
        """Columns of a branch: its queries, or as many as the longest picture of visual tokens."""
        return self.config.max_drawing if len(batch.token_drawing) else self.config.num_queries

    def forward(self, batch: StreamBatch, vision_features: Tensor | None = None) -> StreamOutput:
        """One forward pass over whole conversations: the main stream and, where pictures are seen as features, a branch for each
        drawing: its queries, or its visual tokens. Where they are seen as tokens, these are in the main stream.

        With ``vision_features`` (views, patches, vision width) the vision tower is not run.
        """
        config, n = self.config, self.branch_tokens(batch)
        if vision_features is None:
            vision_features = self.vision_tower(batch.pixel_values)
        codes = self.encode_views(vision_features[batch.token_view]) if len(batch.token_drawing) else None
        embeds = self.embed_stream(batch, vision_features)
        rows, main = embeds.shape[:2]
        drawings, branches = batch.drawing_row.shape[0], batch.branch_boi.shape[1]
        # drawings are sorted by row: the k-th of a row is its branch k
        order = torch.arange(drawings, device=embeds.device) - torch.searchsorted(batch.drawing_row, batch.drawing_row)
        if branches:
            queries = self.queries.weight.to(embeds.dtype)
            block = F.pad(queries, (0, 0, 0, n - config.num_queries)).repeat(branches, 1).expand(rows, -1, -1)
            if codes is not None:
                draft = queries[: config.draft_queries].expand(len(codes), -1, -1)
                drawn = torch.cat([draft, self.embed_codes(codes).to(embeds.dtype)], dim=1)
                drawn = F.pad(drawn, (0, 0, 0, n - drawn.shape[1]))
                place = batch.drawing_row[batch.token_drawing], order[batch.token_drawing]
                block = block.unflatten(1, (branches, n)).index_put(place, drawn).flatten(1, 2)
            embeds = torch.cat([embeds, block], dim=1)
        allowed, distance, position_ids = branch_mask(batch.lengths, main, batch.branch_boi, n)
        size = (rows, embeds.shape[1], embeds.shape[1])
        masks = attention_masks(allowed, distance, size, self.llm.config, embeds.device, embeds.dtype)
        hidden = self.backbone(embeds, masks, position_ids)
        start = main + order * n if branches else batch.drawing_boi + 1
        prompt, prompt_mask = self._prompt(hidden, batch) if config.prompt_tokens else (None, None)
        query_states = self._query_states(hidden, batch, start)
        code_states = draft_features = None
        if codes is not None:
            code_states = self._code_states(hidden, batch, start, codes.shape[1])
        if codes is not None and self.draft is not None:
            draft_features = self.output_resampler(query_states[batch.token_drawing])
        return StreamOutput(hidden[:, :main], query_states, codes, code_states, draft_features, prompt, prompt_mask)

    def _query_states(self, hidden: Tensor, batch: StreamBatch, start: Tensor) -> Tensor:
        """States of the blocks that begin at the columns ``start`` (drawings,)."""
        n = self.config.num_queries
        if self.config.seen_images == "tokens":
            return hidden.new_zeros(0, n, self.width)
        columns = start[:, None] + torch.arange(n, device=hidden.device)
        return hidden[batch.drawing_row[:, None], columns]

    def _code_states(self, hidden: Tensor, batch: StreamBatch, start: Tensor, codes: int) -> Tensor:
        """The first code is predicted by what begins the picture or by the last query of the draft, the others each by the one
        before it."""
        row, begin = batch.drawing_row[batch.token_drawing], batch.drawing_boi[batch.token_drawing]
        first = start[batch.token_drawing] + self.config.draft_queries  # column of the first code
        if self.config.draft_queries:
            begin = first - 1
        before = first[:, None] + torch.arange(codes - 1, device=hidden.device)
        columns = torch.cat([begin[:, None], before], dim=1)
        return hidden[row[:, None], columns.clamp(max=hidden.shape[1] - 1)]  # a shorter picture may stand at the end

    def draft_logits(self, features: Tensor) -> Tensor:
        """Image features of the queries before visual tokens (drawings, feature_tokens, vision width) to what they add to the
        codes' logits (drawings, visual_lengths[-1], visual_codes), in fp32. The codes' loss does not reach the features."""
        assert self.draft is not None
        with torch.no_grad():
            drafted = self.visual_tokenizer.image_vectors(features)
            codes = torch.arange(self.config.visual_codes, device=features.device)
            vectors = self.visual_tokenizer.quantizer.codes_to_vectors(codes)
        return self.draft(drafted, vectors)

    def drawing_features(self, batch: StreamBatch, output: StreamOutput) -> Tensor:
        """What the drawings are steered by (drawings, feature_tokens, vision width): the output resampler's features of the
        queries, or the visual tokenizer's of the codes, as far as the drawing's length."""
        if output.codes is None:
            return self.query_features(output.query_states, batch.drawing_length)
        mask = self.code_mask(batch)
        with torch.no_grad():
            decoded = self.visual_tokenizer.decode(output.codes, mask, check=False)
        if self.config.seen_images == "tokens":
            return decoded
        features = self.query_features(output.query_states, batch.drawing_length)
        return features.index_copy(0, batch.token_drawing, decoded.to(features.dtype))

    def query_features(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Query states (drawings, num_queries, width), of which the first ``lengths`` (drawings,) count, to image features
        (drawings, feature_tokens, vision width)."""
        if not self.config.query_lengths:
            return self.output_resampler(states)
        return self.output_resampler(states, torch.arange(states.shape[1], device=states.device) < lengths[:, None])

    def code_mask(self, batch: StreamBatch) -> Tensor:
        """(token drawings, visual_lengths[-1]), True for the codes that a drawing has."""
        numbers = torch.arange(self.config.visual_lengths[-1], device=batch.drawing_length.device)
        return numbers < batch.drawing_length[batch.token_drawing][:, None]

    def decode_codes(self, codes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The codes of each picture to its image features (feature_tokens, vision width)."""
        by_length: dict[int, list[int]] = {}
        for picture, own in enumerate(codes):
            by_length.setdefault(len(own), []).append(picture)
        made: dict[int, Tensor] = {}
        for pictures in by_length.values():
            batch = torch.tensor([codes[picture] for picture in pictures], device=self.device)
            made |= zip(pictures, self.visual_tokenizer.decode(batch), strict=True)
        return [made[picture] for picture in range(len(codes))]

    def _prompt(self, hidden: Tensor, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        p = self.config.prompt_tokens
        columns = batch.drawing_boi[:, None] + torch.arange(1 - p, 1, device=hidden.device)
        return hidden[batch.drawing_row[:, None], columns.clamp(min=0)], columns >= 0
