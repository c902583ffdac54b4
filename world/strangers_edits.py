"""Edits, corrections and questions in words that strangers wrote, about a picture just drawn or shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from . import sampling
from .drawing import drawing_reply
from .editing import edit_reply
from .edits import Change, Edit, add_beside, target_of, told_edit
from .held_out import is_held_out, relation
from .messages import Example, Message, assistant, image, text, user
from .phrases import draw_request, random_detail
from .questions import SIDES
from .reading import shown_scene
from .scene import Scene, Thing
from .slots import names_color, numbers_in, place
from .stories import BESIDE
from .strangers import Line, Stranger, pair_scene

Kinds = dict[int, tuple[str, str]]
CENTRE_ASIDE = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74)}
PLACES = {"left": "left", "right": "right", "above": "top", "below": "bottom"}


@dataclass(frozen=True)
class Case:
    """A scene, one of its things that changes, and the change."""

    before: Scene
    thing: Thing
    change: Change
    said: dict[str, str]
    """Slots beside those of the things"""
    count: int = 1
    """The number that slots say"""


def _single(kinds: Kinds, size: str = "large", x: float = 0.5, y: float = 0.5) -> Scene:
    return Scene((Thing(*kinds[1], size, x, y),))


def _crowd(kinds: Kinds, count: int) -> Scene:
    return Scene(tuple(Thing(*kinds[1], "medium", *spot) for spot in sampling.SPOTS[count]))


def _recolour(person: Stranger, line: Line, kinds: Kinds) -> Case:
    before = (
        pair_scene(kinds, "left")
        if 2 in kinds and person.rng.random() < 0.3 and "1" in line["text"]
        else _single(kinds)
    )
    color = kinds[2][1]
    thing = before.things[0]
    return Case(before, thing, Change(before.with_changed(thing, color=color), "recolour", color=color), {})


def _replace(person: Stranger, line: Line, kinds: Kinds) -> Case:
    before = _single(kinds)
    (thing,) = before.things
    name, color = kinds[2]
    new = replace(thing, name=name, color=color if names_color(line["text"], 2) else thing.color)
    return Case(before, thing, Change(replace(before, things=(new,)), "replace", new=new), {})


def _remove(person: Stranger, line: Line, kinds: Kinds) -> Case:
    before = pair_scene(kinds, person.rng.choice(("left", "right", "above", "below")))
    return Case(before, before.things[0], Change(replace(before, things=before.things[1:]), "remove"), {})


def _add(person: Stranger, line: Line, kinds: Kinds) -> Case:
    new = Thing(*kinds[2], "medium", 0.5, 0.5)
    where = line.get("relation")
    before = _single(
        kinds, "medium", *(BESIDE[where][1] if where else CENTRE_ASIDE[person.rng.choice(("left", "right"))])
    )
    (thing,) = before.things
    if where:
        x, y = BESIDE[where][0]
        after = replace(before, things=(thing, replace(new, x=x, y=y)))
    else:
        after = add_beside(before, thing, new, person.rng)
    return Case(before, thing, Change(after, "add", new=new, named_with_color=True), {})


def _move(person: Stranger, line: Line, kinds: Kinds) -> Case:
    side = line["to"]
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    x, y = person.rng.choice(((0.5, 0.5), CENTRE_ASIDE[opposite]))
    before = _single(kinds, "medium", x, y)
    (thing,) = before.things
    to_x, to_y = CENTRE_ASIDE[side]
    return Case(before, thing, Change(before.with_changed(thing, x=to_x, y=to_y), "move", side=side), {})


def _background(person: Stranger, line: Line, kinds: Kinds) -> Case:
    rng = person.rng
    before = pair_scene(kinds, "left") if 2 in kinds and rng.random() < 0.3 else _single(kinds)
    before = replace(before, background=sampling.background(rng))
    ground = rng.choice([b for b in sampling.BACKGROUND_NAMES[1:] if b != before.background])
    said = {"bg": place(rng, person.language, ground)}
    return Case(before, before.things[0], Change(replace(before, background=ground), "background", ground=ground), said)


def _number(person: Stranger, line: Line, kinds: Kinds) -> Case:
    count = person.rng.randint(2, 4)
    others = [n for n in (1, 2, 3, 4) if n != count]
    now = person.rng.choice(others)
    before = _single(kinds) if now == 1 else _crowd(kinds, now)
    return Case(before, before.things[0], Change(_crowd(kinds, count), "number"), {}, count)


def _resize(form: str) -> Callable[[Stranger, Line, Kinds], Case]:
    def case(person: Stranger, line: Line, kinds: Kinds) -> Case:
        sizes = ("small", "medium", "large") if form == "bigger" else ("large", "medium", "small")
        at = person.rng.randrange(2)
        before = _single(kinds, sizes[at])
        (thing,) = before.things
        size = person.rng.choice(sizes[at + 1 :])
        return Case(before, thing, Change(before.with_changed(thing, size=size), form), {})

    return case


def _swap(person: Stranger, line: Line, kinds: Kinds) -> Case:
    before = pair_scene(kinds, person.rng.choice(("left", "right", "above", "below")))
    a, b = before.things
    after = replace(before, things=(replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y)))
    return Case(before, a, Change(after, "swap"), {})


EDITS: dict[str, Callable[[Stranger, Line, Kinds], Case]] = {
    "recolour": _recolour, "replace": _replace, "remove": _remove, "add": _add, "move": _move, "background": _background,
    "number": _number, "bigger": _resize("bigger"), "smaller": _resize("smaller"), "swap": _swap,
    "colour": _recolour, "thing": _replace,
}  # fmt: skip
"""By the "edit" of a line, or by the "fix" of a correction"""


def _kinds(person: Stranger, line: Line) -> Kinds:
    """Two things or more and their colours: a colour that a line names, or the usual one."""
    numbers = sorted(numbers_in(line["text"]) | {1, 2})
    names = person.rng.sample(person.language.names, len(numbers))
    kinds = {n: (name, person.color_for(name, line, n)) for n, name in zip(numbers, names, strict=True)}
    if kinds[2][1] == kinds[1][1] and names_color(line["text"], 2):  # "blue, not red"
        kinds[2] = (kinds[2][0], person.rng.choice([c for c in sampling.COLOR_NAMES if c != kinds[1][1]]))
    return kinds


def told(person: Stranger, line: Line, purpose: str) -> Edit:
    """An edit or a correction that training may show, in the words of a line."""
    language = person.language
    for _ in range(10_000):
        kinds = _kinds(person, line)
        case = EDITS[purpose](person, line, kinds)
        if not is_held_out(case.before) and not is_held_out(case.change.after):
            break
    else:
        raise AssertionError("no allowed edit in 10,000 draws")
    fields = {n: person.fields(name, color, case.count) for n, (name, color) in kinds.items()}
    words = person.say(line, fields, **case.said)
    return told_edit(language, purpose, words, target_of(case.before, case.thing, language.names), case.change)


def edit(person: Stranger) -> Example:
    """A picture that is shown and changed."""
    line = person.line("edit")
    change = told(person, line, line["edit"])
    content = [image(change.before), text(change.instruction)]
    return Example("edit", [user(*content[:: person.rng.choice((1, 1, -1))]), edit_reply(person.rng, change)])


def drawn(person: Stranger, scene: Scene) -> list[Message]:
    """A request for this scene and its drawing, before what is said about it."""
    words = draw_request(person.rng, person.language, scene, random_detail(person.rng, scene))
    return [user(person.typed(words)), drawing_reply(person.rng, person.language, scene)]


def follow_up(person: Stranger) -> Example:
    """A drawing, then an edit of it, a correction or a question."""
    rng = person.rng
    manner = rng.choices(("edit", "correct", "ask"), (4, 4, 2))[0]
    line = person.line(manner)
    if manner == "ask":
        scene, words, reply = _question(person, line)
        return Example("follow_up", [*drawn(person, scene), user(words), assistant(reply)])
    if line.get("fix") == "undo":
        return _undone(person, line)
    change = told(person, line, line.get("edit") or line["fix"])
    return Example("follow_up", [*drawn(person, change.before), user(change.instruction), edit_reply(rng, change)])


def _undone(person: Stranger, line: Line) -> Example:
    """A drawing, an edit, and back to the drawing."""
    other = person.line("edit", edit="recolour")
    change = told(person, other, "recolour")
    turns = [*drawn(person, change.before), user(change.instruction), edit_reply(person.rng, change)]
    fields = {
        n: person.language.fields(t.name, t.color)
        for n, t in enumerate((*change.before.things, *change.before.things), 1)
    }
    words = person.say(line, fields)
    back = drawing_reply(person.rng, person.language, change.before, person.language.put("plans.undo"))
    return Example("follow_up", [*turns, user(words), back])


def answer(person: Stranger) -> Example:
    """A question about a picture that is shown."""
    scene, words, reply = _question(person, person.line("ask"))
    return Example("answer", [user(image(scene), words), assistant(reply)])


def describe(person: Stranger) -> Example:
    """What is on a picture that is shown."""
    scene = shown_scene(person.rng, person.language)
    content = [image(scene), text(person.say(person.line("ask", asks="what"), {}))]
    reply = assistant(person.language.caption(scene))
    return Example("describe", [user(*content[:: person.rng.choice((1, -1))]), reply])


def _question(person: Stranger, line: Line) -> tuple[Scene, str, str]:
    """A scene that training may show, a question about it, and its answer."""
    rng, language = person.rng, person.language
    asks, sides = (
        line["asks"],
        {
            "left": ("left", "right"),
            "right": ("left", "right"),
            "above": ("above", "below"),
            "below": ("above", "below"),
        },
    )
    two = asks in ("where", "which") or 2 in numbers_in(line["text"])
    while True:
        kinds = {
            n: (name, rng.choice(sampling.COLOR_NAMES))
            for n, name in zip((1, 2), rng.sample(language.names, 2), strict=True)
        }
        if two:
            scene = pair_scene(kinds, rng.choice(sides.get(line.get("side", ""), tuple(BESIDE))))
        elif asks == "count":
            scene = _crowd(kinds, count) if (count := rng.randint(1, 4)) > 1 else _single(kinds)
        else:
            scene = rng.choice((_single(kinds), pair_scene(kinds, rng.choice(tuple(BESIDE)))))
        scene = replace(scene, background=sampling.background(rng))
        if not is_held_out(scene):
            break
    asked, reply = _asked(person, asks, scene, line)
    things = {n: person.fields(t.name, t.color) for n, t in enumerate(scene.things[:2], 1)} | asked
    for n in numbers_in(line["text"]) - things.keys():
        name = person.name()
        things[n] = person.fields(name, sampling.allowed_color(rng, name))
    return scene, person.say(line, things, bg=place(rng, language, scene.background)), reply


def _asked(person: Stranger, asks: str, scene: Scene, line: Line) -> tuple[dict[int, dict[str, str]], str]:
    """The fields of the thing in question where they are not its own, and the answer."""
    rng, language = person.rng, person.language
    thing = scene.things[0]

    def reply(form: str, **slots: str) -> str:
        return language.sentence(language.put(f"answers.{form}", **slots))

    if asks == "colour":
        return {}, reply("color", color=language.color_names[thing.color][0])
    if asks == "count":
        count = len(scene.things)
        return {}, reply("number", **(language.fields(thing.name) | {"n": language.numbers[count][0]}))
    if asks == "background":
        return {}, reply("ground", ground=language.ground_names[scene.background][0])
    if asks == "is_colour":
        claimed = rng.choice((thing.color, sampling.allowed_color(rng, thing.name)))
        true = language.color_names[thing.color][0]
        answered = reply("yes") if claimed == thing.color else reply("no_color", color=true)
        return {1: person.fields(thing.name, claimed)}, answered
    if asks == "exists":
        if rng.random() < 0.5:
            return {}, reply("present")
        absent = rng.choice([n for n in language.names if all(n != t.name for t in scene.things)])
        return {1: person.fields(absent, sampling.allowed_color(rng, absent))}, reply("absent")
    if asks == "what":
        return {}, language.caption(scene)
    a, b = scene.things
    if asks == "where":
        return {}, reply("where", place=language.forms[f"places.{SIDES[str(relation(a, b))]}"][0])
    at_side = a if SIDES[str(relation(a, b))] == PLACES[line["side"]] else b
    return {}, reply("thing", a=language.thing(at_side))
