"""Random scenes: which objects, how many, where. Every function takes a ``random.Random``."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from .held_out import held_out, is_held_out
from .objects import GENEVAL, OBJECTS
from .pen import COLORS, STYLES
from .scene import BACKGROUNDS, SIZES, Scene, Thing

SHAPES: tuple[tuple[int, int], ...] = ((128, 128), (96, 160), (160, 96))
"""Heights and widths in pixels; the first is the usual one."""

NAMES = tuple(OBJECTS)
GENEVAL_NAMES = tuple(GENEVAL)
"""Those of the evaluation's requests, which stay the same when the world grows"""
COLOR_NAMES = tuple(COLORS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)


def rng_for(seed: int, step: int, stream: str) -> random.Random:
    """The generator of one step of one ``stream`` of samples: any step can be made without those before it."""
    return random.Random(f"{seed}/{stream}/{step}")


USUAL_COLORS: dict[str, str] = {
    "apple": "yellow", "banana": "yellow", "carrot": "orange", "donut": "pink", "pizza": "yellow", "cake": "pink",
    "bottle": "green", "cup": "blue", "wine glass": "purple", "vase": "blue", "clock": "brown", "book": "green",
    "chair": "red", "couch": "blue", "bed": "blue", "car": "yellow", "bus": "red", "train": "green", "boat": "red",
    "airplane": "blue", "bicycle": "green", "bird": "red", "cat": "orange", "dog": "brown", "sheep": "brown",
    "elephant": "pink", "giraffe": "yellow", "teddy bear": "brown", "umbrella": "purple", "kite": "red",
    "stop sign": "red", "traffic light": "yellow", "tv": "black", "suitcase": "brown", "potted plant": "orange", "tie": "blue",
    "orange": "red", "broccoli": "green", "hot dog": "brown", "sandwich": "brown", "bowl": "blue", "fork": "blue",
    "knife": "black", "spoon": "yellow", "bench": "brown", "dining table": "brown", "toilet": "pink", "sink": "blue",
    "refrigerator": "white", "oven": "black", "microwave": "white", "toaster": "yellow", "laptop": "black",
    "computer keyboard": "white", "computer mouse": "white", "tv remote": "red", "cell phone": "black", "hair drier": "pink",
    "toothbrush": "blue", "scissors": "green", "backpack": "blue", "handbag": "brown", "person": "blue",
    "sports ball": "orange", "frisbee": "red", "skis": "red", "snowboard": "blue", "skateboard": "blue", "surfboard": "yellow",
    "baseball bat": "brown", "baseball glove": "orange", "tennis racket": "red", "truck": "blue", "motorcycle": "red",
    "parking meter": "blue", "fire hydrant": "red", "cow": "brown", "horse": "brown", "zebra": "white", "bear": "black",
    "house": "red", "tree": "green", "flower": "pink", "fish": "blue", "sun": "yellow", "moon": "yellow", "star": "yellow",
    "heart": "red", "hat": "black", "rabbit": "white", "duck": "yellow", "shoe": "brown",
}  # fmt: skip
"""The colour that a thing has where nobody says one: one answer learns faster than ten, and people expect it. Of those
that training may show (a red apple is one of GenEval's prompts)."""
USUAL_SHARE = 0.3


def allowed_scene(make: Callable[[], Scene]) -> Scene:
    """Draw scenes until one is allowed in training."""
    for _ in range(10_000):
        scene = make()
        if not is_held_out(scene):
            return scene
    raise AssertionError("no allowed scene in 10,000 draws")


def _odds(*weights: int) -> tuple[int, ...]:
    """Weights, added up as `random.choices` takes them fastest."""
    return tuple(itertools.accumulate(weights))


_SHAPE_ODDS = _odds(8, 1, 1)
_BACKGROUND_ODDS = _odds(3, 1, 1, 1, 1, 1)
_SIZE_NAMES, _ODDS_ALONE, _ODDS_AMONG_OTHERS = tuple(SIZES), _odds(1, 2, 3), _odds(1, 4, 0)


def allowed_color(rng: random.Random, name: str) -> str:
    """A colour that training may name with this thing."""
    return rng.choice([color for color in COLOR_NAMES if (name, color) not in held_out().colors])


def shape(rng: random.Random) -> tuple[int, int]:
    """Height and width in pixels, mostly the square one."""
    return rng.choices(SHAPES, cum_weights=_SHAPE_ODDS)[0]


def background(rng: random.Random) -> str:
    return rng.choices(BACKGROUND_NAMES, cum_weights=_BACKGROUND_ODDS)[0]


def size(rng: random.Random, things: int) -> str:
    return rng.choices(_SIZE_NAMES, cum_weights=_ODDS_ALONE if things == 1 else _ODDS_AMONG_OTHERS)[0]


def colors(rng: random.Random, names: Sequence[str]) -> list[str]:
    """All in their usual colours, or each in any."""
    if rng.random() < USUAL_SHARE:
        return [USUAL_COLORS[name] for name in names]
    return [rng.choice(COLOR_NAMES) for _ in names]


def jitter(rng: random.Random, value: float, amount: float) -> float:
    return value + rng.uniform(-amount, amount)


def single(rng: random.Random, names: Sequence[str] | None = None) -> Scene:
    """One thing near the middle."""
    name = rng.choice(names or NAMES)
    (color,) = colors(rng, [name])
    thing = Thing(name, color, size(rng, 1), jitter(rng, 0.5, 0.06), jitter(rng, 0.5, 0.06))
    return Scene((thing,), background(rng), *shape(rng))


SPOTS: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.25, 0.28), (0.75, 0.28), (0.5, 0.73)),
    4: ((0.26, 0.27), (0.74, 0.27), (0.26, 0.73), (0.74, 0.73)),
}
"""Centres of several objects, as fractions of the width and of the height"""


def several(
    rng: random.Random,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> Scene:
    """Two to four of a kind, in one colour, in separate cells. Every count has one layout in a shape: of two layouts for
    three, learning makes four."""
    count = count or rng.randint(2, 4)
    name = rng.choice(names or NAMES)
    (color,) = colors(rng, [name])
    height, width = size or shape(rng)
    spots = SPOTS[count]
    if count == 2 and height > width:
        spots = tuple((y, x) for x, y in spots)
    kind = rng.choices(("small", "medium"), (1, 4))[0]
    things = tuple(Thing(name, color, kind, jitter(rng, x, 0.03), jitter(rng, y, 0.03)) for x, y in spots)
    return Scene(things, background(rng), height, width)


def pair(rng: random.Random, relation: str | None = None, names: Sequence[str] | None = None) -> Scene:
    """Two different things, the first standing in ``relation`` to the second."""
    relation = relation or rng.choices(("left of", "right of", "above", "below"), (5, 3, 2, 2))[0]
    a, b = rng.sample(names or NAMES, 2)
    near, far = jitter(rng, 0.26, 0.03), jitter(rng, 0.74, 0.03)
    first, second = (near, far) if relation in ("left of", "above") else (far, near)
    height, width = shape(rng)
    across = jitter(rng, 0.5, 0.05), jitter(rng, 0.5, 0.05)
    spots = ((first, across[0]), (second, across[1]))
    if relation in ("above", "below"):
        spots = (spots[0][::-1], spots[1][::-1])
    things = tuple(
        Thing(name, color, size(rng, 2), x, y)
        for name, color, (x, y) in zip((a, b), colors(rng, (a, b)), spots, strict=True)
    )
    return Scene(things, background(rng), height, width)


STYLED_SHARE = 0.12


def with_random_style(rng: random.Random, scene: Scene) -> Scene:
    """The scene, sometimes in another style in which its colours are still visible."""
    if rng.random() >= STYLED_SHARE:
        return scene
    style = rng.choice(STYLES[1:])
    hidden = {"outline": "white", "chalk": "black", "pastel": None}[style]
    return scene if any(t.color == hidden for t in scene.things) else replace(scene, style=style)


READING_WEIGHTS = (2, 2, 5)
"""Weights of `any_scene` for pictures that are described: scenes with two different objects are learned last."""


def any_scene(
    rng: random.Random, weights: tuple[int, int, int] = (4, 3, 4), names: Sequence[str] | None = None
) -> Scene:
    """One thing, several of a kind or two different ones, by ``weights``."""
    make = rng.choices((single, several, pair), weights)[0]
    return allowed_scene(lambda: make(rng, names=names))
