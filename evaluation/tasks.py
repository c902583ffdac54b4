"""Tasks of `limner eval world`: prompts, how replies are generated, and how they are graded.

Drawing in GenEval's categories, editing, describing, answering, deciding when to draw, and requests written by hand.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..inference.inputs import Messages
from ..inference.kept_pixels import reconstructed
from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import composing as compose
from ..world import messages, sampling, signs
from ..world.edits import Edit, seen_edit
from ..world.held_out import relation
from ..world.language import groups
from ..world.languages import ENGLISH
from ..world.pen import CONTROLS
from ..world.questions import question
from ..world.scene import Scene, Thing, render
from ..world.words import BACKGROUND_PHRASES, Detail, facts, noun_phrase, read_caption, with_article
from . import requests
from .geneval_cases import SIDES, Case, Expected, halve, make_cases, near_misses
from .judge import Judge, Verdict
from .ocr import load_ocr, read_letters
from .reader import Reader
from .scores import Score, share

DECIDE_FILE = Path(__file__).resolve().parent / "decide.jsonl"
ASKING = ENGLISH.with_names(sampling.GENEVAL_NAMES)
"""The language of the requests: they stay what they were before the world had more objects than GenEval."""
READER_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "reader"
BATCH_SIZE = 16
MOVE_TOLERANCE, CONTROL_TOLERANCE = 0.12, 0.1
"""How far an object may be from where it was to be moved, or from its place in the control picture, as a fraction of the
picture's side"""
MAX_NEW_TOKENS = 48
"""Text tokens of a reply: enough for the plan before a picture and a sentence after it."""


Grades = tuple[list[bool], dict[str, Any]]
"""Which replies are right, and further figures to show beside the rate"""


@dataclass(frozen=True)
class Task:
    name: str
    prompts: Sequence[Messages]
    generate: Callable[..., Any]
    """(model, prompts, seed=seeds) to a list of replies"""
    grade: Callable[[Limner, Judge, Sequence[Reply]], Grades]
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

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        rounds = [task.grade(model, judge, replies[i * count : (i + 1) * count]) for i in range(seeds)]
        extra = {}
        for key in rounds[0][1]:
            values = [value for _, extras in rounds if (value := extras[key]) is not None]
            extra[key] = sum(values) / len(values) if values else None
        best = sum(map(any, zip(*(correct for correct, _ in rounds), strict=True))) / count
        return [g for correct, _ in rounds for g in correct], {f"best_of_{seeds}": best, **extra}

    return replace(task, prompts=[*task.prompts] * seeds, grade=grade, seeds=seeds)


def drawing(steps: int | None) -> Callable[..., Any]:
    """`Task.generate` that draws pictures of 128 x 128."""
    return partial(Limner.draw, max_new_tokens=MAX_NEW_TOKENS, height=128, width=128, num_inference_steps=steps)


def deciding(max_images: int, steps: int | None) -> Callable[..., Any]:
    """`Task.generate` that leaves it to the model whether it draws, at most so many pictures."""
    tokens = max_images * MAX_NEW_TOKENS
    return partial(Limner.generate, max_images=max_images, max_new_tokens=tokens, num_inference_steps=steps)


def writing(tokens: int) -> Callable[..., Any]:
    """`Task.generate` without pictures."""
    return partial(Limner.generate, images="never", max_new_tokens=tokens)


def deciding_in_one_step() -> Callable[..., Any]:
    """`Task.generate` for tasks that look only at whether a picture is drawn, and at its shape."""
    return partial(deciding(1, 1), guidance_scale=1.0)


def each_reply(matches: Callable[[Any, Reply], bool], expected: Sequence[Any]) -> Callable[..., Grades]:
    """`Task.grade` that compares each reply with what is expected of it."""

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> Grades:
        return [matches(wanted, reply) for wanted, reply in zip(expected, replies, strict=True)], {}

    return grade


def each_picture(expected: Sequence[Expected]) -> Callable[..., Grades]:
    """`Task.grade` by what the judge sees in each reply's picture."""
    return lambda _, judge, replies: (judge_pictures(judge, expected, first_images(replies)), {})


def first_images(replies: Sequence[Reply]) -> list[Image.Image]:
    return [reply.images[0] for reply in replies]


def judge_pictures(judge: Judge, expected: Sequence[Expected], images: Sequence[Image.Image]) -> list[bool]:
    """Which pictures show what is expected of them."""
    return [wanted.matches(verdict) for wanted, verdict in zip(expected, judge.detect(images), strict=True)]


def drawing_name(category: str, unseen: bool) -> str:
    return f"draw/{category}/{'held_out' if unseen else 'seen'}"


def drawing_task(category: str, unseen: bool, count: int, steps: int | None = None) -> Task:
    chosen = make_cases(category, unseen, count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        good = judge_pictures(judge, [case.expected for case in chosen], first_images(replies))
        return good, judge_accuracy(judge, chosen)

    return Task(drawing_name(category, unseen), [case.prompt for case in chosen], drawing(steps), grade)


def judge_accuracy(judge: Judge, chosen: Sequence[Case]) -> dict[str, Any]:
    """The judge's own accuracy on true renders of the cases, and how often it takes a near miss for right."""
    rng = random.Random(0)
    missed = [(case, render(scene)) for case in chosen for _, scene in near_misses(case, rng)]
    missed += [(case, halve(case.scene, case.scene.things[0], rng.choice(SIDES))) for case in chosen]
    true = [(case, render(case.scene)) for case in chosen]
    right, wrong = (
        sum(judge_pictures(judge, [case.expected for case, _ in shown], [image for _, image in shown])) / len(shown)
        for shown in (true, missed)
    )
    return {"judge_accuracy": right, "false_accepts": wrong}


def editing_task(kind: str, count: int, steps: int | None = None) -> Task:
    """Edits of one kind: right if the judge sees the change. Beside it stands the PSNR in dB of the pixels that must stay, and of
    the autoencoder's reconstruction of them, its upper bound."""
    rng = random.Random(f"edit/{kind}")
    changes: list[Edit] = []
    while len(changes) < count:
        change = seen_edit(rng, kind, language=ASKING)
        if (change.before.height, change.before.width) == (128, 128):
            changes.append(change)

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        good, true = (
            [matches_edit(change, verdict) for change, verdict in zip(changes, judge.detect(images), strict=True)]
            for images in (first_images(replies), [render(change.after) for change in changes])
        )
        rest = psnr_of_the_rest(model, replies, [(change.before, change.after) for change in changes])
        return good, {**rest, "judge_accuracy": sum(true) / count}

    prompts = [image_prompt(render(change.before), change.instruction) for change in changes]
    return Task(f"edit/{kind}", prompts, drawing(steps), grade)


def matches_edit(change: Edit, verdict: Verdict) -> bool:
    placed = change.kind != "move" or is_in_place(change.after.things[0], verdict, MOVE_TOLERANCE)
    on_ground = change.kind != "background" or verdict.background == change.after.background
    return placed and on_ground and Expected.of(change.after).matches(verdict)


def is_in_place(thing: Thing, verdict: Verdict, tolerance: float) -> bool:
    """Whether an object of this name is seen within ``tolerance`` of the thing's centre."""
    return any(
        d.name == thing.name and max(abs(d.x - thing.x), abs(d.y - thing.y)) < tolerance for d in verdict.detections
    )


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """In dB, over the pixels where ``mask`` (height, width, 1) is True."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2 * mask).sum() / max(1, mask.sum() * a.shape[-1])
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def reconstruct(model: Limner, pixels: np.ndarray) -> np.ndarray:
    """8-bit pixels (height, width, 3), encoded and decoded by the model's autoencoder: no drawing can be closer to them."""
    return reconstructed(torch.from_numpy(pixels)[None], model.detokenizer.autoencoder)[0].numpy()


def psnr_of_the_rest(
    model: Limner, replies: Sequence[Reply], scenes: Sequence[tuple[Scene, Scene]]
) -> dict[str, float | None]:
    """Mean PSNR in dB over the pixels that a reply must not change, and of the autoencoder's reconstruction of them.

    ``scenes`` holds two for each reply; the pixels are those in which both are equal. Replies without any are left out; both
    means are None where all are.
    """
    scores = []
    for reply, pair in zip(replies, scenes, strict=True):
        true, other = (np.array(render(scene)) for scene in pair)
        mask = (true == other).all(-1, keepdims=True)
        if mask.any():
            pictures = (np.asarray(reply.images[0]), reconstruct(model, true))
            scores.append([psnr(picture, true, mask) for picture in pictures])
    rest, most = np.mean(scores, axis=0).tolist() if scores else (None, None)
    return {"psnr_of_the_rest": rest, "autoencoder_alone": most}


def new_things_task(count: int, steps: int | None = None) -> Task:
    """Drawings of things that are not among GenEval's, alone, several of a kind or two of them, with all that a phrase says of
    them: right if the judge sees them so."""
    rng = random.Random("new things")
    names = tuple(name for name in sampling.NAMES if name not in sampling.GENEVAL_NAMES)
    scenes = [replace(sampling.any_scene(rng, names=names), height=128, width=128) for _ in range(count)]
    expected = [Expected.of(s, relation(*s.things) if len(groups(s)) == 2 else None) for s in scenes]

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        true = judge_pictures(judge, expected, [render(scene) for scene in scenes])
        return judge_pictures(judge, expected, first_images(replies)), {"judge_accuracy": sum(true) / count}

    prompts = [f"draw {noun_phrase(scene, Detail())}" for scene in scenes]
    return Task("draw/new_things", prompts, drawing(steps), grade)


def any_scene(rng: random.Random) -> Scene:
    """A random scene of GenEval's objects that training may show."""
    return sampling.any_scene(rng, names=sampling.GENEVAL_NAMES)


def image_prompt(image: Image.Image, words: str) -> Messages:
    return [messages.user(messages.image(image), words)]


def describing_task(count: int) -> Task:
    """Captions: right if every object with its colour and count, the relation and the background are."""
    rng = random.Random("describe")
    scenes = [any_scene(rng) for _ in range(count)]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> Grades:
        claims = [(read_caption(reply.text), facts(scene)) for scene, reply in zip(scenes, replies, strict=True)]
        objects = sum(claim.counts == true.counts for claim, true in claims)
        return [claim == true for claim, true in claims], {"objects_and_colours": objects / count}

    prompts = [image_prompt(render(scene), rng.choice(ENGLISH.forms["describe.plain"])) for scene in scenes]
    return Task("describe", prompts, writing(MAX_NEW_TOKENS), grade)


def answering_task(count: int) -> Task:
    rng = random.Random("answer")
    prompts, answers = [], []
    for _ in range(count):
        scene = any_scene(rng)
        asked, answer = question(rng, scene, ASKING)
        prompts.append(image_prompt(render(scene), asked))
        answers.append(answer)
    grade = each_reply(lambda answer, reply: reply.text.strip() == answer, answers)
    return Task("answer", prompts, writing(24), grade)


def deciding_task(count: int) -> Task:
    """Right if the model draws when a known object is requested, and does not otherwise (talk, questions, unknown objects).

    The requests, a request to draw and another in turn, are those of ``decide.jsonl``, 500 at most: they stay the same
    whatever the world learns to say.
    """
    lines = DECIDE_FILE.read_text(encoding="utf-8").splitlines()[:count]
    prompts = [[messages.user(*map(_decide_part, json.loads(line)))] for line in lines]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> Grades:
        good = [bool(reply.images) == (index % 2 == 0) for index, reply in enumerate(replies)]
        return good, {"draws": share(good[::2]), "keeps_silent": share(good[1::2])}

    return Task("decide", prompts, deciding_in_one_step(), grade)


def _decide_part(part: str | dict[str, Any]) -> str | dict[str, Any]:
    """Words, or the picture of a scene."""
    if isinstance(part, str):
        return part
    return messages.image(render(Scene(**{**part, "things": tuple(Thing(*thing) for thing in part["things"])})))


def sign_task(lengths: Sequence[int], count: int, steps: int | None = None, ocr: bool = False) -> Task:
    """Signs with held-out words of these lengths: right if the reader reads the word. With ``ocr`` the share stands beside it in
    which an OCR of others reads it, too."""
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

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> Grades:
        reader = Reader.from_pretrained(READER_FOLDER)
        spelled, true = reader.read(first_images(replies)), reader.read([render(scene) for scene in scenes])
        letters = sum(sum(x == y for x, y in zip(a, b, strict=False)) for a, b in zip(spelled, words, strict=True))
        good, seen = ([a == b for a, b in zip(read, words, strict=True)] for read in (spelled, true))
        extra = {"letters": letters / sum(map(len, words)), "reader_accuracy": sum(seen) / count}
        if ocr:
            engine = load_ocr()
            for name, images in (("ocr", first_images(replies)), ("ocr_accuracy", [render(s) for s in scenes])):
                read = read_letters(engine, images)
                extra[name] = sum(a == b for a, b in zip(read, words, strict=True)) / count
        return good, extra

    return Task(f"sign/{min(lengths)}-{max(lengths)}", prompts, drawing(steps), grade)


def composing_task(count: int, steps: int | None = None) -> Task:
    """Two pictures combined in one: right if both objects have their colours and positions."""
    rng = random.Random("compose")
    scenes = [compose.pair(rng, sampling.GENEVAL_NAMES) for _ in range(count)]
    prompts = []
    for scene in scenes:
        a, b = scene.things
        words = f"put the {a.name} {relation(a, b)} the {b.name} {BACKGROUND_PHRASES[scene.background]}"
        pictures = [messages.image(render(alone)) for alone in compose.separate_scenes(rng, scene)]
        prompts.append([messages.user(*pictures, words)])
    grade = each_picture([Expected.of(scene, relation(*scene.things)) for scene in scenes])
    return Task("compose", prompts, drawing(steps), grade)


def control_task(count: int, steps: int | None = None) -> Task:
    """Drawings from edges, a silhouette, a sketch or a depth map: right if all objects are there, each in its place."""
    rng = random.Random("control")
    scenes = [replace(any_scene(rng), height=128, width=128) for _ in range(count)]
    prompts = []
    for index, scene in enumerate(scenes):
        shape = render(replace(scene, style=CONTROLS[index % len(CONTROLS)]))
        prompts.append(image_prompt(shape, f"{noun_phrase(scene, Detail())} like this"))

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        good = [
            Expected.of(scene).matches(verdict)
            and all(is_in_place(thing, verdict, CONTROL_TOLERANCE) for thing in scene.things)
            for scene, verdict in zip(scenes, judge.detect(first_images(replies)), strict=True)
        ]
        kinds = {kind: good[index :: len(CONTROLS)] for index, kind in enumerate(CONTROLS)}
        return good, {kind: share(right) for kind, right in kinds.items() if right}

    return Task("control", prompts, drawing(steps), grade)


def inpainting_task(count: int, steps: int | None = None) -> Task:
    """Inpainting: right if the masked object is drawn in its colour. Beside it stands the PSNR in dB of the unmasked pixels, and
    of the autoencoder's reconstruction of them."""
    rng = random.Random("fill")
    scenes = [replace(any_scene(rng), height=128, width=128) for _ in range(count)]
    covered = [compose.mask_thing(rng, scene) for scene in scenes]
    things = [compose.masked_thing(scene) for scene in covered]
    words = [f"fill the grey part with {with_article(f'{t.color} {t.name}')}" for t in things]

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        good = judge_pictures(judge, [Expected.of(scene) for scene in scenes], first_images(replies))
        return good, psnr_of_the_rest(model, replies, list(zip(scenes, covered, strict=True)))

    prompts = [image_prompt(render(scene), request) for scene, request in zip(covered, words, strict=True)]
    return Task("fill", prompts, drawing(steps), grade)


def handwritten_task(task: str | None, limit: int, steps: int | None = None, language: str = "english") -> Task:
    """Requests that a person wrote (not templates of the world), of one task or of all."""
    chosen = [r for r in requests.load_requests() if task in (None, r.task) and r.language == language][: limit or None]

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        return [request.matches(reply, judge) for request, reply in zip(chosen, replies, strict=True)], {}

    return Task(f"by hand/{task or language}", [request.messages() for request in chosen], deciding(1, steps), grade)
