"""SD3's transformer in diffusers' layout to ours: names map one to one, except that ours fuse q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .mmdit import MMDiTConfig

_PLAIN = {
    "time_text_embed.timestep_embedder.linear_1": "time_embed.0",
    "time_text_embed.timestep_embedder.linear_2": "time_embed.2",
    "time_text_embed.text_embedder.linear_1": "pooled_embed.0",
    "time_text_embed.text_embedder.linear_2": "pooled_embed.2",
    "context_embedder": "context_embed",
    "norm_out.linear": "modulation_out",
    "proj_out": "proj_out",
}
_BLOCK = {
    "norm1.linear": "image.modulation",
    "norm1_context.linear": "context.modulation",
    "attn.to_out.0": "image.out",
    "attn.to_add_out": "context.out",
    "ff.net.0.proj": "image.mlp.0",
    "ff.net.2": "image.mlp.2",
    "ff_context.net.0.proj": "context.mlp.0",
    "ff_context.net.2": "context.mlp.2",
    "attn2.to_out.0": "dual.out",
}
_NORMS = {
    "attn.norm_q": "image.norm_q",
    "attn.norm_k": "image.norm_k",
    "attn.norm_added_q": "context.norm_q",
    "attn.norm_added_k": "context.norm_k",
    "attn2.norm_q": "dual.norm_q",
    "attn2.norm_k": "dual.norm_k",
}
_FUSED = {
    "image.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "dual.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}


def config_from_diffusers(config: Mapping[str, Any]) -> MMDiTConfig:
    """Of the ``config.json`` of an `SD3Transformer2DModel`. Raises ValueError for a norm we do not have."""
    if config.get("qk_norm") not in (None, "rms_norm"):
        raise ValueError(f"qk_norm {config['qk_norm']!r}; only rms_norm is known")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    if config["caption_projection_dim"] != width:
        raise ValueError(f"caption_projection_dim {config['caption_projection_dim']} is not the model's width {width}")
    return MMDiTConfig(
        latent_channels=config["in_channels"],
        patch_size=config["patch_size"],
        width=width,
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        context_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"],
        qk_norm=config.get("qk_norm") is not None,
        dual_attention_blocks=tuple(config.get("dual_attention_layers") or ()),
        position_table=config["pos_embed_max_size"],
        position_base=config["sample_size"] // config["patch_size"],
    )


def weights_from_diffusers(theirs: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """A state dict for `MMDiT`. Raises ValueError naming every key that has no place."""
    left = dict(theirs)
    left.pop("pos_embed.pos_embed", None)  # a fixed table; ours is computed
    ours: dict[str, Tensor] = {"reference_embed": torch.zeros(config.max_references, config.width)}
    patch = left.pop("pos_embed.proj.weight")  # a convolution (width, channels, p, p); ours reads (channels, p, p) flat
    ours["patch_embed.weight"] = patch.flatten(1)
    ours["patch_embed.bias"] = left.pop("pos_embed.proj.bias")

    def move(old: str, new: str) -> None:
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in left:
                ours[f"{new}.{kind}"] = left.pop(f"{old}.{kind}")

    for old, new in _PLAIN.items():
        move(old, new)
    for index in range(config.depth):
        there, here = f"transformer_blocks.{index}", f"blocks.{index}"
        for old, new in (_BLOCK | _NORMS).items():
            move(f"{there}.{old}", f"{here}.{new}")
        for new, parts in _FUSED.items():
            for kind in ("weight", "bias"):
                names = [f"{there}.{part}.{kind}" for part in parts]
                if names[0] in left:
                    ours[f"{here}.{new}.{kind}"] = torch.cat([left.pop(name) for name in names])
    if left:
        raise ValueError(f"weights with no place in the MM-DiT: {', '.join(sorted(left))}")
    return ours
