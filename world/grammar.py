"""The few rules of grammar that tables cannot hold: English articles and plurals, Korean particles.

A template marks where a rule applies ("a/an {name}", "{name}을/를"); the language's rule is applied to the filled template.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .pen import COLORS

PLURALS = {
    "bench": "benches", "broccoli": "broccoli", "bus": "buses", "computer mouse": "computer mice", "couch": "couches",
    "fish": "fish", "knife": "knives", "person": "people", "sandwich": "sandwiches", "scissors": "scissors", "sheep": "sheep",
    "skis": "skis", "toothbrush": "toothbrushes", "wine glass": "wine glasses",
}  # fmt: skip
PAIRED = ("scissors", "skis")
"""One of them is called as many are: "red skis" """


def plural(name: str) -> str:
    """An object's name for two and more, such as "sheep" or "knives"."""
    if name in PLURALS:
        return PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    return name[:-1] + "ies" if re.search("[^aeiou]y$", name) else name + "s"


def with_article(phrase: str) -> str:
    """ "a cat", "an apple"; "skis" as they are."""
    if phrase.endswith(PAIRED):
        return phrase
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


_ARTICLE = re.compile(r"\b([Aa])/[Aa]n (.)(?=(.{0,40}))")
_PAIRED = re.compile(rf"(?:(?:small|medium|large|{'|'.join(COLORS)}) )*(?:{'|'.join(PAIRED)})\b")


def english_articles(words: str) -> str:
    """ "a/an" replaced by the article that fits what comes after it, or by none: "a/an red skis" becomes "red skis"."""

    def article(found: re.Match[str]) -> str:
        letter, first, rest = found.groups()
        if _PAIRED.match(first + rest):
            return first.upper() if letter == "A" else first
        return f"{letter}{'n' if first.lower() in 'aeiou' else ''} {first}"

    return _ARTICLE.sub(article, words)


PARTICLES = {"으로": "로", "이라도": "라도", "이에요": "예요", "이랑": "랑", "이나": "나", "이고": "고", "이야": "야", "을": "를",
             "은": "는", "이": "가", "과": "와"}  # fmt: skip
"""Korean particles after a consonant and after a vowel"""
_PARTICLE = re.compile(rf"(\w)({'|'.join(PARTICLES)})/({'|'.join(PARTICLES.values())})")
_SOUNDS_CLOSED = {**dict.fromkeys("2459aefhijkopqsuvwxyz", 0), **dict.fromkeys("013678lmnr", 1)}
"""How a digit or a Latin letter ends when it is read aloud in Korean"""


def korean_particles(words: str) -> str:
    """Text with each pair of Korean particles replaced by the one that fits the sound before it: 고양이을/를 becomes 고양이를."""

    def particle(found: re.Match[str]) -> str:
        before, closed, other = found.groups()
        if "가" <= before <= "힣":
            final = (ord(before) - 0xAC00) % 28
            if closed == "으로" and final == 8:  # after ㄹ the short form stands
                final = 0
        else:
            final = _SOUNDS_CLOSED.get(before.lower(), 0)
        return before + (closed if final else other)

    return _PARTICLE.sub(particle, words)


@dataclass(frozen=True)
class Grammar:
    finish: Callable[[str], str] = str
    """Applies the rules to a filled template"""
    plural: Callable[[str], str] = str


GRAMMARS = {
    "plain": Grammar(),
    "english": Grammar(english_articles, plural),
    "korean": Grammar(korean_particles),
}
"""By the name that a language's file gives"""
