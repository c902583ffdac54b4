"""What a recipe says of the model's parts that would be ignored: a warm start brings its own, other parts give some sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig

from ..detokenizer.condition import ConditioningAdapter
from ..detokenizer.files import read_json
from ..inference.model import Limner
from ..inference.parts import load_generation_config
from ..mllm.config import LimnerConfig
from ..mllm.stream import StreamModel
from .recipe_options import Recipe
from .resume import flatten

GROWING = (
    "backbone.num_hidden_layers",
    "stream.max_references",
    "generation.max_new_tokens",
    "generation.max_images",
    "generation.history",
)
"""What a warm start takes more of (`extend_model`), and keeps where a recipe has less"""
VISION = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "patch_size": "patch_size",
}
"""Sizes of the vision tower, as its own configuration calls them"""
GLYPHS = {"width": "d_model", "layers": "num_layers", "heads": "num_heads", "mlp_width": "d_ff"}
GAINED = ("layout_width", "capitals", "font")
"""Of the glyphs: how words are set in plain type, which a warm start that does not do so gains"""
FOLLOWING = {
    "adapter.feature_width": "vision.width",
    "adapter.prompt_width": "backbone.hidden_size",
    "adapter.glyph_width": "glyphs.width",
    "mmdit.latent_channels": "autoencoder.latent_channels",
    "mmdit.context_width": "adapter.context_width",
    "mmdit.pooled_width": "adapter.pooled_width",
    "mmdit.max_references": "stream.max_references",
}
"""Sizes of a new model that other parts give (`build_model`)"""


def own_parts(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What a model folder says of its parts, by the names that a recipe has for them. Of a part whose weights are another
    source's it says nothing; a glyph encoder and a layout of words that are not there can be gained."""
    painter = folder / "detokenizer"
    own: dict[str, Mapping[str, Any]] = {
        "stream": asdict(LimnerConfig.load(folder)),
        "generation": asdict(load_generation_config(folder)),
        "backbone": {},
        "vision": {},
    }
    if (folder / "llm/config.json").exists():
        own["backbone"] = AutoConfig.from_pretrained(folder / "llm").get_text_config().to_dict()
    for part in ("adapter", "mmdit"):
        path = painter / part / "config.json"
        own[part] = read_json(path) if path.exists() else {}
    for part, path, names in (("vision", folder / "vision", VISION), ("glyphs", painter / "glyphs", GLYPHS)):
        if (path / "config.json").exists():
            values = read_json(path / "config.json")
            own[part] = {name: values.get(theirs) for name, theirs in names.items()}
    if (path := painter / "glyph_images/config.json").exists():
        own["glyphs"] = {**own.get("glyphs", {}), **{name: read_json(path).get(name) for name in GAINED}}
    return own


def check_model_options(recipe: Recipe, given: Collection[str] | None = None, overridden: Collection[str] = ()) -> None:
    """Raises ValueError for an option of the model's parts that would be ignored.

    ``given`` are the dotted keys that a recipe's file and overrides have, None those whose values are not the defaults;
    ``overridden`` are those of the overrides alone: less than a warm start has of what can grow is a mistake only there.
    """
    values = as_json(asdict(recipe))
    if given is None:
        plain = dict(flatten(as_json(asdict(Recipe()))))
        given = [key for key, value in flatten(values) if value != plain[key]]
    if not recipe.warm_start:
        for key, source in FOLLOWING.items():
            (part, name), (other, theirs) = key.split("."), source.split(".")
            free = key == "adapter.prompt_width" and not recipe.stream.prompt_tokens
            if key in given and not free and values[part][name] != values[other][theirs]:
                raise ValueError(f"{key} is {values[part][name]}; it follows from {source}, {values[other][theirs]}")
        return
    if not (Path(recipe.warm_start) / "config.json").exists():
        return  # `run_recipe` tells
    own = as_json(own_parts(Path(recipe.warm_start)))
    for key in given:
        part, _, name = key.partition(".")
        if part not in own or (part == "vision" and name not in VISION) or key == "backbone.attn_implementation":
            continue
        value, had = values[part][name], own[part].get(name)
        if part == "glyphs" and name in GAINED and name not in own[part]:
            continue
        if key in GROWING:
            if key == "generation.history":  # 0 is all of them
                value, had = value or math.inf, had or math.inf
            if had is not None and value < had and is_in(key, overridden):
                raise ValueError(f"{key} is {value}; the warm start {recipe.warm_start} has {had} and takes more only")
        elif value != had:
            brings = f"its own, {had!r}" if name in own[part] else "its own"
            if key == "stream.prompt_tokens" and not value:
                brings += " (drop_prompt_source=true takes them out)"
            raise ValueError(
                f"{key} is {value!r}; the warm start {recipe.warm_start} brings {brings}: give the same or leave it out"
            )


def remove_prompt_source(model: Limner) -> None:
    """Take the prompt's hidden states out of what ``model`` draws from. What is left is what it drew from where they were masked.

    Raises ValueError for a model that has no such source, or draws by another adapter.
    """
    adapter = model.detokenizer.adapter
    if not isinstance(adapter, ConditioningAdapter) or not adapter.config.prompt_width:
        raise ValueError(f"drop_prompt_source: {model.name} draws without the prompt's hidden states already")
    kept = [0, 2] if adapter.config.glyph_width else [0]  # of the features, the prompt and the glyphs
    adapter.source_embed = nn.Parameter(adapter.source_embed.detach()[kept].clone())
    del adapter.prompt_norm, adapter.prompt_proj
    adapter.config = replace(adapter.config, prompt_width=0)
    model.config = model.mllm.config = model.encoder.config = replace(model.config, prompt_tokens=0)


def renew_queries(model: Limner) -> None:
    """Begin the queries and the output resampler of ``model`` anew, by torch's random state; all else stays.

    Raises ValueError for a model that draws by visual tokens alone.
    """
    if "queries" not in model.config.image_modes:
        raise ValueError(f"new_queries: {model.name} has none, it draws by visual tokens alone")
    old = model.mllm
    fresh = StreamModel(old.llm, old.vision_tower, model.config, old.vocabulary, old.visual_tokenizer)
    old.queries = fresh.queries.to(old.device, old.dtype)
    old.output_resampler = fresh.output_resampler.to(old.device, old.dtype)


def as_json(values: Any) -> Any:
    """With lists for tuples, as files have them."""
    return json.loads(json.dumps(values, default=str))


def is_in(key: str, names: Collection[str]) -> bool:
    """Whether ``key`` is one of the dotted names or inside one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def check_alignment(recipe: Recipe, stages: Collection[str], depth: int) -> None:
    """Raises ValueError for a stage that aligns a block beyond the MM-DiT's ``depth``."""
    for name in stages:
        stage = getattr(recipe, name)
        if getattr(stage, "align_weight", 0) and stage.align_block >= depth:
            raise ValueError(
                f"{name}.align_block is {stage.align_block}; the MM-DiT has {depth} blocks, 0 to {depth - 1}"
            )
