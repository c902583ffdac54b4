"""Augmentations that make renders look like a model's drawings: wavy lines, and the errors of decoded noisy latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...detokenizer.autoencoder import Autoencoder


def elastic_warp(pixels: Tensor, amount: float) -> Tensor:
    """An elastic deformation of pictures (batch, 3, height, width): lines move by about ``amount`` pixels, whole objects by
    twice as much."""
    batch, _, height, width = pixels.shape
    grid = F.affine_grid(
        torch.eye(2, 3, device=pixels.device).expand(batch, 2, 3), list(pixels.shape), align_corners=False
    )
    for cells, strength in ((10, amount), (3, 2 * amount)):
        coarse = torch.randn(batch, 2, cells, cells, device=pixels.device) * strength
        moved = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).movedim(1, -1)
        grid = grid + moved * moved.new_tensor([2 / width, 2 / height])
    return F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False).to(pixels.dtype)


@torch.no_grad()
def noisy_reconstruction(autoencoder: Autoencoder, pixels: Tensor, max_std: float) -> Tensor:
    """Pictures (batch, 3, height, width), encoded and decoded with noise of a standard deviation up to ``max_std`` on the
    latents."""
    latents = autoencoder.encode(pixels)
    noise = torch.rand(len(latents), 1, 1, 1).to(latents) * max_std
    return autoencoder.decode(latents + noise * torch.randn_like(latents)).clamp(-1, 1)
