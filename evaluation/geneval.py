"""``limner eval geneval``: GenEval's 553 prompts, four pictures each, in the folders its own evaluator reads.

Ghosh et al. 2023, arXiv:2310.11513. ``OUT/00000/metadata.jsonl`` and ``OUT/00000/samples/0000.png`` … are what
``evaluate_images.py OUT`` of GenEval takes, so photos of any model can be scored there. What is drawn in the world's manner
is scored here, by the world's judge under GenEval's rules.
"""

from __future__ import annotations

import html
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..inference.adapters import digest
from ..inference.model import Limner
from ..inference.output import save_image, write_text
from ..world.scene import render
from .geneval_cases import CATEGORIES
from .geneval_prompts import Prompt, load_prompts
from .judge import Judge
from .page import write_results
from .scores import Score, share
from .tasks import BATCH_SIZE, MAX_NEW_TOKENS
from .world import JUDGE_FOLDER, check_limit, check_part, check_same_model

SAMPLES_PER_PROMPT = 4
"""Pictures a prompt, with seeds 0 to 3"""


def missing_pictures(output: Path, chosen: Sequence[Prompt]) -> list[tuple[Prompt, int]]:
    """Prompts and seeds whose picture is not there yet."""
    every = ((prompt, seed) for prompt in chosen for seed in range(SAMPLES_PER_PROMPT))
    return [(prompt, seed) for prompt, seed in every if not sample_path(output, prompt, seed).exists()]


def draw_pictures(model: Limner, output: Path, chosen: Sequence[Prompt], steps: int | None) -> None:
    """Every picture that is not there yet: an interrupted run goes on, several runs share the work by ``--part``."""
    for prompt in chosen:
        folder = output / f"{prompt.number:05d}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        write_text(folder / "metadata.jsonl", json.dumps(prompt.metadata) + "\n")
    missing = missing_pictures(output, chosen)
    for start in tqdm(range(0, len(missing), BATCH_SIZE), desc="drawing", leave=False, disable=None):
        prompts, seeds = zip(*missing[start : start + BATCH_SIZE], strict=True)
        replies = model.draw(
            [prompt.metadata["prompt"] for prompt in prompts],
            max_new_tokens=MAX_NEW_TOKENS,
            num_inference_steps=steps,
            seed=seeds,
        )
        for prompt, seed, reply in zip(prompts, seeds, replies, strict=True):
            save_image(reply.images[0], sample_path(output, prompt, seed))


def sample_path(output: Path, prompt: Prompt, seed: int) -> Path:
    return output / f"{prompt.number:05d}" / "samples" / f"{seed:04d}.png"


def evaluate(
    model: Limner, output: Path, limit: int = 0, steps: int | None = None, part: tuple[int, int] = (0, 1)
) -> dict[str, Any] | None:
    """Draw, then score once every picture is there: ``results.json``, ``table.txt``, ``sheet.png``, ``index.html``.

    ``part`` (i, n) draws every n-th prompt from the i-th on and scores nothing while others still draw; returns None then.
    Raises ValueError for a negative limit, a part that is none, a folder with another model's pictures or other settings, or
    where the judge is missing.
    """
    index, parts = check_part(part)
    check_limit(limit)
    judge = Judge.from_pretrained(JUDGE_FOLDER)
    check_same_model(output, model, steps)
    chosen = load_prompts(limit)
    draw_pictures(model, output, chosen[index::parts], steps)
    if waiting := len(missing_pictures(output, chosen)):
        print(f"{waiting} pictures are still to be drawn by other parts; scored by the run that draws the last one")
        return None
    return score(judge, output, chosen, model.name)


def score(judge: Judge, output: Path, chosen: Sequence[Prompt], name: str) -> dict[str, Any]:
    rng = random.Random("geneval")
    correct = {prompt.number: [False] * SAMPLES_PER_PROMPT for prompt in chosen}
    truth: dict[int, bool] = {}
    in_world = [prompt for prompt in chosen if prompt.in_world]
    for prompt in tqdm(in_world, desc="judging", leave=False, disable=None):
        images = [Image.open(sample_path(output, prompt, seed)) for seed in range(SAMPLES_PER_PROMPT)]
        correct[prompt.number] = [prompt.matches(verdict) for verdict in judge.detect(images)]
        truth[prompt.number] = prompt.matches(judge.detect([render(prompt.scene(rng))])[0])
    scores = []
    for tag in CATEGORIES:
        numbers = [prompt.number for prompt in chosen if prompt.metadata["tag"] == tag]
        known = [number for number in numbers if number in truth]
        extra = {
            "prompts_in_the_world": len(known),
            "of_these": share([right for number in known for right in correct[number]]),
            "best_of_4_of_these": share([any(correct[number]) for number in known]),
            "judge_accuracy": share([truth[number] for number in known]),
        }
        right = sum(sum(correct[number]) for number in numbers)
        scores.append(Score(tag, right, SAMPLES_PER_PROMPT * len(numbers), extra, SAMPLES_PER_PROMPT).row())
    results = {
        "model": name,
        "prompts": len(chosen),
        "overall": sum(row["rate"] for row in scores) / len(scores),
        "prompts_in_the_world": len(in_world),
        "overall_in_the_world": sum(row["of_these"] or 0.0 for row in scores) / len(scores),
        "scores": scores,
        "judge": digest(judge),
        "right": correct,
    }
    shown = in_world[:: max(1, len(in_world) // 48)][:48]
    shots = [Image.open(sample_path(output, prompt, 0)) for prompt in shown]
    write_results(output, results, format_table(results), shots, page_html(chosen, correct, results))
    return results


def format_table(results: dict[str, Any]) -> str:
    """The categories' rates, a line each, and their means."""
    lines = [
        f"{'what':16} {'rate':>6}  {'95 % interval':15} {'pictures':>8}  {'in the world':>12} {'rate':>6} {'best of 4':>9} "
        f"{'judge':>6}"
    ]
    for row in results["scores"]:
        cells = [
            f"{row[k]:{w}.3f}" if row[k] is not None else " " * w
            for k, w in (("of_these", 6), ("best_of_4_of_these", 9), ("judge_accuracy", 6))
        ]
        lines.append(
            f"{row['name']:16} {row['rate']:6.3f}  {row['low']:.3f} - {row['high']:.3f}   {row['n']:8}  "
            f"{row['prompts_in_the_world']:12} {' '.join(cells)}"
        )
    overall = (
        f"overall {results['overall']:.3f}; prompts the world has drawings for: {results['overall_in_the_world']:.3f}"
    )
    return "\n".join([*lines, overall]) + "\n"


def page_html(chosen: Sequence[Prompt], correct: dict[int, list[bool]], results: dict[str, Any]) -> str:
    """An HTML page: every prompt with its four pictures, in frames by the judge's verdict."""
    rows = []
    for prompt in chosen:
        shots = "".join(
            f'<img class="{"right" if good else "wrong"}" src="{prompt.number:05d}/samples/{seed:04d}.png" loading="lazy">'
            for seed, good in enumerate(correct[prompt.number])
        )
        beyond = "" if prompt.in_world else " <small>(not in the world)</small>"
        rows.append(f"<section><p>{html.escape(prompt.metadata['prompt'])}{beyond}</p>{shots}</section>")
    style = (
        "body{font-family:sans-serif;margin:2em}section{display:inline-block;margin:.6em;width:290px;vertical-align:top}"
        "img{width:66px;margin:1px;border:2px solid}.right{border-color:#2a2}.wrong{border-color:#d33}p{margin:.2em 0}"
    )
    title = f"{html.escape(results['model'])} on GenEval: {results['overall']:.3f}"
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style><h1>{title}</h1>{"".join(rows)}\n'
