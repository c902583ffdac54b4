"""Attention masks, one for each layer type, from functions of FlexAttention's ``mask_mod`` form.

A 4-D mask silently replaces the sliding windows of a transformers model. So the windows are applied here, from positions,
both in training (main stream and branches) and in decoding (padding and a cache).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PretrainedConfig

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Indices (batch, head, query, key) to True where the query may attend to the key. Eager attention and SDPA get a tensor made
of it; FlexAttention gets the function, so that memory grows with the columns and not with their square."""
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


def attention_masks(
    allowed: MaskMod,
    distance: MaskMod,
    size: tuple[int, int, int],
    config: PretrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> Masks:
    """Masks in the form that the backbone takes: one, or a dict by layer type where the config has layer types.

    ``distance`` is the query's position minus the key's, which sliding windows limit; ``size`` (batch, queries, keys).
    """
    make = block_mask if config._attn_implementation == "flex_attention" else additive_mask
    window = getattr(config, "sliding_window", None)
    windowed = allowed if window is None else within_window(allowed, distance, window)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return make(windowed, size, device, dtype)
    return {kind: make(allowed if kind == "full_attention" else windowed, size, device, dtype) for kind in kinds}


def within_window(allowed: MaskMod, distance: MaskMod, window: int) -> MaskMod:
    """``allowed`` where the key is fewer than ``window`` positions before the query."""

    def inside(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed(batch, head, query, key) & (distance(batch, head, query, key) < window)

    return inside


def additive_mask(allowed: MaskMod, size: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """For eager attention and SDPA: (batch, 1, queries, keys), 0 where allowed and the least number of ``dtype`` elsewhere."""
    batch, query, key = (torch.arange(n, device=device) for n in size)
    keep = allowed(batch[:, None, None], batch.new_zeros(()), query[:, None], key)
    mask = torch.zeros(size, dtype=dtype, device=device)
    return mask.masked_fill_(~keep, torch.finfo(dtype).min)[:, None]


def block_mask(allowed: MaskMod, size: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> BlockMask:
    """For FlexAttention, which skips blocks of 128 x 128 in which nothing is allowed, as between most branches.

    Raises ValueError on a CPU without AVX-512: torch 2.13 reads memory there that nothing has written.
    """
    if device.type == "cpu" and (kind := torch.backends.cpu.get_cpu_capability()) != "AVX512":
        raise ValueError(
            f"attn_implementation 'flex_attention' needs a GPU or a CPU with AVX-512; on this one ({kind}) torch's kernel "
            "returns wrong numbers: use 'sdpa'"
        )
    # compiled, the blocks are found without a tensor of all pairs; a CPU takes longer to compile it than to run it
    return create_block_mask(allowed, size[0], None, size[1], size[2], device=device, _compile=device.type == "cuda")


def branch_mask(lengths: Tensor, main: int, branch_boi: Tensor, queries: int) -> tuple[MaskMod, MaskMod, Tensor]:
    """The layout in training: ``main`` columns of the main stream, then ``queries`` columns for each branch.

    ``lengths`` (batch,) valid main columns; ``branch_boi`` (batch, branches) index of each branch's BOI, -1
    for none. Returns the mask, the distances and position ids (batch, columns): a branch has the positions it would have had
    after its BOI, sees the main stream up to and including it, and itself causally.
    """
    batch, branches = branch_boi.shape
    column = torch.arange(main + branches * queries, device=lengths.device)
    is_main = column < main
    begin = torch.cat(
        [column[:main].expand(batch, -1), branch_boi.repeat_interleave(queries, dim=1)], dim=1
    )  # last main column that a column may see
    positions = torch.where(is_main, column, begin + 1 + (column - main) % queries).clamp(min=0)
    present = torch.where(is_main, column < lengths[:, None], begin >= 0)
    branch = torch.where(present, torch.where(is_main, -1, (column - main) // queries), -2)

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = branch[batch, query], branch[batch, key]
        sees_main = (other == -1) & (key <= begin[batch, query])
        return sees_main | ((other >= 0) & (own == other) & (key <= query))

    def distance(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return positions[batch, query] - positions[batch, key]

    return allowed, distance, positions


def causal_mask(padding: Tensor, past: int) -> tuple[MaskMod, MaskMod]:
    """The layout in decoding: the mask and the distances of queries that come after ``past`` columns of a cache.

    ``padding`` (batch,) columns on the left are none of a row's.
    """

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= padding[batch]) & (key <= query + past)

    def distance(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query + past - key

    return allowed, distance
