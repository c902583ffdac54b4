"""How often training draws by visual tokens, and by fewer queries or tokens than there are (nested dropout; Rippel et al. 2014,
arXiv:1402.0915): chosen before a conversation is encoded, which says it in its length tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..mllm.config import LimnerConfig
from ..mllm.messages import Message
from ..mllm.picture_tokens import PictureTokens
from ..mllm.stream import StreamBatch, StreamModel
from ..mllm.vision_tower import pool_features
from ..mllm.visual_tokens.tokenizer import needed_lengths

SHARES = ("token_share", "token_dropout", "token_closeness", "query_dropout")


@dataclass(frozen=True)
class PictureShares:
    """Of a model's drawings in training."""

    token_share: float = 0.5
    """Share of the drawings that are visual tokens, in a model that draws by queries too"""
    token_dropout: float = 0.5
    """Share of these of which fewer tokens are kept: a random number, one of ``visual_lengths``"""
    token_closeness: float = 0.0
    """In the place of a random number as few as decode to image features of at least this cosine with the picture's own, so that
    the model learns to announce what a picture needs; 0 for a random number"""
    query_dropout: float = 0.5
    """Share of the other drawings that have a random number of queries, one of ``query_lengths`` where the model has them"""

    def draw(self, config: LimnerConfig, rng: random.Random) -> PictureTokens:
        """How a drawing is drawn."""
        modes = config.image_modes
        mode = modes[0] if len(modes) == 1 else ("tokens" if rng.random() < self.token_share else "queries")
        lengths = config.lengths_of(mode) or (config.num_queries,)
        dropout = self.token_dropout if mode == "tokens" else self.query_dropout
        return PictureTokens(mode, rng.choice(lengths) if rng.random() < dropout else lengths[-1])


ALL_QUERIES = PictureShares(0.0, 0.0, 0.0)


def with_tokens(
    messages: Sequence[Message], config: LimnerConfig, shares: PictureShares, rng: random.Random
) -> list[Message]:
    """A conversation whose drawn pictures say how they are drawn, as ``shares`` have it; in a model of one way it stays."""
    if not config.lengths:
        return list(messages)
    made = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant" and not isinstance(content, str):
            content = [
                {**part, "tokens": shares.draw(config, rng)} if part["type"] == "image" else part for part in content
            ]
        made.append({**message, "content": content})
    return made


@torch.no_grad()
def with_needed_lengths(
    stream: StreamModel, batch: StreamBatch, vision_features: Tensor, closeness: float
) -> StreamBatch:
    """A batch in which drawings of fewer visual tokens than all have as few as decode to features of at least the cosine
    ``closeness`` with those of the picture; all where none do. ``vision_features`` are the views' (views, patches, width).

    Raises ValueError for a model that sees pictures as tokens: there a conversation's length would change.
    """
    if not len(batch.token_drawing):
        return batch
    config, vocabulary = stream.config, stream.vocabulary
    if not config.has_branches:
        raise ValueError("token_closeness is for models that see pictures as features: set it to 0")
    features, every = vision_features[batch.token_view], config.visual_lengths[-1]
    target = pool_features(features, config.feature_tokens, config.feature_pool)
    codes = stream.encode_views(features)
    needed = needed_lengths(stream.visual_tokenizer, codes, target, config.visual_lengths, closeness)
    before = batch.drawing_length[batch.token_drawing]
    now = torch.where(before < every, needed, before)
    announced = torch.tensor(vocabulary.lengths, device=now.device)
    known = torch.tensor(config.lengths, device=now.device)
    place = batch.drawing_row[batch.token_drawing], batch.drawing_boi[batch.token_drawing] - 1
    ids = announced[torch.searchsorted(known, now)]
    return replace(
        batch,
        input_ids=batch.input_ids.index_put(place, ids),
        labels=batch.labels.index_put(place, ids),
        drawing_length=batch.drawing_length.index_copy(0, batch.token_drawing, now),
    )
