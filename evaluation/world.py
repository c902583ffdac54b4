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
from ..world.scene import render
from . import answers
from .all import measures
from .judge import Judge
from .measures import Measure, psnr, through_autoencoder
from .page import Chapter, page
from .scores import Score, line, table
from .sheet import sheet

FULL = 500
"""Examples a category for published figures."""
JUDGE = Path(__file__).resolve().parent.parent / "weights" / "judge"
OWNER = "of.json"
"""File of whose answers a folder holds"""
SHOWN = 8
"""Pictures of a measure on the sheet"""


def evaluate(
    model: Limner,
    output: Path,
    limit: int = 0,
    steps: int | None = None,
    part: tuple[int, int] = (0, 1),
    seeds: int = 1,
    only: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Ask and judge everything, write ``results.json``, ``table.txt``, ``sheet.png`` and ``index.html``, print the table.

    What ``output`` already has of this model is not asked again. ``part`` (i, n) takes every n-th measure from the i-th on;
    returns None while others still have some to do. With several ``seeds`` every drawing and edit is made that often, and how
    often the best of them is right stands beside the mean. ``only`` asks the measures whose names begin so. Raises ValueError for
    a negative limit, a part that is none, no seed, a beginning that no measure has, a folder with the answers of another model
    or other settings, or where the judge is missing.
    """
    index, parts = checked(limit, part)
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; it must be at least 1")
    judge = Judge.from_pretrained(JUDGE)
    count = limit or FULL
    about = whose(model) | {"examples": count}
    if seeds > 1:
        about["seeds"] = seeds
    named = begun_so(measures(count, limit, steps, seeds), only)
    same_model(output, model, steps, {"seeds": None} | about)
    by = digest(judge)
    for name, make in list(named.items())[index::parts]:
        folder = output / folder_of(name)
        if (found := scored(folder, by)) is None:
            measure = make()
            lines = answers.ask(model, measure, folder)
            right, extra = measure.right(model, judge, [answers.reply_of(told, folder) for told in lines])
            found = {"judge": by, "right": [bool(r) for r in right], "extra": extra, "seeds": measure.seeds}
            write_text(folder / "score.json", json.dumps(found) + "\n")
        print(line(score_of(name, found).row()), flush=True)
    done = {name: found for name in named if (found := scored(output / folder_of(name), by))}
    if len(done) < len(named):
        print(f"{len(named) - len(done)} measures are still to be done by other parts; the last one writes the table")
        return None
    chapters = [
        Chapter(score_of(n, f).row(), folder_of(n), answers.stored(output / folder_of(n)), f["right"])
        for n, f in done.items()
    ]
    about["autoencoder_psnr"] = autoencoder_ceiling(model, min(count, 100))
    about["minutes"] = sum(told["seconds"] for chapter in chapters for told in chapter.lines) / 60
    return write(output, chapters, about)


def begun_so(named: dict[str, Callable[[], Measure]], only: Sequence[str]) -> dict[str, Callable[[], Measure]]:
    """Those whose names begin with one of ``only``, all where it is empty. Raises ValueError for a beginning that none has."""
    for beginning in only:
        if not any(name.startswith(beginning) for name in named):
            raise ValueError(f"no measure's name begins with {beginning!r}; there are {', '.join(named)}")
    return {name: value for name, value in named.items() if not only or name.startswith(tuple(only))}


def checked(limit: int, part: tuple[int, int]) -> tuple[int, int]:
    """The part. Raises ValueError for a negative limit or a part that is none."""
    index, parts = part
    if limit < 0:
        raise ValueError(f"--limit is {limit}; it must not be negative")
    if not 0 <= index < parts:
        raise ValueError(f"part {index + 1} of {parts}: parts are counted from 1 to {parts}")
    return part


def whose(model: Limner) -> dict[str, Any]:
    return {"model": model.name, "dtype": str(model.mllm.dtype).removeprefix("torch.")}


def same_model(output: Path, model: Limner, steps: int | None, settings: dict[str, Any] | None = None) -> None:
    """Note whose answers the folder holds, in how many steps. Raises ValueError where it holds those of another model or
    settings, or things that are no answers."""
    settings = whose(model) | (settings or {}) | {"steps": steps, "weights": digest(model)}
    path = check_folder(output, OWNER) / OWNER
    output.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
        return
    held = json.loads(path.read_text())
    if differing := [key for key in settings if held.get(key) != settings[key]]:
        key = differing[0]
        raise ValueError(
            f"{output} holds answers with {key} {held.get(key)!r}, this is {settings[key]!r}; choose another folder or "
            "take it away"
        )


def folder_of(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")


def scored(folder: Path, judge: str) -> dict[str, Any] | None:
    """A finished measure as this judge sees it."""
    path = folder / "score.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found["judge"] == judge else None


def score_of(name: str, found: dict[str, Any]) -> Score:
    return Score(name, sum(found["right"]), len(found["right"]), found["extra"], found.get("seeds", 1))


def autoencoder_ceiling(model: Limner, count: int) -> float:
    """PSNR in dB of true pictures through the autoencoder."""
    rng = random.Random("ceiling")
    true = [np.array(render(sampling.any_scene(rng))) for _ in range(count)]
    return float(np.mean([psnr(through_autoencoder(model, p), p, np.ones((*p.shape[:2], 1), bool)) for p in true]))


def write(output: Path, chapters: Sequence[Chapter], about: dict[str, Any]) -> dict[str, Any]:
    results = {**about, "scores": [chapter.row for chapter in chapters]}
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    write_text(output / "table.txt", table(results["scores"], about))
    shots = [shot for c in chapters if c.row["name"].startswith(("draw/", "edit/")) for shot in drawn(output, c)]
    if shots:
        sheet(shots, SHOWN, output / "sheet.png")
    write_text(output / "index.html", page(f"{about['model']}, the drawn world", chapters))
    print((output / "table.txt").read_text(), end="")
    return results


def drawn(output: Path, chapter: Chapter) -> list[Image.Image]:
    """The first pictures of a measure, as the sheet shows them."""
    told = list(zip(chapter.lines, chapter.right, strict=True))[:SHOWN]
    return [framed(answers.reply_of(t, output / chapter.folder).images[0], good) for t, good in told]


def framed(image: Image.Image, good: bool) -> Image.Image:
    """Green where the judge agreed, red where it did not."""
    return ImageOps.expand(image, 3, (40, 160, 60) if good else (220, 40, 40))
