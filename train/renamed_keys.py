"""Option names of earlier versions, which recipes, overrides and the settings of interrupted runs may still use."""

from __future__ import annotations

from typing import Any

RENAMED = {
    "accumulate": "gradient_accumulation_steps",
    "bent": "warp_rate",
    "blurred": "blur_rate",
    "clip": "max_grad_norm",
    "crop": "crop_size",
    "decay": "decay_ratio",
    "encoded": "autoencoder_rate",
    "featured": "featured_object",
    "full_last": "full_image_share",
    "halved": "cut_rate",
    "keep": "save_total_limit",
    "kl": "kl_weight",
    "lines": "num_lines",
    "noised": "noise_rate",
    "planned": "plan_share",
    "slips": "word_dropout",
    "vocabulary": "vocab_size",
    "warmup": "warmup_steps",
    "workers": "num_workers",
}


def current_keys(values: Any) -> Any:
    """Nested options with the names of today. Raises ValueError where an option is given by both of its names."""
    if not isinstance(values, dict):
        return values
    made = {RENAMED.get(key, key): current_keys(value) for key, value in values.items()}
    if len(made) < len(values):
        old = next(key for key in values if RENAMED.get(key) in values)
        raise ValueError(f"{old} is the former name of {RENAMED[old]}; give one of them")
    return made


def current_override(override: str) -> str:
    """``KEY=VALUE`` with the names of today in its dotted KEY."""
    key, equals, value = override.partition("=")
    return ".".join(RENAMED.get(name, name) for name in key.split(".")) + equals + value
