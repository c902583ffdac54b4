"""A conversation with a history that can be undone, retried, saved and loaded."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, Unpack

from PIL import Image

from ..mllm.config import LimnerConfig
from ..mllm.encoding import StreamEncoder
from ..mllm.events import Event, consume
from ..mllm.messages import Message
from .adapters import Adapters
from .chat_files import PictureFiles, digest, normalized, read_chat, unpacked, with_ids, write_archive, write_chat
from .generation_config import GenerationConfig, GenerationOptions, whole_number
from .images import load_image
from .inputs import ContextLengthError, Messages, as_seed, seeds_per_row
from .masks import edited_events, mask_picture
from .output import free_path
from .reply import Reply


class ChatOptions(GenerationOptions, total=False):
    """Keyword arguments of `Limner.generate` that a chat takes."""

    seed: int
    callback: Callable[[Event], None] | None
    adapters: Mapping[str, float] | None


@dataclass(frozen=True)
class Turn:
    """What the model is asked for: the arguments of `Limner.stream`, and what is remembered with the reply."""

    question: Message
    messages: list[Message]
    """That the model is shown, the question last"""
    options: dict[str, Any]
    """Of `Limner.generate`, ``seed`` and ``adapters`` among them"""
    edited: tuple[Image.Image, Image.Image] | None
    """The masked picture of the question and its mask, for `edited_event` and `edited_reply`"""
    forgotten: int
    """Exchanges that the model does not get"""
    dropped: int
    """Those of them that do not fit into the context"""
    is_shortest: bool
    """No exchange before the question is left to be left out"""


class StreamingModel(Protocol):
    """The methods of `Limner` that a chat uses."""

    name: str
    bits: int | None
    config: LimnerConfig
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
        self._masks: dict[str, Image.Image] = {}
        """Of the masked pictures in it, by `digest`"""

    # the option `images` is given when the chat is made: here they are the turn's pictures
    def say(  # type: ignore[misc]
        self, text: str, images: Any = (), mask: Any = None, **options: Unpack[ChatOptions]
    ) -> Reply:
        """One turn; ``images`` are the pictures shown with it, one or a list of whatever `load_image` reads. Where a ``mask`` is
        given (what `read_mask` reads), it is of the picture shown, or else of the conversation's last, and nothing else of that
        picture changes. Nothing is remembered when it fails. Raises what `Limner.generate` raises."""
        return consume(self.stream(text, images, mask, **options), self._callback(options))

    def stream(  # type: ignore[misc]
        self, text: str, images: Any = (), mask: Any = None, **options: Unpack[ChatOptions]
    ) -> Generator[Event, None, Reply]:
        """Yields the turn's events; the turn joins the history when it has finished. The model gets a system message that
        stands first, and as many of the last exchanges as ``history`` allows and the context holds with the reply."""
        question = self.question(text, images, mask, options)
        return self._remembered(*self._answers(self.messages, question, options))

    def candidates(self, n: int = 4, index: int = -2, **options: Unpack[ChatOptions]) -> list[Reply]:
        """``n`` replies to the last message, or to the user's message at ``index`` in ``messages``, with the seeds ``seed``,
        ``seed + 1``, …; the conversation stays as it is until one is given to `choose`.

        Raises ValueError where no message of the user is there, and what `Limner.generate` raises.
        """
        return consume(self.stream_candidates(n, index, **options), self._callback(options))

    def stream_candidates(
        self, n: int = 4, index: int = -2, **options: Unpack[ChatOptions]
    ) -> Generator[Event, None, list[Reply]]:
        """The events of `candidates`, whose ``row`` counts the replies from 0."""
        before, question = self.asked(index)
        if whole_number("n", n) < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        first = as_seed(options.get("seed", self.options.get("seed", 0)))
        events, _ = self._answers(before, question, options, range(first, first + n))
        return events

    def choose(self, reply: Reply, index: int = -2) -> None:
        """The reply, one of `candidates` to the user's message at ``index``, takes the place of the one that was there; what came
        after it is dropped. Raises ValueError where no message of the user is there."""
        place = self._place(index)
        self._cut(place + 2)
        self.messages[place + 1] = remembered(reply)

    # `images`, as in `say`
    def edit_message(  # type: ignore[misc]
        self, index: int, text: str, images: Any = None, mask: Any = None, **options: Unpack[ChatOptions]
    ) -> Reply:
        """Says ``text`` in place of the user's message at ``index`` in ``messages``, with its pictures or, where they are given,
        with ``images``. What came after it is dropped. When it fails, everything stays.

        Its events can be had too: ``with chat.popped_turn(index) as (_, images): yield from chat.stream(text, images)``.
        """
        with self.popped_turn(index) as (_, shown):
            return self.say(text, shown if images is None else images, mask, **options)

    def _callback(self, options: Mapping[str, Any]) -> Callable[[Event], None] | None:
        given: dict[str, Any] = {**self.options, **options}
        return given.get("callback")

    def turns(self, before: Sequence[Message], question: Message, options: Mapping[str, Any]) -> Iterator[Turn]:
        """How the model can be asked for a reply to ``question`` (which `question` makes) after the messages ``before``: with as
        many exchanges as ``history`` allows, then with ever fewer. The first that raises no `ContextLengthError` is taken."""
        wanted: dict[str, Any] = {**self.options, **options}
        wanted.pop("callback", None)  # `say` calls it with these events
        history = wanted.pop("history", None)
        history = self.model.defaults.updated({"history": history}).history
        hidden = self._masked_picture(question)
        if hidden is not None:  # it was brought to the size of the answer
            wanted |= {"height": hidden[0].height, "width": hidden[0].width, "keep": "model"}
        system = [message for message in before[:1] if message["role"] == "system"]
        turns = before[len(system) :]
        count = len(turns) // 2
        dropped = min(self.dropped, count)
        while True:
            first = max(dropped, count - history if history else 0)
            shown = [*system, *turns[2 * first :], question]
            yield Turn(question, shown, wanted, hidden, first, dropped, first >= count)
            if first >= count:
                return
            dropped = first + 1

    def _answers(
        self,
        before: Sequence[Message],
        question: Message,
        options: Mapping[str, Any],
        seeds: Sequence[int] | None = None,
    ) -> tuple[Generator[Event, None, list[Reply]], Turn]:
        """The events of a reply to ``question`` after the messages ``before``, or of one with each of ``seeds``, and the turn."""
        for turn in self.turns(before, question, options):
            shown: Any = turn.messages if seeds is None else [turn.messages] * len(seeds)
            wanted = turn.options if seeds is None else turn.options | {"seed": seeds}
            try:
                events = self.model.stream(shown, keep_cache=True, **wanted)
            except ContextLengthError:  # before anything happened
                if turn.is_shortest:
                    raise
                continue
            return events if turn.edited is None else edited_events(events, *turn.edited), turn
        raise AssertionError("the shortest turn was answered or raised")

    def remember(self, turn: Turn, reply: Reply) -> None:
        """The turn, answered by the reply, joins the conversation."""
        self.forgotten, self.dropped = turn.forgotten, turn.dropped
        self.messages += [turn.question, remembered(reply)]

    def _remembered(self, events: Generator[Event, None, list[Reply]], turn: Turn) -> Generator[Event, None, Reply]:
        (reply,) = yield from events
        self.remember(turn, reply)
        return reply

    def asked(self, index: int = -2) -> tuple[list[Message], Message]:
        """The messages before the user's message at ``index`` in ``messages``, and that message with its pictures loaded. Raises
        ValueError where no message of the user is there."""
        place = self._place(index)
        (question,) = normalized([self.messages[place]], self.model.allow_urls)
        return self.messages[:place], question

    def _masked_picture(self, question: Message) -> tuple[Image.Image, Image.Image] | None:
        """The masked picture of a message and its mask, of one size; None where it has none."""
        pictures = [part["image"] for part in question["content"] if part["type"] == "image"] if self._masks else []
        found = ((picture, self._masks.get(digest(picture))) for picture in pictures)
        return next(((picture, mask) for picture, mask in found if mask is not None), None)

    def _place(self, index: int) -> int:
        """The index from 0 of a message of the user that has been answered. Raises ValueError for any other."""
        count, place = len(self.messages), whole_number("index", index)
        place += count if place < 0 else 0
        own = [i for i, message in enumerate(self.messages[:-1]) if message["role"] == "user"]
        if not own:
            raise ValueError("nothing has been said yet: the conversation is empty")
        if place not in own:
            raise ValueError(f"message {index} is not the user's; those are {', '.join(map(str, own))}")
        return place

    def _cut(self, place: int) -> None:
        """Removes the messages from ``place`` on, which begin a turn."""
        self.dropped = max(0, self.dropped - (len(self.messages) - place) // 2)
        del self.messages[place:]

    def copy(self) -> Self:
        """A conversation that goes on from here without changing this one."""
        copied = type(self)(self.model, **self.options)
        copied.messages, copied.forgotten, copied.dropped = list(self.messages), self.forgotten, self.dropped
        copied._masks = dict(self._masks)
        return copied

    def clear(self) -> None:
        """Empties the history. What comes is another conversation: it replaces no file of this one."""
        self.messages.clear()
        self._saved.clear()
        self._masks.clear()
        self.forgotten = self.dropped = 0

    def undo(self) -> None:
        """Removes the last turn. Raises ValueError when there is none."""
        if len(self.messages) < 2:
            raise ValueError("nothing to undo: the conversation is empty")
        self._cut(len(self.messages) - 2)

    def retry(self, **options: Unpack[ChatOptions]) -> Reply:
        """Answers the last message again; pass another ``seed`` for another image. When it fails, the turn stays."""
        if len(self.messages) < 2:
            raise ValueError("nothing to retry: the conversation is empty")
        with self.popped_turn() as (text, images):
            return self.say(text, images, **options)  # type: ignore[misc]  # `images`, as in `say`

    @contextlib.contextmanager
    def popped_turn(self, index: int = -2) -> Generator[tuple[str, list[Image.Image]], None, None]:
        """Removes the last turn, or the user's message at ``index`` and what came after it, and gives the message's text and
        images; what was removed comes back if the body fails. Raises ValueError where no message of the user is there."""
        place = self._place(index)
        before, dropped = list(self.messages), self.dropped
        content = normalized([self.messages[place]], self.model.allow_urls)[0]["content"]
        text = "".join(p["text"] for p in content if p["type"] == "text")
        try:
            self._cut(place)
            yield text, [p["image"] for p in content if p["type"] == "image"]
        except BaseException:  # Ctrl-C too
            self.messages, self.dropped = before, dropped
            raise

    def save(self, path: str | Path, overwrite: bool = False, metadata: bool = True) -> Path:
        """Writes the conversation as JSON Lines (one line) with its pictures as PNG files in the same folder, or all of that as a
        zip archive; `load` reads both. The files of drawn pictures say how they were drawn, unless ``metadata`` is False.

        A file is replaced only where this chat was saved to it or loaded from it, or with ``overwrite``; pictures of others never
        are. Raises ValueError for another suffix than .jsonl or .zip and for a file of another origin, OSError for one that
        cannot be written; what was there then stays.
        """
        path = Path(path).expanduser()
        if path.suffix not in (".jsonl", ".zip"):
            raise ValueError(
                f"a conversation is saved as JSON Lines or a zip archive of them: {path.name} must end in .jsonl or .zip"
            )
        if path.exists() and path.resolve() not in self._saved and not overwrite:
            escaped = path.stem.replace("{", "{{").replace("}", "}}")
            free = free_path(f"{path.parent}/{escaped}-{{:03d}}{path.suffix}".removeprefix("./"))
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
        if path.suffix == ".zip":
            write_archive(path, messages, state, metadata)
            self._saved[path.resolve()] = {}
        else:
            files = write_chat(path, messages, state, self._saved.get(path.resolve(), {}), metadata)
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
        if zipfile.is_zipfile(path):
            with unpacked(path) as inner:
                chat = cls.load(inner, model, **options)
            chat._saved = {path.resolve(): {}}
            return chat
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

    def question(self, text: str, images: Any, mask: Any, options: Mapping[str, Any]) -> Message:
        """The message of a turn, as `say` takes it. Raises ValueError for one that is empty and for pictures that are none."""
        if not isinstance(text, str):
            raise ValueError(
                f"a message is a string, not {text!r:.60}; pictures stand beside it: say(text, images=[...])"
            )
        # not whatever can be gone through is several pictures: a path, bytes, an array and an open file can be too
        several = isinstance(images, (list, tuple, Iterator)) and not hasattr(images, "read")
        images = list(images) if several else [] if images is None else [images]
        if not text.strip() and not images:
            raise ValueError("say something or show a picture: the message is empty")
        pictures = [load_image(image, self.model.allow_urls) for image in images]
        if mask is not None:
            pictures = [self._masked(pictures, mask, options)]
        shown = [{"type": "image", "image": picture} for picture in pictures]
        said = [{"type": "text", "text": text}] if text.strip() else []
        return {"role": "user", "content": [*shown, *said]}

    def _masked(self, pictures: Sequence[Image.Image], mask: Any, options: Mapping[str, Any]) -> Image.Image:
        """The only one of ``pictures``, or the conversation's last, with the masked part hidden, at the size of the answer. Its
        mask is kept for whenever the message is answered. Raises ValueError as `read_mask` does."""
        if len(pictures) > 1:
            raise ValueError(
                f"a mask is of one picture, and {len(pictures)} are shown: show the one that is to be edited"
            )
        picture = pictures[0] if pictures else self.last_picture()
        if picture is None:
            raise ValueError("there is no picture to edit: show one with the message, or have one drawn")
        size = self.model.defaults.updated(generation_options({**self.options, **options})).size
        hidden, marked = mask_picture(picture, mask, self.model.config, size, self.model.allow_urls)
        self._masks[digest(hidden)] = marked
        return hidden

    def last_picture(self) -> Image.Image | None:
        """The last picture of the conversation, whoever showed it; None where there is none."""
        for message in reversed(self.messages):
            (own,) = normalized([message], self.model.allow_urls)
            if pictures := [part["image"] for part in own["content"] if part["type"] == "image"]:
                return pictures[-1]
        return None


def remembered(reply: Reply) -> Message:
    """The reply's message with copies of its pictures: what is done to them, as Pillow's own thumbnail(), is not done to the
    conversation."""
    return replace(
        reply, parts=[part.copy() if isinstance(part, Image.Image) else part for part in reply.parts]
    ).message()


def generation_options(options: Mapping[str, Any]) -> dict[str, Any]:
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
