"""Scenes of many things, told in one phrase: up to three groups in a row or one below the other, each of one to three of a kind;
and wishes that say what must not be, which is bigger, or what "it" is.

The atoms of a request are its objects, their colours, the counts above one and the places that it names: "a red cat left of
two dogs" has five. These scenes have six to twelve.
"""

from __future__ import annotations

import random
from dataclasses import replace

from . import sampling
from .casual import casual_request
from .drawing import drawing_reply
from .held_out import is_held_out
from .language import Detail, Language, groups, in_a_row
from .languages import ENGLISH
from .messages import Example, user
from .phrases import ask_for
from .scene import Scene, Thing

CENTRES = {1: (0.5,), 2: (0.27, 0.73), 3: (1 / 6, 0.5, 5 / 6)}
"""Of so many groups or things along a side"""
COUNTS = (
    (1, 1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1), (2, 2, 1), (3, 1, 2), (2, 3, 1), (3, 2, 2),
    (2, 2, 2), (3, 3),
)  # fmt: skip
"""How many of each group's things there may be"""


def arrange(kinds: list[tuple[str, str]], counts: tuple[int, ...], row: bool, background: str = "plain") -> Scene:
    """Groups of small things, ``counts`` of each (name, colour), side by side or one below the other."""
    things = []
    for (name, color), count, along in zip(kinds, counts, CENTRES[len(kinds)], strict=True):
        for across in CENTRES[count]:
            x, y = (along, across) if row else (across, along)
            things.append(Thing(name, color, "small", x, y))
    return Scene(tuple(things), background)


def arranged_scene(rng: random.Random, names: tuple[str, ...]) -> Scene:
    """A random scene of many things that training may show."""
    while is_held_out(scene := any_arranged_scene(rng, names)):
        continue
    return scene


def any_arranged_scene(rng: random.Random, names: tuple[str, ...] = sampling.NAMES) -> Scene:
    """A random scene of many things, held out or not, in a square picture."""
    counts = rng.choice(COUNTS)
    chosen = rng.sample(names, len(counts))
    kinds = list(zip(chosen, sampling.colors(rng, chosen), strict=True))
    scene = arrange(kinds, counts, rng.random() < 0.65, sampling.background(rng))
    things = tuple(
        replace(t, x=sampling.jitter(rng, t.x, 0.01), y=sampling.jitter(rng, t.y, 0.01)) for t in scene.things
    )
    return replace(scene, things=things)


def atoms(scene: Scene, detail: Detail = Detail()) -> int:  # noqa: B008 (frozen)
    """How many atoms a phrase of the scene has: objects, colours, counts above one, and places of one group to the next."""
    found = groups(scene)
    each = sum(1 + detail.color + (len(things) > 1) for things in found)
    return each + (len(found) - 1) * detail.relation + (detail.background and scene.background != "plain")


def scene_with_atoms(rng: random.Random, count: int, names: tuple[str, ...] = sampling.NAMES) -> Scene:
    """A random scene whose full phrase has so many atoms, 3 to 12, that training may show."""
    assert 3 <= count <= 12, count
    while True:
        scene = arranged_scene(rng, names) if count > 5 else sampling.any_scene(rng, names=names)
        if atoms(scene) == count:
            return scene


def many(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A picture of many things, or one of the wishes that need more than a list."""
    manner = rng.random()
    if manner < 0.6:
        words, scene = _list(rng, language)
    else:
        words, scene = rng.choice((_negation, _negation, _comparative, _pronoun))(rng, language)
    return Example(
        "many", [user(casual_request(rng, language, words, fillers=0.3)), drawing_reply(rng, language, scene)]
    )


def _list(rng: random.Random, language: Language) -> tuple[str, Scene]:
    scene = arranged_scene(rng, language.names)
    colored = rng.random() < 0.9 or any(t.color != sampling.USUAL_COLORS[t.name] for t in scene.things)
    detail = Detail(color=colored)
    listed = language.listed([language.group(things, detail, False) for things in groups(scene)])
    row = in_a_row(scene)
    if row and rng.random() < 0.4:  # a list alone is a row from the left
        words = listed
    else:
        words = language.say(rng, "scenes.row" if row else "scenes.column", list=listed)
    if scene.background != "plain" or rng.random() < 0.1:
        words = language.put("caption.ground", x=words, g=rng.choice(language.grounds[scene.background]))
    return ask_for(rng, language, words, plain=rng.random() < 0.5), scene


def _alone(rng: random.Random, language: Language) -> Scene:
    return sampling.allowed_scene(lambda: replace(sampling.single(rng, language.names), height=128, width=128))


def _negation(rng: random.Random, language: Language) -> tuple[str, Scene]:
    scene = _alone(rng, language)
    thing = scene.things[0]
    form = rng.choice(("not_color", "only", "not_ground"))
    if form == "not_color":
        usual = sampling.USUAL_COLORS[thing.name]
        scene = replace(scene.with_changed(thing, color=usual, size="large"), background="plain")
        while (color := sampling.allowed_color(rng, thing.name)) == usual:
            continue
        fields = language.fields(thing.name) | {"color": language.color_names[color][0]}
        return language.say(rng, "scenes.not_color", **fields, a=language.named(thing.name)), scene
    if form == "only":
        said = language.phrase(scene, Detail(background=scene.background != "plain", size=thing.size != "large"))
        return language.say(
            rng, "scenes.only", x=ask_for(rng, language, said, True) if rng.random() < 0.3 else said
        ), scene
    ground = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != "plain"])
    said = language.phrase(scene, Detail(background=False, size=thing.size != "large"))
    slots = {"g": language.grounds[ground][0], "ground": language.ground_names[ground][0]}
    return language.say(rng, "scenes.not_ground", x=said, **slots), replace(scene, background="plain")


def _comparative(rng: random.Random, language: Language) -> tuple[str, Scene]:
    """Two things of which the first is bigger."""

    def made() -> Scene:
        scene = replace(sampling.pair(rng, "left of", language.names), height=128, width=128, background="plain")
        a, b = scene.things
        return replace(scene, things=(replace(a, size="medium"), replace(b, size="small")))

    scene = sampling.allowed_scene(made)
    usual = all(t.color == sampling.USUAL_COLORS[t.name] for t in scene.things)
    detail = Detail(color=not usual or rng.random() < 0.5)
    a, b = (language.thing(t, detail) for t in scene.things)
    a_name, b_name = (language.things[t.name][0] for t in scene.things)
    return language.say(rng, "scenes.bigger", a=a, b=b, a_name=a_name, b_name=b_name), scene


def _pronoun(rng: random.Random, language: Language) -> tuple[str, Scene]:
    """A thing first, its colour after it."""
    scene = replace(_alone(rng, language), background="plain")
    scene = scene.with_changed(scene.things[0], size="large")
    thing = scene.things[0]
    return language.say(
        rng, "scenes.pronoun", a=language.named(thing.name), color=language.color_names[thing.color][0]
    ), scene
