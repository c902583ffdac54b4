"""What is never in the training data: the combinations that GenEval's prompts ask for, 15 % of the other pairs, and the requests
that people wrote by hand for evaluation (``requests.jsonl``).

The prompts are those of Ghosh et al. 2023 (MIT licence), shipped as ``geneval_prompts.jsonl``.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from .objects import OBJECTS
from .pen import COLORS
from .scene import Scene, Thing

SHARE_OF_OTHER_PAIRS = 0.15
MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class HeldOut:
    pairs: frozenset[frozenset[str]]
    """Two objects that never share a picture (``two_object``)."""
    positions: frozenset[tuple[str, str, str]]
    """(object, relation, other object) that never holds in a picture (``position``)."""
    attributes: frozenset[frozenset[tuple[str, str]]]
    """Two (object, colour) pairs that never share a picture (``color_attr``)."""
    colors: frozenset[tuple[str, str]]
    """(object, colour) that is never drawn: ``colors`` and 15 % of the rest."""


@functools.cache
def held_out() -> HeldOut:
    """The combinations that GenEval's prompts ask for, and 15 % of the other (object, colour) pairs by their hash."""
    pairs, positions, attributes, colors = set(), set(), set(), set()
    for line in (Path(__file__).parent / "geneval_prompts.jsonl").read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)
        things = prompt["include"]
        names = [thing["class"] for thing in things]
        if prompt["tag"] == "two_object":
            pairs.add(frozenset(names))
        elif prompt["tag"] == "position":
            relation, other = things[1]["position"]
            positions.add((names[1], relation, names[other]))
            positions.add((names[other], MIRROR[relation], names[1]))
        elif prompt["tag"] == "color_attr":
            attributes.add(frozenset((thing["class"], thing["color"]) for thing in things))
        elif prompt["tag"] == "colors":
            colors.add((names[0], things[0]["color"]))
    for name, color in itertools.product(OBJECTS, COLORS):
        digest = hashlib.sha256(f"{name}/{color}".encode()).digest()
        if (name, color) not in colors and int.from_bytes(digest[:4], "big") < SHARE_OF_OTHER_PAIRS * 2**32:
            colors.add((name, color))
    return HeldOut(frozenset(pairs), frozenset(positions), frozenset(attributes), frozenset(colors))


_WORD = re.compile(r"\w+")


@functools.cache
def handwritten_requests() -> frozenset[str]:
    """The hand-written requests, `normalized`."""
    lines = (Path(__file__).parent / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    return frozenset(normalized(json.loads(line)["say"]) for line in lines)


def normalized(words: str) -> str:
    """Lower-case words without punctuation."""
    return " ".join(_WORD.findall(words.lower()))


def relation(a: Thing, b: Thing) -> str | None:
    """Where ``a`` lies seen from ``b``: by the larger of the two distances, None when both are small."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < 0.2:
        return None
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def is_held_out(scene: Scene) -> bool:
    """Whether training must not see this scene."""
    rule = held_out()
    for thing in scene.things:
        if (thing.name, thing.color) in rule.colors:
            return True
    for a, b in itertools.combinations(scene.things, 2):  # what is true of a and b is true of b and a
        if a.name == b.name:
            continue
        if frozenset((a.name, b.name)) in rule.pairs or (a.name, relation(a, b), b.name) in rule.positions:
            return True
        if frozenset(((a.name, a.color), (b.name, b.color))) in rule.attributes:
            return True
    return False
