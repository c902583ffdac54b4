"""Positions of image tokens: SD3's cropped sine-cosine table, or scaled 2-D rotary angles."""

from __future__ import annotations

import torch
from torch import Tensor

from ..resamplers.positions import sincos_1d
from .mmdit_config import MMDiTConfig


def centred_grid(config: MMDiTConfig, height: int, width: int, device: torch.device) -> Tensor:
    """(height · width, 2) rows and columns in units of one patch.

    "sincos": integer places in SD3's table, the grid cropped from its middle; ValueError when it is larger.
    "rope": measured from the image's centre, so that they mean the same at any size (Seedream 2.0, arXiv:2503.07703).
    """
    if config.positions == "rope":
        top, left = -(height - 1) / 2, -(width - 1) / 2
    else:
        side = config.position_table
        if height > side or width > side:
            raise ValueError(f"a picture of {height} x {width} patches; the position table holds {side} x {side}")
        top, left = (side - height) // 2, (side - width) // 2
    rows = torch.arange(height, device=device, dtype=torch.float32) + top
    columns = torch.arange(width, device=device, dtype=torch.float32) + left
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)


def sincos_table(config: MMDiTConfig, places: Tensor) -> Tensor:
    """Rows and columns (..., 2) to entries of SD3's table (..., width), which is computed, not stored."""
    scaled = places.double() * (config.position_base / config.position_table)
    row, column = (sincos_1d(config.width // 2, scaled[..., i].reshape(-1)) for i in (0, 1))
    return torch.cat([column, row], dim=1).float().reshape(*places.shape[:-1], config.width)


def rotary_angles(places: Tensor, head_width: int) -> Tensor:
    """Places (batch, tokens, 3: picture, row, column) to angles (batch, 1, tokens, head_width / 2).

    An eighth of the frequencies belong to the index of the image (0 is the one being drawn), the rest are
    shared by row and column. Raises ValueError for a head width that 16 does not divide.
    """
    if head_width % 16:
        raise ValueError(f"rotary positions need a head width that 16 divides, not {head_width}")
    pairs = head_width // 2
    side = (pairs - pairs // 8) // 2
    angles = []
    for axis, count in enumerate((pairs - 2 * side, side, side)):
        # base 100, not 10,000: images are tens of patches wide, not thousands
        frequencies = 100.0 ** (-torch.arange(count, device=places.device, dtype=torch.float32) / count)
        angles.append(places[..., axis, None].float() * frequencies)
    return torch.cat(angles, dim=-1)[:, None]


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates the pairs (first half, second half) of (batch, heads, tokens, head_width)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
