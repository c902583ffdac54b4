"""A conversation with a history that can be undone, retried and saved."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Unpack

from PIL import Image

from ..mllm.events import Event, consume
from ..mllm.messages import Message
from .generation_config import GenerationConfig, GenerationOptions
from .images import load_image
from .inputs import ContextLengthError, Messages
from .output import free_path, save_image, write_text
from .reply import Reply


class ChatOptions(GenerationOptions, total=False):
    """Keyword arguments of `Limner.generate` that a chat takes."""

    seed: int
    callback: Callable[[Event], None] | None
    adapters: Mapping[str, float] | None


class StreamingModel(Protocol):
    """The methods of `Limner` that a chat uses."""

    defaults: GenerationConfig

    def stream(
        self,
        messages: Messages | Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        adapters: Mapping[str, float] | None = None,
        keep_cache: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> Generator[Event, None, list[Reply]]: ...


class Chat:
    """``options`` are those of `Limner.generate` and hold for every turn; change them through ``chat.options``.

    The model is shown the last ``history`` exchanges, by default as many as its folder says, for 0 as many as it holds;
    ``messages`` has all of them. Raises ValueError for options that make no sense.
    """

    def __init__(self, model: StreamingModel, **options: Unpack[ChatOptions]) -> None:
        self.model, self.options = model, options
        apart = ChatOptions.__annotations__.keys() - GenerationOptions.__annotations__.keys()
        model.defaults.updated({name: value for name, value in options.items() if name not in apart})
        self.messages: list[Message] = []
        self.forgotten = 0
        """Exchanges that the model did not get at the last turn"""
        self.dropped = 0
        """Exchanges that no longer fit into the context"""
        self._saved: set[Path] = set()
        self._written: dict[tuple[int, Path], tuple[Image.Image, Path]] = {}
        """Images, by identity and path of the saved conversation, and their files"""

    # the option `images` is given when the chat is made: here they are the turn's pictures
    def say(  # type: ignore[misc]
        self, text: str, images: Sequence[str | Path | Image.Image] = (), **options: Unpack[ChatOptions]
    ) -> Reply:
        """One turn. Nothing is remembered when it fails. Raises what `Limner.generate` raises."""
        callback = {**self.options, **options}.get("callback")
        return consume(self.stream(text, images, **options), callback)

    def stream(  # type: ignore[misc]
        self, text: str, images: Sequence[str | Path | Image.Image] = (), **options: Unpack[ChatOptions]
    ) -> Generator[Event, None, Reply]:
        """Yields the turn's events; the turn joins the history when it has finished. The model gets a system message that
        stands first, and as many of the last exchanges as ``history`` allows and the context holds with the reply."""
        question = self._question(text, images)
        wanted: dict[str, Any] = {**self.options, **options}
        wanted.pop("callback", None)  # `say` calls it with these events
        history = wanted.pop("history", None)
        history = self.model.defaults.updated({"history": history}).history
        system = [message for message in self.messages[:1] if message["role"] == "system"]
        turns = self.messages[len(system) :]
        count, dropped = len(turns) // 2, self.dropped
        while True:
            first = max(dropped, count - history if history else 0)
            try:
                shown = [*system, *turns[2 * first :], question]
                events = self.model.stream(shown, keep_cache=True, **wanted)
                return self._remembered(events, question, first, dropped)
            except ContextLengthError:  # before anything happened
                if first >= count:
                    raise
                dropped = first + 1

    def _remembered(
        self, events: Generator[Event, None, list[Reply]], question: Message, forgotten: int, dropped: int
    ) -> Generator[Event, None, Reply]:
        (reply,) = yield from events
        self.forgotten, self.dropped = forgotten, dropped
        # copies: what is done to a reply's pictures, as Pillow's own thumbnail(), is not done to the conversation
        pictures = [part.copy() if isinstance(part, Image.Image) else part for part in reply.parts]
        self.messages += [question, replace(reply, parts=pictures).message()]
        return reply

    def clear(self) -> None:
        """Empties the history."""
        self.messages.clear()
        self.forgotten = self.dropped = 0

    def undo(self) -> None:
        """Removes the last turn. Raises ValueError when there is none."""
        if len(self.messages) < 2:
            raise ValueError("nothing to undo: the conversation is empty")
        del self.messages[-2:]
        self.dropped = max(0, self.dropped - 1)

    def retry(self, **options: Unpack[ChatOptions]) -> Reply:
        """Answers the last message again; pass another ``seed`` for another image. When it fails, the turn stays."""
        with self.popped_turn() as (text, images):
            return self.say(text, images, **options)  # type: ignore[misc, arg-type]  # `images`, as in `say`

    @contextlib.contextmanager
    def popped_turn(self) -> Generator[tuple[str, list[Image.Image]], None, None]:
        """Removes the last turn and gives its text and images; the turn comes back if the body fails. Raises ValueError when
        there is none."""
        if len(self.messages) < 2:
            raise ValueError("nothing to retry: the conversation is empty")
        before, content = list(self.messages), self.messages[-2]["content"]
        text = "".join(p["text"] for p in content if p["type"] == "text")
        try:
            self.undo()
            yield text, [p["image"] for p in content if p["type"] == "image"]
        except BaseException:  # Ctrl-C too
            self.messages = before
            raise

    def save(self, path: str | Path) -> Path:
        """Writes the conversation as JSON Lines (one line) with its images as PNG files in the same folder.

        Only a file that this chat saved is replaced. Raises ValueError for another suffix than .jsonl and for a file of
        another origin, OSError for one that cannot be written; an existing file then stays.
        """
        path = Path(path)
        if path.suffix != ".jsonl":
            raise ValueError(f"a conversation is saved as JSON Lines: {path.name} must end in .jsonl")
        if path.exists() and path.resolve() not in self._saved:
            raise ValueError(f"{path} is there already and not this conversation's; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        messages = []
        for message in self.messages:
            content = [
                {"type": "image", "image": self._picture_file(part["image"], path).name}
                if part["type"] == "image"
                else {"type": "text", "text": str(part["text"])}
                for part in message["content"]
            ]
            messages.append({"role": message["role"], "content": content})
        write_text(path, json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        self._saved.add(path.resolve())
        return path

    def _picture_file(self, image: Image.Image, path: Path) -> Path:
        """The file of an image that was saved before with ``path``; else it is saved now under a name that is free."""
        key = (id(image), path.resolve())
        _, file = self._written.get(key, (image, None))
        if file is None or not file.exists():
            escaped = str(path.with_suffix("")).replace("{", "{{").replace("}", "}}")
            file = free_path(f"{escaped}-{{:02d}}.png")
            save_image(image, file)
            self._written[key] = (image, file)
        return file

    def _question(self, text: str, images: Sequence[str | Path | Image.Image]) -> Message:
        if not text.strip() and not images:
            raise ValueError("say something or show a picture: the message is empty")
        shown = [{"type": "image", "image": load_image(image)} for image in images]
        said = [{"type": "text", "text": text}] if text.strip() else []
        return {"role": "user", "content": [*shown, *said]}
