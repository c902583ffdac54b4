"""Every measure of ``limner eval world``, in the table's order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..world import sampling
from ..world.edits import KINDS
from ..world.tongues import TONGUES
from . import abroad, requests, shapes
from .cases import CATEGORIES, has_held_out
from .measures import (
    Measure,
    answering,
    by_hand,
    composing,
    controlled,
    deciding,
    describing,
    drawing,
    drawing_name,
    editing,
    filling,
    repeated,
    telling,
    writing,
)

DRAWN = ("draw/", "edit/")
"""Beginnings of the measures whose questions may be asked with several seeds"""


def measures(count: int, limit: int, steps: int | None, seeds: int = 1) -> dict[str, Callable[[], Measure]]:
    """All of them in the table's order, made when called: ``count`` examples each (a quarter for an edit), drawings and edits
    with ``seeds`` seeds each, and of the requests by hand at most ``limit`` where that is not 0."""
    half, quarter, tenth = (max(1, count // part) for part in (2, 4, 10))
    drawn = [(c, unseen) for c in CATEGORIES for unseen in (False, True) if not unseen or has_held_out(c)]
    made: dict[str, Callable[[], Measure]] = {
        **{drawing_name(c, unseen): partial(drawing, c, unseen, count, steps) for c, unseen in drawn},
        **{f"edit/{kind}": partial(editing, kind, quarter, steps) for kind in KINDS},
        "describe": partial(describing, count),
        "answer": partial(answering, count),
        "decide": partial(deciding, count),
        "story": partial(telling, tenth, steps),
        "compose": partial(composing, quarter, steps),
        "control": partial(controlled, quarter, steps),
        "fill": partial(filling, quarter, steps),
        "sign/1-5": partial(writing, (1, 2, 3, 4, 5), quarter, steps),
        "sign/6-8": partial(writing, (6, 7, 8), quarter, steps),
        **{
            f"size/{h}x{w}": partial(shapes.sized, h, w, quarter, steps)
            for h, w in (*sampling.SHAPES[1:], *shapes.LARGER)
        },
        "shape asked for": partial(shapes.worded, quarter),
        "no words asked for": partial(shapes.silent, quarter),
    }
    for tongue in TONGUES:
        made[f"draw/{tongue.name}"] = partial(abroad.drawing, tongue, half, steps)
        made[f"describe/{tongue.name}"] = partial(abroad.describing, tongue, half)
    made |= {f"by hand/{task}": partial(by_hand, task, limit, steps) for task in requests.TASKS}
    made |= {f"by hand/{t.name}": partial(by_hand, None, limit, steps, t.name) for t in TONGUES}
    if seeds == 1:
        return made
    again = {n: (lambda make=make: repeated(make(), seeds)) for n, make in made.items() if n.startswith(DRAWN)}
    return made | again
