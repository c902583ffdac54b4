"""Tasks about the shape of a picture, sizes beyond training, and replies without text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import sampling
from ..world.phrases import shape_words
from ..world.scene import render
from ..world.words import Detail, noun_phrase
from .geneval_cases import mixed_cases
from .judge import CELL_SIZE, Judge
from .tasks import ASKING, Grades, Task, deciding_in_one_step, drawing, each_reply, first_images, judge_pictures

LARGE_SIZES = ((192, 192), (256, 256))
"""Heights and widths beyond training"""


def size_task(height: int, width: int, count: int, steps: int | None = None) -> Task:
    """Drawn at this size. A model may fill a larger picture with larger things or with more ground: the rate is of what the
    judge sees as it is, beside it stands what it sees after the picture is scaled to the area of 128 x 128."""
    chosen = mixed_cases(count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        images = first_images(replies)
        true = [render(replace(case.scene, height=height, width=width)) for case in chosen]
        seen, scaled, truth = (
            judge_pictures(judge, [case.expected for case in chosen], shown)
            for shown in (images, [downscale(image) for image in images], [downscale(image) for image in true])
        )
        return seen, {"scaled_to_128": sum(scaled) / count, "judge_accuracy": sum(truth) / count}

    generate = partial(drawing(steps), height=height, width=width)
    return Task(f"size/{height}x{width}", [case.prompt for case in chosen], generate, grade)


def downscale(image: Image.Image) -> Image.Image:
    """The picture scaled to about 128 x 128 pixels in the same aspect ratio; a smaller one as it is."""
    scale = 128 / (image.width * image.height) ** 0.5
    size = tuple(round(side * scale / CELL_SIZE) * CELL_SIZE for side in image.size)
    return image.resize(size, Image.Resampling.BOX) if image.width > size[0] else image


def shape_task(count: int) -> Task:
    """Requests for a wide, a tall or (if nothing is said) a square picture: right if it has that shape."""
    rng = random.Random("shapes")
    prompts, wanted = [], []
    for index in range(count):
        height, width = sampling.SHAPES[index % len(sampling.SHAPES)]
        scene = replace(sampling.allowed_scene(lambda: sampling.single(rng, ASKING.names)), height=height, width=width)
        prompts.append(shape_words(rng, ASKING, scene, f"draw {noun_phrase(scene, Detail())}"))
        wanted.append((width, height))
    grade = each_reply(lambda size, reply: bool(reply.images) and reply.images[0].size == size, wanted)
    return Task("shape asked for", prompts, deciding_in_one_step(), grade)


def no_text_task(count: int) -> Task:
    """Requests for a picture without text: right if the reply is one picture and nothing else."""
    rng = random.Random("silent")
    scenes = [sampling.allowed_scene(lambda: sampling.single(rng, ASKING.names)) for _ in range(count)]
    prompts = [ASKING.say(rng, "requests.no_words", x=f"draw {noun_phrase(scene, Detail())}") for scene in scenes]
    grade = each_reply(lambda _, reply: len(reply.images) == 1 == len(reply.parts), scenes)
    return Task("no words asked for", prompts, deciding_in_one_step(), grade)
