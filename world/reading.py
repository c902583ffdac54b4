"""Conversations about a picture that is shown: descriptions and questions."""

from __future__ import annotations

import random

from . import sampling
from .casual import casual_request, casual_typing
from .language import Language
from .languages import ENGLISH
from .messages import Example, Message, assistant, image, text, user
from .questions import question
from .scene import Scene
from .scenes import arranged_scene

ARRANGED_SHARE = 0.12
"""Share of the pictures shown that hold many things"""


def shown_scene(rng: random.Random, language: Language) -> Scene:
    if rng.random() < ARRANGED_SHARE:
        return arranged_scene(rng, language.names)
    return sampling.with_random_style(rng, sampling.any_scene(rng, sampling.READING_WEIGHTS, language.names))


def describe_request(rng: random.Random, language: Language) -> str:
    """ "What is in this picture?" in many words."""
    plain = language.forms["describe.plain"]
    words = rng.choice(plain[:8] if rng.random() < 0.3 else plain)
    if rng.random() < 0.5:
        verb = language.say(rng, "describe.verbs", x=rng.choice(language.forms["describe.objects"]))
        manner = rng.choice(language.forms["describe.manners"])
        words = (verb.rstrip("?？") if manner else verb) + (" " if manner[:1].isalpha() else "") + manner
    return casual_request(rng, language, words, fillers=0.3)


def describe(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A picture and its caption, sometimes with a question about it afterwards."""
    scene = shown_scene(rng, language)
    content = [image(scene), text(describe_request(rng, language))]
    turns = [user(*content[:: rng.choice((1, -1))]), assistant(language.caption(scene))]
    if rng.random() < 0.35:
        turns += questions(rng, language, scene, 1)
    return Example("describe", turns)


def questions(rng: random.Random, language: Language, scene: Scene, count: int) -> list[Message]:
    """``count`` questions about a scene and their answers."""
    turns = []
    for _ in range(count):
        asked, answered = question(rng, scene, language)
        turns += [user(casual_typing(rng, language, asked)), assistant(answered)]
    return turns


def answer(rng: random.Random, language: Language = ENGLISH) -> Example:
    """One to three questions about a picture."""
    scene = shown_scene(rng, language)
    first, *rest = questions(rng, language, scene, rng.choices((1, 2, 3), (3, 3, 2))[0])
    return Example("answer", [user(image(scene), *first["content"]), *rest])
