"""The resampler used throughout: learned queries attend to a token set by cross-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention, qk_norms
from .positions import default_grid, sincos_2d

INITIAL_LOCALITY = 4.0
"""Start value of each head's locality (`Resampler`). With two tokens along each side of a cell, the nearest token of a
neighbouring cell has an eighth of the weight of one in the query's cell, exp(-4 · (0.75² - 0.25²))."""


class CrossAttention(nn.Module):
    """Multi-head attention with the parameter layout of `nn.MultiheadAttention` (as released checkpoints have it).

    ``qk_norm`` keeps the scores from growing in training (arXiv:2302.05442). The Muon optimizer needs it: without it the
    scores reach hundreds, each query attends to a single token, and the gradient that could change this vanishes.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.norm_q, self.norm_k = qk_norms(width // heads, qk_norm)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        weights = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), (query, key, value), strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w, b, x in weights)
        q, k = self.norm_q(q), self.norm_k(k)
        return self.out_proj(attention(q, k, v, mask, bias).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A further layer: the queries attend to the tokens and each other; a feed-forward follows (Perceiver, arXiv:2103.03206)."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.ln_q = nn.LayerNorm(width)
        self.attn = CrossAttention(width, heads, qk_norm)
        self.ln_ff = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, positions: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query = self.ln_q(x)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(x.shape[:2])], dim=1)
        x = x + self.attn(query + positions, torch.cat([key, query + positions], 1), torch.cat([value, query], 1), mask)
        return x + self.ff(self.ln_ff(x))


class Resampler(nn.Module):
    """(batch, any number of tokens, in_width) to (batch, num_queries, out_width).

    With ``depth`` 1 and ``width == out_width`` this is the resampler of Qwen-VL and SEED-X (one
    cross-attention with 2-D sine-cosine positions on queries and keys; there is no residual, because the
    queries do not depend on the input). More depth adds `Block` layers. Where the widths differ, an output
    projection follows.

    ``pooled_width`` adds a second output, (batch, pooled_width), read from the mean of the queries.

    ``local``: at the start every query attends to its own place of the grid. Each head subtracts a learned multiple of the
    squared distance between query and key from its scores (2-D ALiBi, arXiv:2108.12409), and the query is added to the
    result. Most wavelengths of the positions are far longer than a grid, so neighbouring positions are nearly equal, and
    a projector without locality learns slowly, or never, where things are (Honeybee, arXiv:2312.06742).

    Raises ValueError for a depth or number of queries below 1, and for heads that do not divide the width.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        num_queries: int,
        *,
        heads: int,
        width: int | None = None,
        depth: int = 1,
        pooled_width: int | None = None,
        qk_norm: bool = False,
        local: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1 or num_queries < 1:
            raise ValueError(f"depth {depth} and num_queries {num_queries} must both be at least 1")
        width = width or out_width
        self.query = nn.Parameter(torch.randn(num_queries, width) * 0.02)
        self.kv_proj = nn.Linear(in_width, width, bias=False) if in_width != width else nn.Identity()
        self.ln_q, self.ln_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CrossAttention(width, heads, qk_norm)
        self.locality = nn.Parameter(torch.full((heads,), INITIAL_LOCALITY)) if local else None
        self.blocks = nn.ModuleList(Block(width, heads, qk_norm) for _ in range(depth - 1))
        self.out_proj = nn.Linear(width, out_width) if width != out_width else nn.Identity()
        self.pooled_proj = nn.Linear(width, pooled_width) if pooled_width else None

    def positions(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """Sine-cosine positions (rows · columns, width) of a grid. One of another size than the queries' lies between their
        positions, as in Qwen-VL's interpolation."""
        return sincos_2d(self.query.shape[1], *self.cell_coordinates(grid)).to(like, non_blocking=True)

    def cell_coordinates(self, grid: tuple[int, int]) -> list[Tensor]:
        """Rows and columns of ``grid``, measured in cells of the queries' grid."""
        return [
            torch.arange(n) if n == m else (torch.arange(n) + 0.5) * m / n - 0.5
            for n, m in zip(grid, default_grid(self.query.shape[0]), strict=True)
        ]

    def squared_distances(self, grid: tuple[int, int]) -> Tensor:
        """(queries, tokens): squared distances, in cells, between each query and each token of ``grid``."""
        query_cells, token_cells = (
            torch.cartesian_prod(*(p.float() for p in self.cell_coordinates(g)))
            for g in (default_grid(self.query.shape[0]), grid)
        )
        return (query_cells[:, None] - token_cells).square().sum(-1)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, grid: tuple[int, int] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``mask`` (batch, tokens), True where a token counts; ``grid`` its rows and columns, square by default.

        Raises ValueError when the grid does not hold the tokens.
        """
        grid = grid or default_grid(x.shape[1])
        if grid[0] * grid[1] != x.shape[1]:
            raise ValueError(f"{x.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]}")
        query_positions = self.positions(default_grid(self.query.shape[0]), x)
        value = self.ln_kv(self.kv_proj(x))
        key = value + self.positions(grid, x)
        query = self.ln_q(self.query).expand(x.shape[0], -1, -1)
        if self.locality is None:
            hidden = self.attn(query + query_positions, key, value, mask)
        else:
            bias = -self.locality[:, None, None] * self.squared_distances(grid).to(x, non_blocking=True)
            hidden = self.query + self.attn(query + query_positions, key, value, mask, bias)
        for block in self.blocks:
            hidden = block(hidden, query_positions, key, value, mask)
        if self.pooled_proj is None:
            return self.out_proj(hidden)
        return self.out_proj(hidden), self.pooled_proj(hidden.mean(1))
