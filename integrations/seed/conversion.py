"""The released weights of SEED's tokenizer (``seed_quantizer.pt``) and of its vision tower to a `SeedTokenizer`.

LAVIS saves no frozen vision tower, so BLIP-2's ``eva_vit_g.pth`` is a file of its own. Weights that only training or the
Q-Former's text side had are not converted; their names are returned. Everything else must have a place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...detokenizer.files import build_on_meta, check_state_dict, save_module
from ..seed_x.files import read_weights
from .tokenizer import SeedTokenizer, SeedTokenizerConfig

_VISION = "visual_encoder."
_RENAMED = (
    (rf"{_VISION}cls_token", "vision_model.embeddings.class_embedding"),
    (rf"{_VISION}pos_embed", "vision_model.embeddings.position_embedding"),
    (rf"{_VISION}patch_embed\.proj\.(.+)", r"vision_model.embeddings.patch_embedding.\1"),
    (rf"{_VISION}blocks\.(\d+)\.norm([12])\.(.+)", r"vision_model.encoder.layers.\1.layer_norm\2.\3"),
    (rf"{_VISION}blocks\.(\d+)\.attn\.qkv\.(.+)", r"vision_model.encoder.layers.\1.self_attn.qkv.\2"),
    (rf"{_VISION}blocks\.(\d+)\.attn\.proj\.(.+)", r"vision_model.encoder.layers.\1.self_attn.projection.\2"),
    (rf"{_VISION}blocks\.(\d+)\.mlp\.(.+)", r"vision_model.encoder.layers.\1.mlp.\2"),
    (r"ln_vision\.(.+)", r"vision_model.post_layernorm.\1"),
    (r"query_tokens", "queries"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(.+)", r"qformer.layernorm.\1"),
    (r"Qformer\.bert\.encoder\.(layer\.\d+\.(?:cross)?attention)\.self\.(.+)", r"qformer.encoder.\1.attention.\2"),
    (r"Qformer\.bert\.encoder\.(layer\.\d+\.(?:cross)?attention\.output\..+)", r"qformer.encoder.\1"),
    (r"Qformer\.bert\.encoder\.(layer\.\d+\.(?:intermediate|output)_query\..+)", r"qformer.encoder.\1"),
    (r"encode_task_layer\.(.+)", r"vector_proj.\1"),
    (r"quantize\.embedding\.weight", "codebook"),
    (r"decode_task_layer\.(.+)", r"code_proj.\1"),
    (r"pos_embed_image", "positions"),
    (r"blocks_image\.(\d+)\.(norm[12]\..+)", r"blocks.\1.\2"),
    (r"blocks_image\.(\d+)\.attn\.qkv\.(.+)", r"blocks.\1.self_attn.in_proj_\2"),
    (r"blocks_image\.(\d+)\.attn\.proj\.(.+)", r"blocks.\1.self_attn.out_proj.\2"),
    (r"blocks_image\.(\d+)\.mlp\.fc([12])\.(.+)", r"blocks.\1.linear\2.\3"),
    (r"image_down\.(.+)", r"down.\1"),
    (r"distill_image_proj\.(.+)", r"embed_proj.\1"),
)
"""Their names and ours"""
_UNUSED = (
    r"Qformer\.cls\..+",
    r"Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings)\.weight",
    r"Qformer\.bert\.embeddings\.position_ids",
    r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..+",
    rf"{_VISION}(norm|fc_norm|head)\..+",
    rf"{_VISION}mask_token",
)
"""Names, in parts that are converted, of weights that tokenizing does not use: text, and the tower's own pre-training"""
_PARTS = {name.split("\\")[0].split(".")[0] for name, _ in _RENAMED}


def convert_seed_tokenizer(
    quantizer: Path, vision: Path | None, output: Path, config: SeedTokenizerConfig | None = None
) -> list[str]:
    """Writes a folder that `load_module` reads as a `SeedTokenizer`, and returns the names of the weights that are not in it.

    ``quantizer`` is ``seed_quantizer.pt``, ``vision`` BLIP-2's ``eva_vit_g.pth``; None if ``quantizer`` has the vision tower too.
    Raises ValueError for files that are missing or cannot be read, and for weights that are missing, unknown or of another shape.
    """
    theirs = read_weights(quantizer)
    if vision is not None:
        theirs |= {_VISION + name.removeprefix(_VISION): value for name, value in read_weights(vision).items()}
    elif not any(name.startswith(_VISION) for name in theirs):
        raise ValueError(f"{quantizer} holds no vision tower, as is usual: give BLIP-2's eva_vit_g.pth too")
    config = config or SeedTokenizerConfig()
    ours, unused = weights_from_released(theirs, config.vision_layers)
    tokenizer = build_on_meta(lambda: SeedTokenizer(config), quantizer)
    check_state_dict(ours, tokenizer, quantizer)
    tokenizer.load_state_dict(ours, assign=True)
    save_module(tokenizer, output)
    return unused


def weights_from_released(theirs: Mapping[str, Tensor], vision_layers: int = 39) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict for `SeedTokenizer`, and the names of the weights that it does not use, sorted.

    Of the vision tower the first ``vision_layers`` are used; BLIP-2 leaves out EVA's last one. Raises ValueError naming weights
    of a converted part that have no place.
    """
    unused = sorted(name for name in theirs if _is_unused(name, vision_layers))
    left = {name: theirs[name] for name in theirs.keys() - set(unused)}
    for name in [name for name in left if name.endswith(".attn.q_bias") and name.replace("q_bias", "v_bias") in left]:
        query, value = left.pop(name), left.pop(name.replace("q_bias", "v_bias"))
        left[name.replace("q_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(query), value])  # keys have none
    renamed = {name: new for name in left if (new := _new_name(name))}
    if strays := sorted(left.keys() - renamed.keys()):
        raise ValueError(f"weights with no place in SEED's tokenizer: {', '.join(strays[:3])} ({len(strays)} in all)")
    ours = {new: left[name] for name, new in renamed.items()}
    for name in {"queries", "positions"} & ours.keys():
        ours[name] = ours[name].squeeze(0)
    return ours, unused


def _is_unused(name: str, vision_layers: int) -> bool:
    layer = re.match(rf"{_VISION}blocks\.(\d+)\.", name)
    if layer and int(layer[1]) >= vision_layers:
        return True
    return name.split(".")[0] not in _PARTS or any(re.fullmatch(pattern, name) for pattern in _UNUSED)


def _new_name(name: str) -> str | None:
    """Ours for one of theirs, None where it has none."""
    found = ((re.fullmatch(pattern, name), replacement) for pattern, replacement in _RENAMED)
    return next((match.expand(replacement) for match, replacement in found if match), None)
