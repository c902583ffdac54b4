"""What a request settles beside the contents: the shape, a size beyond training, whether words come first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from ..inference.inputs import Messages
from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import sampling, talk
from ..world.scene import render
from ..world.words import Detail, noun_phrase
from .cases import mixed
from .judge import CELL, Judge
from .measures import WORDS, Measure, begin

LARGER = ((192, 192), (256, 256))
"""Heights and widths beyond training"""


def sized(height: int, width: int, count: int, steps: int | None = None) -> Measure:
    """Drawn at this size. A model may fill a larger picture with larger things or with more ground: the rate is of what the
    judge sees as it is, beside it stands what it sees after the picture is scaled to the area of 128 x 128."""
    chosen = mixed(count)

    def answer(model: Limner, asked: Sequence[Messages], seed: Sequence[int]) -> list[Reply]:
        return model.draw(asked, max_new_tokens=WORDS, height=height, width=width, num_inference_steps=steps, seed=seed)

    def right(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        images = [reply.images[0] for reply in replies]
        true = [render(replace(case.scene, height=height, width=width)) for case in chosen]
        seen, scaled, truth = (
            [case.wanted.met_by(verdict) for case, verdict in zip(chosen, judge.look(shown), strict=True)]
            for shown in (images, [shrunk(image) for image in images], [shrunk(image) for image in true])
        )
        return seen, {"scaled_to_128": sum(scaled) / count, "judge_accuracy": sum(truth) / count}

    return Measure(f"size/{height}x{width}", [case.prompt for case in chosen], answer, right)


def shrunk(image: Image.Image) -> Image.Image:
    """Of about 128 x 128 pixels, in the same shape."""
    scale = 128 / (image.width * image.height) ** 0.5
    size = tuple(round(side * scale / CELL) * CELL for side in image.size)
    return image.resize(size, Image.Resampling.BOX) if image.width > size[0] else image


def worded(count: int) -> Measure:
    """A wide or a tall picture, or nothing said and a square: the picture has that shape."""
    rng = random.Random("shapes")
    asked, wanted = [], []
    for index in range(count):
        height, width = sampling.SHAPES[index % len(sampling.SHAPES)]
        scene = replace(sampling.seen(lambda: sampling.single(rng)), height=height, width=width)
        asked.append(talk.shape_words(rng, scene, f"draw {noun_phrase(scene, Detail())}"))
        wanted.append((width, height))

    def right(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        return [bool(r.images) and r.images[0].size == size for r, size in zip(replies, wanted, strict=True)], {}

    return Measure("shape asked for", asked, begin, right)


def silent(count: int) -> Measure:
    """Asked for a picture and no words: it begins with the picture and adds nothing."""
    rng = random.Random("silent")
    scenes = [sampling.seen(lambda: sampling.single(rng)) for _ in range(count)]
    asked = [f"draw {noun_phrase(scene, Detail())}, {rng.choice(talk.NO_WORDS)}" for scene in scenes]

    def right(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        return [len(reply.images) == 1 == len(reply.parts) for reply in replies], {}

    return Measure("no words asked for", asked, begin, right)
