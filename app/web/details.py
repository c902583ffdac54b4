"""What is known of a picture of a conversation: the words that it was drawn for, and how."""

from __future__ import annotations

from typing import Any

from ...mllm.messages import Message
from .conversation import Conversation


def details(conversation: Conversation, name: str) -> dict[str, Any] | None:
    """``prompt``, ``plan``, ``options`` of `Limner.generate` and ``size`` of a picture that was drawn; None for any other."""
    place = conversation.place_of(name)
    image = conversation.picture(name)
    if place is None or image is None or conversation.chat.messages[place]["role"] != "assistant":
        return None
    messages = conversation.chat.messages
    plan = ""
    for part in messages[place]["content"]:
        if part["type"] == "text":
            plan = part["text"].strip()
        elif conversation.name(part["image"]) == name:
            break
    prompt = words(messages[place - 1]) if place else ""
    return {"prompt": prompt, "plan": plan, "options": {}, "size": f"{image.width} × {image.height}"}


def words(message: Message) -> str:
    """Of a message."""
    return "\n".join(part["text"] for part in message["content"] if part["type"] == "text")
