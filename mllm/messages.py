"""Messages of a conversation, validated and normalized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

Message = dict[str, Any]
ROLES = ("system", "user", "assistant")


class EmittedText(str):
    """Text that the model wrote, with its token ids: in the history it keeps them and is not tokenized again."""

    ids: tuple[int, ...]

    def __new__(cls, text: str, ids: Sequence[int]) -> EmittedText:
        self = super().__new__(cls, text)
        self.ids = tuple(ids)
        return self

    def __getnewargs__(self) -> tuple[str, tuple[int, ...]]:  # type: ignore[override]  # so that it can be copied and pickled
        return str(self), self.ids


def normalize_messages(messages: str | Sequence[Message]) -> list[Message]:
    """A prompt or messages as a list of ``{"role", "content": [parts]}``.

    A part is ``{"type": "text", "text": str}`` or ``{"type": "image", "image": PIL.Image}``. Raises
    ValueError for anything else, naming the message.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not messages:
        raise ValueError("no messages: a conversation needs at least one")
    return [_message(m, f"message {i}") for i, m in enumerate(messages)]


def _message(message: Message, where: str) -> Message:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise ValueError(f"{where} must be a dict with exactly the keys role and content, not {message!r:.80}")
    if message["role"] not in ROLES:
        raise ValueError(f"{where} has role {message['role']!r}; roles are {', '.join(ROLES)}")
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"{where}: content must be a string or a list of parts, not {type(content).__name__}")
    parts = [_part(p, where) for p in content]
    if message["role"] == "user" and not any(p["type"] == "image" or p["text"].strip() for p in parts):
        raise ValueError(f"{where} is empty: say something or show a picture")
    return {"role": message["role"], "content": parts}


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and set(part) == {"type", "text"} and isinstance(part["text"], str):
        return part
    if kind == "image" and set(part) == {"type", "image"} and isinstance(part["image"], Image.Image):
        return part
    raise ValueError(
        f'{where}: a part must be {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}, not {part!r:.80}'
    )
