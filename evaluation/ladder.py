"""``limner eval ladder``: scenes of ever more atoms (objects, colours, counts, places, a background), each looked for by itself.

GenEval 2 (Kamath et al. 2025, arXiv:2512.16853) counts atoms so; the prompts here are of the world's own.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world.held_out import relation
from ..world.language import Detail, groups
from ..world.scene import Scene, Thing, render
from ..world.scenes import atoms, scene_with_atoms
from .judge import Judge, Verdict
from .tasks import ASKING, Grades, Task, drawing, first_images
from .world import check_limit, evaluate_tasks

ATOM_COUNTS = tuple(range(3, 11))
DEFAULT_COUNT = 100
"""Prompts of each atom count, if no limit is given"""


def found_atoms(scene: Scene, verdict: Verdict) -> list[bool]:
    """Which atoms of a scene's phrase a picture has: of every group of things that they are there, have the colour and, of
    several, the number; of neighbouring groups the place of one to the other; and a background that is not the plain one."""
    found: list[bool] = []
    centres: list[tuple[Thing, Thing | None]] = []
    for things in groups(scene):
        first = things[0]
        seen = [d.thing() for d in verdict.detections if d.name == first.name]
        found += [bool(seen), bool(seen) and all(thing.color == first.color for thing in seen)]
        if len(things) > 1:
            found.append(len(seen) == len(things))
        centres.append((centre(things), centre(seen) if seen else None))
    for (a, seen_a), (b, seen_b) in itertools.pairwise(centres):
        there = seen_a is not None and seen_b is not None
        found.append(there and relation(seen_a, seen_b) == relation(a, b))  # type: ignore[arg-type]
    if scene.background != "plain":
        found.append(verdict.background == scene.background)
    return found


def centre(things: Sequence[Thing]) -> Thing:
    """A thing in the middle of these."""
    x, y = (sum(getattr(thing, axis) for thing in things) / len(things) for axis in "xy")
    return Thing(things[0].name, things[0].color, things[0].size, x, y)


def is_wholly_right(scene: Scene, verdict: Verdict) -> bool:
    """Whether a picture has every atom, and no thing that was not asked for."""
    same_things = Counter(t.name for t in scene.things) == Counter(d.name for d in verdict.detections)
    return same_things and all(found_atoms(scene, verdict))


def ladder_task(atom_count: int, count: int, steps: int | None = None) -> Task:
    """Pictures of so many atoms: right if all of them are there. Beside it stands the share of the atoms that are."""
    rng = random.Random(f"ladder/{atom_count}")
    scenes = [ladder_scene(rng, atom_count) for _ in range(count)]

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        pictures, true = (
            list(zip(scenes, judge.detect(images), strict=True))
            for images in (first_images(replies), [render(scene) for scene in scenes])
        )
        atoms_right = sum(sum(found_atoms(*pair)) for pair in pictures) / (atom_count * count)
        accurate = sum(is_wholly_right(*pair) for pair in true) / count
        return [is_wholly_right(*pair) for pair in pictures], {"atoms": atoms_right, "judge_accuracy": accurate}

    prompts = [f"draw {ASKING.phrase(scene, Detail())}" for scene in scenes]
    return Task(f"ladder/{atom_count}", prompts, drawing(steps), grade)


def ladder_scene(rng: random.Random, atom_count: int) -> Scene:
    """A scene of so many atoms in a square picture."""
    while (scene := scene_with_atoms(rng, atom_count, ASKING.names)).height != scene.width:
        continue
    assert atoms(scene) == atom_count
    return scene


def evaluate(
    model: Limner,
    output: Path,
    limit: int = 0,
    steps: int | None = None,
    part: tuple[int, int] = (0, 1),
    only: Sequence[str] = (),
) -> dict[str, Any] | None:
    """All atom counts, 100 prompts each or ``limit``; files, arguments and errors are those of `world.evaluate`."""
    count = check_limit(limit) or DEFAULT_COUNT
    made: dict[str, Callable[[], Task]] = {f"ladder/{n}": partial(ladder_task, n, count, steps) for n in ATOM_COUNTS}
    return evaluate_tasks(model, output, made, {"examples": count}, "the ladder of atoms", steps, part, only)
