"""``limner build``: makes a model of a backbone, a vision tower and an SD3, to be trained from the ``align`` stage on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..detokenizer.condition import AdapterConfig, ConditioningAdapter
from ..detokenizer.files import load_strict, read_part_config, resolve_source
from ..detokenizer.glyphs import GlyphEncoder
from ..detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from ..integrations.sd3.files import load_pipeline
from ..integrations.seed_x.qwen_vl_vision import CLIP_MEAN, CLIP_STD, QwenVLVisionConfig
from ..mllm.config import LimnerConfig
from ..mllm.stream import StreamModel
from ..mllm.vision_tower import VisionTower
from ..mllm.visual_tokens.config import VisualTokenizerConfig
from ..mllm.visual_tokens.draft import check_draft
from ..mllm.visual_tokens.tokenizer import VisualTokenizer
from ..mllm.vocabulary import add_control_tokens, vocabulary_from_tokenizer
from .build_options import BuildOptions
from .generation_config import GenerationConfig
from .model import Limner
from .parts import load_vision_model, stream_state


def build(
    llm: str | Path,
    vision: str | Path,
    mmdit: str | Path,
    options: BuildOptions | None = None,
    glyphs: str | Path | None = None,
) -> Limner:
    """A model of four folders or hub ids: a causal language model with a chat template, a vision model with patch features, a
    diffusers SD3 or SD3.5 (its transformer, VAE and scheduler) and optionally a ByT5 for ``glyphs``, text in images. The
    parts that connect them are initialised and not yet trained.

    Raises ValueError for a part that cannot be read or does not fit.
    """
    options = options or BuildOptions()
    torch.manual_seed(options.seed)
    vision_tower, mean, std = load_vision_tower(resolve_source(vision))
    config = LimnerConfig(
        num_queries=options.num_queries,
        image_tokens=options.image_tokens,
        local_image_tokens=True,
        feature_tokens=options.feature_tokens,
        image_size=vision_tower.image_size,
        image_mean=mean,
        image_std=std,
        shapes=options.shapes,
        default_size=options.shapes[0],
        max_references=options.max_references,
        prompt_tokens=options.prompt_tokens,
        resampler_qk_norm=True,
    )
    backbone, tokenizer = load_language_model(resolve_source(llm))
    width = backbone.get_input_embeddings().weight.shape[1]
    config.resampler_heads = num_heads(width, vision_tower.width)
    vocabulary = add_control_tokens(tokenizer, config)
    if len(tokenizer) > backbone.get_input_embeddings().weight.shape[0]:  # released tables are often longer than needed
        backbone.resize_token_embeddings(len(tokenizer))
    mllm = StreamModel(backbone, vision_tower, config, vocabulary)
    mllm.to(next(backbone.parameters()).dtype)
    detokenizer = build_detokenizer(resolve_source(mmdit), vision_tower, width, options)
    detokenizer.check_size(*config.default_size)
    if glyphs is not None:
        detokenizer.add_glyph_encoder(GlyphEncoder.from_pretrained(resolve_source(glyphs)))
    return Limner(mllm, detokenizer, tokenizer, GenerationConfig()).eval()


def add_picture_tokens(
    model: Limner,
    visual_tokenizer: VisualTokenizer | None = None,
    *,
    query_lengths: tuple[int, ...] = (),
    seen_images: str = "features",
    draft_by_queries: bool = False,
) -> Limner:
    """A model that draws by the codes of ``visual_tokenizer`` too, and by as many queries as it announces, one of
    ``query_lengths``; the other options are those of its configuration. Its parts are the given model's, whose backbone grows by
    the new tokens' rows: these have to be trained, as has the draft.

    Raises ValueError for a tokenizer and lengths that do not fit the model.
    """
    own = None if visual_tokenizer is None else visual_tokenizer.config
    config = config_with_tokens(model.config, own, query_lengths, seen_images, draft_by_queries)
    tokenizer, old = copy.deepcopy(model.tokenizer), model.mllm
    add_control_tokens(tokenizer, config)
    if len(tokenizer) > old.llm.get_input_embeddings().weight.shape[0]:
        old.llm.resize_token_embeddings(len(tokenizer))
    vocabulary = vocabulary_from_tokenizer(tokenizer, config, old.vocabulary.end_of_turn)
    mllm = StreamModel(old.llm, old.vision_tower, config, vocabulary, visual_tokenizer).to(old.device, old.dtype)
    unknown = mllm.load_state_dict(
        stream_state(old), strict=False
    ).unexpected_keys  # all else is the old parts themselves
    assert not unknown, unknown
    made = Limner(mllm, model.detokenizer, tokenizer, model.defaults).eval()
    made.name = model.name
    return made


def config_with_tokens(
    config: LimnerConfig,
    tokenizer: VisualTokenizerConfig | None,
    query_lengths: tuple[int, ...],
    seen_images: str,
    draft_by_queries: bool,
) -> LimnerConfig:
    """That of a model of ``config`` after `add_picture_tokens`. Raises ValueError for what does not go together."""
    codes: dict[str, Any] = {}
    if tokenizer is not None:
        codes = {"visual_codes": tokenizer.num_codes, "visual_lengths": tokenizer.lengths}
        if draft_by_queries:
            check_draft(tokenizer)
    return replace(
        config, **codes, query_lengths=query_lengths, seen_images=seen_images, draft_by_queries=draft_by_queries
    )


def sources(model: Limner, llm: str | Path, vision: str | Path, mmdit: str | Path) -> dict[str, str]:
    """The ``sources`` for `Limner.save_pretrained`: all of them, except a backbone whose embeddings were resized."""
    named = {"vision": vision, "sd3": mmdit}
    if read_part_config(resolve_source(llm)).get("vocab_size") == model.mllm.llm.config.vocab_size:
        named["llm"] = llm
    return {
        name: str(Path(source).resolve()) if Path(source).is_dir() else str(source) for name, source in named.items()
    }


def load_language_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Raises ValueError for a folder without a causal language model, a tokenizer or a chat template."""
    try:
        model = load_strict(AutoModelForCausalLM, folder, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no causal language model with a tokenizer: {error}") from error
    if not tokenizer.chat_template:
        raise ValueError(f"{folder}: the tokenizer has no chat template; take the model's chat or instruct form")
    return model, tokenizer


def load_vision_tower(folder: Path) -> tuple[VisionTower, tuple[float, float, float], tuple[float, float, float]]:
    """The tower, and mean and standard deviation of its images. Raises ValueError for a folder that holds none."""
    try:
        tower = VisionTower(load_vision_model(folder).eval())
        if read_part_config(folder).get("model_type") == QwenVLVisionConfig.model_type:
            return tower, CLIP_MEAN, CLIP_STD  # transformers knows no processor of its
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no vision model with a preprocessor_config.json: {error}") from error
    return tower, tuple(processor.image_mean), tuple(processor.image_std)


def build_detokenizer(folder: Path, vision_tower: VisionTower, width: int, options: BuildOptions) -> MMDiTDetokenizer:
    """MM-DiT and autoencoder of an SD3 with a new adapter; ``width`` is the backbone's. Raises ValueError as `load_pipeline`."""
    mmdit, autoencoder, shift = load_pipeline(folder, options.max_references)
    adapter = AdapterConfig(
        feature_width=vision_tower.width,
        num_tokens=options.feature_tokens,
        width=options.adapter_width,
        depth=options.adapter_depth,
        heads=num_heads(options.adapter_width),
        qk_norm=True,
        context_width=mmdit.config.context_width,
        pooled_width=mmdit.config.pooled_width,
        prompt_width=width if options.prompt_tokens else 0,
    )
    made = ConditioningAdapter(adapter).to(mmdit.proj_out.weight.dtype)
    return MMDiTDetokenizer(made, mmdit, autoencoder, trained_tokens=mmdit.config.position_base**2, base_shift=shift)


def num_heads(*widths: int) -> int:
    """The largest number of heads up to 32 that divides all widths into even head widths of 32 or more.

    Raises ValueError where there is none.
    """
    divisors = [n for n in range(1, 33) if all(w % (2 * n) == 0 and (w // n >= 32 or n == 1) for w in widths)]
    if not divisors:
        raise ValueError(f"no number of heads divides the widths {' and '.join(map(str, widths))}")
    return max(divisors)
