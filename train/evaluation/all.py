"""Every measure of ``limner eval world``, in the table's order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..world import sampling
from ..world.edits import KINDS
from . import requests, shapes
from .cases import CATEGORIES, has_held_out
from .measures import Measure, answering, by_hand, deciding, describing, drawing, drawing_name, editing


def measures(count: int, limit: int, steps: int | None) -> dict[str, Callable[[], Measure]]:
    """All of them in the table's order, made when called: ``count`` examples each (a quarter for an edit), and of the
    requests by hand at most ``limit`` where that is not 0."""
    made: list[tuple[str, Callable[[], Measure]]] = []
    for category in CATEGORIES:
        for unseen in (False, True):
            if not unseen or has_held_out(category):
                made.append((drawing_name(category, unseen), partial(drawing, category, unseen, count, steps)))
    made += [(f"edit/{kind}", partial(editing, kind, max(1, count // 4), steps)) for kind in KINDS]
    made += [("describe", partial(describing, count)), ("answer", partial(answering, count))]
    made += [("decide", partial(deciding, count))]
    for height, width in (*sampling.SHAPES[1:], *shapes.LARGER):
        made += [(f"size/{height}x{width}", partial(shapes.sized, height, width, max(1, count // 4), steps))]
    made += [("shape asked for", partial(shapes.worded, max(1, count // 4)))]
    made += [(f"by hand/{task}", partial(by_hand, task, limit, steps)) for task in requests.TASKS]
    return dict(made)
