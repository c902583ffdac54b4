"""``limner build``: a backbone, a vision tower and an SD3 become one model folder, ready for the ``align`` stage."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ..detokenizer.condition import AdapterConfig, ConditioningAdapter
from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.files import check_config, found, whole
from ..detokenizer.glyphs import GlyphEncoder
from ..integrations.sd3.files import pipeline_parts
from ..integrations.seed_x.qwen_vl_vision import CLIP_MEAN, CLIP_STD, QwenVLVisionConfig
from ..mllm.config import LimnerConfig
from ..mllm.eye import Eye
from ..mllm.stream import StreamModel
from ..mllm.vocabulary import add_control_tokens
from .build_options import BuildOptions
from .generation_defaults import GenerationDefaults
from .model import Limner, vision_model


def build(
    llm: str | Path,
    vision: str | Path,
    mmdit: str | Path,
    options: BuildOptions | None = None,
    glyphs: str | Path | None = None,
) -> Limner:
    """Folders or hub ids: a causal language model with a chat template, a vision model with patch features, a diffusers
    SD3 or SD3.5 (its transformer, VAE and scheduler are used), and, to write words in pictures, a ByT5 for ``glyphs``. What
    joins them is new and knows nothing yet.

    Raises ValueError for a part that cannot be read or does not fit.
    """
    options = options or BuildOptions()
    torch.manual_seed(options.seed)
    eye, mean, std = vision_tower(found(vision))
    config = LimnerConfig(
        num_queries=options.num_queries,
        image_tokens=options.image_tokens,
        local_image_tokens=True,
        feature_tokens=options.feature_tokens,
        image_size=eye.image_size,
        image_mean=mean,
        image_std=std,
        shapes=options.shapes,
        default_size=options.shapes[0],
        max_references=options.max_references,
        prompt_tokens=options.prompt_tokens,
        resampler_qk_norm=True,
    )
    backbone, words = language_model(found(llm))
    width = backbone.get_input_embeddings().weight.shape[1]
    config.resampler_heads = heads(width, eye.width)
    vocabulary = add_control_tokens(words, config)
    if len(words) > backbone.get_input_embeddings().weight.shape[0]:  # released tables are often longer than needed
        backbone.resize_token_embeddings(len(words))
    mllm = StreamModel(backbone, eye, config, vocabulary)
    mllm.to(next(backbone.parameters()).dtype)
    model = Limner(mllm, detokenizer(found(mmdit), eye, width, options), words, GenerationDefaults())
    model.detokenizer.check_size(*config.default_size)
    if glyphs is not None:
        model.detokenizer.learn_to_write(GlyphEncoder.from_pretrained(found(glyphs)))
    return model.eval()


def sources(model: Limner, llm: str | Path, vision: str | Path, mmdit: str | Path) -> dict[str, str]:
    """What `Limner.save_pretrained` may name instead of copying: all but a backbone whose embeddings had to grow."""
    named = {"vision": vision, "sd3": mmdit}
    if check_config(found(llm)).get("vocab_size") == model.mllm.llm.config.vocab_size:
        named["llm"] = llm
    return {
        name: str(Path(source).resolve()) if Path(source).is_dir() else str(source) for name, source in named.items()
    }


def language_model(folder: Path) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    try:
        model = whole(AutoModelForCausalLM, folder, dtype="auto")
        words = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no causal language model with a tokenizer: {error}") from error
    if not words.chat_template:
        raise ValueError(f"{folder}: the tokenizer has no chat template; take the model's chat or instruct form")
    return model, words


def vision_tower(folder: Path) -> tuple[Eye, tuple[float, ...], tuple[float, ...]]:
    """The tower and its pictures' mean and standard deviation."""
    try:
        model = vision_model(folder)
        if check_config(folder).get("model_type") == QwenVLVisionConfig.model_type:  # transformers knows no processor
            return Eye(model.eval()), CLIP_MEAN, CLIP_STD
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no vision model with a preprocessor_config.json: {error}") from error
    return Eye(model.eval()), tuple(processor.image_mean), tuple(processor.image_std)


def detokenizer(folder: Path, eye: Eye, width: int, options: BuildOptions) -> Detokenizer:
    mmdit, autoencoder, shift = pipeline_parts(folder, options.max_references)
    adapter = AdapterConfig(
        feature_width=eye.width,
        num_tokens=options.feature_tokens,
        width=options.adapter_width,
        depth=options.adapter_depth,
        heads=heads(options.adapter_width),
        qk_norm=True,
        context_width=mmdit.config.context_width,
        pooled_width=mmdit.config.pooled_width,
        prompt_width=width if options.prompt_tokens else 0,
    )
    made = ConditioningAdapter(adapter).to(mmdit.proj_out.weight.dtype)
    return Detokenizer(made, mmdit, autoencoder, trained_tokens=mmdit.config.position_base**2, base_shift=shift)


def heads(*widths: int) -> int:
    """The most heads up to 32, of width 32 or more, that divide all widths (and leave their head's width even)."""
    fits = [n for n in range(1, 33) if all(w % (2 * n) == 0 and (w // n >= 32 or n == 1) for w in widths)]
    if not fits:
        raise ValueError(f"no number of heads divides the widths {' and '.join(map(str, widths))}")
    return max(fits)
