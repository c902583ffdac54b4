"""Attention masks, one for each layer type.

A 4-D mask silently replaces the sliding windows of a transformers model. So the windows are applied here, from positions,
both in training (main stream and branches) and in decoding (caches with invalid columns).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PretrainedConfig

Mask = Tensor | BlockMask
Masks = Mask | dict[str, Mask]
_KNOWN = {"full_attention", "sliding_attention"}
_ATTENTIONS = ("sdpa", "eager", "flex_attention")


def check_backbone(config: PretrainedConfig) -> None:
    """Raises ValueError for layers whose state cannot be cropped or masked (linear attention and the like)."""
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN
    if unknown or getattr(config, "attention_chunk_size", None):
        kinds = ", ".join(sorted(unknown)) or "chunked_attention"
        raise ValueError(
            f"{config.model_type} has {kinds} layers; queries on a branch need full or sliding-window attention"
        )
    if getattr(config, "_attn_implementation", "sdpa") not in (None, *_ATTENTIONS):
        raise ValueError(f"attn_implementation {config._attn_implementation!r}; it can be {', '.join(_ATTENTIONS)}")


def attention_masks(allowed: Tensor, distance: Tensor, config: PretrainedConfig, dtype: torch.dtype) -> Masks:
    """Masks in the form that the backbone takes: one, or a dict by layer type where the config has layer types.

    ``allowed`` (batch, queries, keys) is True where a query may attend to a key; ``distance`` (batch, queries, keys) is the
    query's position minus the key's, which sliding windows limit.
    """

    def make(keep: Tensor) -> Mask:
        return flex_block_mask(keep) if config._attn_implementation == "flex_attention" else additive_mask(keep, dtype)

    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    inside = allowed if window is None else allowed & (distance < window)
    if not types:
        return make(inside)
    return {kind: make(allowed if kind == "full_attention" else inside) for kind in set(types)}


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """For eager attention and SDPA: (batch, 1, queries, keys), 0 where allowed and the least number of ``dtype`` elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def flex_block_mask(allowed: Tensor) -> BlockMask:
    """For FlexAttention, which skips blocks of 128 x 128 in which nothing is allowed, as between most branches."""

    def keep(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed[batch, query, key]

    batch, queries, keys = allowed.shape
    return create_block_mask(keep, batch, None, queries, keys, device=allowed.device)


def branch_mask(lengths: Tensor, main: int, branch_boi: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """The layout in training: ``main`` columns of the main stream, then ``queries`` columns for each branch.

    ``lengths`` (batch,) valid main columns; ``branch_boi`` (batch, branches) index of each branch's BOI, -1
    for none. Returns ``allowed`` (batch, columns, columns) and position ids (batch, columns): a branch has the
    positions it would have had after its BOI, sees the main stream up to and including it, and itself causally.
    """
    batch, branches = branch_boi.shape
    device = lengths.device
    column = torch.arange(main + branches * queries, device=device)
    is_main = column < main
    owner = torch.where(is_main, -1, (column - main) // queries)
    begin = torch.cat(
        [column[:main].expand(batch, -1), branch_boi.repeat_interleave(queries, dim=1)], dim=1
    )  # last main column that a column may see
    position = torch.where(is_main, column, begin + 1 + (column - main) % queries)
    present = torch.where(is_main, column < lengths[:, None], begin >= 0)
    sees_main = is_main & (column <= begin[:, :, None])
    same_branch = (owner[:, None] == owner[None, :]) & ~is_main & (column[None, :] <= column[:, None])
    return (sees_main | same_branch) & present[:, None, :], position.clamp(min=0)


def decode_mask(query_positions: Tensor, key_positions: Tensor, key_valid: Tensor) -> tuple[Tensor, Tensor]:
    """``allowed`` and ``distance`` (batch, queries, keys) in decoding: causal by position.

    ``query_positions`` (batch, queries), ``key_positions`` and ``key_valid`` (batch, keys).
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    return (distance >= 0) & key_valid[:, None, :], distance
