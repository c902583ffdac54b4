"""Tasks of `limner eval world` in Chinese and Korean: drawing cases of the English categories, and captions."""

from __future__ import annotations

import random

from ..world import language_talk, sampling
from ..world.languages import Language
from ..world.scene import render
from ..world.words import Detail
from .geneval_cases import mixed_cases
from .tasks import MAX_NEW_TOKENS, Task, drawing, each_picture, each_reply, image_prompt, writing


def drawing_task(language: Language, count: int, steps: int | None = None) -> Task:
    """``count`` in all, as many of each category, of combinations that training may show; what the English prompt leaves
    open stays so."""
    chosen = mixed_cases(count)
    prompts = []
    for case in chosen:
        colored = case.category in ("colors", "color_attr")
        said = language.phrase(case.scene, Detail(color=colored, relation=case.category == "position"))
        prompts.append(language.fix_particles(language.forms["draw"][0].format(x=said)))
    return Task(f"draw/{language.name}", prompts, drawing(steps), each_picture([case.expected for case in chosen]))


def describing_task(language: Language, count: int) -> Task:
    """All attributes right, as in English: each object with its colour and count, the relation, the background."""
    rng = random.Random("describe abroad")
    scenes = [sampling.any_scene(rng) for _ in range(count)]
    prompts = [image_prompt(render(scene), language_talk.fill(rng, language, "describe")) for scene in scenes]
    grade = each_reply(lambda scene, reply: language.describes(reply.text, scene), scenes)
    return Task(f"describe/{language.name}", prompts, writing(2 * MAX_NEW_TOKENS), grade)
