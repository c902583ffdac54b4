"""Plain dicts into dataclasses, every key and scalar type checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from .renamed_keys import current_keys, current_override

_SCALARS = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}


def parse_config(cls: type, values: Any, where: str = "") -> Any:
    """An instance of dataclass ``cls``, nested ones too. Raises ValueError naming the key that is wrong."""
    if not isinstance(values, dict):
        raise ValueError(f"{where or cls.__name__} must be a mapping, not {values!r}")
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    unknown = [key for key in values if key not in known]
    if unknown:
        place = f" in {where}" if where else ""
        raise ValueError(f"unknown key {unknown[0]!r}{place}; there are {', '.join(sorted(known))}")
    made = {}
    for key, value in values.items():
        path, kind = f"{where}.{key}".strip("."), hints[key]
        if isinstance(kind, UnionType) and value is not None:  # "float | None"
            (kind,) = (k for k in get_args(kind) if k is not NoneType)
        if is_dataclass(kind):
            value = parse_config(kind, value, path)
        elif kind in _SCALARS:
            if not isinstance(value, _SCALARS[kind]) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{path} must be of type {kind.__name__}, not {value!r}")
            value = kind(value)
        elif isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        made[key] = value
    return cls(**made)


def parse_overrides(cls: type, overrides: Sequence[str]) -> Any:
    """Dataclass ``cls`` with its defaults and ``KEY=VALUE`` overrides. Raises ValueError naming the key that is wrong."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        given = OmegaConf.from_dotlist([current_override(override) for override in overrides])
        values = OmegaConf.merge(asdict(cls()), current_keys(OmegaConf.to_container(given)))
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}".splitlines()[0]) from error
    return parse_config(cls, OmegaConf.to_container(values, resolve=True))
