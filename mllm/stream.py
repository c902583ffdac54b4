"""The stream model: backbone, vision tower, learned queries, input and output resampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from ..resamplers import Resampler
from .config import LimnerConfig
from .encoding import IGNORE_INDEX, Encoded
from .masks import Masks, attention_masks, branch_mask, check_backbone
from .vision_tower import VisionTower
from .vocabulary import Vocabulary


@dataclass
class StreamBatch:
    """A batch of conversations, padded on one side (`collate`)."""

    input_ids: Tensor
    """(batch, tokens)"""
    labels: Tensor
    """(batch, tokens), -100 where the loss ignores them"""
    lengths: Tensor
    """(batch,) tokens that are not padding"""
    feature_index: Tensor
    """(slots,) where the views' features go, counted through the whole batch"""
    query_index: Tensor
    """(slots,) where queries go ("queries" mode)"""
    pixel_values: Tensor
    """(views, 3, image_size, image_size), in the order of their slots; none where their features are given to the model"""
    view_positions: Tensor
    """(views, 2): centres (x, y) in [0, 1] within their images; used only by models with tiles"""
    drawing_row: Tensor
    """(drawings,) row of each image to be drawn, ascending"""
    drawing_boi: Tensor
    """(drawings,) index of its BOI"""
    branch_boi: Tensor
    """(batch, branches) index of the BOI of each branch, -1 where a row has fewer; without columns in "queries" mode"""
    answers: Tensor
    """(2, answers): row and column of each state that predicts a token which the labels count"""

    def to(self, device: torch.device) -> StreamBatch:
        return self.each_tensor(lambda tensor: tensor.to(device))

    def padded(self, pad: int, columns: int) -> StreamBatch:
        """Padded on the right with the token ``pad`` to ``columns`` columns."""
        tokens = self.input_ids.shape[1]
        more = columns - tokens
        assert more >= 0
        if not more:
            return self

        def moved(index: Tensor) -> Tensor:
            return index + index // tokens * more

        return replace(
            self,
            input_ids=F.pad(self.input_ids, (0, more), value=pad),
            labels=F.pad(self.labels, (0, more), value=IGNORE_INDEX),
            feature_index=moved(self.feature_index),
            query_index=moved(self.query_index),
        )

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> StreamBatch:
        """A batch with ``change(tensor)`` in place of every tensor."""
        return StreamBatch(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


@dataclass
class StreamOutput:
    """What `StreamModel.forward` returns."""

    hidden: Tensor
    """(batch, tokens, width): last hidden states of the main stream"""
    query_states: Tensor
    """(drawings, num_queries, width): last hidden states of the queries"""
    prompt: Tensor | None
    """(drawings, prompt_tokens, width), the last states up to and including BOI"""
    prompt_mask: Tensor | None


def collate(
    encoded: Sequence[Encoded],
    vocabulary: Vocabulary,
    config: LimnerConfig,
    padding_side: Literal["left", "right"] = "right",
    pixel_values: bool = True,
) -> StreamBatch:
    """Pads conversations (`StreamEncoder.encode`) to one batch; with ``pixel_values`` or without."""
    lengths = torch.tensor([len(e.input_ids) for e in encoded])
    length = int(lengths.max())
    begins = length - lengths if padding_side == "left" else torch.zeros_like(lengths)
    # numpy, where a row takes a tenth of the time
    ids = np.full((len(encoded), length), vocabulary.pad)
    labels = np.full_like(ids, IGNORE_INDEX)
    features, queries = (np.zeros(ids.shape, dtype=bool) for _ in range(2))
    for row, (begin, e) in enumerate(zip(begins.tolist(), encoded, strict=True)):
        ids[row, begin : begin + len(e.input_ids)] = e.input_ids
        labels[row, begin : begin + len(e.labels)] = e.labels
        for start, _ in e.views:
            features[row, begin + start : begin + start + config.image_tokens] = True
        for start in e.queries:
            queries[row, begin + start : begin + start + config.num_queries] = True
    views = [view for e in encoded for _, view in e.views]
    pixels = [view.pixel_values for view in views] if pixel_values else []
    drawn = [(row, picture.boi_index) for row, e in enumerate(encoded) for picture in e.pictures if picture.drawn]
    drawing_row, drawing_boi = torch.tensor(drawn, dtype=torch.long).reshape(-1, 2).T.contiguous()
    drawing_boi = begins[drawing_row] + drawing_boi
    in_row = [[picture.boi_index for picture in e.pictures if picture.drawn] for e in encoded]
    branches = max(map(len, in_row)) if config.drawn_images == "seen" else 0
    branch_boi = torch.full((len(encoded), branches), -1)
    for row, bois in enumerate(in_row[: len(encoded) if branches else 0]):
        branch_boi[row, : len(bois)] = begins[row] + torch.tensor(bois, dtype=torch.long)
    size = config.image_size
    return StreamBatch(
        input_ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        lengths=lengths,
        feature_index=torch.from_numpy(features.reshape(-1).nonzero()[0]),
        query_index=torch.from_numpy(queries.reshape(-1).nonzero()[0]),
        pixel_values=torch.stack(pixels) if pixels else torch.zeros(0, 3, size, size, dtype=torch.float32),
        view_positions=torch.tensor([view.position for view in views], dtype=torch.float32).reshape(-1, 2),
        drawing_row=drawing_row,
        drawing_boi=drawing_boi,
        branch_boi=branch_boi,
        answers=torch.from_numpy(np.stack((labels[:, 1:] != IGNORE_INDEX).nonzero())),
    )


class StreamModel(nn.Module):
    """Reads and writes: text, and the query states that condition a drawing.

    Raises ValueError for a backbone with layers that cannot be masked or cropped (`check_backbone`).
    """

    slot_ids: Tensor

    def __init__(
        self, llm: PreTrainedModel, vision_tower: VisionTower, config: LimnerConfig, vocabulary: Vocabulary
    ) -> None:
        super().__init__()
        check_backbone(llm.config)
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
        self.register_buffer("slot_ids", torch.tensor(vocabulary.slots), persistent=False)
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
        logits = self.head(hidden)
        cap = getattr(self.llm.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def forward(self, batch: StreamBatch, vision_features: Tensor | None = None) -> StreamOutput:
        """One forward pass over whole conversations: the main stream and, in the "seen" mode, a branch for each drawing.

        With ``vision_features`` (views, patches, vision width) the vision tower is not run.
        """
        config, n = self.config, self.config.num_queries
        if vision_features is None:
            vision_features = self.vision_tower(batch.pixel_values)
        embeds = self.build_inputs_embeds(
            batch.input_ids,
            batch.feature_index,
            self.get_image_features(vision_features, batch.view_positions),
            batch.query_index,
        )
        rows, main = embeds.shape[:2]
        drawings, branches = batch.drawing_row.shape[0], batch.branch_boi.shape[1]
        # drawings are sorted by row: the k-th of a row is its branch k
        order = torch.arange(drawings, device=embeds.device) - torch.searchsorted(batch.drawing_row, batch.drawing_row)
        if branches:
            block = self.queries.weight.to(embeds.dtype).repeat(branches, 1).expand(rows, -1, -1)
            embeds = torch.cat([embeds, block], dim=1)
        allowed, distance, position_ids = branch_mask(batch.lengths, main, batch.branch_boi, n)
        size = (rows, embeds.shape[1], embeds.shape[1])
        masks = attention_masks(allowed, distance, size, self.llm.config, embeds.device, embeds.dtype)
        hidden = self.backbone(embeds, masks, position_ids)
        start = main + order * n if branches else batch.drawing_boi + 1
        columns = start[:, None] + torch.arange(n, device=embeds.device)
        query_states = hidden[batch.drawing_row[:, None], columns]
        prompt, prompt_mask = self._prompt(hidden, batch) if config.prompt_tokens else (None, None)
        return StreamOutput(hidden[:, :main], query_states, prompt, prompt_mask)

    def _prompt(self, hidden: Tensor, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        p = self.config.prompt_tokens
        columns = batch.drawing_boi[:, None] + torch.arange(1 - p, 1, device=hidden.device)
        return hidden[batch.drawing_row[:, None], columns.clamp(min=0)], columns >= 0
