"""Captions and noun phrases of scenes, and the facts that a caption states."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from .held_out import MIRROR, relation
from .objects import OBJECTS
from .pen import COLORS
from .scene import BACKGROUNDS, SIZES, Scene, Thing

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
BACKGROUND_PHRASES = {
    "plain": "on a plain background",
    "sky": "in the sky",
    "grass": "on grass",
    "sand": "on sand",
    "night": "at night",
    "room": "in a room",
}
STYLE_PHRASES = {
    "flat": "",
    "outline": " in outline",
    "chalk": " in chalk",
    "pastel": " in pastel",
    "edges": "",
    "silhouette": "",
    "sketch": "",
    "depth": "",
}
PLURALS = {
    "bench": "benches", "broccoli": "broccoli", "bus": "buses", "computer mouse": "computer mice", "couch": "couches",
    "knife": "knives", "person": "people", "sandwich": "sandwiches", "scissors": "scissors", "sheep": "sheep", "skis": "skis",
    "toothbrush": "toothbrushes", "wine glass": "wine glasses",
}  # fmt: skip
PAIRED = ("scissors", "skis")
"""One of them is called as many are: "red skis" """


def plural(name: str) -> str:
    """An object's name for two and more, such as "sheep" or "knives"."""
    return PLURALS.get(name, name + "s")


def with_article(phrase: str) -> str:
    """ "a cat", "an apple"; "skis" as they are."""
    if phrase.endswith(PAIRED):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


@dataclass(frozen=True)
class Detail:
    """Which attributes a phrase names."""

    color: bool = True
    size: bool = False
    """The size of a single object; of several, only sizes other than medium"""
    relation: bool = True
    background: bool = True


def mentions_size(thing: Thing, detail: Detail, alone: bool) -> bool:
    return detail.size and (alone or thing.size != "medium")


def noun_phrase(scene: Scene, detail: Detail) -> str:
    """ "a large red cat on grass", "three small red cats", "a red cat left of a blue dog"."""
    things = scene.things

    def one(index: int) -> str:
        thing = things[index]
        words = [thing.size] if mentions_size(thing, detail, len(things) == 1) else []
        return with_article(" ".join([*words, *([thing.color] if detail.color else []), thing.name]))

    if len({(t.name, t.color) for t in things}) == 1:
        if len(things) == 1:
            phrase = one(0)
        else:
            size = f"{things[0].size} " if mentions_size(things[0], detail, False) else ""
            color = f"{things[0].color} " if detail.color else ""
            phrase = f"{NUMBERS[len(things)]} {size}{color}{plural(things[0].name)}"
    elif len(things) == 2:
        where = relation(*things) if detail.relation else None
        phrase = f"{one(0)} {where or 'and'} {one(1)}"
    else:
        phrase = ", ".join(one(i) for i in range(len(things) - 1)) + " and " + one(len(things) - 1)
    where = f" {BACKGROUND_PHRASES[scene.background]}" if detail.background else ""
    return phrase + where + STYLE_PHRASES[scene.style]


def sentence(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:].rstrip(".") + "."


def lower_first(words: str) -> str:
    return words[0].lower() + words[1:]


def with_colon(text: str) -> str:
    """A sentence before a picture: "A red cat." becomes "A red cat:" """
    return text.rstrip(".") + ":"


def canonical_order(scene: Scene) -> Scene:
    """The scene with two objects ordered from the left or from the top, so that a picture has one caption."""
    if len(scene.things) == 2 and relation(*scene.things) in ("right of", "below"):
        return replace(scene, things=scene.things[::-1])
    return scene


def caption(scene: Scene) -> str:
    """The full description: the caption of a picture that is shown, and the plan of one to be drawn."""
    return sentence(noun_phrase(canonical_order(scene), Detail(size=True)))


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
