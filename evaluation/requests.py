"""Requests written by hand (``requests.jsonl``): odd phrasings, typos, detours. None of them is ever trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..inference.reply import Reply
from ..world import held_out, messages
from ..world.scene import BACKGROUNDS, Scene, Thing, render
from .geneval_cases import Expected
from .judge import Judge

TASKS = ("draw", "edit", "describe", "answer", "talk", "refuse")
_SPOTS = {
    1: ((0.5, 0.5),),
    2: ((0.26, 0.5), (0.74, 0.5)),
    3: ((0.25, 0.28), (0.75, 0.28), (0.5, 0.73)),
    4: ((0.26, 0.27), (0.74, 0.27), (0.26, 0.73), (0.74, 0.73)),
}


@dataclass(frozen=True)
class Request:
    task: str
    say: str
    things: tuple[str, ...] = ()
    """What a drawing must hold, colour first, "-" where it is free: "red apple", "- cat" """
    where: str | None = None
    """Of the first thing to the second"""
    shown: tuple[str, ...] = ()
    """What the picture shown with it holds"""
    on: str = "plain"
    after: str | None = None
    """The background that a drawing must have; None where it is free"""
    words: tuple[str, ...] = ()
    """What an answer must name"""
    language: str = "english"

    def picture(self) -> Image.Image | None:
        if not self.shown:
            return None
        size = "large" if len(self.shown) == 1 else "medium"
        placed = zip(map(split_thing, self.shown), _SPOTS[len(self.shown)], strict=True)
        things = tuple(Thing(name, color, size, *spot) for (color, name), spot in placed)
        return render(Scene(things, self.on))

    def messages(self) -> list[dict[str, Any]]:
        shown = self.picture()
        return [messages.user(*([] if shown is None else [messages.image(shown)]), self.say)]

    def matches(self, reply: Reply, judge: Judge) -> bool:
        if self.task in ("draw", "edit"):
            if not reply.images:
                return False
            verdict = judge.detect([reply.images[0]])[0]
            wanted = Expected(tuple((n, None if c == "-" else c) for c, n in map(split_thing, self.things)), self.where)
            return wanted.matches(verdict) and self.after in (None, verdict.background)
        said = reply.text.lower()
        if self.task == "refuse":
            right = any(no in said for no in ("can't draw", "还不会画", "못 그려"))
        else:
            right = all(word in said for word in self.words)
        return right and bool(said) and not reply.images


def split_thing(text: str) -> tuple[str, str]:
    color, _, name = text.partition(" ")
    return color, name


def load_requests() -> list[Request]:
    """Raises ValueError for a line that asks for what there is not."""
    made = []
    for number, line in enumerate(
        (Path(held_out.__file__).parent / "requests.jsonl").read_text(encoding="utf-8").splitlines(), 1
    ):
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(line).items()}
        request = Request(**values)
        if request.task not in TASKS or request.on not in BACKGROUNDS:
            raise ValueError(f"requests.jsonl, line {number}: task {request.task!r} on {request.on!r}")
        request.picture()
        made.append(request)
    return made
