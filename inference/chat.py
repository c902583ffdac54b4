"""A conversation with a history that can be undone, retried, saved and loaded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self, Unpack

from PIL import Image

from ..mllm.encoding import StreamEncoder
from ..mllm.events import Event, consume
from ..mllm.messages import Message
from .adapters import Adapters
from .chat_files import PictureFiles, normalized, read_chat, with_ids, write_chat
from .generation_config import GenerationConfig, GenerationOptions
from .images import load_image
from .inputs import ContextLengthError, Messages, seeds_per_row
from .output import free_path
from .reply import Reply


class ChatOptions(GenerationOptions, total=False):
    """Keyword arguments of `Limner.generate` that a chat takes."""

    seed: int
    callback: Callable[[Event], None] | None
    adapters: Mapping[str, float] | None


class StreamingModel(Protocol):
    """The methods of `Limner` that a chat uses."""

    name: str
    bits: int | None
    defaults: GenerationConfig
    allow_urls: tuple[str, ...]
    encoder: StreamEncoder
    adapters: Adapters

    def get_active_adapters(self) -> dict[str, float]: ...

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
        model.defaults.updated(generation_options(options))
        seeds_per_row(options.get("seed", 0), 1)
        self.messages: list[Message] = []
        self.forgotten = 0
        """Exchanges that the model did not get at the last turn"""
        self.dropped = 0
        """Exchanges that no longer fit into the context"""
        self._saved: dict[Path, PictureFiles] = {}
        """Files that this conversation was saved to, resolved, and those of its pictures"""

    # the option `images` is given when the chat is made: here they are the turn's pictures
    def say(  # type: ignore[misc]
        self, text: str, images: Any = (), **options: Unpack[ChatOptions]
    ) -> Reply:
        """One turn; ``images`` are the pictures shown with it, one or a list of whatever `load_image` reads. Nothing is
        remembered when it fails. Raises what `Limner.generate` raises."""
        callback = {**self.options, **options}.get("callback")
        return consume(self.stream(text, images, **options), callback)

    def stream(  # type: ignore[misc]
        self, text: str, images: Any = (), **options: Unpack[ChatOptions]
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
        """Empties the history. What comes is another conversation: it replaces no file of this one."""
        self.messages.clear()
        self._saved.clear()
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
            return self.say(text, images, **options)  # type: ignore[misc]  # `images`, as in `say`

    @contextlib.contextmanager
    def popped_turn(self) -> Generator[tuple[str, list[Image.Image]], None, None]:
        """Removes the last turn and gives its text and images; the turn comes back if the body fails. Raises ValueError when
        there is none."""
        if len(self.messages) < 2:
            raise ValueError("nothing to retry: the conversation is empty")
        before, content = list(self.messages), normalized(self.messages[-2:-1], self.model.allow_urls)[0]["content"]
        text = "".join(p["text"] for p in content if p["type"] == "text")
        try:
            self.undo()
            yield text, [p["image"] for p in content if p["type"] == "image"]
        except BaseException:  # Ctrl-C too
            self.messages = before
            raise

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the conversation as JSON Lines (one line) with its pictures as PNG files in the same folder; `load` reads it.

        A file is replaced only where this chat was saved to it or loaded from it, or with ``overwrite``; pictures of others never
        are. Raises ValueError for another suffix than .jsonl and for a file of another origin, OSError for one that cannot be
        written; what was there then stays.
        """
        path = Path(path).expanduser()
        if path.suffix != ".jsonl":
            raise ValueError(f"a conversation is saved as JSON Lines: {path.name} must end in .jsonl")
        if path.exists() and path.resolve() not in self._saved and not overwrite:
            escaped = path.stem.replace("{", "{{").replace("}", "}}")
            free = free_path(f"{path.parent}/{escaped}-{{:03d}}.jsonl".removeprefix("./"))
            raise ValueError(
                f"{path} is there already and not this conversation's; choose another name, such as {free}, or overwrite it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        options = self.model.defaults.updated(generation_options(self.options))
        own = {
            name: getattr(options, name)
            for name, value in generation_options(self.options).items()
            if value is not None
        }
        own |= {name: self.options[name] for name in ("seed", "adapters") if self.options.get(name) is not None}
        state = {
            "model": self.model.name,
            "fingerprint": fingerprint(self.model),
            "adapters": self.model.get_active_adapters(),
            "options": own,
            "dropped": self.dropped,
            "forgotten": self.forgotten,
        }
        messages = normalized(self.messages, self.model.allow_urls)
        files = write_chat(path, messages, state, self._saved.get(path.resolve(), {}))
        self._saved[path.resolve()] = files
        return path

    @classmethod
    def load(cls, path: str | Path, model: StreamingModel, **options: Unpack[ChatOptions]) -> Self:
        """The conversation that `save` wrote, with its options but for those given here; the next reply is what it would have
        been. A conversation written by hand is read, too: a line of JSON with ``messages``.

        Raises ValueError for a file that holds no conversation or one with another model, and for pictures that are missing,
        broken or outside of the file's folder. Warns where other adapters are switched on.
        """
        path = Path(path).expanduser()
        messages, state, files = read_chat(path)
        if state:
            check_model(path, state, model)
            messages = [
                with_ids(*pair, model.encoder.spells) for pair in zip(messages, state["token_ids"], strict=True)
            ]
        try:
            chat = cls(model, **{**state.get("options", {}), **options})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
        chat.messages = messages
        chat.dropped, chat.forgotten = state.get("dropped", 0), state.get("forgotten", 0)
        chat._saved[path.resolve()] = files
        return chat

    def _question(self, text: str, images: Any) -> Message:
        if not isinstance(text, str):
            raise ValueError(
                f"a message is a string, not {text!r:.60}; pictures stand beside it: say(text, images=[...])"
            )
        # not whatever can be gone through is several pictures: a path, bytes, an array and an open file can be too
        several = isinstance(images, (list, tuple, Iterator)) and not hasattr(images, "read")
        images = list(images) if several else [] if images is None else [images]
        if not text.strip() and not images:
            raise ValueError("say something or show a picture: the message is empty")
        shown = [{"type": "image", "image": load_image(image, self.model.allow_urls)} for image in images]
        said = [{"type": "text", "text": text}] if text.strip() else []
        return {"role": "user", "content": [*shown, *said]}


def generation_options(options: ChatOptions) -> dict[str, Any]:
    """Those of a chat's options that are fields of `GenerationConfig`."""
    apart = ChatOptions.__annotations__.keys() - GenerationOptions.__annotations__.keys()
    return {name: value for name, value in options.items() if name not in apart}


def fingerprint(model: StreamingModel) -> str | None:
    """Of the weights; None where they were quantised, which changes them."""
    return model.adapters.fingerprint if model.bits is None else None


def check_model(path: Path, state: Mapping[str, Any], model: StreamingModel) -> None:
    """Raises ValueError for a chat with another model: its token ids mean nothing to this one. Warns of other adapters."""
    prints = state["fingerprint"], fingerprint(model)
    if prints[0] != prints[1] if None not in prints else state["model"] != model.name:
        raise ValueError(
            f"{path} is a chat with {state['model']!r}, not with this model, {model.name!r}: load the model it was held with, "
            'or take the key "chat" out of the file to have this one read its words and pictures anew'
        )
    if state["adapters"] != model.get_active_adapters():
        held, on = (
            ", ".join(f"{name} {weight}" for name, weight in adapters.items()) or "none"
            for adapters in (state["adapters"], model.get_active_adapters())
        )
        warnings.warn(f"{path} was held with other adapters ({held}) than are on now ({on})", stacklevel=3)
