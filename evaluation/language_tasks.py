"""Tasks of `limner eval world` in Chinese and Korean: drawing cases of the English categories, and captions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import language_talk, sampling
from ..world.languages import Language
from ..world.scene import render
from ..world.words import Detail
from .geneval_cases import mixed_cases
from .judge import Judge
from .tasks import MAX_NEW_TOKENS, Task, draw_batch, image_prompt, text_batch


def drawing_task(language: Language, count: int, steps: int | None = None) -> Task:
    """``count`` in all, as many of each category, of combinations that training may show; what the English prompt leaves
    open stays so."""
    chosen = mixed_cases(count)
    prompts = []
    for case in chosen:
        colored = case.category in ("colors", "color_attr")
        said = language.phrase(case.scene, Detail(color=colored, relation=case.category == "position"))
        prompts.append(language.fix_particles(language.forms["draw"][0].format(x=said)))

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        verdicts = judge.detect([reply.images[0] for reply in replies])
        return [case.expected.matches(verdict) for case, verdict in zip(chosen, verdicts, strict=True)], {}

    return Task(f"draw/{language.name}", prompts, partial(draw_batch, steps=steps), grade)


def describing_task(language: Language, count: int) -> Task:
    """All attributes right, as in English: each object with its colour and count, the relation, the background."""
    rng = random.Random("describe abroad")
    scenes = [sampling.any_scene(rng) for _ in range(count)]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        return [language.describes(reply.text, scene) for scene, reply in zip(scenes, replies, strict=True)], {}

    prompts = [image_prompt(render(scene), language_talk.fill(rng, language, "describe")) for scene in scenes]
    return Task(f"describe/{language.name}", prompts, partial(text_batch, words=2 * MAX_NEW_TOKENS), grade)
