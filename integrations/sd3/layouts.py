"""SD3's weights between diffusers' layout, the original one and `MMDiT`'s, which fuses q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...detokenizer.mmdit_config import MMDiTConfig

_MODEL = {
    "time_embed.0": "time_text_embed.timestep_embedder.linear_1",
    "time_embed.2": "time_text_embed.timestep_embedder.linear_2",
    "pooled_embed.0": "time_text_embed.text_embedder.linear_1",
    "pooled_embed.2": "time_text_embed.text_embedder.linear_2",
    "context_embed": "context_embedder",
    "modulation_out": "norm_out.linear",
    "proj_out": "proj_out",
}
"""Our names of layers and diffusers' names"""
_BLOCK = {
    "image.modulation": ("norm1.linear",),
    "context.modulation": ("norm1_context.linear",),
    "image.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "dual.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "image.norm_q": ("attn.norm_q",),
    "image.norm_k": ("attn.norm_k",),
    "context.norm_q": ("attn.norm_added_q",),
    "context.norm_k": ("attn.norm_added_k",),
    "dual.norm_q": ("attn2.norm_q",),
    "dual.norm_k": ("attn2.norm_k",),
    "image.out": ("attn.to_out.0",),
    "context.out": ("attn.to_add_out",),
    "dual.out": ("attn2.to_out.0",),
    "image.mlp.0": ("ff.net.0.proj",),
    "image.mlp.2": ("ff.net.2",),
    "context.mlp.0": ("ff_context.net.0.proj",),
    "context.mlp.2": ("ff_context.net.2",),
}
"""The same in a block; the layers of several names are joined in ours"""


def _diffusers_names(config: MMDiTConfig) -> dict[str, tuple[str, ...]]:
    """Of every layer of ours but the first, diffusers' names of its parts."""
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _MODEL.items()}
    for index in range(config.depth):
        for ours, parts in _BLOCK.items():
            names[f"blocks.{index}.{ours}"] = tuple(f"transformer_blocks.{index}.{part}" for part in parts)
    return names


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
    patch, bias = left.pop("pos_embed.proj.weight"), left.pop("pos_embed.proj.bias")
    return _first_layers(patch, bias, config) | _take(left, _diffusers_names(config))


def _first_layers(patch: Tensor, bias: Tensor, config: MMDiTConfig) -> dict[str, Tensor]:
    """Our weights that have another form: a convolution (width, channels, p, p) is a linear layer that reads (channels, p, p)
    flat, and the embeddings of references are zero."""
    references = torch.zeros(config.max_references, config.width)
    return {"reference_embed": references, "patch_embed.weight": patch.flatten(1), "patch_embed.bias": bias}


def _take(left: dict[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The weights and biases in ``left`` of the layers that ``names`` gives for each of ours, under our names.

    Several are joined; one is not copied. Raises ValueError naming every key that has no place.
    """
    ours = {}
    for new, parts in names.items():
        for kind in ("weight", "bias"):
            if f"{parts[0]}.{kind}" in left:
                values = [left.pop(f"{part}.{kind}") for part in parts]
                ours[f"{new}.{kind}"] = torch.cat(values) if len(values) > 1 else values[0]
    if left:
        raise ValueError(f"weights with no place in the MM-DiT: {', '.join(sorted(left))}")
    return ours


_ORIGINAL_MODEL = {
    "time_embed.0": "t_embedder.mlp.0",
    "time_embed.2": "t_embedder.mlp.2",
    "pooled_embed.0": "y_embedder.mlp.0",
    "pooled_embed.2": "y_embedder.mlp.2",
    "context_embed": "context_embedder",
    "modulation_out": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_ORIGINAL_STREAM = {
    "modulation": "adaLN_modulation.1",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "norm_q": "attn.ln_q",
    "norm_k": "attn.ln_k",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
_ORIGINAL_BLOCK = {
    **{f"image.{ours}": f"x_block.{theirs}" for ours, theirs in _ORIGINAL_STREAM.items()},
    **{f"context.{ours}": f"context_block.{theirs}" for ours, theirs in _ORIGINAL_STREAM.items()},
    "dual.qkv": "x_block.attn2.qkv",
    "dual.out": "x_block.attn2.proj",
    "dual.norm_q": "x_block.attn2.ln_q",
    "dual.norm_k": "x_block.attn2.ln_k",
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
    patch, bias = left.pop("x_embedder.proj.weight"), left.pop("x_embedder.proj.bias")
    names = {ours: (theirs,) for ours, theirs in _ORIGINAL_MODEL.items()}
    for index in range(config.depth):
        names |= {f"blocks.{index}.{ours}": (f"joint_blocks.{index}.{old}",) for ours, old in _ORIGINAL_BLOCK.items()}
    ours = _first_layers(patch, bias, config) | _take(left, names)
    # the original's last modulations are (shift, scale), diffusers' and ours (scale, shift)
    for layer in ("modulation_out", f"blocks.{config.depth - 1}.context.modulation"):
        for key in {f"{layer}.weight", f"{layer}.bias"} & ours.keys():
            ours[key] = torch.cat(ours[key].chunk(2)[::-1])
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

    for new, parts in _diffusers_names(config).items():
        for kind in ("weight", "bias"):
            if f"{new}.{kind}" in left:
                pieces = left.pop(f"{new}.{kind}").chunk(len(parts))
                theirs |= {f"{part}.{kind}": piece for part, piece in zip(parts, pieces, strict=True)}
    if left:
        raise ValueError(f"weights with no place in diffusers' transformer: {', '.join(sorted(left))}")
    return theirs
