"""The inputs of `generate`: one conversation or a batch, seeds, images by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..mllm.messages import Message
from .images import load_image

Messages = str | Sequence[Message]


class ContextLengthError(ValueError):
    """A conversation with its reply is longer than the context. It is raised before anything is generated."""


def as_batch(messages: Messages | Sequence[Messages]) -> tuple[list[Messages], bool]:
    """A list of conversations, and whether only one was given. A list of dicts is one; of strings or lists, several.

    Raises ValueError for an empty list or a mixture.
    """
    if isinstance(messages, str):
        return [messages], True
    conversations: list[Any] = list(messages)
    if not conversations:
        raise ValueError("no messages: a conversation needs at least one")
    if all(isinstance(m, dict) for m in conversations):
        return [conversations], True
    if any(isinstance(m, dict) for m in conversations):
        raise ValueError("a batch is a list of prompts or of conversations, not a mixture of them and single messages")
    return conversations, False


def seeds_per_row(seed: int | Sequence[int], count: int) -> list[int]:
    """Seeds of a batch: ``seed`` for all, or a list of one for each. Raises ValueError for another number of them."""
    if isinstance(seed, int):
        return [seed] * count
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} conversations")
    return list(seed)


def load_message_images(messages: Messages) -> Messages:
    """Messages with images loaded from paths. Raises ValueError as `load_image` does, and for an empty prompt."""
    if isinstance(messages, str):
        if not messages.strip():
            raise ValueError("the prompt is empty")
        return messages
    loaded = []
    for message in messages:
        if isinstance(message, dict) and isinstance(message.get("content"), (list, tuple)):
            content = [
                {**part, "image": load_image(part["image"])}
                if isinstance(part, dict) and isinstance(part.get("image"), (str, Path, Image.Image))
                else part
                for part in message["content"]
            ]
            message = {**message, "content": content}
        loaded.append(message)
    return loaded


def recent_messages(messages: Messages, history: int) -> Messages:
    """The last message with the ``history`` exchanges before it (0: all of them), and a system message that stands first."""
    if not history or isinstance(messages, str):
        return messages
    questions = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    if len(questions) <= history + 1:
        return messages
    rules = [message for message in messages[:1] if message.get("role") == "system"]
    return [*rules, *messages[questions[-1 - history] :]]
