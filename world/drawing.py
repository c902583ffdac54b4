"""Conversations about one picture to be drawn: a request and the drawing, or an honest no."""

from __future__ import annotations

import random
from dataclasses import replace

from . import sampling
from .casual import add_fillers, casual_typing, wrapped
from .held_out import is_held_out
from .language import Detail, Language, canonical_order
from .languages import ENGLISH
from .messages import Example, Message, assistant, image, user
from .phrases import ask_for, draw_request, random_detail, shape_words
from .scene import Scene
from .unknown import invented_word

NO_TEXT_SHARE = 0.04
"""Share of the drawings that are requested without text."""
COUNTING_SHARE = 0.15
"""Share of the drawings of several objects whose count is given by the number before it."""
PLAN_SHARE = 0.85
"""Share of drawings after a plan; the others begin with the picture, as ``images="force"`` does."""
USUAL_PAIR_SHARE = 0.5
"""Share of the drawings of two different things that take their usual colours, which are mostly left unsaid: "a cat and a
broccoli" must not sound like `refuse`"""
REFUSED_PAIR_SHARE = 0.04
"""Share of the unknown things that are asked for together with a known one"""
WRAPPED_SHARE = 0.05
"""Share of the requests that come after a sentence or two about something else"""


def drawing_reply(rng: random.Random, language: Language, scene: Scene, change: str = "") -> Message:
    """The drawing after a plan, the scene's full description, which settles what the request left open; or before a sentence."""
    if rng.random() < PLAN_SHARE:
        return assistant(language.plan(scene, change), image(scene))
    words = language.phrase(canonical_order(scene), Detail(background=False))
    if language is ENGLISH and not words.startswith("a"):  # "here are three cats"
        return assistant(image(scene), language.put("replies.done", x=words))
    return assistant(image(scene), language.say(rng, "replies.here", x=words))


def draw(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A request for one picture; the reply mostly says in words what it will draw, then draws it."""
    # a large thing alone has the most detail and is learned last
    scene = sampling.any_scene(rng, (7, 2, 3), language.names)
    if len({t.name for t in scene.things}) == 2 and rng.random() < USUAL_PAIR_SHARE:
        scene = _in_usual_colors(scene)
    scene = sampling.with_random_style(rng, scene)
    if len(scene.things) > 1 and len({t.name for t in scene.things}) == 1 and rng.random() < COUNTING_SHARE:
        return _after_counting(rng, language, scene)
    words = shape_words(rng, language, scene, draw_request(rng, language, scene, random_detail(rng, scene)))
    if rng.random() < NO_TEXT_SHARE:
        words = language.say(rng, "requests.no_words", x=words.rstrip(".?!。？！"))
        return Example("draw", [user(casual_typing(rng, language, words)), assistant(image(scene))])
    if rng.random() < WRAPPED_SHARE:
        words = wrapped(rng, language, words)
    return Example("draw", [user(casual_typing(rng, language, words)), drawing_reply(rng, language, scene)])


def _in_usual_colors(scene: Scene) -> Scene:
    """The scene with the usual colour of each thing, if training may show that."""
    usual = replace(scene, things=tuple(replace(t, color=sampling.USUAL_COLORS[t.name]) for t in scene.things))
    return scene if is_held_out(usual) else usual


def _after_counting(rng: random.Random, language: Language, scene: Scene) -> Example:
    """A request that gives the number before the count; the plan names both numbers first."""
    count, thing = len(scene.things), scene.things[0]
    fewer = replace(scene, things=scene.things[1:])
    detail = replace(random_detail(rng, fewer), size=thing.size == "small" and count > 2)
    words = language.say(rng, "requests.count_on", x=language.phrase(fewer, detail))
    said = {"before": language.numbers[count - 1][0], "number": language.numbers[count][0]}
    plan = language.put("replies.counted", **said, before_digit=count - 1, digit=count)
    reply = assistant(language.plan(scene, plan), image(scene))
    return Example("draw", [user(casual_typing(rng, language, words)), reply])


def refuse(rng: random.Random, language: Language = ENGLISH, made_up: float = 0.25) -> Example:
    """A request for what the world has no drawing of: a thing that the language lists or, by ``made_up``'s chance where it has
    articles to put before it, an invented word."""
    named = rng.choice(language.unknown[:-10])
    name = invented_word(rng) if language.articles and rng.random() < made_up else named
    color = rng.choice(language.colors[rng.choice(sampling.COLOR_NAMES)]) if rng.random() < 0.4 else ""
    fields = {"name": name, "counter": language.counter, "size": "", "color": color}
    thing = language.put("caption.hero", **fields)
    other = language.named(rng.choice(language.names)) if rng.random() < REFUSED_PAIR_SHARE else None
    both = (
        thing
        if other is None
        else language.put("phrases.together", **dict(zip("ab", rng.sample((thing, other), 2), strict=True)))
    )
    words = ask_for(rng, language, both, plain=rng.random() < 0.5)
    reply = language.put("replies.refuse", x=language.put("caption.hero", **(fields | {"color": ""})))
    return Example("refuse", [user(casual_typing(rng, language, words)), assistant(reply)])


def small_talk(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A greeting, thanks or a question about the model: no picture is drawn."""
    said, answered = rng.choice(language.talk)
    words = rng.choice(said)
    words = add_fillers(rng, language, words) if rng.random() < 0.1 else words
    return Example("small_talk", [user(casual_typing(rng, language, words)), assistant(answered)])
