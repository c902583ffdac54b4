"""The vision tower of Qwen-VL-Chat and SEED-X: a ViT with attention pooling by learned queries.

Bai et al. 2023, arXiv:2308.12966. Parameter names are those of the released checkpoints. transformers has no class for
it; this one is a `PreTrainedModel`, so it saves and loads like the others.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ...resamplers import Resampler
from ...resamplers.attention import attention

EPS = 1e-6
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue"""
NUM_POSITIONS = 256
"""Rows of the learned position table, a grid of 16 x 16 whatever the image's size."""


class QwenVLVisionConfig(PretrainedConfig):
    """Defaults are Qwen-VL-Chat's. ``hidden_size`` is the width of the output, where `VisionTower` looks for it."""

    model_type = "qwen_vl_vision"

    def __init__(
        self,
        image_size: int = 448,
        patch_size: int = 14,
        width: int = 1664,
        layers: int = 48,
        heads: int = 16,
        mlp_ratio: float = 4.9231,
        num_queries: int = 256,
        hidden_size: int = 4096,
        **options: Any,
    ) -> None:
        self.image_size, self.patch_size, self.width, self.layers, self.heads = (
            image_size,
            patch_size,
            width,
            layers,
            heads,
        )
        self.mlp_ratio, self.num_queries, self.hidden_size = mlp_ratio, num_queries, hidden_size
        super().__init__(**options)


def resize_positions(table: Tensor, side: int) -> Tensor:
    """Positions (rows, width) of a square grid, interpolated (bicubic, as in Qwen-VL) to one of side ``side``."""
    own = math.isqrt(table.shape[0])
    if own == side:
        return table
    grid = table.float().unflatten(0, (1, own, own)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


class Attention(nn.Module):
    """In the projection, queries, keys and values are interleaved head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.in_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return self.out_proj(attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each after its layer norm and added to its input (batch, patches, width)."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, config.heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, hidden), "c_proj": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Pool(Resampler):
    """The positions of the keys are those of the queries, interpolated to the grid of patches."""

    def positions(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        side = math.isqrt(self.query.shape[0])
        return resize_positions(super().positions((side, side), like), grid[0])


class QwenVLVisionModel(PreTrainedModel):
    """Pixel values to features (`forward`)."""

    config_class = QwenVLVisionConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__(config)
        width, out = config.width, config.hidden_size
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(NUM_POSITIONS, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPS)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(config) for _ in range(config.layers))})
        self.attn_pool = Pool(width, out, config.num_queries, heads=out // 128)
        self.attn_pool.ln_q.eps = self.attn_pool.ln_kv.eps = EPS
        self.ln_post = nn.LayerNorm(out, eps=EPS)
        self.proj = nn.Parameter(out**-0.5 * torch.randn(out, out))
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """(batch, 3, image_size, image_size) to ``last_hidden_state`` (batch, num_queries, hidden_size)."""
        patches = self.conv1(pixel_values)
        x = patches.flatten(2).transpose(1, 2) + resize_positions(self.positional_embedding, patches.shape[-1])
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"].children():
            x = block(x)
        return BaseModelOutput(last_hidden_state=self.ln_post(self.attn_pool(x)) @ self.proj)


def weights_from_released(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict from a released one: the names are the same, the pool's fixed position table is computed here."""
    return {name: value for name, value in theirs.items() if name != "attn_pool.pos_embed"}
