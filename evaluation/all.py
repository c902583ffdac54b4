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
    made: list[tuple[str, Callable[[], Measure]]] = []
    for category in CATEGORIES:
        for unseen in (False, True):
            if not unseen or has_held_out(category):
                made.append((drawing_name(category, unseen), partial(drawing, category, unseen, count, steps)))
    made += [(f"edit/{kind}", partial(editing, kind, max(1, count // 4), steps)) for kind in KINDS]
    made += [("describe", partial(describing, count)), ("answer", partial(answering, count))]
    made += [("decide", partial(deciding, count)), ("story", partial(telling, max(1, count // 10), steps))]
    made += [("compose", partial(composing, max(1, count // 4), steps))]
    made += [("control", partial(controlled, max(1, count // 4), steps))]
    made += [("fill", partial(filling, max(1, count // 4), steps))]
    for lengths in (range(1, 6), range(6, 9)):
        made += [(f"sign/{lengths[0]}-{lengths[-1]}", partial(writing, tuple(lengths), max(1, count // 4), steps))]
    for height, width in (*sampling.SHAPES[1:], *shapes.LARGER):
        sized = partial(shapes.sized, height, width, max(1, count // 4), steps)
        made += [(f"size/{height}x{width}", sized)]
    made += [("shape asked for", partial(shapes.worded, max(1, count // 4)))]
    made += [("no words asked for", partial(shapes.silent, max(1, count // 4)))]
    for tongue in TONGUES:
        made += [(f"draw/{tongue.name}", partial(abroad.drawing, tongue, max(1, count // 2), steps))]
        made += [(f"describe/{tongue.name}", partial(abroad.describing, tongue, max(1, count // 2)))]
    made += [(f"by hand/{task}", partial(by_hand, task, limit, steps)) for task in requests.TASKS]
    made += [(f"by hand/{t.name}", partial(by_hand, None, limit, steps, t.name)) for t in TONGUES]
    if seeds == 1:
        return dict(made)
    again = {name: (lambda make=make: repeated(make(), seeds)) for name, make in made if name.startswith(DRAWN)}
    return dict(made) | again
