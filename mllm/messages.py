"""Messages of a conversation, validated and normalized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .picture_tokens import PictureTokens

Message = dict[str, Any]
ROLES = ("system", "user", "assistant")
MEANT = {
    **dict.fromkeys(("human", "User", "USER"), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "ai", "chatbot", "Assistant", "ASSISTANT"), "assistant"),
    **dict.fromkeys(("developer", "System", "SYSTEM"), "system"),
}
"""What the roles of other formats are called here"""


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

    A part is ``{"type": "text", "text": str}`` or ``{"type": "image", "image": PIL.Image}``. A picture's part may have a
    ``"text_box"``, from which training learns where words stand: left, top, right and bottom as fractions of the picture, and
    that of a drawn one ``"tokens"``, the `PictureTokens` it is drawn by. Raises ValueError for anything else, naming the message.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not messages:
        raise ValueError("no messages: a conversation needs at least one")
    return [_message(m, f"message {i}") for i, m in enumerate(messages)]


def _message(message: Message, where: str) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise ValueError(f"{where} must be a dict with the keys role and content, not {message!r:.80}")
    role, content = message["role"], message["content"]
    # other libraries' messages have more fields, mostly empty ones
    more = [key for key, value in message.items() if key not in ("role", "content") and not _is_empty(value)]
    if more:
        raise ValueError(f"{where} has {more[0]!r} beside role and content, which is not read: leave it out")
    if not isinstance(role, str) or role not in ROLES:
        hint = f" ({role} is {MEANT[role]} here)" if isinstance(role, str) and role in MEANT else ""
        raise ValueError(f"{where} has role {role!r:.40}; roles are {', '.join(ROLES)}{hint}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"{where}: content must be a string or a list of parts, not {type(content).__name__}")
    parts = [_part(p, where) for p in content]
    if role == "user" and not any(p["type"] == "image" or p["text"].strip() for p in parts):
        raise ValueError(f"{where} is empty: say something or show a picture")
    return {"role": role, "content": parts}


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, Sequence, Mapping)) and not len(value))


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and set(part) == {"type", "text"} and isinstance(part["text"], str):
        return part
    known = {"type", "image"}
    if kind == "image" and set(part) - {"text_box", "tokens"} == known and isinstance(part["image"], Image.Image):
        check_text_box(part.get("text_box"), where)
        if not isinstance(part.get("tokens"), PictureTokens | None):
            raise ValueError(f"{where}: tokens is {part['tokens']!r:.80}; it must be PictureTokens")
        return part
    raise ValueError(
        f'{where}: a part must be {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}, not {part!r:.80}'
    )


def check_text_box(box: Any, where: str) -> None:
    """Raises ValueError for what is no box in a picture; None is none."""
    if box is None:
        return
    numbers = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(n, (int, float)) for n in box)
    if not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(
            f"{where}: text_box is {box!r:.80}; it is left, top, right and bottom of words as fractions of the picture"
        )
