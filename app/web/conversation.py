"""A conversation of the page: its turns are made through the service, and it is kept between the events of its tab."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from ...inference.chat import Chat, ChatOptions, Turn
from ...inference.chat_files import digest
from ...inference.inputs import ContextLengthError
from ...inference.masks import edited_event, edited_reply
from ...inference.reply import Reply
from ...mllm.events import Event, Finished, PictureBegun, PictureDone, PictureStep, TextPiece
from ...mllm.messages import Message
from ..server.service import Answer, Call, Service

PARTIAL_IMAGES = 3
"""How often a picture is shown while it is painted"""


class BusyError(ValueError):
    """A turn is being answered, and another one was asked for."""


class StoppedError(Exception):
    """A turn was stopped before anything of its reply was there."""


@dataclass
class Painting:
    """A picture that is not done."""

    size: tuple[int, int]
    """Height and width in pixels"""
    step: int = 0
    steps: int = 0
    image: Image.Image | None = None
    """As it stands"""


@dataclass
class LiveReply:
    """A reply as far as it is there."""

    parts: list[str | Image.Image] = field(default_factory=list)
    painting: Painting | None = None
    is_over: bool = False

    def take(self, event: Event) -> bool:
        """What happened; returns whether that shows."""
        if isinstance(event, TextPiece):
            if self.parts and isinstance(self.parts[-1], str):
                self.parts[-1] += event.text
            else:
                self.parts.append(event.text)
        elif isinstance(event, PictureBegun):
            self.painting = Painting(event.size)
        elif isinstance(event, PictureStep) and self.painting is not None:
            self.painting = replace(
                self.painting, step=event.step, steps=event.steps, image=event.image or self.painting.image
            )
        elif isinstance(event, PictureDone):
            self.parts.append(event.image)
            self.painting = None
        elif isinstance(event, Finished):
            self.is_over, self.painting = True, None
        return True


@dataclass
class LiveTurn:
    """A turn that is being answered."""

    place: int
    """Of the question among the messages"""
    question: Message
    replies: list[LiveReply]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Candidates:
    """Replies of which one is to be chosen."""

    place: int
    """Of the question among the messages"""
    replies: list[Reply]


class Conversation:
    """A chat whose turns are answered by a service, one at a time."""

    def __init__(self, chat: Chat, service: Service, key: str, language: str) -> None:
        self.chat, self.service, self.key, self.language = chat, service, key, language
        self.is_busy = False
        self.live: LiveTurn | None = None
        self.candidates: Candidates | None = None
        self.editing: int | None = None
        """The place of the message that the next one replaces"""
        self.is_cut = False
        """A limit cut the last reply"""
        self._names: dict[int, tuple[Image.Image, str]] = {}
        """Of pictures, by their identity"""

    async def say(
        self, text: str, images: Sequence[Any] = (), mask: Any = None, place: int | None = None, **options: Any
    ) -> AsyncGenerator[None, None]:
        """Answers a message, or says the one at ``place`` anew; yields whenever there is more to see. A reply that is stopped is
        remembered as far as it is there.

        Raises BusyError, StoppedError, what `Chat.say` and `Service.begin` raise; the conversation is as it was then.
        """
        chat, fresh = self.chat, ChatOptions(**options)  # type: ignore[typeddict-item]
        with contextlib.ExitStack() as restoring:
            restoring.enter_context(self._busy())
            if place is not None:
                _, shown = restoring.enter_context(chat.popped_turn(place))
                images = images or shown
            question = await self.service.in_thread(chat.question, text, list(images), mask, fresh)
            async with contextlib.aclosing(self._answered(len(chat.messages), question, fresh, 1)) as events:
                async for turn, replies in events:
                    if replies:
                        chat.remember(turn, replies[0])
                        self.is_cut = replies[0].finish_reason == "length"
                        self.candidates = self.editing = None
                    yield

    async def more(self, n: int, place: int, **options: Any) -> AsyncGenerator[None, None]:
        """``n`` other replies to the message at ``place``, for `choose`. Raises what `say` raises."""
        before, question = self.chat.asked(place)
        fresh = ChatOptions(**options)  # type: ignore[typeddict-item]
        with self._busy():
            async with contextlib.aclosing(self._answered(len(before), question, fresh, n)) as events:
                async for _, replies in events:
                    if replies:
                        self.candidates = Candidates(len(before), replies)
                    yield

    def choose(self, row: int | None) -> None:
        """Takes one of the candidates, or for None none of them."""
        self.check_idle()
        if self.candidates is not None and row is not None:
            self.chat.choose(self.candidates.replies[row], self.candidates.place)
        self.candidates = None

    def undo(self) -> None:
        """Forgets the last turn, or the candidates where some are shown. Raises ValueError where there is nothing."""
        self.check_idle()
        if self.candidates is None:
            self.chat.undo()
        self.candidates = self.editing = None

    def stop(self) -> None:
        """The turn that is being answered ends within one unit of the model's work."""
        if self.live is not None:
            self.live.stopping.set()

    async def stopped(self) -> None:
        """Waits until no turn is being answered, after `stop`."""
        if self.live is not None:
            self.stop()
            await self.live.over.wait()

    def name(self, image: Image.Image) -> str:
        """Of one of its pictures, for its address."""
        found = self._names.get(id(image))
        if found is None or found[0] is not image:
            self._names[id(image)] = found = (image, digest(image)[:32])
        return found[1]

    def picture(self, name: str) -> Image.Image | None:
        """The picture of this name."""
        return next((image for image, own in list(self._names.values()) if own == name), None)

    def place_of(self, name: str) -> int | None:
        """Of the last message that holds the picture of this name."""
        places = [
            place
            for place, message in enumerate(self.chat.messages)
            for part in message["content"]
            if part["type"] == "image" and self.name(part["image"]) == name
        ]
        return places[-1] if places else None

    def forget_pictures(self) -> None:
        """Those that are not in it any more."""
        replies = self.candidates.replies if self.candidates else []
        parts = [part["image"] for m in self.chat.messages for part in m["content"] if part["type"] == "image"]
        own = {id(image) for image in (*parts, *(image for reply in replies for image in reply.images))}
        self._names = {key: value for key, value in self._names.items() if key in own}

    def check_idle(self) -> None:
        """Raises BusyError while a turn is being answered."""
        if self.is_busy:
            raise BusyError("a reply is being written: stop it first")

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self.check_idle()
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False

    async def _answered(
        self, place: int, question: Message, options: ChatOptions, n: int
    ) -> AsyncGenerator[tuple[Turn, list[Reply]], None]:
        """Yields the turn and nothing while it is answered, then its replies. Where whoever waits has left, nothing is kept."""
        live = self.live = LiveTurn(place, question, [LiveReply() for _ in range(n)])
        answer: Answer | None = None
        try:
            answer, turn = await self._begin(place, question, options, n)
            yield turn, []
            async with contextlib.aclosing(until(live.stopping, answer.events())) as events:
                async for event in events:
                    if turn.edited is not None:
                        event = edited_event(event, *turn.edited)
                    live.replies[event.row].take(event)
                    yield turn, []
            if live.stopping.is_set():
                replies = [Reply(list(reply.parts), "stop") for reply in live.replies if reply.parts]
            elif turn.edited is not None:
                replies = [edited_reply(reply, *turn.edited) for reply in answer.replies]
            else:
                replies = answer.replies
        finally:
            self.live = None
            live.over.set()
            if answer is not None:
                await answer.aclose()
        if not replies:
            raise StoppedError
        yield turn, replies

    async def _begin(self, place: int, question: Message, options: ChatOptions, n: int) -> tuple[Answer, Turn]:
        for turn in self.chat.turns(self.chat.messages[:place], question, options):
            wanted = dict(turn.options)
            seed, adapters = wanted.pop("seed", 0), wanted.pop("adapters", None)
            wanted["partial_images"] = PARTIAL_IMAGES
            try:
                return await self.service.begin(Call(turn.messages, wanted, seed, n, adapters)), turn
            except ContextLengthError:
                if turn.is_shortest:
                    raise
        raise AssertionError("the shortest turn was begun or raised")


async def until(stopping: asyncio.Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The events, until it is to stop; they are closed then."""
    waiting = asyncio.ensure_future(stopping.wait())
    following: asyncio.Future[Event] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(events))
            await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.is_set():
                return
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        tasks = [task for task in (following, waiting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await events.aclose()
