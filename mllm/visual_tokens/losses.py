"""Losses of the visual tokenizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_loss(features: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of each feature (batch, tokens, width) and its target, averaged over all; the target is detached."""
    return 1 - F.cosine_similarity(features.float(), target.detach().float(), dim=-1).mean()


def squared_error_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of features (batch, tokens, width) from their target, which is detached."""
    return F.mse_loss(features.float(), target.detach().float())


def contrastive_loss(
    images: Tensor, captions: Tensor, has_caption: Tensor | None = None, temperature: float | Tensor = 0.07
) -> Tensor:
    """InfoNCE between images and captions in both directions (CLIP, arXiv:2103.00020), a scalar.

    ``images`` and ``captions`` are embeddings (batch, width); rows without a caption are False in ``has_caption`` (batch,) and do
    not take part. With fewer than two captions there is nothing to tell apart, and the loss is 0.
    """
    images, captions = images.float(), captions.float()
    if has_caption is not None:
        images, captions = images[has_caption], captions[has_caption]
    if len(images) < 2:
        return images.sum() * 0
    logits = F.normalize(images, dim=-1) @ F.normalize(captions, dim=-1).T / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def codebook_use(codes: Tensor, num_codes: int) -> Tensor:
    """The share of the codebook that appears in ``codes`` (...)."""
    return (torch.bincount(codes.flatten(), minlength=num_codes) > 0).float().mean()
