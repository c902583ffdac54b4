"""Sizes and kinds of an MM-DiT (`mmdit.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class MMDiTConfig:
    """Raises ValueError for values that make no sense."""

    latent_channels: int = 16
    patch_size: int = 2
    width: int = 1536
    depth: int = 24
    heads: int = 24
    context_width: int = 4096
    pooled_width: int = 2048
    mlp_ratio: float = 4.0
    adaln: str = "full"
    """"full": a projection to all modulations in every block; "low_rank": one shared, narrow one before them."""
    adaln_rank: int = 64
    qk_norm: bool = True
    dual_attention_blocks: tuple[int, ...] = ()
    """Blocks with a second attention over the image stream alone (SD3.5-medium)."""
    positions: str = "sincos"
    """"sincos": SD3's table, cropped about its centre; "rope": 2-D rotary, the reference's index on a third axis."""
    position_table: int = 192
    """Side of the sine-cosine table in patches: the largest picture it can place."""
    position_base: int = 64
    """Side in patches whose positions run over the base range (SD3's ``sample_size / patch_size``)."""
    max_references: int = 0

    def __post_init__(self) -> None:
        self.dual_attention_blocks = tuple(self.dual_attention_blocks)
        sizes = (
            "latent_channels",
            "patch_size",
            "width",
            "depth",
            "heads",
            "context_width",
            "pooled_width",
            "adaln_rank",
        )
        for name in (*sizes, "position_table", "position_base"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; it must be above 0")
        if self.max_references < 0:
            raise ValueError(f"max_references is {self.max_references}; it must not be negative")
        if unknown := [block for block in self.dual_attention_blocks if not 0 <= block < self.depth]:
            raise ValueError(f"dual_attention_blocks has {unknown[0]}; the blocks are 0 to {self.depth - 1}")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        for name, known in {"adaln": ("full", "low_rank"), "positions": ("sincos", "rope")}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {' or '.join(known)}")
