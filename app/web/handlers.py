"""What the page's events do: updates of its components, streamed while a turn is answered."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from html import escape
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from PIL import Image

from ...inference.chat import Chat
from ...inference.images import PictureLimits, load_image
from ..server.errors import APIError
from ..server.service import random_seed
from .conversation import BusyError, Conversation, StoppedError
from .conversations import Conversations
from .details import details
from .examples import EXAMPLES
from .panel import MAX_SEED, Panel
from .rendering import button, chat_messages, placeholder
from .texts import language_of, text

logger = logging.getLogger("limner.server")

FRAME = 0.05
"""Seconds between two looks at a reply that is being written"""
Updates = dict[Any, Any]
Turn = AsyncGenerator[None, None]


class Components(Protocol):
    """Those of a page that handlers update."""

    bridge: gr.HTML
    chatbot: gr.Chatbot
    box: gr.MultimodalTextbox
    banner: gr.HTML
    panel: Panel


class Handlers:
    """Of a page. Each takes what the bridge holds first, a conversation's key and language."""

    def __init__(self, conversations: Conversations, page: Components) -> None:
        self.conversations, self.page = conversations, page
        self.options = conversations.service.options

    async def begin(self, old: str, request: gr.Request) -> Updates:
        """The page was loaded: what its tab showed before, or an empty conversation."""
        language = language_of(request.headers.get("accept-language", ""))
        conversation = await self.conversations.reopen(old.partition(" ")[0], language)
        self.conversations.tabs[str(request.session_hash)] = conversation.key
        return self.opened(conversation)

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.conversations.leave(str(request.session_hash))

    def new(self, bridge: str, request: gr.Request) -> Updates:
        """An empty conversation."""
        self.stop(bridge)
        conversation = self.conversations.open(language=bridge.partition(" ")[2] or "en")
        self.conversations.tabs[str(request.session_hash)] = conversation.key
        return self.opened(conversation)

    async def load(self, bridge: str, path: str, request: gr.Request) -> Updates:
        """A conversation that was saved."""
        language = bridge.partition(" ")[2] or "en"
        service = self.conversations.service
        try:
            chat = await service.in_thread(Chat.load, path, service.model)
        except (ValueError, OSError) as error:
            gr.Warning(escape(str(error).replace(path, Path(path).name)))
            return {self.page.box: gr.skip()}
        self.stop(bridge)
        conversation = self.conversations.open(chat, language)
        self.conversations.tabs[str(request.session_hash)] = conversation.key
        gr.Info(text("loaded", language))
        return self.opened(conversation)

    def stop(self, bridge: str) -> None:
        """Ends the reply that is being written."""
        if (conversation := self.conversations.get(bridge.partition(" ")[0])) is not None:
            conversation.stop()

    async def submit(self, bridge: str, said: dict[str, Any], *values: Any) -> AsyncGenerator[Updates, None]:
        """What stands in the box is said."""
        conversation = self.find(bridge)
        if conversation is None:
            return
        words, files = said.get("text") or "", list(said.get("files") or [])
        if not words.strip() and not files and conversation.editing is None:
            gr.Info(text("empty", conversation.language))
            return
        async for updates in self.say(conversation, words, files, values, place=conversation.editing):
            yield updates

    async def act(self, event: gr.EventData, bridge: str, *values: Any) -> AsyncGenerator[Updates, None]:
        """A button in the conversation or at a picture was pressed (page.js)."""
        conversation = self.find(bridge)
        if conversation is None:
            return
        asked = {name: str(event._data.get(name) or "") for name in ("action", "value", "text", "mask")}
        handler = self.turns().get(asked["action"])
        try:
            conversation.check_idle()
            if handler is None:
                yield self.changed(conversation, asked)
                return
            running = handler(conversation, asked, values)
        except (ValueError, IndexError) as error:  # IndexError: a button of what has changed since
            self.warn(conversation, error)
            return
        async for updates in running:
            yield updates

    def changed(self, conversation: Conversation, asked: dict[str, str]) -> Updates:
        """What a button changes at once."""
        page, action, value = self.page, asked["action"], asked["value"]
        if action == "choose":
            conversation.choose(int(value))
        elif action == "keep":
            conversation.choose(None)
        elif action == "undo":
            conversation.undo()
        elif action == "edit":
            _, question = conversation.chat.asked(int(value))
            conversation.editing = int(value)
            words = "".join(part["text"] for part in question["content"] if part["type"] == "text")
            return {page.box: {"text": words, "files": []}, page.banner: banner(conversation)}
        elif action == "cancel":
            conversation.editing = None
            return {page.box: {"text": "", "files": []}, page.banner: banner(conversation)}
        elif action == "reuse":
            found = details(conversation, asked["value"])
            if "options" not in found:
                raise ValueError("this picture does not say how it was drawn")
            shown = page.panel.values(found["options"])
            updates = dict(zip(page.panel.components, shown, strict=True))
            return {**updates, page.panel.lock: True, page.box: {"text": found["prompt"], "files": []}}
        conversation.forget_pictures()
        return {page.chatbot: chat_messages(conversation), page.banner: banner(conversation)}

    def turns(self) -> dict[str, Callable[..., AsyncGenerator[Updates, None]]]:
        """The buttons that have something answered."""
        return {
            "retry": self.retry,
            "more": self.more,
            "variations": self.variations,
            "example": self.example,
            "change": self.change,
        }

    def retry(self, conversation: Conversation, asked: dict[str, str], values: Any) -> AsyncGenerator[Updates, None]:
        place = int(asked["value"])
        _, question = conversation.chat.asked(place)
        words = "".join(part["text"] for part in question["content"] if part["type"] == "text")
        # where the seed is kept, the next one: the same one would give the same again
        seed = (conversation.chat.options.get("seed", 0) + 1) % MAX_SEED
        return self.say(conversation, words, [], values, place=place, seed=seed if values[5] else None)

    def more(self, conversation: Conversation, asked: dict[str, str], values: Any) -> AsyncGenerator[Updates, None]:
        place = int(asked["value"])
        conversation.chat.asked(place)  # it is there
        conversation.chat.options = self.page.panel.options(values, random_seed())
        return self.run(conversation, conversation.more(int(values[6]), place), None)

    def variations(
        self, conversation: Conversation, asked: dict[str, str], values: Any
    ) -> AsyncGenerator[Updates, None]:
        place = conversation.place_of(asked["value"])
        if place is None:
            raise ValueError("this picture is not in the conversation any more")
        role = conversation.chat.messages[place]["role"]
        return self.more(conversation, {"value": str(place - (role == "assistant"))}, values)

    def example(self, conversation: Conversation, asked: dict[str, str], values: Any) -> AsyncGenerator[Updates, None]:
        example = EXAMPLES[int(asked["value"])]
        return self.say(conversation, example.said(conversation.language), example.pictures(), values)

    def change(self, conversation: Conversation, asked: dict[str, str], values: Any) -> AsyncGenerator[Updates, None]:
        picture = conversation.picture(asked["value"])
        if picture is None:
            raise ValueError("this picture is not in the conversation any more")
        mask = asked["mask"] or None
        if mask is not None and not mask.startswith("data:"):  # a path would be one of the server's
            raise ValueError("a mask is a data URI")
        last = conversation.chat.last_picture()
        # the newest picture is what the model edits: any other one is shown again
        images = [] if last is not None and conversation.name(last) == asked["value"] else [picture]
        return self.say(conversation, asked["text"], images, values, mask=mask)

    def say(
        self,
        conversation: Conversation,
        words: str,
        images: list[Any],
        values: Any,
        mask: str | None = None,
        place: int | None = None,
        seed: int | None = None,
    ) -> AsyncGenerator[Updates, None]:
        """Has a message answered with the options of the panel, which the conversation keeps."""
        conversation.chat.options = self.page.panel.options(values, random_seed())
        if seed is not None:
            conversation.chat.options["seed"] = seed

        async def turn() -> Turn:
            shown = await self.conversations.service.in_thread(self.checked, images, conversation.language)
            async with contextlib.aclosing(conversation.say(words, shown, mask, place)) as events:
                async for _ in events:
                    yield

        return self.run(conversation, turn(), (words, images))

    def checked(self, images: list[Any], language: str) -> list[Image.Image]:
        """Pictures of a message, read. Raises ValueError for too many, too large ones and what is no picture."""
        if len(images) > self.options.max_pictures:
            raise ValueError(text("too_many", language, n=len(images), limit=self.options.max_pictures))
        limits = PictureLimits(max_pixels=int(self.options.max_megapixels * 1e6))
        shown = []
        for source in images:
            try:
                shown.append(load_image(source, limits=limits))
            except ValueError as error:  # of uploaded files, whose folder is nobody's business
                raise ValueError(str(error).replace(str(source), Path(str(source)).name)) from None
        return shown

    async def run(
        self, conversation: Conversation, turn: Turn, said: tuple[str, list[Any]] | None
    ) -> AsyncGenerator[Updates, None]:
        """Shows a turn while it is answered. What was ``said`` leaves the box, and comes back where nothing came of it."""
        page, forgotten = self.page, conversation.chat.forgotten
        box = gr.update(submit_btn=False, stop_btn=True)
        yield {page.box: box if said is None else box | {"value": {"text": "", "files": []}}}
        came, last = True, 0.0
        try:
            async with contextlib.aclosing(turn):
                async for _ in turn:
                    if (now := time.monotonic()) - last > FRAME:
                        last = now
                        yield {page.chatbot: chat_messages(conversation)}
        except Exception as error:  # noqa: BLE001 - said on the page
            came = False
            self.warn(conversation, error)
        if came and conversation.chat.forgotten and not forgotten:
            gr.Info(text("forgetting", conversation.language))
        if came and said is not None and conversation.is_cut:
            gr.Info(text("cut", conversation.language))
        conversation.forget_pictures()
        box = gr.update(submit_btn=True, stop_btn=False)
        if said is not None and not came:
            files = [file for file in said[1] if isinstance(file, str)]
            box |= {"value": {"text": said[0], "files": files}}
        yield {
            page.box: box,
            page.chatbot: chat_messages(conversation),
            page.banner: banner(conversation),
            page.panel.seed: conversation.chat.options.get("seed"),
        }

    def warn(self, conversation: Conversation, error: Exception) -> None:
        """Says what went wrong. What is nobody's mistake is in the log."""
        if isinstance(error, StoppedError):
            gr.Info(text("stopped", conversation.language))
        elif isinstance(error, BusyError):
            gr.Info(text("busy", conversation.language))
        elif isinstance(error, (ValueError, APIError, IndexError)):
            gr.Warning(escape(str(error)))
        else:
            logger.error("a turn of the page failed", exc_info=error)
            gr.Warning(text("failed", conversation.language))

    def find(self, bridge: str) -> Conversation | None:
        """The conversation of a tab; where there is none any more, that is said."""
        key, _, language = bridge.partition(" ")
        conversation = self.conversations.get(key)
        if conversation is None:
            gr.Warning(text("gone", language if language else "en"))
        return conversation

    def opened(self, conversation: Conversation) -> Updates:
        """A conversation in place of what is shown."""
        page, language = self.page, conversation.language
        panel = page.panel.values(dict(conversation.chat.options), language)
        return {
            page.bridge: f"{conversation.key} {language}",
            page.chatbot: gr.update(value=chat_messages(conversation), placeholder=placeholder(language)),
            page.box: gr.update(value={"text": "", "files": []}, submit_btn=True, stop_btn=False),
            page.banner: banner(conversation),
            **dict(zip(page.panel.components, panel, strict=True)),
        }


def banner(conversation: Conversation) -> Updates:
    """Says that the next message replaces another one."""
    if conversation.editing is None:
        return gr.update(value="", visible=False)
    said = text("editing", conversation.language)
    return gr.update(value=f"<span>{said}</span> {button(conversation, 'cancel', '')}", visible=True)
