"""SD3's weights between diffusers' layout, the original one and `MMDiT`'s, which fuses q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...detokenizer.mmdit_config import MMDiTConfig

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
    """The config for the ``config.json`` of an `SD3Transformer2DModel`. Raises ValueError for norms that `MMDiT` lacks."""
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


_ORIGINAL = {
    "t_embedder.mlp.0": "time_embed.0",
    "t_embedder.mlp.2": "time_embed.2",
    "y_embedder.mlp.0": "pooled_embed.0",
    "y_embedder.mlp.2": "pooled_embed.2",
    "context_embedder": "context_embed",
    "final_layer.adaLN_modulation.1": "modulation_out",
    "final_layer.linear": "proj_out",
}
_ORIGINAL_STREAM = {
    "adaLN_modulation.1": "modulation",
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "attn.ln_q": "norm_q",
    "attn.ln_k": "norm_k",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_ORIGINAL_DUAL = {
    "attn2.qkv": "dual.qkv",
    "attn2.proj": "dual.out",
    "attn2.ln_q": "dual.norm_q",
    "attn2.ln_k": "dual.norm_k",
}
_ORIGINAL_PREFIX = "model.diffusion_model."
HEAD_WIDTH = 64
"""Width of a head in every released SD3; it cannot be read from the original files where there is no QK norm."""
POSITION_BASE = 64
"""Side in patches that positions are measured against: 1024 pixels, in every released SD3."""


def config_from_original(theirs: Mapping[str, Tensor]) -> MMDiTConfig:
    """The config for weights in the original layout, from their shapes and two constants (`HEAD_WIDTH`, `POSITION_BASE`).

    Raises ValueError for weights that are not an SD3's.
    """
    weights = {k.removeprefix(_ORIGINAL_PREFIX): v for k, v in theirs.items() if k.startswith(_ORIGINAL_PREFIX)}
    missing = [
        name for name in ("x_embedder.proj.weight", "pos_embed", "context_embedder.weight") if name not in weights
    ]
    if missing:
        raise ValueError(f"no SD3 in the original layout: {_ORIGINAL_PREFIX}{missing[0]} is missing")
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    blocks = {int(k.split(".")[1]) for k in weights if k.startswith("joint_blocks.")}
    dual = sorted({int(k.split(".")[1]) for k in weights if ".x_block.attn2.qkv" in k})
    norm = weights.get("joint_blocks.0.x_block.attn.ln_q.weight")
    return MMDiTConfig(
        latent_channels=channels,
        patch_size=patch,
        width=width,
        depth=len(blocks),
        heads=width // (HEAD_WIDTH if norm is None else norm.shape[0]),
        context_width=weights["context_embedder.weight"].shape[1],
        pooled_width=weights["y_embedder.mlp.0.weight"].shape[1],
        qk_norm=norm is not None,
        dual_attention_blocks=tuple(dual),
        position_table=round(weights["pos_embed"].shape[1] ** 0.5),
        position_base=POSITION_BASE,
    )


def weights_from_original(theirs: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """A state dict for `MMDiT` from the original single-file layout, without the file's other parts (text encoders, VAE).

    Raises ValueError naming every key of the MM-DiT that has no place.
    """
    left = {k.removeprefix(_ORIGINAL_PREFIX): v for k, v in theirs.items() if k.startswith(_ORIGINAL_PREFIX)}
    left.pop("pos_embed", None)
    ours: dict[str, Tensor] = {"reference_embed": torch.zeros(config.max_references, config.width)}
    ours["patch_embed.weight"] = left.pop("x_embedder.proj.weight").flatten(1)
    ours["patch_embed.bias"] = left.pop("x_embedder.proj.bias")

    def move(old: str, new: str, swap: bool = False) -> None:
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in left:
                value = left.pop(f"{old}.{kind}")
                # the original's last modulations are (shift, scale), diffusers' and ours (scale, shift)
                ours[f"{new}.{kind}"] = torch.cat(value.chunk(2)[::-1]) if swap else value

    for old, new in _ORIGINAL.items():
        move(old, new, swap=old.startswith("final_layer.adaLN"))
    for index in range(config.depth):
        for block, stream in (("x_block", "image"), ("context_block", "context")):
            there = f"joint_blocks.{index}.{block}"
            for old, new in _ORIGINAL_STREAM.items():
                last = index == config.depth - 1 and stream == "context" and new == "modulation"
                move(f"{there}.{old}", f"blocks.{index}.{stream}.{new}", swap=last)
        for old, new in _ORIGINAL_DUAL.items():
            move(f"joint_blocks.{index}.x_block.{old}", f"blocks.{index}.{new}")
    if left:
        raise ValueError(f"weights with no place in the MM-DiT: {', '.join(sorted(left))}")
    return ours


def config_to_diffusers(config: MMDiTConfig) -> dict[str, Any]:
    """The arguments of `SD3Transformer2DModel`. Raises ValueError for what that class cannot express."""
    for wrong, what in (
        (config.adaln != "full", f"adaln {config.adaln!r}"),
        (config.positions != "sincos", f"positions {config.positions!r}"),
        (config.mlp_ratio != 4.0, f"mlp_ratio {config.mlp_ratio}"),
        (config.max_references > 0, f"{config.max_references} reference pictures (drop_references leaves them out)"),
    ):
        if wrong:
            raise ValueError(f"diffusers' SD3 transformer has no {what}")
    return {
        "sample_size": config.position_base * config.patch_size,
        "patch_size": config.patch_size,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "num_layers": config.depth,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.context_width,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.pooled_width,
        "pos_embed_max_size": config.position_table,
        "dual_attention_layers": config.dual_attention_blocks,
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }


def weights_to_diffusers(ours: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """The inverse of `weights_from_diffusers`, without the fixed position table.

    Raises ValueError for a key with no place.
    """
    left = dict(ours)
    left.pop("reference_embed", None)
    patch = left.pop("patch_embed.weight")
    p = config.patch_size
    theirs = {"pos_embed.proj.weight": patch.unflatten(1, (config.latent_channels, p, p))}
    theirs["pos_embed.proj.bias"] = left.pop("patch_embed.bias")

    def move(new: str, old: str) -> None:
        for kind in ("weight", "bias"):
            if f"{new}.{kind}" in left:
                theirs[f"{old}.{kind}"] = left.pop(f"{new}.{kind}")

    for old, new in _PLAIN.items():
        move(new, old)
    for index in range(config.depth):
        there, here = f"transformer_blocks.{index}", f"blocks.{index}"
        for old, new in (_BLOCK | _NORMS).items():
            move(f"{here}.{new}", f"{there}.{old}")
        for new, parts in _FUSED.items():
            for kind in ("weight", "bias"):
                if f"{here}.{new}.{kind}" in left:
                    pieces = left.pop(f"{here}.{new}.{kind}").chunk(3)
                    theirs |= {f"{there}.{part}.{kind}": piece for part, piece in zip(parts, pieces, strict=True)}
    if left:
        raise ValueError(f"weights with no place in diffusers' transformer: {', '.join(sorted(left))}")
    return theirs
