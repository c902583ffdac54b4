"""The attention that resamplers, MM-DiT and Qwen-VL's tower share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_ATTENTION_MAX_QUERIES = 512
"""Up to this many queries, plain matrix products are faster than SDPA on a CPU (several times in the backward pass,
measured)."""


def qk_norms(head_width: int, used: bool) -> tuple[nn.Module, nn.Module]:
    """Norms of the heads' queries and keys, identities where they are not ``used``."""
    query, key = (nn.RMSNorm(head_width, eps=1e-6) if used else nn.Identity() for _ in range(2))
    return query, key


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, (batch, heads, query tokens, head_width).

    ``q``, ``k`` and ``v`` are (batch, heads, tokens, head_width); ``mask`` (batch, key tokens) is True where a key counts;
    ``bias`` (heads, query tokens, key tokens) is added to the scores.
    """
    mask = None if mask is None else mask[:, None, None, :]
    if q.device.type == "cpu" and q.shape[2] <= PLAIN_ATTENTION_MAX_QUERIES:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ v
    if bias is not None:  # SDPA takes a mask or a bias, not both
        mask = bias[None] if mask is None else bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
