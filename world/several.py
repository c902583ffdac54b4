"""Replies of two to six pictures, each announced: unlike things, one thing again or in several colours, sets of a kind."""

from __future__ import annotations

import random
from dataclasses import replace

from . import sampling
from .casual import casual_request
from .held_out import is_held_out
from .language import Language
from .languages import ENGLISH
from .messages import Example, Message, assistant, image, user
from .phrases import random_detail
from .scene import Scene, Thing

SETS = {
    "animal": (
        "bear", "bird", "cat", "cow", "dog", "duck", "elephant", "fish", "giraffe", "horse", "rabbit", "sheep", "zebra",
    ),
    "vehicle": ("airplane", "bicycle", "boat", "bus", "car", "motorcycle", "train", "truck"),
    "food": ("apple", "banana", "broccoli", "cake", "carrot", "donut", "hot dog", "orange", "pizza", "sandwich"),
    "furniture": ("bed", "bench", "chair", "couch", "dining table"),
}  # fmt: skip
"""Things of a kind (`kinds.*` in a language's file)"""


def pictures_reply(language: Language, scenes: list[Scene]) -> Message:
    """The pictures in order, each after its number and its plan: "1 of 3: a red cat on grass:"."""
    count = len(scenes)
    parts = []
    for i, scene in enumerate(scenes, 1):
        parts += [language.plan(scene, language.put("replies.announce", i=i, n=count)), image(scene)]
    return assistant(*parts)


def alone(name: str, color: str, background: str = "plain") -> Scene:
    """A large thing by itself in the middle."""
    return Scene((Thing(name, color, "large", 0.5, 0.5),), background)


def unlike(rng: random.Random, language: Language, count: int) -> list[Scene]:
    """Scenes of one thing or of several of a kind, each of another thing."""

    def plain() -> Scene:
        make = rng.choices((sampling.single, sampling.several), (4, 1))[0]
        return replace(make(rng, names=language.names), height=128, width=128, background="plain")

    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sampling.allowed_scene(plain)
        if all(scene.things[0].name != other.things[0].name for other in scenes):
            scenes.append(scene)
    return scenes


def in_colors(rng: random.Random, names: tuple[str, ...], count: int) -> list[Scene]:
    """One of these things in several colours that training may show."""
    while True:
        name = rng.choice(names)
        allowed = [color for color in sampling.COLOR_NAMES if not is_held_out(alone(name, color))]
        if len(allowed) >= count:
            return [alone(name, color) for color in rng.sample(allowed, count)]


def several(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A request for two to six pictures and the reply with all of them."""
    count = rng.choices((2, 3, 4, 5, 6), (5, 5, 3, 2, 2))[0]
    words, scenes = rng.choices((_list, _same, _colors, _set), (6, 2, 3, 1))[0](rng, language, count)
    return Example(
        "several", [user(casual_request(rng, language, words, fillers=0.3)), pictures_reply(language, scenes)]
    )


def said_number(rng: random.Random, language: Language, count: int) -> str:
    """A number of pictures, as a word or in digits."""
    return language.numbers[count][0] if rng.random() < 0.7 else str(count)


def _list(rng: random.Random, language: Language, count: int) -> tuple[str, list[Scene]]:
    scenes = unlike(rng, language, count)
    named = [language.phrase(s, replace(random_detail(rng, s), background=False)) for s in scenes]
    words = language.say(rng, "requests.several", n=said_number(rng, language, count), list=language.listed(named))
    return words, scenes


def _same(rng: random.Random, language: Language, count: int) -> tuple[str, list[Scene]]:
    """The same again and again, each time in another place."""
    (scene,) = unlike(rng, language, 1)
    grounds = rng.sample(sampling.BACKGROUND_NAMES, count)
    said = language.phrase(scene, replace(random_detail(rng, scene), background=False, color=True))
    words = language.say(rng, "requests.same", n=said_number(rng, language, count), x=said)
    return words, [replace(scene, background=ground) for ground in grounds]


def _colors(rng: random.Random, language: Language, count: int) -> tuple[str, list[Scene]]:
    scenes = in_colors(rng, language.names, count)
    name = scenes[0].things[0].name
    colors = language.listed([language.color_names[scene.things[0].color][0] for scene in scenes])
    form = "requests.in_colors" if rng.random() < 0.7 else "requests.any_colors"
    slots = {"n": said_number(rng, language, count), "colors": colors}
    return language.say(rng, form, **(language.fields(name) | slots)), scenes


def _set(rng: random.Random, language: Language, count: int) -> tuple[str, list[Scene]]:
    """Different things of one kind, each in its usual colour."""
    known = {kind: [n for n in members if n in language.names] for kind, members in SETS.items()}
    kinds = [kind for kind, members in known.items() if len(members) >= count]
    if not kinds:  # a language of few words
        return _list(rng, language, min(count, len(language.names)))
    kind = rng.choice(kinds)
    scenes = [alone(name, sampling.USUAL_COLORS[name]) for name in rng.sample(known[kind], count)]
    n = said_number(rng, language, count)
    return language.say(rng, "requests.set", n=n, kind=rng.choice(language.forms[f"kinds.{kind}"])), scenes
