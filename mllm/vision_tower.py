"""The vision tower: any vision model of transformers that gives patch features."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


class VisionTower(nn.Module):
    """Pixel values (views, 3, size, size) to patch features (views, patches, width), without class and register tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        config = getattr(model.config, "vision_config", model.config)
        self.width: int = config.hidden_size
        # a tower with learned queries (Qwen-VL) gives as many features as it has queries
        self.num_patches: int = getattr(config, "num_queries", None) or (config.image_size // config.patch_size) ** 2
        self.image_size: int = config.image_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        if not len(pixel_values):  # no images: transformers cannot reshape an empty batch
            return pixel_values.new_zeros(0, self.num_patches, self.width)
        hidden = self.model(pixel_values=pixel_values.to(self.model.dtype)).last_hidden_state
        # class and register tokens come first (CLIP, DINOv2)
        assert hidden.shape[1] >= self.num_patches, f"{hidden.shape[1]} features for {self.num_patches} patches"
        return hidden[:, -self.num_patches :]


def pool_features(features: Tensor, tokens: int, pool: str = "grid") -> Tensor:
    """Averages patch features (views, patches, width) to (views, tokens, width).

    ``pool`` is "grid", over a square grid of patches, or "sequence", over neighbours in reading order, as in SEED-X.
    Raises ValueError for a number of patches or tokens with which that is impossible.
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
