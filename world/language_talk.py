"""Conversations about the world in other languages than English, with the same scenes and edits."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from . import phrase_books, sampling
from .edits import KINDS, Edit, seen_edit, side_moved
from .held_out import relation
from .languages import Language
from .messages import Example, Message, assistant, image, text, user
from .phrasing import add_fillers, random_detail
from .scene import SIZES, Scene
from .words import Detail

EDIT_KINDS = tuple(kind for kind in KINDS if kind != "style")
"""Kinds of edits that the languages have templates for."""
PLAN_SHARE = 0.85
"""Share of drawings after a plan, as in English."""


def fill(rng: random.Random, language: Language, form: str, **said: str) -> str:
    """A random template of a purpose, filled in."""
    return language.fix_particles(rng.choice(language.forms[form]).format(**said))


def draw_request(rng: random.Random, language: Language, scene: Scene, detail: Detail) -> str:
    """A request for a drawing: from the language's own templates or, twice as often, from the phrase book."""
    if rng.random() < 0.67:
        said = phrase_books.phrase(rng, language, scene, detail)
        return casual_request(
            rng, language, rng.choice(phrase_books.PHRASE_BOOKS[language.name].requests).format(x=said)
        )
    ground = rng.choice(language.request_grounds[scene.background]) if rng.random() < 0.75 else None
    said = language.phrase(scene, detail, ground, rng.choice(language.together))
    return fill(rng, language, "draw", x=said)


def casual_request(rng: random.Random, language: Language, words: str) -> str:
    """A request with filler words and casual typing."""
    phrase_book = phrase_books.PHRASE_BOOKS[language.name]
    return phrase_books.casual_typing(
        rng, language.fix_particles(add_fillers(rng, words, phrase_book.prefixes, phrase_book.suffixes))
    )


def drawing_reply(rng: random.Random, language: Language, scene: Scene, plan: str = "") -> Message:
    """The reply: the drawing after a plan, or before a sentence about it."""
    full = language.caption(scene).removesuffix(language.stop)
    if rng.random() < PLAN_SHARE:
        return assistant((plan and plan + language.colon + language.space) + full + language.colon, image(scene))
    said = language.phrase(scene, Detail(background=False))
    return assistant(image(scene), fill(rng, language, "done", x=said))


def draw(rng: random.Random, language: Language) -> Example:
    scene = replace(sampling.any_scene(rng, (7, 2, 3)), height=128, width=128)
    return Example(
        "draw",
        [user(draw_request(rng, language, scene, random_detail(rng, scene))), drawing_reply(rng, language, scene)],
    )


def describe(rng: random.Random, language: Language) -> Example:
    scene = sampling.any_scene(rng, sampling.READING_WEIGHTS)
    content = [image(scene), text(casual_request(rng, language, fill(rng, language, "describe")))]
    turns = [user(*content[:: rng.choice((1, -1))]), assistant(language.caption(scene))]
    if rng.random() < 0.3:
        turns += questions(rng, language, scene, 1)
    return Example("describe", turns)


def answer(rng: random.Random, language: Language) -> Example:
    scene = sampling.any_scene(rng, sampling.READING_WEIGHTS)
    first, *rest = questions(rng, language, scene, rng.choices((1, 2, 3), (3, 3, 2))[0])
    return Example("answer", [user(image(scene), *first["content"]), *rest])


def questions(rng: random.Random, language: Language, scene: Scene, count: int) -> list[Message]:
    turns = []
    for _ in range(count):
        question_text, answer_text = question(rng, language, scene)
        turns += [user(question_text), assistant(answer_text)]
    return turns


def question(rng: random.Random, language: Language, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    name = phrase_books.random_name(rng, language, thing.name)
    count = sum(t.name == thing.name for t in scene.things)
    absent = rng.choice([n for n in sampling.NAMES if all(n != t.name for t in scene.things)])
    pairs = [
        (fill(rng, language, "how many", a=name), fill(rng, language, "number", n=language.numbers[count])),
        (fill(rng, language, "color", a=name), fill(rng, language, "answer", x=language.color_names[thing.color])),
        (fill(rng, language, "present", a=name), fill(rng, language, "yes")),
        (fill(rng, language, "present", a=language.things[absent]), fill(rng, language, "no")),
        (fill(rng, language, "ground"), fill(rng, language, "answer", x=language.ground_names[scene.background])),
    ]
    if len(scene.things) == 2 and count == 1:
        other = next(t for t in scene.things if t is not thing)
        side = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}[str(relation(thing, other))]
        pairs.append((fill(rng, language, "where", a=name), fill(rng, language, "answer", x=language.sides[side])))
    request, reply = rng.choice(pairs)
    return casual_request(rng, language, request), reply


def edit_slots(change: Edit, language: Language, call: Callable[[str], str] | None = None) -> dict[str, str]:
    """Values for the slots of an edit's templates, from the scenes before and after; objects are named by ``call``, or by the
    language's own names."""
    call = call or language.things.__getitem__
    before, after = change.before.things, change.after.things
    detail = Detail(size=False)
    if change.kind in ("swap", "count"):
        return {"a": call(before[0].name)}
    if change.kind == "background":
        return {"g": language.grounds[change.after.background]}
    if change.kind == "remove":
        gone = next(t for t in before if t not in after)
        return {"a": call(gone.name)}
    if change.kind == "add":
        new, old = after[-1], before[0]
        return {"a": call(old.name), "n": language.thing(new, detail, False)}
    old, new = next((a, b) for a, b in zip(before, after, strict=True) if a != b)
    said = {"a": call(old.name)}
    if change.kind == "recolour":
        said["c"] = language.color_names[new.color]
    elif change.kind == "replace":
        said["b"] = call(new.name)
    elif change.kind == "move":
        said["s"] = language.sides[side_moved(old, new)]
    return said


def edit_form(change: Edit) -> str:
    """The template's purpose for an edit: its kind or, if it has two directions, its direction."""
    before, after = change.before.things, change.after.things
    if change.kind == "resize":
        return "bigger" if SIZES[after[0].size] > SIZES[before[0].size] else "smaller"
    if change.kind == "count":
        return "more" if len(after) > len(before) else "less"
    return change.kind


def edit_turns(rng: random.Random, language: Language, change: Edit) -> list[Message]:
    form = edit_form(change)
    said = edit_slots(change, language, partial(phrase_books.random_name, rng, language))
    instruction = casual_request(rng, language, fill(rng, language, form, **said))
    plan = fill(rng, language, f"plan {form}", **edit_slots(change, language))
    return [user(instruction), drawing_reply(rng, language, change.after, plan)]


def edit(rng: random.Random, language: Language) -> Example:
    change = seen_edit(rng, rng.choice(EDIT_KINDS))
    request, reply = edit_turns(rng, language, change)
    content = [image(change.before), *request["content"]]
    return Example("edit", [user(*content[:: rng.choice((1, 1, -1))]), reply])


def follow_up(rng: random.Random, language: Language) -> Example:
    first = draw(rng, language)
    scene = next(part["image"] for part in first.messages[1]["content"] if part["type"] == "image")
    manner = rng.random()
    if manner < 0.15:
        return Example("follow_up", [*first.messages, *questions(rng, language, scene, 1)])
    if manner < 0.27:
        turns = [
            user(casual_request(rng, language, fill(rng, language, "describe"))),
            assistant(language.caption(scene)),
        ]
        return Example("follow_up", [*first.messages, *turns])
    return Example(
        "follow_up",
        [
            *first.messages,
            *edit_turns(rng, language, seen_edit(rng, before=scene, kinds=EDIT_KINDS)),
        ],
    )


def small_talk(rng: random.Random, language: Language) -> Example:
    said, answered = rng.choice(language.talk)
    return Example("small_talk", [user(casual_request(rng, language, rng.choice(said))), assistant(answered)])


def refuse(rng: random.Random, language: Language) -> Example:
    name = rng.choice(language.unknown)
    said = f"{rng.choice(phrase_books.PHRASE_BOOKS[language.name].colors[rng.choice(sampling.COLOR_NAMES)])} {name}"
    thing = said.replace(" ", language.space) if rng.random() < 0.4 else name
    words = rng.choice((*language.forms["draw"], *phrase_books.PHRASE_BOOKS[language.name].requests)).format(x=thing)
    return Example(
        "refuse", [user(casual_request(rng, language, words)), assistant(fill(rng, language, "refuse", x=name))]
    )


CONVERSATIONS: dict[str, Callable[[random.Random, Language], Example]] = {
    tell.__name__: tell for tell in (draw, describe, answer, edit, follow_up, small_talk, refuse)
}
"""Functions that make a conversation, by its kind (`talk.MIXTURE`)."""
