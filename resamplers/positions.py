"""Fixed 2-D sine-cosine positions (MAE, arXiv:2111.06377; the layout of Qwen-VL's and SD3's tables)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def default_grid(tokens: int) -> tuple[int, int]:
    """Rows and columns for a token set that has no grid: a square where ``tokens`` is a square number, else one row."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else (1, tokens)


def sincos_1d(width: int, positions: Tensor) -> Tensor:
    """(positions,) to (positions, width): sines, then cosines, in float64 like numpy's."""
    places = torch.arange(width // 2, device=positions.device, dtype=torch.float64)
    frequencies = 1.0 / 10000 ** (places / (width / 2))
    angles = positions.double().reshape(-1, 1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(width: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Positions of a grid, row by row: (rows · columns, width) in fp32; the first half of the width is the column's.

    Raises ValueError when the width cannot be split in four.
    """
    if width % 4:
        raise ValueError(f"2-D positions need a width that 4 divides, not {width}")
    y, x = torch.meshgrid(rows.double(), columns.double(), indexing="ij")
    return torch.cat([sincos_1d(width // 2, x), sincos_1d(width // 2, y)], dim=1).float()
