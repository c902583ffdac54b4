"""``limner eval world``: drawing in GenEval's categories, describing, answering, editing, deciding when to draw."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...inference.model import Limner
from .. import pictures
from ..stages.judge import SIDES, halve
from ..world import sampling, talk
from ..world.edits import KINDS, Edit, seen_edit
from ..world.scene import render
from ..world.unknown import UNKNOWN
from ..world.words import facts, read_caption
from . import requests
from .cases import CATEGORIES, Case, Wanted, cases, has_held_out, near_misses
from .judge import Judge

FULL = 500
"""Examples a category for published figures."""
BATCH = 16
WORDS = 48
"""Text tokens of a reply: the plan before a picture and the words after it."""
JUDGE = Path(__file__).resolve().parent.parent.parent / "weights" / "judge"


@dataclass
class Score:
    name: str
    right: int
    total: int
    extra: dict[str, Any]

    def row(self) -> dict[str, Any]:
        low, high = wilson(self.right, self.total)
        rate = self.right / self.total if self.total else float("nan")
        return {"name": self.name, "rate": rate, "low": low, "high": high, "n": self.total, **self.extra}


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927)."""
    if not total:
        return float("nan"), float("nan")
    p = right / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def batches(items: Sequence[Any], label: str) -> Any:
    chunks = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
    return tqdm(chunks, desc=label, leave=False, disable=None)


def judge_on_truth(judge: Judge, chosen: Sequence[Case]) -> dict[str, Any]:
    """The judge's own accuracy on true renders of the cases, and how often it takes a near miss for right."""
    rng = random.Random(0)
    missed = [(case, render(scene)) for case in chosen for _, scene in near_misses(case, rng)]
    missed += [(case, halve(case.scene, case.scene.things[0], rng.choice(SIDES))) for case in chosen]
    return {
        "judge_accuracy": met(judge, [(case, render(case.scene)) for case in chosen]) / len(chosen),
        "false_accepts": met(judge, missed) / len(missed),
    }


def met(judge: Judge, shown: Sequence[tuple[Case, Image.Image]]) -> int:
    """How many of the pictures hold what their case wants."""
    taken = 0
    for start in range(0, len(shown), 32):
        chunk = shown[start : start + 32]
        verdicts = judge.look([image for _, image in chunk])
        taken += sum(case.wanted.met_by(verdict) for (case, _), verdict in zip(chunk, verdicts, strict=True))
    return taken


def drawing(
    model: Limner, judge: Judge, category: str, unseen: bool, count: int, steps: int | None
) -> tuple[Score, list]:
    chosen = cases(category, unseen, count)
    right, sheet = 0, []
    for chunk in batches(chosen, f"{category}{' held-out' if unseen else ''}"):
        replies = model.draw(
            [case.prompt for case in chunk], max_new_tokens=WORDS, height=128, width=128, num_inference_steps=steps,
            seed=list(range(len(sheet), len(sheet) + len(chunk))),
        )  # fmt: skip
        for case, reply in zip(chunk, replies, strict=True):
            good = case.wanted.met_by(judge.look([reply.images[0]])[0])
            right += good
            sheet.append((case.prompt, good, reply.images[0]))
    name = f"draw/{category}/{'held_out' if unseen else 'seen'}"
    return Score(name, right, len(chosen), judge_on_truth(judge, chosen)), sheet


def describing(model: Limner, count: int) -> Score:
    """All attributes right: each object with its colour and count, the relation, the background."""
    rng = random.Random("describe")
    scenes = [sampling.any_scene(rng) for _ in range(count)]
    right = objects = 0
    for chunk in batches(scenes, "describe"):
        asked = [
            [{"role": "user", "content": [talk.image(render(scene)), talk.text(rng.choice(talk.DESCRIBE))]}]
            for scene in chunk
        ]
        for scene, reply in zip(chunk, model.generate(asked, images="never", max_new_tokens=WORDS), strict=True):
            said, true = read_caption(reply.text), facts(scene)
            right += said == true
            objects += said.counts == true.counts
    return Score("describe", right, count, {"objects_and_colours": objects / count})


def answering(model: Limner, count: int) -> Score:
    rng = random.Random("answer")
    right = 0
    items = []
    for _ in range(count):
        scene = sampling.any_scene(rng)
        items.append((scene, *talk.question(rng, scene)))
    for chunk in batches(items, "answer"):
        asked = [[{"role": "user", "content": [talk.image(render(s)), talk.text(q)]}] for s, q, _ in chunk]
        replies = model.generate(asked, images="never", max_new_tokens=24)
        right += sum(reply.text.strip() == a for (_, _, a), reply in zip(chunk, replies, strict=True))
    return Score("answer", right, count, {})


def wanted_after(change: Edit) -> Wanted:
    things = change.after.things
    return Wanted(tuple((t.name, t.color) for t in things))


def kept(change: Edit) -> np.ndarray:
    """Pixels that the edit must leave alone: those equal in both true pictures."""
    before, after = (np.asarray(render(s), dtype=np.int16) for s in (change.before, change.after))
    return (np.abs(before - after).max(-1) == 0)[..., None]


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2 * mask).sum() / max(1, mask.sum() * a.shape[-1])
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def editing(model: Limner, judge: Judge, kind: str, count: int, steps: int | None) -> tuple[Score, list]:
    """Whether the change happened (as the judge sees it), and the PSNR of what should stay."""
    rng = random.Random(f"edit/{kind}")
    changes: list[Edit] = []
    while len(changes) < count:
        change = seen_edit(rng, kind)
        if (change.before.height, change.before.width) == (128, 128):
            changes.append(change)
    right, quality, sheet = 0, [], []
    for chunk in batches(changes, f"edit {kind}"):
        asked = [[{"role": "user", "content": [talk.image(render(c.before)), talk.text(c.instruction)]}] for c in chunk]
        replies = model.draw(
            asked, max_new_tokens=WORDS, height=128, width=128, num_inference_steps=steps,
            seed=list(range(len(sheet), len(sheet) + len(chunk))),
        )  # fmt: skip
        for change, reply in zip(chunk, replies, strict=True):
            verdict = judge.look([reply.images[0]])[0]
            good = after_matches(change, verdict)
            right += good
            mask = kept(change)
            if mask.any():
                before = np.asarray(render(change.before))
                quality.append(psnr(np.asarray(reply.images[0]), before, mask))
            sheet.append((change.instruction, good, reply.images[0]))
    truth = sum(after_matches(c, judge.look([render(c.after)])[0]) for c in changes)
    extra = {"psnr_of_the_rest": float(np.mean(quality)) if quality else None, "judge_accuracy": truth / count}
    return Score(f"edit/{kind}", right, count, extra), sheet


def after_matches(change: Edit, verdict: Any) -> bool:
    if change.kind == "background" and verdict.background != change.after.background:
        return False
    if not wanted_after(change).met_by(verdict):
        return False
    if change.kind == "move":
        target, found = change.after.things[0], verdict.detections[0]
        return abs(found.x - target.x) < 0.12 and abs(found.y - target.y) < 0.12
    return True


def deciding(model: Limner, count: int) -> Score:
    """Draws when asked for a picture it can draw, and only then (talk, questions, unknown things, pictures to describe)."""
    rng = random.Random("decide")
    items: list[tuple[list, bool]] = []
    for index in range(count):
        if index % 2 == 0:
            items.append((talk.rendered(talk.draw(rng).messages[:1]), True))
        else:
            make = rng.choice((talk.describe, talk.answer, talk.small_talk, None))
            example = make(rng) if make else talk.refuse(rng, UNKNOWN[-10:], made_up=0)
            items.append((talk.rendered(example.messages[:1]), False))
    right = drew = silent = 0
    for chunk in batches(items, "decide"):
        # one step a picture: only whether it begins one counts
        replies = model.generate(
            [messages for messages, _ in chunk],
            max_images=1,
            max_new_tokens=WORDS,
            num_inference_steps=1,
            guidance_scale=1.0,
        )
        for (_, should), reply in zip(chunk, replies, strict=True):
            right += bool(reply.images) == should
            drew += bool(reply.images) and should
            silent += not reply.images and not should
    wants = sum(should for _, should in items)
    return Score("decide", right, count, {"draws": drew / wants, "keeps_silent": silent / (count - wants)})


def by_hand(model: Limner, judge: Judge, task: str, limit: int, steps: int | None) -> Score:
    """Requests that a person wrote, not the world's templates."""
    chosen = [request for request in requests.requests() if request.task == task][: limit or None]
    right = requests.score(model, judge, chosen, steps, BATCH)
    return Score(f"by hand/{task}", sum(right), len(chosen), {})


def autoencoder_ceiling(model: Limner, count: int) -> float:
    """PSNR in dB of true pictures through the autoencoder: no drawing can be closer."""
    import torch

    from ...detokenizer.autoencoder import to_bytes, to_pixels

    rng = random.Random("ceiling")
    vae = model.detokenizer.autoencoder
    parameter = next(vae.parameters())
    values = []
    for _ in range(count):
        scene = sampling.any_scene(rng)
        pixels = np.array(render(scene))
        with torch.inference_mode():
            back = to_bytes(vae.decode(vae.encode(to_pixels(torch.from_numpy(pixels)[None]).to(parameter))))
        values.append(psnr(back[0].numpy(), pixels, np.ones((*pixels.shape[:2], 1), bool)))
    return float(np.mean(values))


def evaluate(model: Limner, output: Path, limit: int = 0, steps: int | None = None) -> dict[str, Any]:
    """Run everything, write ``results.json``, ``table.txt`` and ``sheet.png`` to ``output``, print the table.

    Raises ValueError for a negative limit or where the judge is missing.
    """
    if limit < 0:
        raise ValueError(f"--limit is {limit}; it must not be negative")
    judge = Judge.from_pretrained(JUDGE)
    count = limit or FULL
    output.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    scores: list[Score] = []
    shown: list[tuple[str, bool, Image.Image]] = []

    def note(score: Score, sheet: list) -> None:
        scores.append(score)
        shown.extend(sheet[:8])
        write(output, scores, shown, {})  # a cut run keeps what it has

    for category in CATEGORIES:
        for unseen in (False, True):
            if not unseen or has_held_out(category):
                note(*drawing(model, judge, category, unseen, count, steps))
    for kind in KINDS:
        note(*editing(model, judge, kind, max(1, count // 4), steps))
    for measure in (describing, answering, deciding):
        note(measure(model, count), [])
    for task in requests.TASKS:
        note(by_hand(model, judge, task, limit, steps), [])
    facts_ = {
        "model": model.name,
        "dtype": str(model.mllm.dtype).removeprefix("torch."),
        "examples": count,
        "autoencoder_psnr": autoencoder_ceiling(model, min(count, 100)),
        "minutes": (time.monotonic() - begun) / 60,
    }
    results = write(output, scores, shown, facts_)
    print((output / "table.txt").read_text(), end="")
    return results


def write(output: Path, scores: Sequence[Score], shown: Sequence, about: dict[str, Any]) -> dict[str, Any]:
    results = {**about, "scores": [score.row() for score in scores]}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [f"{'what':32} {'rate':>6}  {'95 % interval':15} {'n':>5}  beside it"]
    for row in results["scores"]:
        rest = {k: v for k, v in row.items() if k not in ("name", "rate", "low", "high", "n") and v is not None}
        beside = "  ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in rest.items())
        interval = f"{row['low']:.3f} - {row['high']:.3f}"
        lines.append(f"{row['name']:32} {row['rate']:6.3f}  {interval:15} {row['n']:5}  {beside}")
    lines += [f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}" for key, value in about.items()]
    (output / "table.txt").write_text("\n".join(lines) + "\n")
    if shown:
        pictures.sheet([framed(image, good) for _, good, image in shown], 8, output / "sheet.png")
    return results


def framed(image: Image.Image, good: bool) -> Image.Image:
    """Green where the judge agreed, red where it did not."""
    page = Image.new("RGB", (image.width + 6, image.height + 6), (40, 160, 60) if good else (220, 40, 40))
    page.paste(image, (3, 3))
    return page
