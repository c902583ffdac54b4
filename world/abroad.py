"""Conversations about the world in another tongue: the same scenes and edits."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from . import sampling, speech
from .edits import KINDS, Edit, seen_edit
from .held_out import relation
from .messages import Example, Message, assistant, image, text, user
from .phrasing import wrapped
from .scene import SIZES, Scene, Thing
from .tongues import Tongue
from .words import Detail

SAID = tuple(kind for kind in KINDS if kind != "style")
"""Edits that have words here"""
PLANNED = 0.85
"""Share of drawings after a plan, as in English"""


def fill(rng: random.Random, tongue: Tongue, form: str, **said: str) -> str:
    """One of the ways to say it."""
    return tongue.settle(rng.choice(tongue.forms[form]).format(**said))


def detail_of(rng: random.Random, scene: Scene) -> Detail:
    """What a request says, as in English: the unusual."""
    placed = len(scene.things) == 2 and relation(*scene.things) != "left of"
    usual = all(t.color == sampling.USUAL_COLORS[t.name] for t in scene.things)
    return Detail(
        color=rng.random() < (0.4 if usual else 0.97),
        size=rng.random() < (0.15 if scene.things[0].size == "large" and len(scene.things) == 1 else 0.92),
        relation=placed or rng.random() < 0.35,
        background=rng.random() < (0.2 if scene.background == "plain" else 0.96),
    )


def requested(rng: random.Random, tongue: Tongue, scene: Scene, detail: Detail) -> str:
    """In plain words or, twice as often, as people put it."""
    if rng.random() < 0.67:
        said = speech.phrase(rng, tongue, scene, detail)
        return asked(rng, tongue, rng.choice(speech.SPEECH[tongue.name].asks).format(x=said))
    ground = rng.choice(tongue.asked_grounds[scene.background]) if rng.random() < 0.75 else None
    said = tongue.phrase(scene, detail, ground, rng.choice(tongue.together))
    return fill(rng, tongue, "draw", x=said)


def asked(rng: random.Random, tongue: Tongue, words: str) -> str:
    """As people type it."""
    own = speech.SPEECH[tongue.name]
    return speech.loose(rng, tongue.settle(wrapped(rng, words, own.before, own.behind)))


def shown(rng: random.Random, tongue: Tongue, scene: Scene, plan: str = "") -> Message:
    """The drawing after a plan, or before words about it."""
    full = tongue.caption(scene).removesuffix(tongue.stop)
    if rng.random() < PLANNED:
        return assistant((plan and plan + tongue.colon + tongue.gap) + full + tongue.colon, image(scene))
    said = tongue.phrase(scene, Detail(background=False))
    return assistant(image(scene), fill(rng, tongue, "done", x=said))


def draw(rng: random.Random, tongue: Tongue) -> Example:
    scene = replace(sampling.any_scene(rng, (7, 2, 3)), height=128, width=128)
    return Example("draw", [user(requested(rng, tongue, scene, detail_of(rng, scene))), shown(rng, tongue, scene)])


def describe(rng: random.Random, tongue: Tongue) -> Example:
    scene = sampling.any_scene(rng, sampling.READ)
    content = [image(scene), text(asked(rng, tongue, fill(rng, tongue, "describe")))]
    turns = [user(*content[:: rng.choice((1, -1))]), assistant(tongue.caption(scene))]
    if rng.random() < 0.3:
        turns += questions(rng, tongue, scene, 1)
    return Example("describe", turns)


def answer(rng: random.Random, tongue: Tongue) -> Example:
    scene = sampling.any_scene(rng, sampling.READ)
    first, *rest = questions(rng, tongue, scene, rng.choices((1, 2, 3), (3, 3, 2))[0])
    return Example("answer", [user(image(scene), *first["content"]), *rest])


def questions(rng: random.Random, tongue: Tongue, scene: Scene, count: int) -> list[Message]:
    turns = []
    for _ in range(count):
        said, answered = question(rng, tongue, scene)
        turns += [user(said), assistant(answered)]
    return turns


def question(rng: random.Random, tongue: Tongue, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    name = speech.called(rng, tongue, thing.name)
    count = sum(t.name == thing.name for t in scene.things)
    absent = rng.choice([n for n in sampling.NAMES if all(n != t.name for t in scene.things)])
    ways = [
        (fill(rng, tongue, "how many", a=name), fill(rng, tongue, "number", n=tongue.numbers[count])),
        (fill(rng, tongue, "color", a=name), fill(rng, tongue, "answer", x=tongue.color_names[thing.color])),
        (fill(rng, tongue, "present", a=name), fill(rng, tongue, "yes")),
        (fill(rng, tongue, "present", a=tongue.things[absent]), fill(rng, tongue, "no")),
        (fill(rng, tongue, "ground"), fill(rng, tongue, "answer", x=tongue.ground_names[scene.background])),
    ]
    if len(scene.things) == 2 and count == 1:
        other = next(t for t in scene.things if t is not thing)
        side = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}[str(relation(thing, other))]
        ways.append((fill(rng, tongue, "where", a=name), fill(rng, tongue, "answer", x=tongue.sides[side])))
    said, answered = rng.choice(ways)
    return asked(rng, tongue, said), answered


def said_of(change: Edit, tongue: Tongue, call: Callable[[str], str] | None = None) -> dict[str, str]:
    """What an instruction or a plan names, read off the scenes before and after; things by the tongue's own names or as
    ``call`` calls them."""
    call = call or tongue.things.__getitem__
    before, after = change.before.things, change.after.things
    detail = Detail(size=False)
    if change.kind in ("swap", "count"):
        return {"a": call(before[0].name)}
    if change.kind == "background":
        return {"g": tongue.grounds[change.after.background]}
    if change.kind == "remove":
        gone = next(t for t in before if t not in after)
        return {"a": call(gone.name)}
    if change.kind == "add":
        new, old = after[-1], before[0]
        return {"a": call(old.name), "n": tongue.thing(new, detail, False)}
    old, new = next((a, b) for a, b in zip(before, after, strict=True) if a != b)
    said = {"a": call(old.name)}
    if change.kind == "recolour":
        return said | {"c": tongue.color_names[new.color]}
    if change.kind == "replace":
        return said | {"b": call(new.name)}
    if change.kind == "resize":
        return said
    return said | {"s": tongue.sides[side_moved(old, new)]}


def form_of(change: Edit) -> str:
    """The kind of an edit and, where it has two directions, which."""
    before, after = change.before.things, change.after.things
    if change.kind == "resize":
        return "bigger" if SIZES[after[0].size] > SIZES[before[0].size] else "smaller"
    if change.kind == "count":
        return "more" if len(after) > len(before) else "less"
    return change.kind


def side_moved(old: Thing, new: Thing) -> str:
    if abs(new.x - old.x) > abs(new.y - old.y):
        return "left" if new.x < old.x else "right"
    return "top" if new.y < old.y else "bottom"


def edited(rng: random.Random, tongue: Tongue, change: Edit) -> list[Message]:
    form = form_of(change)
    said = said_of(change, tongue, partial(speech.called, rng, tongue))
    instruction = asked(rng, tongue, fill(rng, tongue, form, **said))
    plan = fill(rng, tongue, f"plan {form}", **said_of(change, tongue))
    return [user(instruction), shown(rng, tongue, change.after, plan)]


def edit(rng: random.Random, tongue: Tongue) -> Example:
    change = seen_edit(rng, rng.choice(SAID))
    wish, drawn = edited(rng, tongue, change)
    content = [image(change.before), *wish["content"]]
    return Example("edit", [user(*content[:: rng.choice((1, 1, -1))]), drawn])


def follow_up(rng: random.Random, tongue: Tongue) -> Example:
    first = draw(rng, tongue)
    scene = next(part["image"] for part in first.messages[1]["content"] if part["type"] == "image")
    manner = rng.random()
    if manner < 0.15:
        return Example("follow_up", [*first.messages, *questions(rng, tongue, scene, 1)])
    if manner < 0.27:
        told = [user(asked(rng, tongue, fill(rng, tongue, "describe"))), assistant(tongue.caption(scene))]
        return Example("follow_up", [*first.messages, *told])
    return Example(
        "follow_up",
        [
            *first.messages,
            *edited(rng, tongue, seen_edit(rng, before=scene, kinds=SAID)),
        ],
    )


def small_talk(rng: random.Random, tongue: Tongue) -> Example:
    said, answered = rng.choice(tongue.talk)
    return Example("small_talk", [user(asked(rng, tongue, rng.choice(said))), assistant(answered)])


def refuse(rng: random.Random, tongue: Tongue) -> Example:
    name = rng.choice(tongue.unknown)
    said = f"{rng.choice(speech.SPEECH[tongue.name].colors[rng.choice(sampling.COLOR_NAMES)])} {name}"
    thing = said.replace(" ", tongue.gap) if rng.random() < 0.4 else name
    words = rng.choice((*tongue.forms["draw"], *speech.SPEECH[tongue.name].asks)).format(x=thing)
    return Example("refuse", [user(asked(rng, tongue, words)), assistant(fill(rng, tongue, "refuse", x=name))])


TELLS: dict[str, Callable[[random.Random, Tongue], Example]] = {
    tell.__name__: tell for tell in (draw, describe, answer, edit, follow_up, small_talk, refuse)
}
"""By the kind of conversation, as in `talk.MIXTURE`"""
