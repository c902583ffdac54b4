"""The two transformers of the visual tokenizer: causal queries over patch features, and a decoder of a prefix of codes.

Queries and positions begin about as large as what attention and codes add to them. With the usual 0.02 all queries of an image
would have nearly the same state at first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...resamplers.positions import default_grid, sincos_2d
from ...resamplers.resampler import INITIAL_LOCALITY, CrossAttention
from .config import VisualTokenizerConfig
from .places import grid_cells, quadtree_cells, squared_distances


class Block(nn.Module):
    """Pre-norm self-attention, cross-attention to a context where ``cross``, and a feed-forward layer.

    Attention to places, across or, without a context, among the tokens, is local at the start: each head subtracts a learned
    multiple of the squared distance from its scores (see `Resampler`).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, cross: bool) -> None:
        super().__init__()
        self.locality = nn.Parameter(torch.full((heads,), INITIAL_LOCALITY))
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = CrossAttention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width) if cross else None
        self.cross_attn = CrossAttention(width, heads, qk_norm) if cross else None
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x: Tensor,
        distances: Tensor,
        context: Tensor | None = None,
        causal: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """``x`` (batch, tokens, width) and what it attends to by its place: ``context`` (batch, n, width), or itself.

        ``distances`` (tokens, n) are squared. ``causal`` (1, tokens, tokens) is added to the scores of self-attention where there
        is a context; ``mask`` (batch, tokens) is False for tokens that none may see.
        """
        local = -self.locality[:, None, None] * distances
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, mask, local if context is None else causal)
        if self.cross_attn is not None and self.norm2 is not None:
            x = x + self.cross_attn(self.norm2(x), context, context, None, local)
        return x + self.mlp(self.norm3(x))


class CausalQueryEncoder(nn.Module):
    """Patch features (batch, patches, patch_width) to vectors of causal queries (batch, num_tokens, vector_width).

    Query i sees queries up to i and all patches (SEED's causal Q-Former, arXiv:2307.08041), so the order of the tokens can carry
    from coarse to fine, and a language model can predict them from left to right. At the start each looks at its own cell of a
    quadtree; without that all codes of an image are alike, and for long no second one adds anything to the first.
    """

    def __init__(self, config: VisualTokenizerConfig) -> None:
        super().__init__()
        width = config.width
        self.patch_proj = nn.Linear(config.patch_width, width)
        self.patch_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(config.num_tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.qk_norm, cross=True) for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.vector_proj = nn.Linear(width, config.vector_width)

    def forward(self, features: Tensor) -> Tensor:
        x = self.queries.expand(len(features), -1, -1)
        rows, columns = default_grid(features.shape[1])
        patches = self.patch_norm(self.patch_proj(features))
        positions = sincos_2d(x.shape[2], torch.arange(rows), torch.arange(columns))
        patches = patches + positions.to(patches, non_blocking=True)
        distances = squared_distances(quadtree_cells(x.shape[1]), grid_cells(rows, columns)).to(
            patches, non_blocking=True
        )
        causal = causal_bias(x.shape[1]).to(patches, non_blocking=True)
        for block in self.blocks:
            x = block(x, distances, context=patches, causal=causal)
        return self.vector_proj(self.norm(x))


def causal_bias(tokens: int) -> Tensor:
    """(1, tokens, tokens), to be added to the scores of attention: -inf where a key is later than the query."""
    return torch.full((1, tokens, tokens), float("-inf")).triu(1)


class PrefixDecoder(nn.Module):
    """Vectors of a prefix of codes (batch, n, vector_width) to image features (batch, feature_tokens, feature_width).

    Codes and feature queries attend to each other in one sequence (as in TiTok, arXiv:2406.07550), but not to codes that are
    masked out, so what a prefix decodes to does not depend on the codes after it.
    """

    def __init__(self, config: VisualTokenizerConfig) -> None:
        super().__init__()
        width = config.width
        self.code_proj = nn.Linear(config.vector_width, width)
        self.positions = nn.Parameter(torch.randn(config.num_tokens, width) * 0.3)
        self.queries = nn.Parameter(torch.randn(config.feature_tokens, width) * 0.3)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.qk_norm, cross=False) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.feature_proj = nn.Linear(width, config.feature_width)

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (batch, n), False for codes that were dropped."""
        batch, n, _ = vectors.shape
        queries = self.queries.expand(batch, -1, -1)
        x = torch.cat([self.code_proj(vectors) + self.positions[:n], queries], dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(queries.shape[:2])], dim=1)
        cells = torch.cat([quadtree_cells(n), grid_cells(*default_grid(queries.shape[1]))])
        distances = squared_distances(cells, cells).to(x, non_blocking=True)
        for block in self.blocks:
            x = block(x, distances, mask=mask)
        return self.feature_proj(self.norm(x[:, n:]))
