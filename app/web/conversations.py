"""The conversations of all tabs, each behind a key that nobody can guess."""

from __future__ import annotations

import secrets
import time

from ...inference.chat import Chat
from ..server.service import Service
from .conversation import Conversation

MAX_CONVERSATIONS = 256
"""The one that was used least lately goes where there are more"""


class Conversations:
    """Of all tabs; one that was not used for as long as the server keeps things is forgotten."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.kept: dict[str, tuple[Conversation, float]] = {}
        """With when each was used last, that one last"""
        self.tabs: dict[str, str] = {}
        """The key of each of gradio's sessions"""

    def get(self, key: str) -> Conversation | None:
        """The conversation behind a key, None where there is none or not any more."""
        found = self.kept.pop(key, None)
        if found is None:
            return None
        self.kept[key] = (found[0], time.monotonic())
        return found[0]

    def open(self, chat: Chat | None = None, language: str = "en") -> Conversation:
        """A conversation behind a new key, empty or with a chat that was loaded."""
        key = secrets.token_urlsafe(24)
        made = Conversation(chat or Chat(self.service.model), self.service, key, language)
        self.kept[key] = (made, time.monotonic())
        self._sweep()
        return made

    async def reopen(self, key: str, language: str) -> Conversation:
        """What a page shows that was loaded anew: a copy, since a tab that was duplicated has the same key."""
        old = self.get(key)
        if old is None:
            return self.open(language=language)
        await old.stopped()
        return self.open(old.chat.copy(), language)

    def leave(self, session: str) -> None:
        """A tab was closed: nobody waits for what it asked."""
        old = self.get(self.tabs.pop(session, ""))
        if old is not None:
            old.stop()

    def _sweep(self) -> None:
        oldest = time.monotonic() - self.service.options.expire
        for key, (conversation, used) in list(self.kept.items()):
            if conversation.live is None and (used < oldest or len(self.kept) > MAX_CONVERSATIONS):
                del self.kept[key]
        self.tabs = {session: key for session, key in self.tabs.items() if key in self.kept}
