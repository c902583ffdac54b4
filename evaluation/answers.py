"""Replies on disk, so that an evaluation goes on where it was cut and judges again without asking again.

A measure's folder holds ``replies.jsonl``, a line a question in order, and the pictures shown and drawn.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..inference.asked import Messages
from ..inference.model import Limner
from ..inference.output import write_text
from ..inference.reply import Reply
from .measures import BATCH, Measure

LINES = "replies.jsonl"


def ask(model: Limner, measure: Measure, folder: Path) -> list[dict[str, Any]]:
    """Every question that has no answer in ``folder`` yet; all lines, as they stand there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = stored(folder)
    lines = lines[: len(lines) // BATCH * BATCH] if len(lines) < len(measure.asked) else lines
    # half a batch is asked again: what is drawn together depends on each other's rounding
    write_text(folder / LINES, "".join(json.dumps(told) + "\n" for told in lines))
    starts = range(len(lines), len(measure.asked), BATCH)
    for start in tqdm(starts, desc=measure.name, leave=False, disable=None):
        begun = time.monotonic()
        replies = measure.replies(model, start)
        seconds = round((time.monotonic() - begun) / len(replies), 3)
        with (folder / LINES).open("a") as file:
            for number, reply in enumerate(replies, start):
                told = {
                    "asked": written(measure.asked[number], folder, f"{number:04d}-shown"),
                    "parts": saved(reply.parts, folder, f"{number:04d}"),
                    "finish_reason": reply.finish_reason,
                    "seconds": seconds,
                }
                file.write(json.dumps(told) + "\n")
                lines.append(told)
    return lines


def stored(folder: Path) -> list[dict[str, Any]]:
    """Raises ValueError for a line that is not JSON, unless it is the last, which a cut run may have left half."""
    path = folder / LINES
    lines: list[dict[str, Any]] = []
    texts = path.read_text().splitlines() if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):
                raise ValueError(f"{path}, line {number}: {error}; take the folder away to ask again") from error
    return lines


def written(messages: Messages, folder: Path, stem: str) -> list[Any]:
    """What was asked, as `saved` keeps a reply."""
    if isinstance(messages, str):
        return [messages]
    content = [part for message in messages for part in message["content"]]
    return saved([part[part["type"]] for part in content], folder, stem)


def saved(parts: list[str | Image.Image], folder: Path, stem: str) -> list[Any]:
    """Words, and {"image": file name} for a picture, which is written to ``folder``."""
    made: list[Any] = []
    for part in parts:
        if not isinstance(part, str):
            name = f"{stem}-{sum(isinstance(p, dict) for p in made)}.png"
            part.save(folder / name)
        made.append(part if isinstance(part, str) else {"image": name})
    return made


def reply_of(told: dict[str, Any], folder: Path) -> Reply:
    parts: list[str | Image.Image] = [
        part if isinstance(part, str) else Image.open(folder / part["image"]) for part in told["parts"]
    ]
    return Reply(parts, told["finish_reason"])
