"""Prompts and expected objects of GenEval's six categories, with seen and with held-out combinations of the world."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from PIL import Image

from ..world import sampling
from ..world.held_out import held_out, is_held_out, relation
from ..world.pen import COLORS
from ..world.scene import Scene, Thing, render
from ..world.words import NUMBERS, plural, with_article
from .judge import Verdict

SIDES = ("left", "right", "top", "bottom")
"""Sides of an object where its half can be missing."""
PLACES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "left of": ({"x": 0.26, "y": 0.5}, {"x": 0.74, "y": 0.5}),
    "right of": ({"x": 0.74, "y": 0.5}, {"x": 0.26, "y": 0.5}),
    "above": ({"x": 0.5, "y": 0.26}, {"x": 0.5, "y": 0.74}),
    "below": ({"x": 0.5, "y": 0.74}, {"x": 0.5, "y": 0.26}),
}
"""Centres of two objects in a relation"""
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class Expected:
    """The objects that a picture must show, and no others; a colour of None is free."""

    things: tuple[tuple[str, str | None], ...]
    relation: str | None = None
    """Position of the first relative to the second."""

    @classmethod
    def of(cls, scene: Scene, relation: str | None = None, colored: bool = True) -> Self:
        return cls(tuple((t.name, t.color if colored else None) for t in scene.things), relation)

    def matches(self, verdict: Verdict) -> bool:
        found = verdict.detections
        if Counter(name for name, _ in self.things) != Counter(d.name for d in found):
            return False
        if any(color not in (None, d.color) for name, color in self.things for d in found if d.name == name):
            return False
        if self.relation is None:
            return True
        a, b = (next(d for d in found if d.name == name).thing() for name, _ in self.things)
        return relation(a, b) == self.relation


@dataclass(frozen=True)
class Case:
    category: str
    prompt: str
    expected: Expected
    scene: Scene
    """A true rendering, to measure the judge itself."""


def make_cases(category: str, unseen: bool, count: int) -> list[Case]:
    """``count`` cases of a category, the same ones at every call; fewer only where a category has no held-out side.

    Raises ValueError for a category that GenEval does not have.
    """
    if category not in CATEGORIES:
        raise ValueError(f"no category {category!r}; there are {', '.join(CATEGORIES)}")
    rng = random.Random(f"{category}/{unseen}")
    return list(itertools.islice(_endless(category, unseen, rng), count))


def mixed_cases(count: int) -> list[Case]:
    """``count`` cases in all, evenly of the categories, of combinations that training may show."""
    shares = [(category, (count + index) // len(CATEGORIES)) for index, category in enumerate(CATEGORIES)]
    return [case for category, share in shares for case in make_cases(category, False, share)]


def has_held_out(category: str) -> bool:
    """Every object is seen in training, so a bare object cannot be held out."""
    return category != "single_object"


def _endless(category: str, unseen: bool, rng: random.Random) -> Iterator[Case]:
    if unseen and not has_held_out(category):
        return
    pool = _held_out_combinations(category) if unseen else []
    sample: dict[str, Callable[..., Scene]] = {
        "single_object": sampling.single, "colors": sampling.single, "counting": sampling.several
    }  # fmt: skip
    while True:
        scene = sample.get(category, sampling.pair)(rng, names=sampling.GENEVAL_NAMES)
        if unseen:
            changes = itertools.cycle(rng.choice(pool))
            things = tuple(replace(t, **own) for t, own in zip(scene.things, changes, strict=False))
            scene = replace(scene, things=things)
        scene = replace(scene, height=128, width=128)
        if not unseen and category in ("colors", "color_attr"):  # any colour as often as any other
            scene = replace(scene, things=tuple(replace(t, color=rng.choice(tuple(COLORS))) for t in scene.things))
        if is_held_out(scene) == unseen:
            yield _case(category, unseen, scene)


def _held_out_combinations(category: str) -> list[tuple[dict[str, Any], ...]]:
    """What makes a scene of this category a held-out one: other fields of its things, in turn."""
    rule, known = held_out(), set(sampling.GENEVAL_NAMES)
    if category == "two_object":
        pairs = sorted(tuple(sorted(names)) for names in rule.pairs if names <= known and len(names) == 2)
        return [tuple({"name": name} for name in pair) for pair in pairs]
    if category == "color_attr":
        both = [sorted(p) for p in rule.attributes if {name for name, _ in p} <= known and len(p) == 2]
        return [tuple({"name": name, "color": color} for name, color in pair) for pair in sorted(both)]
    if category == "position":
        placed = [(a, PLACES[where], b) for a, where, b in sorted(rule.positions) if {a, b} <= known]
        return [({"name": a, **spots[0]}, {"name": b, **spots[1]}) for a, spots, b in placed]
    return [({"name": name, "color": color},) for name, color in sorted(rule.colors) if name in known]


def _case(category: str, unseen: bool, scene: Scene) -> Case:
    things = scene.things
    # a count is held out by its colour, so the prompt then names it
    colored = category in ("colors", "color_attr") or (category == "counting" and unseen)
    names = [f"{t.color} {t.name}" if colored else t.name for t in things]
    where = relation(*things) if category == "position" else None
    if category == "counting":
        words = f"{NUMBERS[len(things)]} {names[0].removesuffix(things[0].name)}{plural(things[0].name)}"
    else:
        words = f" {where or 'and'} ".join(map(with_article, names))
    return Case(category, f"a photo of {words}", Expected.of(scene, where, colored), scene)


def near_misses(case: Case, rng: random.Random) -> list[tuple[str, Scene]]:
    """Scenes that look like the case's and are wrong: (what is wrong, scene)."""
    scene, things = case.scene, case.scene.things
    misses = []
    target = rng.choice(things)
    if any(color is not None for _, color in case.expected.things):
        other = rng.choice([c for c in COLORS if c != target.color])
        misses.append(("colour", scene.with_changed(target, color=other)))
    misses.append(("count", replace(scene, things=tuple(t for t in things if t is not target))))
    other = rng.choice([n for n in sampling.GENEVAL_NAMES if all(n != t.name for t in things)])
    return [*misses, ("object", scene.with_changed(target, name=other))]


def halve(scene: Scene, thing: Thing, side: str) -> Image.Image:
    """A picture of the scene in which half of one object is missing."""
    image = render(scene)
    rest = render(replace(scene, things=tuple(t for t in scene.things if t is not thing), hole=None))
    left, top, right, bottom = (round(v) for v in scene.box(thing))
    half = {
        "left": (left - 3, top - 3, (left + right) // 2, bottom + 3),
        "right": ((left + right) // 2, top - 3, right + 3, bottom + 3),
        "top": (left - 3, top - 3, right + 3, (top + bottom) // 2),
        "bottom": (left - 3, (top + bottom) // 2, right + 3, bottom + 3),
    }[side]
    box = (max(0, half[0]), max(0, half[1]), min(image.width, half[2]), min(image.height, half[3]))
    image.paste(rest.crop(box), box[:2])
    return image
