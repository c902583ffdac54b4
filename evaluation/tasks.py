"""Tasks of `limner eval world`: prompts, how replies are generated, and how they are graded.

Drawing in GenEval's categories, editing, describing, answering, deciding when to draw, and requests written by hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..detokenizer.autoencoder import to_pixels, to_uint8
from ..inference.inputs import Messages
from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import composing as compose
from ..world import messages, sampling, signs, talk
from ..world.edits import Edit, seen_edit
from ..world.held_out import relation
from ..world.pen import CONTROLS
from ..world.scene import Scene, render
from ..world.unknown import UNKNOWN
from ..world.words import BACKGROUND_PHRASES, Detail, facts, noun_phrase, read_caption, with_article
from . import requests
from .geneval_cases import SIDES, Case, Expected, halve, make_cases, near_misses
from .judge import Judge, Verdict
from .reader import Reader
from .scores import Score

READER_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "reader"
BATCH_SIZE = 16
MAX_NEW_TOKENS = 48
"""Text tokens of a reply: enough for the plan before a picture and a sentence after it."""


@dataclass(frozen=True)
class Task:
    name: str
    prompts: Sequence[Messages]
    generate: Callable[..., list[Reply]]
    """(model, prompts, seed=seeds) to replies"""
    grade: Callable[[Limner, Judge, Sequence[Reply]], tuple[list[bool], dict[str, Any]]]
    """(model, judge, replies) to which replies are right, and further figures to show beside the rate"""
    seeds: int = 1
    """How many times each prompt is in ``prompts``"""

    def generate_batch(self, model: Limner, start: int) -> list[Reply]:
        """Replies to the batch that begins at ``start``; a prompt's seed is its index."""
        chunk = list(self.prompts[start : start + BATCH_SIZE])
        return self.generate(model, chunk, seed=list(range(start, start + len(chunk))))

    def run(self, model: Limner, judge: Judge) -> Score:
        """Generate and grade all replies, without files."""
        replies = [
            reply for start in range(0, len(self.prompts), BATCH_SIZE) for reply in self.generate_batch(model, start)
        ]
        correct, extra = self.grade(model, judge, replies)
        return Score(self.name, sum(correct), len(correct), extra, self.seeds)


def with_seeds(task: Task, seeds: int) -> Task:
    """``task`` with every prompt ``seeds`` times, each time with another seed, and with the share of prompts that have at
    least one right reply."""
    count = len(task.prompts)

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        rounds = [task.grade(model, judge, replies[i * count : (i + 1) * count]) for i in range(seeds)]
        extra = {}
        for key in rounds[0][1]:
            values = [value for _, extras in rounds if (value := extras[key]) is not None]
            extra[key] = sum(values) / len(values) if values else None
        best = sum(map(any, zip(*(correct for correct, _ in rounds), strict=True))) / count
        return [g for correct, _ in rounds for g in correct], {f"best_of_{seeds}": best, **extra}

    return replace(task, prompts=[*task.prompts] * seeds, grade=grade, seeds=seeds)


def draw_batch(model: Limner, prompts: Sequence[Messages], seed: Sequence[int], steps: int | None) -> list[Reply]:
    return model.draw(
        prompts, max_new_tokens=MAX_NEW_TOKENS, height=128, width=128, num_inference_steps=steps, seed=seed
    )


def drawing_name(category: str, unseen: bool) -> str:
    return f"draw/{category}/{'held_out' if unseen else 'seen'}"


def drawing_task(category: str, unseen: bool, count: int, steps: int | None = None) -> Task:
    chosen = make_cases(category, unseen, count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        verdicts = judge.detect([reply.images[0] for reply in replies])
        good = [case.expected.matches(verdict) for case, verdict in zip(chosen, verdicts, strict=True)]
        return good, judge_accuracy(judge, chosen)

    prompts = [case.prompt for case in chosen]
    return Task(drawing_name(category, unseen), prompts, partial(draw_batch, steps=steps), grade)


def judge_accuracy(judge: Judge, chosen: Sequence[Case]) -> dict[str, Any]:
    """The judge's own accuracy on true renders of the cases, and how often it takes a near miss for right."""
    rng = random.Random(0)
    missed = [(case, render(scene)) for case in chosen for _, scene in near_misses(case, rng)]
    missed += [(case, halve(case.scene, case.scene.things[0], rng.choice(SIDES))) for case in chosen]
    return {
        "judge_accuracy": count_matches(judge, [(case, render(case.scene)) for case in chosen]) / len(chosen),
        "false_accepts": count_matches(judge, missed) / len(missed),
    }


def count_matches(judge: Judge, shown: Sequence[tuple[Case, Image.Image]]) -> int:
    """How many of the pictures are as their case expects."""
    verdicts = judge.detect([image for _, image in shown])
    return sum(case.expected.matches(verdict) for (case, _), verdict in zip(shown, verdicts, strict=True))


def editing_task(kind: str, count: int, steps: int | None = None) -> Task:
    """Edits of one kind: right if the judge sees the change. Beside it stands the PSNR in dB of the pixels that must stay, and of
    the autoencoder's reconstruction of them, its upper bound."""
    rng = random.Random(f"edit/{kind}")
    changes: list[Edit] = []
    while len(changes) < count:
        change = seen_edit(rng, kind)
        if (change.before.height, change.before.width) == (128, 128):
            changes.append(change)

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        verdicts = judge.detect([reply.images[0] for reply in replies])
        good = [matches_edit(change, verdict) for change, verdict in zip(changes, verdicts, strict=True)]
        quality, ceiling = [], []
        for change, reply in zip(changes, replies, strict=True):
            mask, before = unchanged_pixels(change), np.array(render(change.before))
            if mask.any():
                quality.append(psnr(np.asarray(reply.images[0]), before, mask))
                ceiling.append(psnr(reconstruct(model, before), before, mask))
        true = judge.detect([render(change.after) for change in changes])
        truth = sum(matches_edit(change, verdict) for change, verdict in zip(changes, true, strict=True))
        rest_mean, ceiling_mean = (float(np.mean(values)) if values else None for values in (quality, ceiling))
        return good, {"psnr_of_the_rest": rest_mean, "autoencoder_alone": ceiling_mean, "judge_accuracy": truth / count}

    prompts = [image_prompt(render(change.before), change.instruction) for change in changes]
    return Task(f"edit/{kind}", prompts, partial(draw_batch, steps=steps), grade)


def matches_edit(change: Edit, verdict: Verdict) -> bool:
    if change.kind == "background" and verdict.background != change.after.background:
        return False
    if not Expected(tuple((t.name, t.color) for t in change.after.things)).matches(verdict):
        return False
    if change.kind == "move":
        target, found = change.after.things[0], verdict.detections[0]
        return abs(found.x - target.x) < 0.12 and abs(found.y - target.y) < 0.12
    return True


def unchanged_pixels(change: Edit) -> np.ndarray:
    """Mask (height, width, 1) of the pixels that an edit must not change: those equal in both true pictures."""
    before, after = (np.asarray(render(s), dtype=np.int16) for s in (change.before, change.after))
    return (np.abs(before - after).max(-1) == 0)[..., None]


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """In dB, over the pixels where ``mask`` (height, width, 1) is True."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2 * mask).sum() / max(1, mask.sum() * a.shape[-1])
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def reconstruct(model: Limner, pixels: np.ndarray) -> np.ndarray:
    """8-bit pixels (height, width, 3), encoded and decoded by the model's autoencoder: no drawing can be closer to them."""
    vae = model.detokenizer.autoencoder
    with torch.inference_mode():
        given = to_pixels(torch.from_numpy(pixels)[None]).to(next(vae.parameters()))
        return to_uint8(vae.decode(vae.encode(given)))[0].cpu().numpy()


def image_prompt(image: Image.Image, words: str) -> Messages:
    return [{"role": "user", "content": [talk.image(image), talk.text(words)]}]


def text_batch(model: Limner, prompts: Sequence[Messages], seed: Sequence[int], words: int) -> list[Reply]:
    return model.generate(prompts, images="never", max_new_tokens=words, seed=seed)


def describing_task(count: int) -> Task:
    """Captions: right if every object with its colour and count, the relation and the background are."""
    rng = random.Random("describe")
    scenes = [sampling.any_scene(rng) for _ in range(count)]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        claims = [(read_caption(reply.text), facts(scene)) for scene, reply in zip(scenes, replies, strict=True)]
        objects = sum(claim.counts == true.counts for claim, true in claims)
        return [claim == true for claim, true in claims], {"objects_and_colours": objects / count}

    prompts = [image_prompt(render(scene), rng.choice(talk.DESCRIBE)) for scene in scenes]
    return Task("describe", prompts, partial(text_batch, words=MAX_NEW_TOKENS), grade)


def answering_task(count: int) -> Task:
    rng = random.Random("answer")
    prompts, answers = [], []
    for _ in range(count):
        scene = sampling.any_scene(rng)
        question, generate = talk.question(rng, scene)
        prompts.append(image_prompt(render(scene), question))
        answers.append(generate)

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        return [reply.text.strip() == generate for generate, reply in zip(answers, replies, strict=True)], {}

    return Task("answer", prompts, partial(text_batch, words=24), grade)


def one_step_batch(model: Limner, prompts: Sequence[Messages], seed: Sequence[int]) -> list[Reply]:
    """Replies with one-step pictures, for tasks that look only at whether a picture is drawn, and at its shape."""
    return model.generate(
        prompts, max_images=1, max_new_tokens=MAX_NEW_TOKENS, num_inference_steps=1, guidance_scale=1.0, seed=seed
    )


def deciding_task(count: int) -> Task:
    """Right if the model draws when a known object is requested, and does not otherwise (talk, questions, unknown objects)."""
    rng = random.Random("decide")
    prompts, wants = [], []
    for index in range(count):
        if index % 2 == 0:
            example = talk.draw(rng)
        else:
            make = rng.choice((talk.describe, talk.answer, talk.small_talk, None))
            example = make(rng) if make else talk.refuse(rng, UNKNOWN[-10:], made_up=0)
        prompts.append(messages.rendered(example.messages[:1]))
        wants.append(index % 2 == 0)

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        good = [bool(reply.images) == should for should, reply in zip(wants, replies, strict=True)]

        def share(wanted: bool) -> float | None:
            chosen = [g for g, should in zip(good, wants, strict=True) if should == wanted]
            return sum(chosen) / len(chosen) if chosen else None

        return good, {"draws": share(True), "keeps_silent": share(False)}

    return Task("decide", prompts, one_step_batch, grade)


def sign_task(lengths: Sequence[int], count: int, steps: int | None = None) -> Task:
    """Signs with held-out words of these lengths: right if the reader reads the word."""
    rng = random.Random(f"signs/{lengths}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = replace(signs.sign_scene(rng, held_out=True), height=128, width=128)
        if len(scene.things[0].words) in lengths:
            scenes.append(scene)
    words = [scene.things[0].words for scene in scenes]
    prompts = [
        f'draw {with_article(f"{s.things[0].color} {s.things[0].name}")} that says "{s.things[0].words}"'
        for s in scenes
    ]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        reader = Reader.from_pretrained(READER_FOLDER)
        spelled = reader.read([reply.images[0] for reply in replies])
        true = reader.read([render(scene) for scene in scenes])
        letters = sum(sum(x == y for x, y in zip(a, b, strict=False)) for a, b in zip(spelled, words, strict=True))
        return [a == b for a, b in zip(spelled, words, strict=True)], {
            "letters": letters / sum(map(len, words)),
            "reader_accuracy": sum(a == b for a, b in zip(true, words, strict=True)) / count,
        }

    return Task(f"sign/{min(lengths)}-{max(lengths)}", prompts, partial(draw_batch, steps=steps), grade)


def composing_task(count: int, steps: int | None = None) -> Task:
    """Two pictures combined in one: right if both objects have their colours and positions."""
    rng = random.Random("compose")
    scenes = [compose.pair(rng) for _ in range(count)]
    prompts = []
    for scene in scenes:
        a, b = scene.things
        words = f"put the {a.name} {relation(a, b)} the {b.name} {BACKGROUND_PHRASES[scene.background]}"
        content = [messages.image(render(s)) for s in compose.separate_scenes(rng, scene)]
        prompts.append([{"role": "user", "content": [*content, messages.text(words)]}])

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        verdicts = judge.detect([reply.images[0] for reply in replies])
        wanted = [Expected(tuple((t.name, t.color) for t in s.things), relation(*s.things)) for s in scenes]
        return [w.matches(verdict) for w, verdict in zip(wanted, verdicts, strict=True)], {}

    return Task("compose", prompts, partial(draw_batch, steps=steps), grade)


POSITION_TOLERANCE = 0.1
"""How far an object may be from its place in the control picture, as a fraction of the picture's side."""


def control_task(count: int, steps: int | None = None) -> Task:
    """Drawings from edges, a silhouette, a sketch or a depth map: right if all objects are there, each in its place."""
    rng = random.Random("control")
    scenes = [replace(sampling.any_scene(rng), height=128, width=128) for _ in range(count)]
    prompts = []
    for index, scene in enumerate(scenes):
        shape = render(replace(scene, style=CONTROLS[index % len(CONTROLS)]))
        prompts.append(image_prompt(shape, f"{noun_phrase(scene, Detail())} like this"))

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        good = []
        for scene, verdict in zip(scenes, judge.detect([reply.images[0] for reply in replies]), strict=True):
            wanted = Expected(tuple((t.name, t.color) for t in scene.things))
            placed = all(
                any(
                    d.name == t.name and max(abs(d.x - t.x), abs(d.y - t.y)) < POSITION_TOLERANCE
                    for d in verdict.detections
                )
                for t in scene.things
            )
            good.append(wanted.matches(verdict) and placed)
        kinds = {kind: good[index :: len(CONTROLS)] for index, kind in enumerate(CONTROLS)}
        return good, {kind: sum(share) / len(share) for kind, share in kinds.items() if share}

    return Task("control", prompts, partial(draw_batch, steps=steps), grade)


def inpainting_task(count: int, steps: int | None = None) -> Task:
    """Inpainting: right if the masked object is drawn in its colour. Beside it stands the PSNR in dB of the unmasked pixels, and
    of the autoencoder's reconstruction of them."""
    rng = random.Random("fill")
    scenes = [replace(sampling.any_scene(rng), height=128, width=128) for _ in range(count)]
    covered = [compose.mask_thing(rng, scene) for scene in scenes]
    things = [compose.masked_thing(scene) for scene in covered]
    words = [f"fill the grey part with {with_article(f'{t.color} {t.name}')}" for t in things]

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        verdicts = judge.detect([reply.images[0] for reply in replies])
        good, rest, most = [], [], []
        for scene, hole, reply, verdict in zip(scenes, covered, replies, verdicts, strict=True):
            good.append(Expected(tuple((t.name, t.color) for t in scene.things)).matches(verdict))
            true = np.array(render(scene))
            mask = (np.array(render(hole)) == true).all(-1, keepdims=True)
            rest.append(psnr(np.asarray(reply.images[0]), true, mask))
            most.append(psnr(reconstruct(model, true), true, mask))
        return good, {"psnr_of_the_rest": float(np.mean(rest)), "autoencoder_alone": float(np.mean(most))}

    prompts = [image_prompt(render(scene), request) for scene, request in zip(covered, words, strict=True)]
    return Task("fill", prompts, partial(draw_batch, steps=steps), grade)


def story_task(count: int, steps: int | None = None) -> Task:
    """Stories in four pictures: right if there are four and the character is in each."""
    rng = random.Random("stories")
    heroes = [sampling.allowed_scene(lambda: sampling.single(rng)).things[0] for _ in range(count)]
    prompts = [f"tell me a story about {with_article(f'{h.color} {h.name}')} in four pictures" for h in heroes]

    def generate(model: Limner, prompts: Sequence[Messages], seed: Sequence[int]) -> list[Reply]:
        # one more than requested, to see whether it stops
        return model.generate(
            prompts, max_images=5, max_new_tokens=5 * MAX_NEW_TOKENS, num_inference_steps=steps, seed=seed
        )

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        good, shown = [], 0
        for hero, reply in zip(heroes, replies, strict=True):
            verdicts = judge.detect(reply.images[:4])
            there = [any((d.name, d.color) == (hero.name, hero.color) for d in v.detections) for v in verdicts]
            good.append(len(reply.images) == 4 == sum(there))
            shown += sum(there)
        return good, {"pictures_with_the_character": shown / (4 * count)}

    return Task("story", prompts, generate, grade)


def handwritten_task(task: str | None, limit: int, steps: int | None = None, language: str = "english") -> Task:
    """Requests that a person wrote (not templates of the world), of one task or of all."""
    chosen = [r for r in requests.load_requests() if task in (None, r.task) and r.language == language][: limit or None]

    def generate(model: Limner, prompts: Sequence[Messages], seed: Sequence[int]) -> list[Reply]:
        # it decides by itself whether to draw
        return model.generate(
            prompts, max_images=1, max_new_tokens=MAX_NEW_TOKENS, num_inference_steps=steps, seed=seed
        )

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> tuple[list[bool], dict[str, Any]]:
        return [request.matches(reply, judge) for request, reply in zip(chosen, replies, strict=True)], {}

    return Task(f"by hand/{task or language}", [request.messages() for request in chosen], generate, grade)
