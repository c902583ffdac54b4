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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..inference.adapters import digest
from ..inference.model import Limner
from ..inference.output import write_text
from ..world import held_out, sampling
from ..world.scene import Scene, Thing, render
from .geneval_cases import CATEGORIES
from .judge import Detection, Judge, Verdict
from .scores import Score
from .sheet import save_sheet
from .tasks import BATCH_SIZE, MAX_NEW_TOKENS
from .world import JUDGE_FOLDER, check_part, check_same_model

SAMPLES_PER_PROMPT = 4
"""Pictures a prompt, with seeds 0 to 3"""


@dataclass(frozen=True)
class Prompt:
    number: int
    metadata: dict[str, Any]
    """GenEval's own: tag, include, exclude, prompt"""

    @property
    def in_world(self) -> bool:
        """Whether the world, and so its judge, knows all objects of the prompt."""
        return all(thing["class"] in sampling.NAMES for thing in self.metadata["include"])

    def matches(self, verdict: Verdict) -> bool:
        """GenEval's rules: enough of each, of that colour, in that place; nothing of what is excluded; the rest is free."""
        found: list[list[Detection]] = []
        for thing in self.metadata["include"]:
            matching = [d for d in verdict.detections if d.name == thing["class"]]
            matching = [d for d in matching if thing.get("color") in (None, d.color)]
            if len(matching) < thing["count"]:
                return False
            found.append(matching)
        for thing in self.metadata.get("exclude", ()):
            if sum(d.name == thing["class"] for d in verdict.detections) >= thing["count"]:
                return False
        placed = [(i, thing["position"]) for i, thing in enumerate(self.metadata["include"]) if "position" in thing]
        return all(
            any(held_out.relation(a.thing(), b.thing()) == place for a in found[i] for b in found[other])
            for i, (place, other) in placed
        )

    def scene(self, rng: random.Random) -> Scene:
        """A scene that fulfils the prompt."""
        things, include = [], self.metadata["include"]
        if len(include) == 1:
            count = include[0]["count"]
            made = sampling.single(rng) if count == 1 else sampling.several(rng, count)
            colors = [include[0].get("color", made.things[0].color)] * count
            names = [include[0]["class"]] * count
        else:
            # the second stands in the relation to the first, which is the sampler's "first" turned about
            relation = include[1]["position"][0] if "position" in include[1] else None
            made = sampling.pair(rng, held_out.MIRROR[relation] if relation else None)
            colors = [thing.get("color", t.color) for thing, t in zip(include, made.things, strict=True)]
            names = [thing["class"] for thing in include]
        for thing, name, color in zip(made.things, names, colors, strict=True):
            things.append(Thing(name, color, thing.size, thing.x, thing.y))
        return Scene(tuple(things), made.background)


def load_prompts(limit: int = 0) -> list[Prompt]:
    """All 553, or the first ``limit`` of each category."""
    lines = (Path(held_out.__file__).parent / "geneval_prompts.jsonl").read_text().splitlines()
    chosen, counts = [], dict.fromkeys(CATEGORIES, 0)
    for number, line in enumerate(lines):
        about = json.loads(line)
        counts[about["tag"]] += 1
        if not limit or counts[about["tag"]] <= limit:
            chosen.append(Prompt(number, about))
    return chosen


def draw_pictures(model: Limner, output: Path, chosen: Sequence[Prompt], steps: int | None) -> None:
    """Every picture that is not there yet: an interrupted run goes on, several runs share the work by ``--part``."""
    missing = []
    for prompt in chosen:
        folder = output / f"{prompt.number:05d}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        write_text(folder / "metadata.jsonl", json.dumps(prompt.metadata) + "\n")
        missing += [
            (prompt, seed) for seed in range(SAMPLES_PER_PROMPT) if not sample_path(output, prompt, seed).exists()
        ]
    for start in tqdm(range(0, len(missing), BATCH_SIZE), desc="drawing", leave=False, disable=None):
        chunk = missing[start : start + BATCH_SIZE]
        replies = model.draw(
            [prompt.metadata["prompt"] for prompt, _ in chunk],
            max_new_tokens=MAX_NEW_TOKENS,
            num_inference_steps=steps,
            seed=[seed for _, seed in chunk],
        )
        for (prompt, seed), reply in zip(chunk, replies, strict=True):
            path = sample_path(output, prompt, seed)
            reply.images[0].save(path.with_suffix(".part"), format="png")  # a cut run leaves no half picture behind
            path.with_suffix(".part").rename(path)


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
    index, parts = check_part(limit, part)
    judge = Judge.from_pretrained(JUDGE_FOLDER)
    check_same_model(output, model, steps)
    chosen = load_prompts(limit)
    draw_pictures(model, output, chosen[index::parts], steps)
    waiting = sum(
        not sample_path(output, prompt, seed).exists() for prompt in chosen for seed in range(SAMPLES_PER_PROMPT)
    )
    if waiting:
        print(f"{waiting} pictures are still to be drawn by other parts; scored by the run that draws the last one")
        return None
    return score(judge, output, chosen, model.name)


def score(judge: Judge, output: Path, chosen: Sequence[Prompt], name: str) -> dict[str, Any]:
    rng = random.Random("geneval")
    correct: dict[int, list[bool]] = {}
    truth: dict[int, bool] = {}
    for prompt in tqdm(chosen, desc="judging", leave=False, disable=None):
        images = [Image.open(sample_path(output, prompt, seed)) for seed in range(SAMPLES_PER_PROMPT)]
        correct[prompt.number] = (
            [prompt.matches(verdict) for verdict in judge.detect(images)]
            if prompt.in_world
            else [False] * SAMPLES_PER_PROMPT
        )
        if prompt.in_world:
            truth[prompt.number] = prompt.matches(judge.detect([render(prompt.scene(rng))])[0])
    scores, means = [], []
    for tag in CATEGORIES:
        of_tag = [prompt for prompt in chosen if prompt.metadata["tag"] == tag]
        in_world = [prompt for prompt in of_tag if prompt.in_world]
        hits = sum(sum(correct[p.number]) for p in of_tag)
        made = Score(
            tag,
            hits,
            SAMPLES_PER_PROMPT * len(of_tag),
            {
                "prompts_in_the_world": len(in_world),
                "of_these": sum(sum(correct[p.number]) for p in in_world) / (SAMPLES_PER_PROMPT * len(in_world))
                if in_world
                else None,
                "best_of_4_of_these": sum(any(correct[p.number]) for p in in_world) / len(in_world)
                if in_world
                else None,
                "judge_accuracy": sum(truth[p.number] for p in in_world) / len(in_world) if in_world else None,
            },
            SAMPLES_PER_PROMPT,
        )
        scores.append(made.row())
        means.append(scores[-1]["rate"])
    in_world = [prompt for prompt in chosen if prompt.in_world]
    results = {
        "model": name,
        "prompts": len(chosen),
        "overall": sum(means) / len(means),
        "prompts_in_the_world": len(in_world),
        "overall_in_the_world": sum(row["of_these"] or 0.0 for row in scores) / len(scores),
        "scores": scores,
        "judge": digest(judge),
        "right": {prompt.number: correct[prompt.number] for prompt in chosen},
    }
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    lines = [
        f"{'what':16} {'rate':>6}  {'95 % interval':15} {'pictures':>8}  {'in the world':>12} {'rate':>6} {'best of 4':>9} "
        f"{'judge':>6}"
    ]
    for row in scores:
        cells = [
            f"{row[k]:{w}.3f}" if row[k] is not None else " " * w
            for k, w in (("of_these", 6), ("best_of_4_of_these", 9), ("judge_accuracy", 6))
        ]
        lines.append(
            f"{row['name']:16} {row['rate']:6.3f}  {row['low']:.3f} - {row['high']:.3f}   {row['n']:8}  "
            f"{row['prompts_in_the_world']:12} {' '.join(cells)}"
        )
    lines.append(
        f"overall {results['overall']:.3f}; prompts the world has drawings for: {results['overall_in_the_world']:.3f}"
    )
    write_text(output / "table.txt", "\n".join(lines) + "\n")
    print((output / "table.txt").read_text(), end="")
    shown = in_world[:: max(1, len(in_world) // 48)][:48]
    if shown:
        save_sheet([Image.open(sample_path(output, prompt, 0)) for prompt in shown], 8, output / "sheet.png")
    write_text(output / "index.html", page_html(chosen, correct, results))
    return results


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
