"""Replies on disk, so that a stopped evaluation is resumed, and graded again without generating again.

A task's folder holds ``replies.jsonl``, one line for each prompt in order, and the pictures of prompts and replies.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..inference.inputs import Messages
from ..inference.model import Limner
from ..inference.output import save_image, write_text
from ..inference.reply import Reply
from .tasks import BATCH_SIZE, Task

REPLIES_FILE = "replies.jsonl"


def generate_replies(model: Limner, task: Task, folder: Path) -> list[dict[str, Any]]:
    """Generate the replies that ``folder`` lacks; returns all lines of its ``replies.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = load_replies(folder)
    lines = lines[: len(lines) // BATCH_SIZE * BATCH_SIZE] if len(lines) < len(task.prompts) else lines
    # half a batch is generated again: rounding depends on what is in a batch
    write_text(folder / REPLIES_FILE, "".join(json.dumps(line) + "\n" for line in lines))
    starts = range(len(lines), len(task.prompts), BATCH_SIZE)
    for start in tqdm(starts, desc=task.name, leave=False, disable=None):
        start_time = time.monotonic()
        replies = task.generate_batch(model, start)
        seconds = round((time.monotonic() - start_time) / len(replies), 3)
        with (folder / REPLIES_FILE).open("a", encoding="utf-8") as file:
            for number, reply in enumerate(replies, start):
                line = {
                    "asked": save_prompt(task.prompts[number], folder, f"{number:04d}-shown"),
                    "parts": save_parts(reply.parts, folder, f"{number:04d}"),
                    "finish_reason": reply.finish_reason,
                    "seconds": seconds,
                }
                file.write(json.dumps(line) + "\n")
                lines.append(line)
    return lines


def load_replies(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``replies.jsonl``. Raises ValueError for one that is not JSON, except the last, which may be incomplete."""
    path = folder / REPLIES_FILE
    lines: list[dict[str, Any]] = []
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):
                raise ValueError(f"{path}, line {number}: {error}; take the folder away to ask again") from error
    return lines


def save_prompt(messages: Messages, folder: Path, stem: str) -> list[Any]:
    """A prompt in the form of `save_parts`."""
    if isinstance(messages, str):
        return [messages]
    content = [part for message in messages for part in message["content"]]
    return save_parts([part[part["type"]] for part in content], folder, stem)


def save_parts(parts: list[str | Image.Image], folder: Path, stem: str) -> list[Any]:
    """Texts, and {"image": file name} for each picture, which is written to ``folder``."""
    made: list[Any] = []
    for part in parts:
        if not isinstance(part, str):
            name = f"{stem}-{sum(isinstance(p, dict) for p in made)}.png"
            save_image(part, folder / name)
        made.append(part if isinstance(part, str) else {"image": name})
    return made


def to_reply(line: dict[str, Any], folder: Path) -> Reply:
    parts: list[str | Image.Image] = [
        part if isinstance(part, str) else Image.open(folder / part["image"]) for part in line["parts"]
    ]
    return Reply(parts, line["finish_reason"])
