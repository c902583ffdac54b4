"""Questions about a picture, each with its one answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from . import sampling
from .held_out import relation
from .language import Language
from .languages import ENGLISH
from .scene import Scene, Thing

SIDES = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
Words = Callable[[], str]
Put = Callable[..., Words]
COUNTED = (1, 2, 3, 4)
"""Numbers that questions are about"""


def question(rng: random.Random, scene: Scene, language: Language = ENGLISH) -> tuple[str, str]:
    """A question and its answer; a third of them and more in the plainest words."""

    def put(purpose: str, **slots: str) -> Words:
        forms = language.forms[f"questions.{purpose}"]
        return partial(language.fill, forms[0] if rng.random() < 0.3 else rng.choice(forms), **slots)

    def ask(purpose: str, **slots: str) -> Words:
        return partial(language.fill, rng.choice(language.forms[f"questions.{purpose}"]), **slots)

    def reply(purpose: str, **slots: str) -> Words:
        return lambda: language.sentence(language.put(f"answers.{purpose}", **slots))

    thing = rng.choice(scene.things)
    count = sum(t.name == thing.name for t in scene.things)
    shown = {t.name for t in scene.things}
    absent = rng.choice([n for n in language.names if n not in shown])
    called, color = _called(rng, language, thing.name), language.color_names[thing.color][0]
    if count > 1:  # "what colour are the cats"
        called["the"] = language.put("caption.those", **called)
    verbs = {verb: _verb(language, verb, count) for verb in ("is", "does")}
    number = {n: language.numbers[n][0] for n in COUNTED}
    ground = language.ground_names[scene.background][0]
    other_thing = _called(rng, language, absent)
    pairs = [
        (put("how_many", **called), reply("number", n=number[count], **called)),
        (put("color", **called, **verbs), reply("color", color=color)),
        (put("present", **called), reply("present")),
        (put("present", **other_thing), reply("absent")),
        (put("ground"), reply("ground", ground=ground)),
    ]
    if count == 1 and rng.random() < 0.4:
        said = language.color_names[rng.choice((thing.color, rng.choice(sampling.COLOR_NAMES)))][0]
        truth = reply("yes") if said == color else reply("no_color", color=color)
        pairs.append((ask("is_color", **called, color=said), truth))
    if len({t.color for t in scene.things if t.name == thing.name}) == 1:
        wrong_color = rng.choice([c for c in sampling.COLOR_NAMES if c != thing.color])
        x, y = rng.sample((color, language.color_names[wrong_color][0]), 2)
        pairs.append((ask("either_color", **called, **verbs, x=x, y=y), reply("color", color=color)))
    if rng.random() < 0.5:
        wrong = rng.choice([n for n in COUNTED if n != count])
        claimed = rng.choice((count, wrong))
        truth = reply("yes") if claimed == count else reply("no_number", n=number[count], **called)
        if claimed > 1:
            pairs.append((ask("as_many", **called, n=number[claimed]), truth))
        n, m = (number[value] for value in sorted((count, wrong)))
        pairs.append((ask("or_as_many", **called, n=n, m=m), reply("number", n=number[count], **called)))
    if len(scene.things) == 1:
        pairs += [
            (ask("is_this", **called), reply("yes")),
            (ask("is_this", **other_thing), reply("no_thing", a=language.named(thing.name))),
        ]
    if rng.random() < 0.5:
        other = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != scene.background])
        x, y = rng.sample((ground, language.ground_names[other][0]), 2)
        pairs.append((ask("either_ground", x=x, y=y), reply("ground", ground=ground)))
    if len(scene.things) == 2 and count == 1:
        pairs += _about_places(rng, language, scene, thing, put, reply)
    asked, answered = rng.choice(pairs)  # only now are their words put together
    return asked(), answered()


def _called(rng: random.Random, language: Language, name: str) -> dict[str, str]:
    """Slots that name an object."""
    word = language.call(rng, name)
    counter = language.counters.get(name, language.counter)
    fields = {"name": word, "names": language.grammar.plural(word), "counter": counter}
    bare = language.put("caption.one", **(language.fields(name) | {"name": word}))
    return fields | {"a": bare, "the": language.put("caption.the", **fields)}


def _verb(language: Language, verb: str, count: int) -> str:
    forms = language.forms.get(f"verbs.{verb}", ("",))
    return forms[min(count, len(forms)) - 1]


def _about_places(
    rng: random.Random, language: Language, scene: Scene, thing: Thing, put: Put, reply: Put
) -> list[tuple[Words, Words]]:
    a, b = scene.things if scene.things[0] is thing else scene.things[::-1]
    if not (where := relation(a, b)):
        return []
    answer = reply("thing", a=language.thing(a))
    place = language.forms[f"places.{SIDES[where]}"][0]
    opposite = language.forms[f"places.{OPPOSITE[SIDES[where]]}"][0]
    usual, *others = language.forms[f"beside.{where}"]
    beside = rng.choice((usual, *others)) if others else usual
    return [
        (put("beside", where=beside, b=language.things[b.name][0]), answer),
        (put("where", name=language.things[a.name][0], one=place, other=opposite), reply("where", place=place)),
        (put("side", place=place), answer),
    ]
