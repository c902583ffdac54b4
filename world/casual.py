"""Words as people type them: filler words, left-out articles, typing errors, careless punctuation and capitals."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from .language import Language

NEIGHBOURS = {
    key: row[max(0, at - 1) : at] + row[at + 1 : at + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, key in enumerate(row)
}
"""Keys beside each other"""


def add_fillers(rng: random.Random, language: Language, words: str) -> str:
    """``words`` with filler words before or after them, or without."""
    if rng.random() < 0.25:
        words = rng.choice(language.forms["requests.prefixes"]) + words
    if rng.random() < 0.4:
        words = words.rstrip(".?!。？！") + rng.choice(language.forms["requests.suffixes"])
    return words


def casual_typing(rng: random.Random, language: Language, words: str) -> str:
    """``words`` as a careless person of this language types them."""
    for way in language.typing:
        words = WAYS[way](rng, language, words)
    return words


def casual_request(rng: random.Random, language: Language, words: str, fillers: float = 1.0) -> str:
    """``words`` with filler words, by ``fillers``' chance, and typed casually."""
    if rng.random() < fillers:
        words = language.finish(add_fillers(rng, language, words))
    return casual_typing(rng, language, words)


def _articles(rng: random.Random, language: Language, words: str) -> str:
    return re.sub(rf"\b({'|'.join(language.articles)}) ", "", words) if rng.random() < 0.12 else words


def _typos(rng: random.Random, language: Language, words: str) -> str:
    if rng.random() < 0.12:
        for _ in range(rng.choice((1, 1, 2))):
            words = add_typo(rng, words)
    return words


def _case(rng: random.Random, language: Language, words: str) -> str:
    manner = rng.random()
    if manner < 0.3:
        return words[0].upper() + words[1:]
    if manner < 0.38:
        return words.upper()
    return words.lower() if manner < 0.5 else words


_PLAIN = str.maketrans("，。？！：、", ",.?!:,")


def _punctuation(rng: random.Random, language: Language, words: str) -> str:
    manner = rng.random()
    if manner < 0.25:
        return words.rstrip(".?!。？！") or words
    if manner < 0.4:
        return words.translate(_PLAIN)
    return re.sub("[，、,]", " ", words).replace("  ", " ") if manner < 0.5 else words


def _spaces(rng: random.Random, language: Language, words: str) -> str:
    return words.replace(" ", "") if rng.random() < 0.08 else words


WAYS: dict[str, Callable[[random.Random, Language, str], str]] = {
    "articles": _articles,
    "typos": _typos,
    "case": _case,
    "punctuation": _punctuation,
    "spaces": _spaces,
}
"""By the names that a language's file lists"""


def add_typo(rng: random.Random, words: str) -> str:
    """One typing error: in a longer word two letters swapped, one missing, doubled, replaced or its neighbour on the keyboard; or
    a space left out."""
    places = [m.span() for m in re.finditer(r"[A-Za-z]{4,}", words)]
    if not places:
        return words
    start, end = rng.choice(places)
    at = rng.randrange(start + 1, end - 1)
    slip = rng.choice(("swap", "drop", "double", "other", "neighbour", "space"))
    if slip == "swap":
        return words[:at] + words[at + 1] + words[at] + words[at + 2 :]
    if slip == "drop":
        return words[:at] + words[at + 1 :]
    if slip == "space" and words[end : end + 1] == " ":
        return words[:end] + words[end + 1 :]
    letter = {"double": words[at] * 2, "neighbour": rng.choice(NEIGHBOURS.get(words[at].lower(), "e") or "e")}
    return words[:at] + letter.get(slip, rng.choice("aeiounrst")) + words[at + 1 :]


def wrapped(rng: random.Random, language: Language, words: str) -> str:
    """A wish after one or two sentences about something else."""
    before = rng.sample(language.forms["requests.before"], rng.choice((1, 1, 2)))
    return " ".join([*before, language.sentence(words)] if language.space else [*before, words]).replace("。 ", "。")
