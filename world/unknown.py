"""Invented words, for things that cannot be drawn: not all can be listed (`Language.unknown` lists some)."""

from __future__ import annotations

import random

from . import sampling

ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t",
          "tr", "v", "w", "z")  # fmt: skip
VOWELS, CODAS = ("a", "e", "i", "o", "u", "oo", "ee"), ("", "", "", "b", "ck", "ld", "m", "n", "p", "r", "sh", "t", "x")


def invented_word(rng: random.Random) -> str:
    """A random word that means nothing, as unknown objects cannot all be listed."""
    syllable = ("".join(rng.choice(letters) for letters in (ONSETS, VOWELS, CODAS)) for _ in range(rng.randint(1, 3)))
    word = "".join(syllable)
    return word if len(word) > 3 and word not in sampling.NAMES else invented_word(rng)
