"""SEED-X's released files to the parts of a model folder (`inference/convert.py` makes the folder)."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ...detokenizer.files import build_on_meta, check_state_dict, load_strict, read_part_config, save_module
from ...mllm.config import LimnerConfig
from ...mllm.stream import StreamModel
from ...mllm.vision_tower import VisionTower, pool_features
from ...mllm.vocabulary import vocabulary_from_tokenizer
from ..sdxl.detokenizer import SDXLAdapter, SDXLAdapterConfig
from .agent import TEMPLATES, weights_from_seed_x
from .files import read_weights, with_prefix
from .qwen_vl_vision import CLIP_MEAN, CLIP_STD, QwenVLVisionConfig, QwenVLVisionModel, weights_from_released

GRIDS = ((1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (1, 4), (4, 1), (2, 2))
TOKENIZER = "cvlm_llama2_tokenizer_100img_and_224loc_addpatch"
SDXL = "stable-diffusion-xl-base-1.0"
VISION = ("QwenViT/qwen_vit_G.pt", "Qwen-VL-Chat")
VISION_PREFIX = "transformer.visual."
DETOKENIZERS = {
    "seed_x": "seed_detokenizer/first_stage",
    "seed_x_i": "seed_detokenizer/first_stage",
    "seed_x_edit": "seed_detokenizer/second_stage",
}
"""The folder of each model's de-tokenizer; that of the second stage takes a reference image."""


@dataclass
class Sizes:
    """Sizes that cannot be read from the weights; the defaults are those of the released models."""

    image_size: int = 448
    vision_heads: int = 16
    heads: int = 32
    adapter_heads: int = 16
    drawing: tuple[int, int] = (1024, 1024)


def write_stream(source: Path, parts: Path, model: str, tower: QwenVLVisionModel, sizes: Sizes) -> LimnerConfig:
    """Writes tokenizer, backbone, queries and resamplers to ``parts``; ``tower`` is on the meta device. Returns the config.

    Raises ValueError for files that are missing or do not fit.
    """
    folder = source / model / "llm"
    options = read_part_config(folder)
    if options.get("model_type") != "llama":
        raise ValueError(f"{folder} holds a {options.get('model_type')!r}, not SEED-X's LLaMA")
    # the agent's file holds what was trained further, which may include the backbone
    agent = read_weights(source / model / "agent/pytorch_model.bin")
    theirs = {f"llm.{name}": value for name, value in read_weights(folder).items()} | agent
    theirs = {name: value for name, value in theirs.items() if not name.endswith("rotary_emb.inv_freq")}
    queries = theirs["input_resampler.query"].shape[0] if "input_resampler.query" in theirs else 0
    config = LimnerConfig(
        num_queries=queries or 64,
        image_tokens=queries or 64,
        feature_tokens=queries or 64,
        feature_pool="sequence",
        resampler_heads=sizes.heads,
        image_size=sizes.image_size,
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
        tile_grids=((1, 1),) if model == "seed_x_edit" else GRIDS,
        drawn_images="queries",
        default_size=sizes.drawing,
        max_references=int(model == "seed_x_edit"),
    )
    tokenizer = load_tokenizer(source / TOKENIZER, model)
    vocabulary = vocabulary_from_tokenizer(tokenizer, config)
    ours = weights_from_seed_x(theirs, vocabulary.slots[:queries])
    llama = LlamaConfig.from_dict(options)
    stream = build_on_meta(lambda: StreamModel(LlamaForCausalLM(llama), VisionTower(tower), config, vocabulary), folder)
    stream.vision_tower = None
    check_state_dict(ours, stream, source / model)
    (parts / "llm").mkdir()
    llama.architectures = ["LlamaForCausalLM"]
    llama.save_pretrained(parts / "llm")
    special_ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    (parts / "llm/generation_config.json").write_text(json.dumps(special_ids) + "\n", encoding="utf-8")
    save_torch_state_dict(with_prefix(ours, "llm."), parts / "llm")
    rest = {name: value.contiguous() for name, value in ours.items() if not name.startswith("llm.")}
    save_file(rest, parts / "stream.safetensors")
    tokenizer.save_pretrained(parts)
    config.save(parts)
    return config


def load_tokenizer(folder: Path, model: str) -> PreTrainedTokenizerFast:
    """SEED-X's tokenizer, with the prompt format of ``model`` as its chat template. Raises ValueError if it cannot be read."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    try:
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer that can be read (a tokenizer.model needs sentencepiece): {error}"
        ) from error
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=theirs.backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATES[model]
    return tokenizer


def write_vision(source: Path, parts: Path, sizes: Sizes) -> QwenVLVisionModel:
    """Writes Qwen-VL-Chat's vision tower, from the file that SEED-X's script extracts or from the folder of the chat model.

    Returns the tower on the meta device. Raises ValueError for files that are missing or do not fit.
    """
    found = next((source / name for name in VISION if (source / name).exists()), None)
    if found is None:
        raise ValueError(f"no visual tower: neither {' nor '.join(str(source / name) for name in VISION)}")
    theirs = read_weights(found)
    weights = weights_from_released(with_prefix(theirs, VISION_PREFIX) or theirs)
    try:
        kernel, first = weights["conv1.weight"], weights["transformer.resblocks.0.mlp.c_fc.weight"]
        config = QwenVLVisionConfig(
            image_size=sizes.image_size,
            patch_size=kernel.shape[-1],
            width=kernel.shape[0],
            heads=sizes.vision_heads,
            layers=len({name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")}),
            mlp_ratio=(first.shape[0] + 0.5) / kernel.shape[0],
            num_queries=weights["attn_pool.query"].shape[0],
            hidden_size=weights["proj"].shape[0],
        )
    except KeyError as error:
        raise ValueError(f"{found} holds no Qwen-VL tower: {error.args[0]} is missing") from None
    tower = build_on_meta(lambda: QwenVLVisionModel(config), found)
    check_state_dict(weights, tower, found)
    config.save_pretrained(parts / "vision")
    save_torch_state_dict(weights, parts / "vision")
    return tower


def write_detokenizer(source: Path, parts: Path, model: str, config: LimnerConfig, sizes: Sizes) -> None:
    """Writes the de-tokenizer: its resampler, SDXL's UNet as SEED-X trained it further, SDXL's autoencoder and scheduler.

    Raises ValueError for files that are missing or do not fit.
    """
    folder = parts / "detokenizer"
    file = source / DETOKENIZERS[model] / "pytorch_model.bin"
    theirs = read_weights(file)
    resampler, trained = with_prefix(theirs, "resampler."), with_prefix(theirs, "unet.")
    if stray := sorted(name for name in theirs if not name.startswith(("resampler.", "unet."))):
        raise ValueError(
            f"{file}: weights with no place in a de-tokenizer: {', '.join(stray[:3])} ({len(stray)} in all)"
        )
    try:
        _, count, width = resampler["latents"].shape
        own = SDXLAdapterConfig(
            feature_width=resampler["proj_in.weight"].shape[1],
            feature_tokens=config.feature_tokens,
            num_tokens=count,
            width=width,
            depth=len({name.split(".")[1] for name in resampler if name.startswith("layers.")}),
            heads=sizes.adapter_heads,
            head_width=resampler["layers.0.0.to_q.weight"].shape[0] // sizes.adapter_heads,
            context_widths=(resampler["unet_proj_1.weight"].shape[0], resampler["unet_proj_2.weight"].shape[0]),
        )
    except KeyError as error:
        raise ValueError(f"{file} holds no de-tokenizer: resampler.{error.args[0]} is missing") from None
    adapter = build_on_meta(lambda: SDXLAdapter(own), file)
    weights = {f"resampler.{name}": value for name, value in resampler.items()}
    vision_tower = load_strict(QwenVLVisionModel, parts / "vision", dtype="auto").eval()
    blank = torch.zeros(1, 3, sizes.image_size, sizes.image_size, dtype=vision_tower.dtype)
    with torch.no_grad():
        features = pool_features(vision_tower(blank).last_hidden_state, config.feature_tokens, config.feature_pool)
    del vision_tower
    weights["negative_features"] = features[0].to(resampler["latents"].dtype)
    check_state_dict(weights, adapter, file)
    adapter.load_state_dict(weights, assign=True)
    save_module(adapter, folder / "adapter")

    sdxl = source / SDXL
    options = read_part_config(sdxl / "unet")
    unet = read_weights(sdxl / "unet") | trained
    options["in_channels"] = unet["conv_in.weight"].shape[1] if "conv_in.weight" in unet else options["in_channels"]
    unet_module = build_on_meta(lambda: UNet2DConditionModel.from_config(options), sdxl / "unet")
    check_state_dict(unet, unet_module, file)
    unet_module.save_config(folder / "unet")
    save_torch_state_dict(unet, folder / "unet", filename_pattern="diffusion_pytorch_model{suffix}.safetensors")
    for part in ("vae", "scheduler"):
        if not (sdxl / part).is_dir():
            raise ValueError(f"no such folder: {sdxl / part}")
    (folder / "vae").mkdir()
    read_part_config(sdxl / "vae")
    shutil.copyfile(sdxl / "vae/config.json", folder / "vae/config.json")
    save_torch_state_dict(
        read_weights(sdxl / "vae"), folder / "vae", filename_pattern="diffusion_pytorch_model{suffix}.safetensors"
    )
    (folder / "scheduler").mkdir()
    shutil.copyfile(sdxl / "scheduler/scheduler_config.json", folder / "scheduler/scheduler_config.json")
