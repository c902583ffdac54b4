"""The attention of resamplers and MM-DiT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 512
"""Queries up to which plain products beat SDPA on a CPU (several times in the backward pass, measured)."""


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(batch, heads, tokens, head_width) each; ``mask`` (batch, key tokens), True where a key counts."""
    mask = None if mask is None else mask[:, None, None, :]
    if q.device.type == "cpu" and q.shape[2] <= SHORT:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
