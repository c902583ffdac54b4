"""``limner info``: parts, sizes and memory of a model; what an adapter changes."""

from __future__ import annotations

import json
from pathlib import Path

from .adapter_files import MODULES_KEYS, read_card
from .model import Limner

BYTES = {"float32": 4.0, "bfloat16": 2.0, "8 bit": 1.0, "4 bit": 0.5}
"""Bytes of a parameter, without the scales of quantised weights"""


def count_parameters(model: Limner) -> dict[str, int]:
    """Parameters of each part."""
    mllm, detokenizer = model.mllm, model.detokenizer
    parts = {
        f"backbone ({mllm.llm.config.model_type})": [mllm.llm],
        f"vision tower ({mllm.vision_tower.model.config.model_type})": [mllm.vision_tower],
        "queries and resamplers": [mllm.queries, mllm.input_resampler, mllm.output_resampler],
        **({"visual tokenizer": [mllm.visual_tokenizer]} if mllm.visual_tokenizer is not None else {}),
        **({"draft of visual tokens": [mllm.draft]} if mllm.draft is not None else {}),
        "conditioning adapter": [detokenizer.adapter],
        **({"glyphs (t5)": [detokenizer.glyphs]} if getattr(detokenizer, "glyphs", None) else {}),
        **({"glyph images": [detokenizer.glyph_images]} if getattr(detokenizer, "glyph_images", None) else {}),
        f"transformer ({type(detokenizer.transformer).__name__})": [detokenizer.transformer],
        f"autoencoder ({type(detokenizer.autoencoder.vae).__name__})": [detokenizer.autoencoder],
    }
    return {name: sum(p.numel() for part in own for p in part.parameters()) for name, own in parts.items()}


def describe_memory(model: Limner) -> str:
    """Computed memory of each part's weights in each precision; activations and caches are not included."""
    counts = count_parameters(model)
    lines = [f"  {'MB of weights':30} " + " ".join(f"{name:>9}" for name in BYTES)]
    lines += [
        f"  {name:30} " + " ".join(f"{count * size / 1e6:9.1f}" for size in BYTES.values())
        for name, count in [*counts.items(), ("in all", sum(counts.values()))]
    ]
    return "\n".join(lines)


def describe_model(model: Limner) -> str:
    """Parts, parameters, sizes and defaults, one on each line."""
    mllm, detokenizer = model.mllm, model.detokenizer
    counts = count_parameters(model)
    config, parameter = mllm.config, next(mllm.parameters())
    shapes = ", ".join(f"{h}x{w}" for h, w in config.shapes or (config.default_size,))
    queries = ", ".join(map(str, config.query_lengths or (config.num_queries,)))
    lengths = ", ".join(map(str, config.visual_lengths))
    drafted = ", drafted by the queries" if config.draft_by_queries else ""
    codes = [
        f"  visual tokens a drawing        {lengths}, of {config.visual_codes} codes{drafted}, pictures are seen as "
        f"{config.seen_images}"
    ]
    if not config.visual_codes:
        codes = []
    lines = [
        f"{model.name}: {sum(counts.values()) / 1e6:.1f} M parameters, {parameter.dtype}, {parameter.device}".replace(
            "torch.", ""
        )
    ]
    lines += [f"  {name:30} {count / 1e6:8.2f} M" for name, count in counts.items()]
    lines += [
        f"  queries a drawing              {queries}, drawn images are {config.drawn_images}",
        *codes,
        f"  shapes the model picks         {shapes} (others: multiples of {detokenizer.size_multiple} pixels)",
        f"  references a drawing sees      {config.max_references}",
        f"  steps, guidance                {model.defaults.num_inference_steps}, {model.defaults.guidance_scale}",
    ]
    if model.student_steps:
        lines.append(f"  by its student                 {model.student_steps}, none")
    return "\n".join(lines)


def describe_adapter(folder: Path) -> str:
    """What an adapter belongs to, what it changes and how it was made, one on each line. Raises ValueError for a folder that
    holds none."""
    card = read_card(folder)
    whole = card[MODULES_KEYS[card["format"]]]
    lines = {
        "for the model": f"{card['base']} (weights {card['base_fingerprint'][:12]})",
        "LoRA in": ", ".join(card["parts"]) or "none",
        "parts trained whole": ", ".join(whole) or "none",
        **{name: json.dumps(value, ensure_ascii=False) for name, value in card["made"].items()},
    }
    return "\n".join([f"{folder}: an adapter", *(f"  {name:22} {value}" for name, value in lines.items())])
