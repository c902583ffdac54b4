"""All tasks of ``limner eval world``, in the table's order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..world import sampling
from ..world.edits import KINDS
from ..world.languages import LANGUAGES
from . import language_tasks, requests, shapes
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
    sign_task,
    story_task,
    with_seeds,
)

SEEDED = ("draw/", "edit/")
"""Prefixes of the names of tasks that are repeated with several seeds"""


def all_tasks(count: int, limit: int, steps: int | None, seeds: int = 1) -> dict[str, Callable[[], Task]]:
    """All of them in the table's order, made when called: ``count`` examples each (a quarter for an edit), drawings and edits
    with ``seeds`` seeds each, and of the requests by hand at most ``limit`` where that is not 0."""
    made: list[tuple[str, Callable[[], Task]]] = []
    for category in CATEGORIES:
        for unseen in (False, True):
            if not unseen or has_held_out(category):
                made.append((drawing_name(category, unseen), partial(drawing_task, category, unseen, count, steps)))
    made += [(f"edit/{kind}", partial(editing_task, kind, max(1, count // 4), steps)) for kind in KINDS]
    made += [("describe", partial(describing_task, count)), ("answer", partial(answering_task, count))]
    made += [("decide", partial(deciding_task, count)), ("story", partial(story_task, max(1, count // 10), steps))]
    made += [("compose", partial(composing_task, max(1, count // 4), steps))]
    made += [("control", partial(control_task, max(1, count // 4), steps))]
    made += [("fill", partial(inpainting_task, max(1, count // 4), steps))]
    for lengths in (range(1, 6), range(6, 9)):
        made += [(f"sign/{lengths[0]}-{lengths[-1]}", partial(sign_task, tuple(lengths), max(1, count // 4), steps))]
    for height, width in (*sampling.SHAPES[1:], *shapes.LARGE_SIZES):
        sized = partial(shapes.size_task, height, width, max(1, count // 4), steps)
        made += [(f"size/{height}x{width}", sized)]
    made += [("shape asked for", partial(shapes.shape_task, max(1, count // 4)))]
    made += [("no words asked for", partial(shapes.no_text_task, max(1, count // 4)))]
    for language in LANGUAGES:
        made += [(f"draw/{language.name}", partial(language_tasks.drawing_task, language, max(1, count // 2), steps))]
        made += [(f"describe/{language.name}", partial(language_tasks.describing_task, language, max(1, count // 2)))]
    made += [(f"by hand/{task}", partial(handwritten_task, task, limit, steps)) for task in requests.TASKS]
    made += [
        (f"by hand/{language.name}", partial(handwritten_task, None, limit, steps, language.name))
        for language in LANGUAGES
    ]
    if seeds == 1:
        return dict(made)
    again = {name: (lambda make=make: with_seeds(make(), seeds)) for name, make in made if name.startswith(SEEDED)}
    return dict(made) | again
