"""A conversation that remembers, can take a turn back and can try one again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..mllm.events import Event
from ..mllm.messages import Message
from .images import load_image
from .model import Limner
from .reply import Reply


class Chat:
    """``options`` are `Limner.generate`'s and hold for every turn; change them through ``chat.options``."""

    def __init__(self, model: Limner, **options: Any) -> None:
        self.model, self.options = model, options
        self.messages: list[Message] = []

    def say(self, text: str, images: Sequence[str | Path | Image.Image] = (), **options: Any) -> Reply:
        """One turn. Nothing is remembered when it fails. Raises what `Limner.generate` raises."""
        question = self._question(text, images)
        reply = self.model.generate([*self.messages, question], **{**self.options, **options})
        self.messages += [question, reply.message()]
        return reply

    def stream(
        self, text: str, images: Sequence[str | Path | Image.Image] = (), **options: Any
    ) -> Generator[Event, None, None]:
        """The turn's events as they happen; the turn is remembered when it has finished."""
        question = self._question(text, images)
        replies = yield from self.model.stream([*self.messages, question], **{**self.options, **options})
        self.messages += [question, replies[0].message()]

    def undo(self) -> None:
        """Forget the last turn. Raises ValueError when there is none."""
        if not self.messages:
            raise ValueError("nothing to undo: the conversation is empty")
        del self.messages[-2:]

    def retry(self, **options: Any) -> Reply:
        """Answer the last message again; pass another ``seed`` for another picture. A retry that fails keeps the turn."""
        with self.taken_back() as (text, images):
            return self.say(text, images, **options)

    @contextlib.contextmanager
    def taken_back(self) -> Generator[tuple[str, list[Image.Image]], None, None]:
        """Without the last turn, what was said and shown in it; the turn comes back if the body fails."""
        before = list(self.messages)
        try:
            yield self.take_back()
        except BaseException:  # Ctrl-C too
            self.messages = before
            raise

    def take_back(self) -> tuple[str, list[Image.Image]]:
        """Undo the last turn and return what was said and shown in it."""
        if not self.messages:
            raise ValueError("nothing to retry: the conversation is empty")
        content = self.messages[-2]["content"]
        self.undo()
        text = "".join(p["text"] for p in content if p["type"] == "text")
        return text, [p["image"] for p in content if p["type"] == "image"]

    def save(self, path: str | Path) -> Path:
        """Write the conversation as JSON Lines (one line) with its pictures as PNG files beside it."""
        path = Path(path)
        folder = path.parent
        folder.mkdir(parents=True, exist_ok=True)
        count, messages = 0, []
        for message in self.messages:
            content = []
            for part in message["content"]:
                if part["type"] == "image":
                    count += 1
                    name = f"{path.stem}-{count:02d}.png"
                    part["image"].save(folder / name)
                    content.append({"type": "image", "image": name})
                else:
                    content.append({"type": "text", "text": str(part["text"])})
            messages.append({"role": message["role"], "content": content})
        path.write_text(json.dumps({"messages": messages}, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def _question(self, text: str, images: Sequence[str | Path | Image.Image]) -> Message:
        if not text.strip() and not images:
            raise ValueError("say something or show a picture: the message is empty")
        shown = [{"type": "image", "image": load_image(image)} for image in images]
        said = [{"type": "text", "text": text}] if text.strip() else []
        return {"role": "user", "content": [*shown, *said]}
