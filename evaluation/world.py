"""``limner eval world``: drawing in GenEval's categories, describing, answering, editing, deciding when to draw."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..inference.adapters import digest
from ..inference.model import Limner
from ..inference.output import check_folder, write_text
from ..world import sampling
from ..world.languages import ENGLISH
from ..world.scene import render
from . import saved_replies
from .compare import paired_interval
from .judge import Judge
from .ocr import load_ocr
from .page import SHEET_COLUMNS, Section, page_html, write_results
from .scores import Score, format_row, format_table
from .task_list import all_tasks
from .tasks import Task, psnr, reconstruct

DEFAULT_COUNT = 500
"""Examples of each category, if no limit is given."""
JUDGE_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "judge"
PAIRED = "draw/paired"
"""Beginning of the names of tasks that ask for the same in every language"""
SHOWN = ("draw/", "edit/", "ladder/", "reconstruct/")
"""Prefixes of the names of tasks whose first pictures are on the sheet"""
SETTINGS_FILE = "of.json"
"""File with the model and the settings of the replies in a folder."""


def evaluate(
    model: Limner,
    output: Path,
    limit: int = 0,
    steps: int | None = None,
    part: tuple[int, int] = (0, 1),
    seeds: int = 1,
    only: Sequence[str] = (),
    ocr: bool = False,
) -> dict[str, Any] | None:
    """Run all tasks, write ``results.json``, ``table.txt``, ``sheet.png`` and ``index.html``, and print the table.

    Replies of this model that ``output`` already has are not generated again. ``part`` (i, n) runs every n-th task from the
    i-th on, and returns None while other parts are unfinished. With several ``seeds`` every drawing and edit is made so many
    times, and the share of prompts with a right one stands beside the mean. ``only`` are prefixes of the names of tasks to
    run. With ``ocr`` an OCR reads the signs beside the reader. Raises ValueError for a negative limit, an impossible part, no
    seed, a prefix that no task has, a folder with replies of another model or other settings, and if the judge or the OCR is
    missing.
    """
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; it must be at least 1")
    count = check_limit(limit) or DEFAULT_COUNT
    if ocr:
        load_ocr()  # what is missing is said before anything is drawn
    settings = {"seeds": seeds if seeds > 1 else None, "examples": count}
    return evaluate_tasks(
        model, output, all_tasks(count, limit, steps, seeds, ocr), settings, "the drawn world", steps, part, only, ocr
    )


def evaluate_tasks(
    model: Limner,
    output: Path,
    tasks: dict[str, Callable[[], Task]],
    settings: dict[str, Any],
    title: str,
    steps: int | None,
    part: tuple[int, int],
    only: Sequence[str],
    ocr: bool = False,
) -> dict[str, Any] | None:
    """Run these tasks, with the files, arguments and errors of `evaluate`; ``settings`` are what the replies depend on beside the
    model and its steps, ``title`` is that of the page, and with ``ocr`` signs that were graded without are graded again."""
    index, parts = check_part(part)
    judge = Judge.from_pretrained(JUDGE_FOLDER)
    named = select_by_prefix(tasks, only)
    about = model_info(model) | settings
    check_same_model(output, model, steps, about)
    about = {key: value for key, value in about.items() if value is not None}
    fingerprint = digest(judge)
    for name, make_task in list(named.items())[index::parts]:
        folder = output / task_folder(name)
        found = load_score(folder, fingerprint)
        if found is None or (ocr and name.startswith("sign/") and "ocr" not in found["extra"]):
            task = make_task()
            lines = saved_replies.generate_replies(model, task, folder)
            correct, extra = task.grade(model, judge, [saved_replies.to_reply(answer, folder) for answer in lines])
            found = {"judge": fingerprint, "right": [bool(r) for r in correct], "extra": extra, "seeds": task.seeds}
            write_text(folder / "score.json", json.dumps(found) + "\n")
        print(format_row(to_score(name, found).row()), flush=True)
    done = {name: found for name in named if (found := load_score(output / task_folder(name), fingerprint))}
    if len(done) < len(named):
        print(f"{len(named) - len(done)} tasks are still to be done by other parts; the last one writes the table")
        return None
    chapters = [
        Section(
            to_score(n, f).row() | beside_english(n, done),
            task_folder(n),
            saved_replies.load_replies(output / task_folder(n)),
            f["right"],
        )
        for n, f in done.items()
    ]
    about["autoencoder_psnr"] = autoencoder_psnr(model, min(about["examples"], 100))
    about["minutes"] = sum(answer["seconds"] for chapter in chapters for answer in chapter.lines) / 60
    results = {**about, "scores": [chapter.row for chapter in chapters]}
    shots = [shot for c in chapters if c.row["name"].startswith(SHOWN) for shot in sheet_pictures(output, c)]
    page = page_html(f"{about['model']}, {title}", chapters)
    write_results(output, results, format_table(results["scores"], about), shots, page)
    return results


def beside_english(name: str, done: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of the drawing cases that every language is asked for: this language's rate less that of English, question by question,
    with its 95 % interval (`paired_interval`). Nothing for other tasks, English, and where English was not asked."""
    task, _, code = name.rpartition("/")
    if task != PAIRED or code == ENGLISH.code or f"{PAIRED}/{ENGLISH.code}" not in done:
        return {}
    english, own = done[f"{PAIRED}/{ENGLISH.code}"]["right"], done[name]["right"]
    found = paired_interval(name, [float(b) - float(a) for a, b in zip(english, own, strict=True)])
    return {"less_english": found["change"], "from": found["low"], "to": found["high"]}


def select_by_prefix(named: dict[str, Callable[[], Task]], only: Sequence[str]) -> dict[str, Callable[[], Task]]:
    """Those whose names begin with one of ``only``; all if it is empty. Raises ValueError for a prefix that no name has."""
    for beginning in only:
        if not any(name.startswith(beginning) for name in named):
            raise ValueError(f"no task's name begins with {beginning!r}; there are {', '.join(named)}")
    return {name: value for name, value in named.items() if not only or name.startswith(tuple(only))}


def check_limit(limit: int) -> int:
    """``limit``. Raises ValueError for a negative one."""
    if limit < 0:
        raise ValueError(f"--limit is {limit}; it must not be negative")
    return limit


def check_part(part: tuple[int, int]) -> tuple[int, int]:
    """``part``. Raises ValueError for one outside of the number of parts."""
    index, parts = part
    if not 0 <= index < parts:
        raise ValueError(f"part {index + 1} of {parts}: parts are counted from 1 to {parts}")
    return part


def model_info(model: Limner) -> dict[str, Any]:
    return {"model": model.name, "dtype": str(model.mllm.dtype).removeprefix("torch.")}


def check_same_model(output: Path, model: Limner, steps: int | None, settings: dict[str, Any] | None = None) -> None:
    """Write the model and the settings to ``output``, or compare them with those there. Raises ValueError for replies of another
    model or other settings, and for a folder that holds other things."""
    settings = model_info(model) | (settings or {}) | {"steps": steps, "weights": digest(model)}
    path = check_folder(output, SETTINGS_FILE) / SETTINGS_FILE
    output.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
        return
    held = json.loads(path.read_text(encoding="utf-8"))
    if differing := [key for key in settings if held.get(key) != settings[key]]:
        key = differing[0]
        raise ValueError(
            f"{output} holds answers with {key} {held.get(key)!r}, this is {settings[key]!r}; choose another folder or "
            "take it away"
        )


def task_folder(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")


def load_score(folder: Path, judge: str) -> dict[str, Any] | None:
    """The saved score of a task by this judge; None if there is none."""
    path = folder / "score.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if found["judge"] == judge else None


def to_score(name: str, found: dict[str, Any]) -> Score:
    return Score(name, sum(found["right"]), len(found["right"]), found["extra"], found.get("seeds", 1))


def autoencoder_psnr(model: Limner, count: int) -> float:
    """PSNR in dB of true pictures through the autoencoder."""
    rng = random.Random("ceiling")
    true = [np.array(render(sampling.any_scene(rng))) for _ in range(count)]
    return float(np.mean([psnr(reconstruct(model, p), p, np.ones((*p.shape[:2], 1), bool)) for p in true]))


def sheet_pictures(output: Path, chapter: Section) -> list[Image.Image]:
    """The first pictures of a task, a row of the sheet."""
    pairs = list(zip(chapter.lines, chapter.correct, strict=True))[:SHEET_COLUMNS]
    replies = [(saved_replies.to_reply(saved, output / chapter.folder), correct) for saved, correct in pairs]
    return [with_border(image, correct) for reply, correct in replies for image in reply.images[:1]]


def with_border(image: Image.Image, correct: bool) -> Image.Image:
    """A picture with a green border if it is right, else a red one."""
    return ImageOps.expand(image, 3, (40, 160, 60) if correct else (220, 40, 40))
