"""English captions by short names, and the facts that a caption states, read by rules that know nothing of the templates."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from .grammar import PAIRED, PLURALS, plural, with_article
from .held_out import MIRROR, relation
from .language import Detail, canonical_order
from .languages import ENGLISH
from .objects import OBJECTS
from .pen import COLORS
from .scene import BACKGROUNDS, SIZES, Scene

__all__ = [
    "PLURALS",
    "Detail",
    "canonical_order",
    "caption",
    "facts",
    "noun_phrase",
    "plural",
    "read_caption",
    "with_article",
]

NUMBERS = {n: ENGLISH.numbers[n][0] for n in (1, 2, 3, 4)}
BACKGROUND_PHRASES = {name: phrases[0] for name, phrases in ENGLISH.grounds.items()}
noun_phrase = ENGLISH.phrase
caption = ENGLISH.caption


@dataclass(frozen=True)
class Facts:
    """What a caption states: the count of each (object, colour), their relation, the background."""

    counts: tuple[tuple[tuple[str, str], int], ...]
    relation: tuple[str, str, str] | None
    background: str | None


def canonical_relation(a: str, where: str, b: str) -> tuple[str, str, str]:
    """ "a right of b" and "b left of a" are one claim."""
    return (b, MIRROR[where], a) if where in ("right of", "below") else (a, where, b)


def facts(scene: Scene) -> Facts:
    """What a correct caption of the scene claims: counts by name and colour, a pair's relation, the background."""
    counts = Counter((t.name, t.color) for t in scene.things)
    where = relation(*scene.things) if len(scene.things) == 2 and len(counts) == 2 else None
    claim = canonical_relation(scene.things[0].name, where, scene.things[1].name) if where else None
    return Facts(tuple(sorted(counts.items())), claim, scene.background)


_SINGULAR = {plural(name): name for name in OBJECTS} | {name: name for name in OBJECTS}
_THING = re.compile(
    rf"\b(?:(an?|{'|'.join(NUMBERS.values())}) |(?=(?:\w+ ){{0,2}}(?:{'|'.join(PAIRED)})))(?:(?:{'|'.join(SIZES)}) )?"
    rf"(?:({'|'.join(COLORS)}) )?({'|'.join(sorted(map(re.escape, _SINGULAR), key=len, reverse=True))})\b"
)
_RELATION = re.compile(r"\b(left of|right of|above|below)\b")


def read_caption(text: str) -> Facts:
    """Facts of a caption in the world's own words; what it does not understand is left out."""
    text = text.lower()
    background = next((b for b in BACKGROUNDS if BACKGROUND_PHRASES[b] in text), None)
    counts: Counter[tuple[str, str]] = Counter()
    order = []
    numbers = {word: number for number, word in NUMBERS.items()} | {"a": 1, "an": 1, "": 1}
    for number, color, name in _THING.findall(text):
        counts[_SINGULAR[name], color] += numbers[number]
        order.append(_SINGULAR[name])
    where = _RELATION.search(text)
    claim = canonical_relation(order[0], where.group(1), order[1]) if where and len(order) == 2 else None
    return Facts(tuple(sorted(counts.items())), claim, background)
