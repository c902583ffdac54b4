"""Conversations in which a picture changes: one that was shown, or the one just drawn."""

from __future__ import annotations

import random

from .casual import casual_request
from .drawing import PLAN_SHARE, draw
from .edits import Edit, seen_edit
from .language import Language
from .languages import ENGLISH
from .messages import Example, Message, assistant, image, text, user
from .reading import describe_request, questions
from .scene import Scene


def edit_reply(rng: random.Random, change: Edit) -> Message:
    """The picture after a plan, with a sentence after it sometimes; or the picture and that sentence."""
    if rng.random() < PLAN_SHARE:
        done = [change.reply] if rng.random() < 0.25 else []
        return assistant(change.plan, image(change.after), *done)
    return assistant(image(change.after), change.reply)


def edit_turns(rng: random.Random, language: Language, change: Edit) -> list[Message]:
    """An instruction and the picture that follows it."""
    return [user(casual_request(rng, language, change.instruction, fillers=0.4)), edit_reply(rng, change)]


def edit(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A picture that is shown and changed."""
    change = seen_edit(rng, language=language)
    request, reply = edit_turns(rng, language, change)
    content = [image(change.before), text(request["content"][0]["text"])]
    return Example("edit", [user(*content[:: rng.choice((1, 1, -1))]), reply])


def last_picture(messages: list[Message]) -> Scene:
    """The scene of the picture drawn last."""
    return next(
        part["image"]
        for message in reversed(messages)
        if message["role"] == "assistant"
        for part in reversed(message["content"])
        if part["type"] == "image"
    )


def follow_up(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A drawing, then a question about it, its description, or one or two edits."""
    turns = draw(rng, language).messages
    scene = last_picture(turns)
    manner = rng.random()
    if manner < 0.15:
        return Example("follow_up", [*turns, *questions(rng, language, scene, 1)])
    if manner < 0.27:
        return Example("follow_up", [*turns, user(describe_request(rng, language)), assistant(language.caption(scene))])
    for _ in range(1 if manner < 0.8 else 2):
        change = seen_edit(rng, before=scene, pronoun=True, language=language)
        turns = [*turns, *edit_turns(rng, language, change)]
        scene = change.after
    return Example("follow_up", turns)
