"""All tasks of ``limner eval world``, in the table's order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..world import sampling
from ..world.edits import KINDS
from ..world.languages import ENGLISH, LANGUAGES
from . import geneval_prompts, kept, language_tasks, requests, series, shapes, sources, stories, validation
from .geneval_cases import CATEGORIES, has_held_out
from .tasks import (
    Task,
    answering_task,
    composing_task,
    control_task,
    deciding_task,
    describing_task,
    drawing_name,
    drawing_task,
    editing_task,
    handwritten_task,
    inpainting_task,
    new_things_task,
    sign_task,
    with_seeds,
)

SEEDED = ("draw/", "edit/")
"""Prefixes of the names of tasks that are repeated with several seeds"""


def all_tasks(
    count: int, limit: int, steps: int | None, seeds: int = 1, ocr: bool = False
) -> dict[str, Callable[[], Task]]:
    """All of them in the table's order, made when called: ``count`` examples each (a quarter for an edit), drawings and edits
    with ``seeds`` seeds each, and of the requests by hand at most ``limit`` where that is not 0. With ``ocr`` an OCR reads signs,
    too (`ocr`)."""
    half, quarter, tenth = (max(1, count // part) for part in (2, 4, 10))
    drawn = [(c, unseen) for c in CATEGORIES for unseen in (False, True) if not unseen or has_held_out(c)]
    others = [language for language in LANGUAGES if language is not ENGLISH]
    made: dict[str, Callable[[], Task]] = {
        **{drawing_name(c, unseen): partial(drawing_task, c, unseen, count, steps) for c, unseen in drawn},
        **{f"edit/{kind}": partial(editing_task, kind, quarter, steps) for kind in KINDS},
        "describe": partial(describing_task, count),
        "answer": partial(answering_task, count),
        "decide": partial(deciding_task, count),
        "decide/geneval": partial(geneval_prompts.deciding_task, count),
        "draw/new_things": partial(new_things_task, quarter, steps),
        **{f"draw/several/{n}": partial(series.series_task, n, quarter, steps) for n in series.PICTURE_COUNTS},
        **{
            f"edits/{name}/{n}": partial(kept.kept_task, n, quarter if n == 1 else tenth, steps, keep)
            for name, keep in (("kept", "model"), ("exact", "exact"))
            for n in kept.GOALS
        },
        "queries alone": partial(sources.queries_task, count, steps),
        "story": partial(stories.story_task, tenth, steps),
        **{f"story/{n}": partial(stories.counted_story_task, n, quarter, steps) for n in series.PICTURE_COUNTS},
        "compose": partial(composing_task, quarter, steps),
        "control": partial(control_task, quarter, steps),
        "fill": partial(inpainting_task, quarter, steps),
        "sign/1-5": partial(sign_task, (1, 2, 3, 4, 5), quarter, steps, ocr),
        "sign/6-8": partial(sign_task, (6, 7, 8), quarter, steps, ocr),
        **{
            f"size/{h}x{w}": partial(shapes.size_task, h, w, quarter, steps)
            for h, w in (*sampling.SHAPES[1:], *shapes.LARGE_SIZES)
        },
        "shape asked for": partial(shapes.shape_task, quarter),
        "no words asked for": partial(shapes.no_text_task, quarter),
    }
    for language in LANGUAGES:
        made[f"draw/paired/{language.code}"] = partial(language_tasks.paired_drawing_task, language, half, steps)
    for language in others:
        made[f"describe/{language.name}"] = partial(language_tasks.describing_task, language, half)
    made["talk/everyday"] = partial(validation.everyday_task, half)
    for language in LANGUAGES:
        made[f"draw/phrasings/{language.code}"] = partial(validation.phrasings_task, language, half, steps)
        made[f"plan/phrasings/{language.code}"] = partial(validation.planning_task, language, half)
    made |= {f"by hand/{task}": partial(handwritten_task, task, limit, steps) for task in requests.TASKS}
    made |= {
        f"by hand/{language.name}": partial(handwritten_task, None, limit, steps, language.name) for language in others
    }
    if seeds == 1:
        return made
    again = {n: (lambda make=make: with_seeds(make(), seeds)) for n, make in made.items() if n.startswith(SEEDED)}
    return made | again
