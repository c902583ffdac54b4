"""Phrasings with numbered slots, "draw {a1} and {a2}", as the files of ``phrasings/`` and the tales have them.

Which slots a language has, and what each says of a thing, stands under ``[slots]`` in the language's file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from .grammar import PARTICLES
from .language import Language

_SLOT = re.compile(r"\{([A-Za-z]+)([1-4]?)(?:\|([^}]*))?\}")
COLORED = ("a", "A", "the", "The", "ct", "cts", "c", "cn", "q", "nct")
"""Slots that say a colour"""


def fill_slots(
    language: Language, text: str, things: Mapping[int, Mapping[str, str]], said: Mapping[str, str] | None = None
) -> str:
    """``text`` with the `Language.fields` of ``things``, by their numbers, and other slots as ``said``."""

    def value(found: re.Match[str]) -> str:
        slot, number, particle = found.groups()
        if said and slot + number in said:
            words = said[slot + number]
        else:
            words = language.forms[f"slots.{slot}"][0].format(**things[int(number)])
        if particle is None:
            return words
        return f"{words}{particle}/{PARTICLES[particle]}" if particle in PARTICLES else words + particle

    return language.finish(_SLOT.sub(value, text))


def names_color(text: str, number: int) -> bool:
    """Whether a phrasing says the colour of a thing."""
    return any(slot in COLORED and at == str(number) for slot, at, _ in _SLOT.findall(text))


def numbers_in(text: str) -> set[int]:
    """The numbers of the things that a phrasing names."""
    return {int(at) for _, at, _ in _SLOT.findall(text) if at}


def place(rng: random.Random, language: Language, background: str, plainly: bool = False) -> str:
    """A phrase of place for the slot {bg}."""
    phrases = language.grounds[background]
    return language.put("slots.bg", g=phrases[0] if plainly else rng.choice(phrases))
