"""The eye: any transformers vision model that gives patch features."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class Eye(nn.Module):
    """(views, 3, size, size) to patch features (views, patches, width), class tokens and the like left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config = getattr(model.config, "vision_config", model.config)
        self.width: int = config.hidden_size
        # a tower that pools its patches by queries gives as many features
        self.patches: int = getattr(config, "num_queries", None) or (config.image_size // config.patch_size) ** 2
        self.image_size: int = config.image_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        if not len(pixel_values):  # a batch without pictures: transformers cannot reshape nothing
            return pixel_values.new_zeros(0, self.patches, self.width)
        hidden = self.model(pixel_values=pixel_values.to(self.model.dtype)).last_hidden_state
        # class and register tokens come first (CLIP, DINOv2)
        assert hidden.shape[1] >= self.patches, f"{hidden.shape[1]} features for {self.patches} patches"
        return hidden[:, -self.patches :]


def pool_features(features: Tensor, tokens: int) -> Tensor:
    """Average patch features (views, patches, width) over a square grid to (views, tokens, width).

    Raises ValueError when either count is not a square.
    """
    side, out = math.isqrt(features.shape[1]), math.isqrt(tokens)
    if side * side != features.shape[1] or out * out != tokens:
        raise ValueError(f"{features.shape[1]} features pool to {tokens} only if both are squares")
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, out).flatten(2).transpose(1, 2)
