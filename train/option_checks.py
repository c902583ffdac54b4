"""Checks of options in the ``__post_init__`` of their dataclasses. Each raises ValueError with the option's name and value."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any


def check_choice(options: Any, name: str, known: Collection[str]) -> None:
    """The field is one of ``known``."""
    if (value := getattr(options, name)) not in known:
        *others, last = known
        raise ValueError(f"{name} is {value!r}; it can be {', '.join(others)} or {last}")


def check_numbers(
    options: Any,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """The fields, lists of numbers too, are finite and within bounds: ``least`` and ``most`` included, ``above`` and ``below``
    not; those of an integer field are whole. None is for a field that is declared with it."""
    for name in names:
        given, declared = getattr(options, name), str(type(options).__dataclass_fields__[name].type)
        if given is None and "None" in declared:
            continue
        for value in given if isinstance(given, (tuple, list)) else (given,):
            if (
                isinstance(value, bool)
                or not isinstance(value, int if "int" in declared else (int, float))
                or not math.isfinite(value)
                or (least is not None and value < least)
                or (above is not None and value <= above)
                or (most is not None and value > most)
                or (below is not None and value >= below)
            ):
                bounds = {"at least": least, "above": above, "at most": most, "below": below}
                limits = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
                if "int" in declared and not isinstance(value, int):
                    limits = ["a whole number", *limits]
                raise ValueError(f"{name} is {given!r}; it must be {' and '.join(limits) or 'a finite number'}")


def check_seed(options: Any) -> None:
    """The field ``seed`` is one that torch takes, and those that are counted on from it."""
    check_numbers(options, "seed", least=-(2**63), most=2**63 - 1)


def check_shares(options: Any, *names: str, most: float = 1) -> None:
    """The fields lie between 0 and ``most``."""
    check_numbers(options, *names, least=0, most=most)
