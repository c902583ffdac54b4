"""How often training draws by visual tokens, and by fewer queries or tokens than there are (nested dropout; Rippel et al. 2014,
arXiv:1402.0915): chosen before a conversation is encoded, which says it in its length tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..mllm.config import LimnerConfig
from ..mllm.messages import Message
from ..mllm.picture_tokens import PictureTokens

SHARES = ("token_share", "token_dropout", "query_dropout")


@dataclass(frozen=True)
class PictureShares:
    """Of a model's drawings in training."""

    token_share: float = 0.5
    """Share of the drawings that are visual tokens, in a model that draws by queries too"""
    token_dropout: float = 0.5
    """Share of these of which a random number of tokens is kept, one of ``visual_lengths``"""
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
