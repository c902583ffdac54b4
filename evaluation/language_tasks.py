"""Tasks of `limner eval world` in each language: the same drawing cases, so that languages can be compared, and captions."""

from __future__ import annotations

import random

from ..world.language import Detail, Language
from ..world.scene import render
from .geneval_cases import mixed_cases
from .tasks import MAX_NEW_TOKENS, Task, any_scene, drawing, each_picture, each_reply, image_prompt, writing


def paired_drawing_task(language: Language, count: int, steps: int | None = None) -> Task:
    """``count`` in all, as many of each category, of combinations that training may show: the n-th request has the same meaning
    in every language. What the English prompt of the case leaves open stays so."""
    chosen = mixed_cases(count)
    prompts = []
    for case in chosen:
        colored = case.category in ("colors", "color_attr")
        said = language.phrase(case.scene, Detail(colored, relation=case.category == "position", background=False))
        prompts.append(language.put("requests.plain", x=said))
    return Task(
        f"draw/paired/{language.code}", prompts, drawing(steps), each_picture([case.expected for case in chosen])
    )


def describing_task(language: Language, count: int) -> Task:
    """All attributes right, as in English: each object with its colour and count, the relation, the background. The pictures are
    the same in every language."""
    rng = random.Random("describe abroad")
    scenes = [any_scene(rng) for _ in range(count)]
    prompts = [image_prompt(render(scene), language.say(rng, "describe.plain")) for scene in scenes]
    grade = each_reply(lambda scene, reply: language.describes(reply.text, scene), scenes)
    return Task(f"describe/{language.name}", prompts, writing(2 * MAX_NEW_TOKENS), grade)
