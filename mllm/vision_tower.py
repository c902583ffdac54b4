"""The vision tower: any transformers vision model that gives patch features."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class VisionTower(nn.Module):
    """(views, 3, size, size) to patch features (views, patches, width), class tokens and the like left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config = getattr(model.config, "vision_config", model.config)
        self.width: int = config.hidden_size
        # a tower that pools its patches by queries gives as many features
        self.num_patches: int = getattr(config, "num_queries", None) or (config.image_size // config.patch_size) ** 2
        self.image_size: int = config.image_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        if not len(pixel_values):  # a batch without pictures: transformers cannot reshape nothing
            return pixel_values.new_zeros(0, self.num_patches, self.width)
        hidden = self.model(pixel_values=pixel_values.to(self.model.dtype)).last_hidden_state
        # class and register tokens come first (CLIP, DINOv2)
        assert hidden.shape[1] >= self.num_patches, f"{hidden.shape[1]} features for {self.num_patches} patches"
        return hidden[:, -self.num_patches :]


def pool_features(features: Tensor, tokens: int, pool: str = "grid") -> Tensor:
    """Average patch features (views, patches, width) to (views, tokens, width), over a square grid or, as SEED-X does,
    over the "sequence", neighbours in reading order.

    Raises ValueError when the counts do not fit that.
    """
    patches = features.shape[1]
    if pool == "sequence":
        if patches % tokens:
            raise ValueError(f"{patches} features do not pool to {tokens}: not a multiple")
        return features.unflatten(1, (tokens, -1)).mean(2)
    side, out = math.isqrt(patches), math.isqrt(tokens)
    if side * side != patches or out * out != tokens:
        raise ValueError(f"{patches} features pool to {tokens} only if both are squares")
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, out).flatten(2).transpose(1, 2)
