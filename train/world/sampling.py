"""Random scenes: how many things, which, where. Every function takes its own ``random.Random``."""

from __future__ import annotations

import random
from collections.abc import Callable

from .held_out import is_held_out
from .objects import OBJECTS
from .pen import COLORS
from .scene import BACKGROUNDS, SIZES, Scene, Thing

SHAPES: tuple[tuple[int, int], ...] = ((128, 128), (96, 160), (160, 96))
"""Heights and widths in pixels; the first is the usual one."""

NAMES = tuple(OBJECTS)
COLOR_NAMES = tuple(COLORS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)


def seen(make: Callable[[], Scene]) -> Scene:
    """Draw scenes until one is allowed in training."""
    for _ in range(10_000):
        scene = make()
        if not is_held_out(scene):
            return scene
    raise AssertionError("no allowed scene in 10,000 draws")


def shape(rng: random.Random) -> tuple[int, int]:
    return rng.choices(SHAPES, (8, 1, 1))[0]


def background(rng: random.Random) -> str:
    return rng.choices(BACKGROUND_NAMES, (3, 1, 1, 1, 1))[0]


def size(rng: random.Random, things: int) -> str:
    return rng.choices(tuple(SIZES), (1, 2, 3) if things == 1 else (1, 3, 0))[0]


def jitter(rng: random.Random, value: float, amount: float) -> float:
    return value + rng.uniform(-amount, amount)


def single(rng: random.Random) -> Scene:
    name, color = rng.choice(NAMES), rng.choice(COLOR_NAMES)
    thing = Thing(name, color, size(rng, 1), jitter(rng, 0.5, 0.12), jitter(rng, 0.5, 0.1))
    return Scene((thing,), background(rng), *shape(rng))


def counted(rng: random.Random, count: int | None = None) -> Scene:
    """One to four of a kind, in one colour, in separate cells."""
    count = count or rng.randint(2, 4)
    name, color = rng.choice(NAMES), rng.choice(COLOR_NAMES)
    height, width = shape(rng)
    spots = {2: [(0.27, 0.5), (0.73, 0.5)], 3: [(0.25, 0.28), (0.75, 0.28), (0.5, 0.73)]}.get(
        count, [(0.26, 0.27), (0.74, 0.27), (0.26, 0.73), (0.74, 0.73)]
    )
    if (count == 2 and rng.random() < 0.3) or (count == 2 and height > width):
        spots = [(y, x) for x, y in spots]
    if count == 3 and rng.random() < 0.5:
        spots = [(x, 1 - y) for x, y in spots]
    kind = rng.choices(("small", "medium"), (1, 3))[0]
    things = tuple(Thing(name, color, kind, jitter(rng, x, 0.03), jitter(rng, y, 0.03)) for x, y in spots)
    return Scene(things, background(rng), height, width)


def pair(rng: random.Random, relation: str | None = None) -> Scene:
    """Two different things, the first standing in ``relation`` to the second."""
    relation = relation or rng.choices(("left of", "right of", "above", "below"), (5, 3, 2, 2))[0]
    a, b = rng.sample(NAMES, 2)
    near, far = jitter(rng, 0.26, 0.03), jitter(rng, 0.74, 0.03)
    first, second = (near, far) if relation in ("left of", "above") else (far, near)
    height, width = shape(rng)
    across = jitter(rng, 0.5, 0.08), jitter(rng, 0.5, 0.08)
    spots = ((first, across[0]), (second, across[1]))
    if relation in ("above", "below"):
        spots = tuple((x, y) for y, x in spots)
    things = tuple(
        Thing(name, rng.choice(COLOR_NAMES), size(rng, 2), x, y) for name, (x, y) in zip((a, b), spots, strict=True)
    )
    return Scene(things, background(rng), height, width)


def any_scene(rng: random.Random) -> Scene:
    make = rng.choices((single, counted, pair), (4, 3, 4))[0]
    return seen(lambda: make(rng))
