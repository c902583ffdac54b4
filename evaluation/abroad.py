"""What `limner eval world` asks in Chinese and Korean: the first cases of the English categories, and descriptions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import abroad, sampling
from ..world.scene import render
from ..world.tongues import Tongue
from ..world.words import Detail
from .cases import mixed
from .judge import Judge
from .measures import WORDS, Measure, draw, read, shown


def drawing(tongue: Tongue, count: int, steps: int | None = None) -> Measure:
    """``count`` in all, as many of each category, of combinations that training may show; what the English prompt leaves
    open stays so."""
    chosen = mixed(count)
    asked = []
    for case in chosen:
        colored = case.category in ("colors", "color_attr")
        said = tongue.phrase(case.scene, Detail(color=colored, relation=case.category == "position"))
        asked.append(tongue.settle(tongue.forms["draw"][0].format(x=said)))

    def right(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        verdicts = judge.look([reply.images[0] for reply in replies])
        return [case.wanted.met_by(verdict) for case, verdict in zip(chosen, verdicts, strict=True)], {}

    return Measure(f"draw/{tongue.name}", asked, partial(draw, steps=steps), right)


def describing(tongue: Tongue, count: int) -> Measure:
    """All attributes right, as in English: each object with its colour and count, the relation, the background."""
    rng = random.Random("describe abroad")
    scenes = [sampling.any_scene(rng) for _ in range(count)]

    def right(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        return [tongue.tells(reply.text, scene) for scene, reply in zip(scenes, replies, strict=True)], {}

    asked = [shown(render(scene), abroad.fill(rng, tongue, "describe")) for scene in scenes]
    return Measure(f"describe/{tongue.name}", asked, partial(read, words=2 * WORDS), right)
