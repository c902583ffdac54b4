"""Plain dicts into dataclasses, every key and type checked.

OmegaConf's structured configs do less here: they refuse a field such as ``tuple[tuple[int, int], ...]``, give lists for
tuples, and do not name the keys that exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

RENAMED = {
    "accumulate": "gradient_accumulation_steps",
    "bent": "warp_rate",
    "blurred": "blur_rate",
    "clip": "max_grad_norm",
    "crop": "crop_size",
    "decay": "decay_ratio",
    "encoded": "autoencoder_rate",
    "extra": "modules_to_save",
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
"""Option names of earlier versions, which recipes, overrides and the settings of interrupted runs may still use."""
UNCHANGED_PART = "generation"
"""Its options had no other names; one is called as the former name of a loop's ("keep")"""


def current_keys(values: Any) -> Any:
    """Nested options with the names of today. Raises ValueError where an option is given by both of its names."""
    if not isinstance(values, dict):
        return values
    made = {
        RENAMED.get(key, key): value if key == UNCHANGED_PART else current_keys(value) for key, value in values.items()
    }
    if len(made) < len(values):
        old = next(key for key in values if RENAMED.get(key) in values)
        raise ValueError(f"{old} is the former name of {RENAMED[old]}; give one of them")
    return made


def current_override(override: str) -> str:
    """``KEY=VALUE`` with the names of today in its dotted KEY."""
    key, equals, value = override.partition("=")
    if key.partition(".")[0] == UNCHANGED_PART:
        return override
    return ".".join(RENAMED.get(name, name) for name in key.split(".")) + equals + value


def parse_config(cls: type, values: Any, where: str = "") -> Any:
    """An instance of dataclass ``cls``, nested ones too. Raises ValueError naming the key that is wrong."""
    if not isinstance(values, dict):
        raise ValueError(f"{where or cls.__name__} must be a mapping, not {values!r}")
    hints, known = get_type_hints(cls), {f.name for f in fields(cls)}
    if unknown := [key for key in values if key not in known]:
        place = f" in {where}" if where else ""
        raise ValueError(f"unknown key {unknown[0]!r}{place}; there are {', '.join(sorted(known))}")
    options = {key: converted(value, hints[key], f"{where}.{key}".strip(".")) for key, value in values.items()}
    try:
        return cls(**options)
    except ValueError as error:  # of its own checks, which do not know where it is
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def converted(value: Any, kind: Any, where: str) -> Any:
    """``value`` as a field of type ``kind`` holds it: whole numbers become floats, lists tuples, mappings dataclasses."""
    if get_origin(kind) in (UnionType, Union):  # "float | None", 'int | Literal["auto"]'
        words = [word for k in get_args(kind) if get_origin(k) is Literal for word in get_args(k)]
        (kind,) = (k for k in get_args(kind) if k is not NoneType and get_origin(k) is not Literal)
        return value if value is None or value in words else converted(value, kind, where)
    if isinstance(kind, type) and is_dataclass(kind):
        return parse_config(kind, value, where)
    plain = get_origin(kind) or kind
    accepted = {float: (float, int), tuple: (tuple, list)}.get(plain, plain)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        name = "list" if plain is tuple else plain.__name__
        raise ValueError(f"{where} must be of type {name}, not {value!r}")
    if plain is tuple:
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return plain(value)


def with_defaults(cls: type, given: DictConfig) -> dict[str, Any]:
    """The defaults of dataclass ``cls`` with what is ``given`` in their place, as plain values, references to keys resolved."""
    values: Any = OmegaConf.merge(asdict(cls()), current_keys(OmegaConf.to_container(given)))
    return OmegaConf.to_container(values, resolve=True)  # type: ignore[return-value]  # of a mapping it is one


def parse_overrides(cls: type, overrides: Sequence[str]) -> Any:
    """Dataclass ``cls`` with its defaults and ``KEY=VALUE`` overrides. Raises ValueError naming the key that is wrong."""
    try:
        given = OmegaConf.from_dotlist([current_override(override) for override in overrides])
        values = with_defaults(cls, given)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}".splitlines()[0]) from error
    return parse_config(cls, values)
