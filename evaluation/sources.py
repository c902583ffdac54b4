"""What steers a drawing: the queries' features, the prompt's hidden states, or both, with the others left out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..detokenizer.condition import Condition
from ..inference.inputs import Messages
from ..inference.model import Limner
from ..inference.reply import Reply
from .geneval_cases import mixed_cases
from .judge import Judge
from .scores import share
from .tasks import Grades, Task, drawing, judge_pictures

SOURCES = {"both": (True, True), "queries": (True, False), "prompt": (False, True)}
"""By name, whether the queries' features are heard and whether the prompt's states are"""


@contextmanager
def heard(model: Limner, queries: bool, prompt: bool) -> Generator[None]:
    """Within it the model draws from these sources alone: there is nothing to attend to in the others, and without the queries
    the pooled vector is zeros. The glyphs count as the prompt's. It holds for all that this model draws meanwhile.

    Raises ValueError for a model whose conditions do not come from a `ConditioningAdapter`.
    """
    adapter = model.detokenizer.adapter
    if adapter is None or not hasattr(adapter.config, "num_tokens"):
        raise ValueError(f"{model.name} has no conditioning adapter whose sources could be left out")

    def partly(_: Any, __: Any, condition: Condition) -> Condition:
        of_queries = (
            torch.arange(condition.context.shape[1], device=condition.context.device) < adapter.config.num_tokens
        )
        keep = (of_queries & queries) | (~of_queries & prompt)
        mask = condition.context_mask & keep
        return replace(condition, context_mask=mask, pooled=condition.pooled * queries)

    hook = adapter.register_forward_hook(partly)
    try:
        yield
    finally:
        hook.remove()


def draw_from_each(
    model: Limner, prompts: Sequence[Messages], *, seed: Sequence[int], steps: int | None = None
) -> list[Reply]:
    """Replies with a picture from each of `SOURCES`, in their order."""
    pictures = []
    for queries, prompt in SOURCES.values():
        with heard(model, queries, prompt):
            pictures.append([reply.images[0] for reply in drawing(steps)(model, list(prompts), seed=list(seed))])
    return [Reply(list(own), "stop") for own in zip(*pictures, strict=True)]


def queries_task(count: int, steps: int | None = None) -> Task:
    """Drawings of GenEval's categories, ``count`` in all: right if they are from the queries alone. Beside it stand the shares
    that are right from both sources and from the prompt's states alone, and the queries' share as a part of that of both."""
    chosen = mixed_cases(count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        expected = [case.expected for case in chosen]
        good = {
            name: judge_pictures(judge, expected, [reply.images[index] for reply in replies])
            for index, name in enumerate(SOURCES)
        }
        part = sum(good["queries"]) / sum(good["both"]) if any(good["both"]) else None
        extra = {"both": share(good["both"]), "prompt_alone": share(good["prompt"]), "of_both": part}
        return good["queries"], extra

    def generate(model: Limner, prompts: Sequence[Messages], seed: Sequence[int]) -> list[Reply]:
        return draw_from_each(model, prompts, seed=seed, steps=steps)

    return Task("queries alone", [case.prompt for case in chosen], generate, grade)


def queries_and_both(model: Limner, judge: Judge, count: int, steps: int | None = None) -> tuple[float, float]:
    """The shares of ``count`` drawings that are right from the queries alone and from both sources: cheap enough to be watched
    in training (two or three dozen drawings of each). The model is left in the mode in which it was."""
    task, was_training = queries_task(count, steps), model.training
    model.eval()
    try:
        score = task.run(model, judge)
    finally:
        model.train(was_training)
    return score.correct / score.total, score.extra["both"]
