"""A conversation that remembers, can take a turn back and can try one again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..mllm.events import Event
from ..mllm.messages import Message
from .images import load_image
from .model import Limner
from .reply import Reply


class Chat:
    """``options`` are `Limner.generate`'s and hold for every turn; change them through ``chat.options``.

    The model is shown the last ``history`` exchanges (None is the model's own number, 0 as many as it holds); ``messages``
    has all of them. Raises ValueError for a negative history.
    """

    def __init__(self, model: Limner, history: int | None = None, **options: Any) -> None:
        self.model, self.options = model, options
        self.history = model.defaults.history if history is None else history
        if self.history < 0:
            raise ValueError(f"history is {self.history}; it must not be negative")
        self.messages: list[Message] = []
        self.forgotten = 0
        """Exchanges that the model was not shown at the last turn"""

    def say(self, text: str, images: Sequence[str | Path | Image.Image] = (), **options: Any) -> Reply:
        """One turn. Nothing is remembered when it fails. Raises what `Limner.generate` raises."""
        question = self._question(text, images)
        options = {**self.options, **options}
        reply = self.model.generate(self.shown(question, options), **options)
        self.messages += [question, reply.message()]
        return reply

    def stream(
        self, text: str, images: Sequence[str | Path | Image.Image] = (), **options: Any
    ) -> Generator[Event, None, None]:
        """The turn's events as they happen; the turn is remembered when it has finished."""
        question = self._question(text, images)
        options = {**self.options, **options}
        replies = yield from self.model.stream(self.shown(question, options), **options)
        self.messages += [question, replies[0].message()]

    def shown(self, question: Message, options: Mapping[str, Any]) -> list[Message]:
        """What the model is given: a system message that stands first, the last exchanges, as many as are wanted and as leave
        room for the reply, and the question."""
        rules = [message for message in self.messages[:1] if message["role"] == "system"]
        said = self.messages[len(rules) :]
        told = said[-2 * self.history :] if self.history else said
        longest = self.model.mllm.longest - (options.get("max_new_tokens") or self.model.defaults.max_new_tokens)
        form = {name: options[name] for name in ("images", "boxes") if name in options}
        while told and len(self.model.prompt([*rules, *told, question], **form).input_ids) > longest:
            told = told[2:]
        self.forgotten = (len(said) - len(told)) // 2
        return [*rules, *told, question]

    def clear(self) -> None:
        """Begin anew."""
        self.messages.clear()
        self.forgotten = 0

    def undo(self) -> None:
        """Forget the last turn. Raises ValueError when there is none."""
        if len(self.messages) < 2:
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
        if len(self.messages) < 2:
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
