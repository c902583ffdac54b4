"""The parts of a model folder, each read by whoever knows it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.files import (
    check_files,
    check_types,
    in_a_line,
    load_module,
    load_strict,
    load_tensors,
    mismatched_keys,
    read_json,
    read_part_config,
    resolve_folder,
)
from ..detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from ..integrations.sd3 import files as sd3_files
from ..integrations.sdxl.detokenizer import SDXLDetokenizer
from ..integrations.seed_x.qwen_vl_vision import QwenVLVisionConfig, QwenVLVisionModel
from ..mllm.config import LimnerConfig
from ..mllm.stream import StreamModel
from ..mllm.vision_tower import VisionTower
from ..mllm.visual_tokens.config import VisualTokenizerConfig
from ..mllm.visual_tokens.tokenizer import VisualTokenizer
from ..mllm.vocabulary import vocabulary_from_tokenizer
from .generation_config import GenerationConfig

VISUAL_TOKENIZER = "visual_tokenizer"
"""The folder of a visual tokenizer in a model's"""
STREAM_PARTS = ("queries", "input_resampler", "output_resampler", "tile_embed", "draft")


def is_model(folder: Path) -> bool:
    """Whether the folder is a Limner model's."""
    try:
        return read_json(folder / "config.json").get("model_type") == "limner"
    except (OSError, ValueError):
        return False


def load_config(folder: Path) -> LimnerConfig:
    """Raises ValueError for unknown keys and for values of a wrong type or that make no sense."""
    path = folder / "config.json"
    check_types(read_json(path), LimnerConfig, path)
    try:
        return LimnerConfig.load(folder)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def load_generation_config(folder: Path) -> GenerationConfig:
    """Raises ValueError for unknown keys and for values that make no sense."""
    path = folder / "generation_config.json"
    values = read_json(path, GenerationConfig.__dataclass_fields__)
    check_types(values, GenerationConfig, path)
    try:
        return GenerationConfig(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Raises ValueError for a folder that holds none."""
    # not AutoTokenizer: it goes by a config.json's model type, which here is ours or, given the backbone's,
    # picks that family's class with a pre-tokenizer of its own
    read_json(folder / "tokenizer.json")
    check_files(folder)
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except BaseException as error:  # tokenizers raises plain Exceptions, transformers whatever its code meets
        if (
            not isinstance(error, Exception) and type(error).__name__ != "PanicException"
        ):  # Rust's, which is no Exception
            raise
        raise ValueError(f"{folder / 'tokenizer.json'} is no tokenizer: {in_a_line(error)}") from error


def load_stream(
    folder: Path, config: LimnerConfig, tokenizer: PreTrainedTokenizerBase, variant: str | None = None
) -> StreamModel:
    """Backbone, vision tower, queries and resamplers. Raises ValueError for weights that do not fit."""
    llm = load_strict(AutoModelForCausalLM, resolve_folder(folder / "llm", variant), variant, dtype="auto")
    if (last := max(tokenizer.get_vocab().values())) >= (rows := llm.get_input_embeddings().num_embeddings):
        raise ValueError(f"{folder / 'tokenizer.json'} has the id {last}, and the backbone has {rows} embeddings")
    tower = VisionTower(load_vision_model(resolve_folder(folder / "vision", variant), variant))
    vocabulary = vocabulary_from_tokenizer(tokenizer, config, end_of_turn_ids(llm))
    mllm = StreamModel(llm, tower, config, vocabulary, load_visual_tokenizer(folder, config, variant))
    saved = load_tensors(folder / "stream.safetensors")
    if wrong := mismatched_keys(saved, stream_state(mllm)):
        raise ValueError(
            f"{folder / 'stream.safetensors'} does not fit config.json: {', '.join(wrong[:3])} ({len(wrong)} in all)"
        )
    mllm.load_state_dict(saved, strict=False)
    return mllm


def load_visual_tokenizer(folder: Path, config: LimnerConfig, variant: str | None = None) -> VisualTokenizer | None:
    """That of a model's folder; None for a model without visual tokens. Raises ValueError where one is missing."""
    own = folder / VISUAL_TOKENIZER
    if not config.visual_codes:
        return None
    if not own.is_dir():
        raise ValueError(
            f"{folder / 'config.json'} has {config.visual_codes} visual codes, and there is no folder {own.name}"
        )
    return load_module(VisualTokenizer, VisualTokenizerConfig, own, variant).requires_grad_(False)


def load_detokenizer(folder: Path, variant: str | None = None) -> Detokenizer:
    """Raises ValueError for a folder that holds none."""
    if (folder / "unet").is_dir():
        return SDXLDetokenizer.from_pretrained(folder, variant)
    return MMDiTDetokenizer.from_pretrained(folder, sd3_files.load_named_source(folder, variant), variant)


def stream_state(mllm: StreamModel) -> dict[str, torch.Tensor]:
    """The parts of the stream that are neither backbone nor vision tower."""
    return {k: v.contiguous() for k, v in mllm.state_dict().items() if k.split(".")[0] in STREAM_PARTS}


def end_of_turn_ids(llm: nn.Module) -> tuple[int, ...]:
    """Ids that end a turn, as the backbone's generation config names them."""
    ends = getattr(llm.generation_config, "eos_token_id", None)
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)


def load_vision_model(folder: Path, variant: str | None = None) -> nn.Module:
    """Of transformers or Qwen-VL's. Raises ValueError for a folder that holds none."""
    own = read_part_config(folder).get("model_type") == QwenVLVisionConfig.model_type
    model = load_strict(QwenVLVisionModel if own else AutoModel, folder, variant, dtype="auto")
    return getattr(model, "vision_model", model)  # CLIP-like models carry a text tower too
