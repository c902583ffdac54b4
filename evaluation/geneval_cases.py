"""Prompts and expected objects of GenEval's six categories, with seen and with held-out combinations of the world."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..world import sampling
from ..world.held_out import held_out, is_held_out, relation
from ..world.pen import COLORS
from ..world.scene import Scene, Thing, render
from ..world.words import NUMBERS, plural, with_article
from .judge import Verdict

SIDES = ("left", "right", "top", "bottom")
"""Sides of an object where its half can be missing."""
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class Expected:
    """The objects that a picture must show, and no others; a colour of None is free."""

    things: tuple[tuple[str, str | None], ...]
    relation: str | None = None
    """Position of the first relative to the second."""

    def matches(self, verdict: Verdict) -> bool:
        found = verdict.detections
        if Counter(name for name, _ in self.things) != Counter(d.name for d in found):
            return False
        for name, color in self.things:
            if color is not None and any(d.color != color for d in found if d.name == name):
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
    """``count`` cases of a category, the same ones at every call; fewer only where a category has no held-out side."""
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
    rule = held_out()
    known = set(sampling.NAMES)
    pools: dict[str, list[Any]] = {
        "two_object": sorted(tuple(sorted(p)) for p in rule.pairs if p <= known and len(p) == 2),
        "position": sorted(p for p in rule.positions if {p[0], p[2]} <= known),
        "color_attr": sorted(tuple(sorted(p)) for p in rule.attributes if {n for n, _ in p} <= known and len(p) == 2),
        "colors": sorted(p for p in rule.colors if p[0] in known),
    }
    while True:
        if category in ("single_object", "colors", "counting"):
            scene = (sampling.several if category == "counting" else sampling.single)(rng)
            if unseen:
                name, color = rng.choice(pools["colors"])
                scene = replace(scene, things=tuple(replace(t, name=name, color=color) for t in scene.things))
        else:
            scene = sampling.pair(rng)
            if unseen:
                scene = _with_combination(scene, rng.choice(pools[category]), category)
        scene = replace(scene, height=128, width=128)
        if not unseen and category in ("colors", "color_attr"):  # any colour as often as any other
            scene = replace(scene, things=tuple(replace(t, color=rng.choice(tuple(COLORS))) for t in scene.things))
        if category != "single_object" and unseen != is_held_out(scene) and category in ("colors", "counting"):
            continue
        if not unseen and is_held_out(scene):
            continue
        yield _case(category, unseen, scene)


def _with_combination(scene: Scene, pick: tuple, category: str) -> Scene:
    a, b = scene.things
    if category == "two_object":
        a, b = replace(a, name=pick[0]), replace(b, name=pick[1])
    elif category == "color_attr":
        (name_a, color_a), (name_b, color_b) = pick
        a, b = replace(a, name=name_a, color=color_a), replace(b, name=name_b, color=color_b)
    else:
        spots = {"left of": ((0.26, 0.5), (0.74, 0.5)), "above": ((0.5, 0.26), (0.5, 0.74))}
        spots |= {"right of": spots["left of"][::-1], "below": spots["above"][::-1]}
        (ax, ay), (bx, by) = spots[pick[1]]
        a, b = replace(a, name=pick[0], x=ax, y=ay), replace(b, name=pick[2], x=bx, y=by)
    return replace(scene, things=(a, b))


def _case(category: str, unseen: bool, scene: Scene) -> Case:
    things = scene.things
    free = tuple((t.name, None) for t in things)
    colored = tuple((t.name, t.color) for t in things)
    where = relation(*things) if len(things) == 2 else None

    def phrase(thing: Thing, color: bool = False) -> str:
        return with_article(f"{thing.color} {thing.name}" if color else thing.name)

    if category == "single_object":
        words, wanted = phrase(things[0]), Expected(free)
    elif category == "colors":
        words, wanted = phrase(things[0], color=True), Expected(colored)
    elif category == "counting":
        # held out by colour, so the prompt names it
        color = f"{things[0].color} " if unseen else ""
        words = f"{NUMBERS[len(things)]} {color}{plural(things[0].name)}"
        wanted = Expected(colored if unseen else free)
    elif category == "two_object":
        words, wanted = f"{phrase(things[0])} and {phrase(things[1])}", Expected(free)
    elif category == "position":
        words, wanted = f"{phrase(things[0])} {where} {phrase(things[1])}", Expected(free, where)
    elif category == "color_attr":
        words, wanted = f"{phrase(things[0], True)} and {phrase(things[1], True)}", Expected(colored)
    else:
        raise ValueError(f"no category {category!r}; there are {', '.join(CATEGORIES)}")
    return Case(category, f"a photo of {words}", wanted, scene)


def near_misses(case: Case, rng: random.Random) -> list[tuple[str, Scene]]:
    """Scenes that look like the case's and are wrong: (what is wrong, scene)."""
    scene, things = case.scene, case.scene.things
    misses = []
    target = rng.choice(things)
    if any(color is not None for _, color in case.expected.things):
        other = rng.choice([c for c in COLORS if c != target.color])
        misses.append(
            ("colour", replace(scene, things=tuple(replace(t, color=other) if t is target else t for t in things)))
        )
    misses.append(("count", replace(scene, things=tuple(t for t in things if t is not target))))
    other = rng.choice([n for n in sampling.NAMES if all(n != t.name for t in things)])
    misses.append(
        ("object", replace(scene, things=tuple(replace(t, name=other) if t is target else t for t in things)))
    )
    return misses


def halve(scene: Scene, thing: Thing, side: str) -> Image.Image:
    """A picture of the scene in which half of one object is missing."""
    image = render(scene)
    rest = Scene(
        tuple(t for t in scene.things if t is not thing), scene.background, scene.height, scene.width, scene.style
    )
    left, top, right, bottom = (round(v) for v in scene.box(thing))
    middle = ((left + right) // 2, (top + bottom) // 2)
    box = {
        "left": (left - 3, top - 3, middle[0], bottom + 3),
        "right": (middle[0], top - 3, right + 3, bottom + 3),
        "top": (left - 3, top - 3, right + 3, middle[1]),
        "bottom": (left - 3, middle[1], right + 3, bottom + 3),
    }[side]
    box = (max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
    image.paste(render(rest).crop(box), box[:2])
    return image
