"""Conversations that draw from shown pictures: two pictures combined, a control picture (edges, silhouette, sketch, depth), a
masked part filled in."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from . import sampling
from .casual import casual_typing
from .held_out import relation
from .language import Detail, Language
from .languages import ENGLISH
from .messages import Example, assistant, image, user
from .pen import CONTROLS
from .phrases import ask_for
from .scene import SIZES, Scene, Thing


def separate_scenes(rng: random.Random, scene: Scene) -> list[Scene]:
    """Each thing of a pair on its own picture, somewhere."""
    alone = []
    for thing in scene.things:
        size = rng.choices(("medium", "large"), (1, 2))[0]
        place: dict[str, Any] = {"x": sampling.jitter(rng, 0.5, 0.05), "y": sampling.jitter(rng, 0.5, 0.05)}
        alone.append(Scene((replace(thing, size=size, **place),), sampling.background(rng)))
    return alone


def pair(rng: random.Random, names: tuple[str, ...] | None = None) -> Scene:
    """The scene that combines both pictures."""
    return sampling.allowed_scene(lambda: replace(sampling.pair(rng, names=names), height=128, width=128))


def compose(rng: random.Random, language: Language = ENGLISH) -> Example:
    """Two pictures shown, and one that combines them."""
    scene = pair(rng, language.names)
    a, b = scene.things
    where = relation(a, b)
    placed = where != "left of" or rng.random() < 0.3
    said = {"a": language.things[a.name][0], "b": language.things[b.name][0]}
    beside = language.forms[f"beside.{where}"][0]
    words = language.say(rng, "composing.placed" if placed else "composing.together", **said, relation=beside)
    if scene.background != "plain" or rng.random() < 0.2:
        words = language.put("caption.ground", x=words, g=rng.choice(language.grounds[scene.background]))
    pictures = [image(s) for s in separate_scenes(rng, scene)]
    plan = language.plan(scene, language.put("plans.compose", **said))
    return Example("compose", [user(*pictures, casual_typing(rng, language, words)), assistant(plan, image(scene))])


def phrase_with_ground(language: Language, scene: Scene) -> str:
    """What a picture is to show, with its background if it has one."""
    return language.phrase(scene, Detail(background=scene.background != "plain"))


def shaped(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A drawing that takes of the picture shown its shape alone."""
    height, width = rng.choice(sampling.SHAPES)

    def made() -> Scene:
        while (scene := sampling.any_scene(rng, names=language.names)) and (scene.height, scene.width) != (
            height,
            width,
        ):
            continue
        return scene

    other, scene = made(), made()
    said = phrase_with_ground(language, scene)
    said = ask_for(rng, language, said, plain=True).rstrip(".?。？") if rng.random() < 0.5 else said
    words = casual_typing(rng, language, language.say(rng, "composing.same_shape", x=said))
    return Example("shaped", [user(image(other), words), assistant(language.plan(scene), image(scene))])


def mask_thing(rng: random.Random, scene: Scene) -> Scene:
    """One of its things, wholly covered by a grey box."""
    thing = rng.choice(scene.things)
    left, top, right, bottom = scene.box(thing)
    width, height, more = scene.width, scene.height, SIZES["small"] * 128 / 4
    ways = [rng.uniform(0, more) for _ in range(4)]
    hole = (left - ways[0], top - ways[1], right + ways[2], bottom + ways[3])
    left, top, right, bottom = (min(1.0, max(0.0, v / s)) for v, s in zip(hole, (width, height) * 2, strict=True))
    return replace(scene, hole=(left, top, right, bottom))


def fill(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A picture with a masked part and what is to be there."""
    scene = sampling.any_scene(rng, names=language.names)
    shape = mask_thing(rng, scene)
    thing = masked_thing(shape)
    usual = thing.color == sampling.USUAL_COLORS[thing.name] and rng.random() < 0.6
    said = language.named(thing.name) if usual else language.thing(thing)
    words = casual_typing(rng, language, language.say(rng, "composing.fill", x=said))
    plan = language.plan(scene, language.put("plans.fill", x=said))
    return Example("fill", [user(image(shape), words), assistant(plan, image(scene))])


def masked_thing(scene: Scene) -> Thing:
    """The object under the mask: the one nearest to its centre."""
    assert scene.hole is not None
    left, top, right, bottom = scene.hole
    return min(scene.things, key=lambda t: abs(t.x - (left + right) / 2) + abs(t.y - (top + bottom) / 2))


def control(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A picture from its edges, silhouette, a sketch or depths and what they are."""
    scene = sampling.any_scene(rng, names=language.names)
    shape = replace(scene, style=rng.choice(CONTROLS))
    words = language.say(rng, "composing.along", x=phrase_with_ground(language, scene))
    content = [image(shape), casual_typing(rng, language, words)]
    reply = assistant(language.plan(scene), image(scene))
    return Example("control", [user(*content[:: rng.choice((1, 1, -1))]), reply])
