"""Tasks of edits that keep the rest: what an edit does not touch, after one edit and after ten in a row in one chat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from ..inference.inputs import recent_messages
from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import messages, sampling
from ..world.edits import Edit, seen_edit
from ..world.scene import Scene, render
from .judge import Judge
from .tasks import ASKING, MAX_NEW_TOKENS, Grades, Task, image_prompt, matches_edit, psnr, reconstruct

GOALS = {1: 2.0, 10: 4.0}
"""Edits in a row, and how many dB below the autoencoder's own reconstruction what they do not touch may lie"""
MARGIN = 8
"""Pixels within which the outline of a changed thing may be drawn"""
CHAINED = ("recolour", "replace", "remove", "add")
"""Kinds of edits that leave one of two things alone"""


def edit_chain(rng: random.Random, length: int) -> list[Edit]:
    """So many edits in a row of a picture of two things, all of them about the first or what comes in its place."""
    start = sampling.allowed_scene(lambda: sampling.pair(rng, names=ASKING.names))
    scene = replace(start, height=128, width=128)
    bystander = scene.things[1]
    chain: list[Edit] = []
    while len(chain) < length:
        change = seen_edit(rng, before=scene, kinds=CHAINED, language=ASKING)
        if bystander in change.after.things:
            chain.append(change)
            scene = change.after
    return chain


def untouched(scenes: Sequence[Scene]) -> np.ndarray:
    """The pixels that are equal in all scenes: (height, width, 1)."""
    first, *others = (np.array(render(scene)) for scene in scenes)
    return np.logical_and.reduce([(first == other).all(-1, keepdims=True) for other in others])


def shrunk(mask: np.ndarray) -> np.ndarray:
    """Of a mask (height, width, 1) what is `MARGIN` pixels away from all that is not in it."""
    others = Image.fromarray(~mask[..., 0]).convert("L")
    return (np.asarray(others.filter(ImageFilter.MaxFilter(2 * MARGIN - 1))) == 0)[..., None]


def edit_in_a_row(
    model: Limner,
    conversations: Sequence[Sequence[messages.Message]],
    *,
    seed: Sequence[int],
    chains: Sequence[list[Edit]],
    steps: int | None,
    keep: str,
) -> list[Reply]:
    """`Task.generate`: each conversation asks for the first edit of the chain whose index is its seed; the other edits are asked
    for in the same chat. A reply holds a picture for every edit."""
    held = [list(told) for told in conversations]
    pictures: list[list[str | Image.Image]] = [[] for _ in held]
    for turn in range(len(chains[0])):
        if turn:
            for told, index in zip(held, seed, strict=True):
                told.append(messages.user(chains[index][turn].instruction))
        shown = [recent_messages(told, model.defaults.history) for told in held]
        replies = model.draw(
            shown, seed=seed, max_new_tokens=MAX_NEW_TOKENS, height=128, width=128, num_inference_steps=steps, keep=keep
        )
        for told, drawn, reply in zip(held, pictures, replies, strict=True):
            told.append(reply.message())
            drawn.append(reply.images[0])
    return [Reply(drawn, "stop") for drawn in pictures]


def kept_task(length: int, count: int, steps: int | None = None, keep: str = "model") -> Task:
    """So many edits in a row: right if the part that none of them touches, known from the scenes, is at most so many dB farther
    from the picture shown (PSNR) than what the autoencoder makes of that picture (`GOALS`).

    ``keep`` is the option of `GenerationConfig`. Beside it stand the mean of that difference (0 where a picture is as near), the
    same of the pixels that are `MARGIN` or more away from all that changes, both means themselves, and the share of the last
    edits that the judge sees.
    """
    rng = random.Random(f"kept/{length}")
    chains = [edit_chain(rng, length) for _ in range(count)]
    scenes = [[chain[0].before, *(change.after for change in chain)] for chain in chains]
    prompts = [image_prompt(render(chain[0].before), chain[0].instruction) for chain in chains]

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        last = [reply.images[-1] for reply in replies]
        figures, farther = [], []
        for picture, own in zip(last, scenes, strict=True):
            true, mask = np.array(render(own[0])), untouched(own)
            pictures = (np.asarray(picture), reconstruct(model, true))
            figures.append([psnr(pixels, true, mask) for pixels in pictures])
            farther.append([psnr(pixels, true, shrunk(mask)) for pixels in pictures])
        below, far_below = ([max(0.0, most - rest) for rest, most in pairs] for pairs in (figures, farther))
        seen = [matches_edit(chain[-1], v) for chain, v in zip(chains, judge.detect(last), strict=True)]
        rest, most = np.mean(figures, axis=0).tolist()
        return [loss <= GOALS[length] for loss in below], {
            "db_below_the_autoencoder": float(np.mean(below)),
            "db_farther_off": float(np.mean(far_below)),
            "psnr_of_the_rest": rest,
            "autoencoder_alone": most,
            "last_edit_right": sum(seen) / count,
        }

    name = f"edits/{'kept' if keep == 'model' else keep}/{length}"
    return Task(name, prompts, partial(edit_in_a_row, chains=chains, steps=steps, keep=keep), grade)
