"""Reads one row of a table or one line of JSON in any of the public layouts as an example."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...mllm.messages import ROLES
from .example import CaptionedPicture, Conversation, EmbeddedPicture, Example, Source, chat_message, text

LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
LAYOUTS = (
    "messages (conversations), conversations (LLaVA), source + target + instruction (edits), "
    "texts + images (interleaved documents), file_name/image + text/caption (captions)"
)
IMAGE = ("file_name", "image", "jpg", "png", "webp")
CAPTION = ("text", "caption", "captions", "prompt")
SOURCE = ("source", "input_image", "original_image")
TARGET = ("target", "edited_image", "output_image")
INSTRUCTION = ("instruction", "edit_prompt", "edit", "prompt")


def picture_path(folder: Path, name: str) -> Path:
    """A picture's path relative to its data set. Raises ValueError for one that leaves the folder."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name):
        raise ValueError(f"{name!r} is a URL; download the picture into the folder and name it there")
    path = Path(name)
    if path.is_absolute() or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leaves the data set's folder; pictures are named relative to it")
    if not (folder / path).is_file():
        raise ValueError(f"no such picture: {name}")
    return folder / path


def source(value: Any, folder: Path, where: str) -> Source:
    """A path, or what `datasets` and Parquet keep of a picture: ``{"bytes": …, "path": …}``."""
    held = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
    if isinstance(held, str) and held:
        return picture_path(folder, held)
    if isinstance(held, (bytes, bytearray)) and held:
        name = f"{where} ({value.get('path') or 'picture'})" if isinstance(value, dict) else where
        return EmbeddedPicture(name, bytes(held))
    raise ValueError(f"a picture must be a path or bytes, not {value!r:.60}")


def first_field(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of ``names`` that the row has a value for, or None."""
    return next((name for name in names if row.get(name) is not None), None)


def example(row: Any, folder: Path, where: str) -> Example:
    """Raises ValueError for a row in none of the known layouts, or wrong within its own."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with named fields, not {row!r:.60}")
    layouts: dict[Callable[[dict[str, Any], Path, str], Example], Any] = {
        conversation: row.get("messages") is not None,
        llava: row.get("conversations") is not None,
        edits: first_field(row, SOURCE) and (first_field(row, TARGET) or row.get("turns")),
        interleaved: row.get("texts") is not None and row.get("images") is not None,
        captioned: first_field(row, IMAGE) and first_field(row, CAPTION),
    }
    read = next((reader for reader, fits in layouts.items() if fits), None)
    if read is None:
        raise ValueError(f"fields {', '.join(map(str, row)) or '(none)'} are no known layout; known are {LAYOUTS}")
    return read(row, folder, where)


def conversation(row: dict[str, Any], folder: Path, where: str) -> Conversation:
    messages = []
    for message in check_list(row["messages"], "messages"):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise ValueError(f"unknown role {role!r}; roles are {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, str):
            content = [text(content)]
        parts = [part(p, folder, where) for p in check_list(content, "content")]
        messages.append(chat_message(message["role"], *parts))
    return Conversation(check_has_reply(messages), where)


def part(value: Any, folder: Path, where: str) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text" and isinstance(value.get("text"), str):
        return text(value["text"])
    if kind == "image" and value.get("image") is not None:
        return {"type": "image", "image": source(value["image"], folder, where)}
    raise ValueError(
        f'a part must be {{"type": "text", "text": …}} or {{"type": "image", "image": …}}, not {value!r:.60}'
    )


def llava(row: dict[str, Any], folder: Path, where: str) -> Conversation:
    """``{"image": …, "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", …}]}``"""
    given = row.get("images", row.get("image"))
    pictures = [] if given is None else given if isinstance(given, list) else [given]
    left = [source(p, folder, where) for p in pictures]
    messages = []
    for turn in check_list(row["conversations"], "conversations"):
        role = LLAVA_ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None:
            raise ValueError(f"unknown role {turn.get('from') if isinstance(turn, dict) else turn!r}")
        parts = []
        for index, piece in enumerate(str(turn.get("value", "")).split("<image>")):
            if index:
                if not left:
                    raise ValueError(f"more <image> marks than pictures ({len(pictures)})")
                parts.append({"type": "image", "image": left.pop(0)})
            if piece.strip():
                parts.append(text(piece.strip()))
        messages.append(chat_message(role, *parts))
    if left:
        raise ValueError(f"{len(left)} of {len(pictures)} pictures have no <image> mark")
    return Conversation(check_has_reply(messages), where)


def edits(row: dict[str, Any], folder: Path, where: str) -> Conversation:
    """``source, instruction, target``, or ``source`` and ``turns`` of instruction and target."""
    turns = row.get("turns") or [row]
    messages = []
    for index, turn in enumerate(check_list(turns, "turns")):
        words, after = (
            (first_field(turn, INSTRUCTION), first_field(turn, TARGET)) if isinstance(turn, dict) else (None, None)
        )
        if words is None or after is None or not isinstance(turn[words], str):
            raise ValueError(f"turn {index} needs an instruction and a target")
        shown = [{"type": "image", "image": source(row[first_field(row, SOURCE)], folder, where)}] if index == 0 else []
        messages.append(chat_message("user", *shown, text(turn[words])))
        messages.append(chat_message("assistant", {"type": "image", "image": source(turn[after], folder, where)}))
    return Conversation(check_has_reply(messages), where)


def interleaved(row: dict[str, Any], folder: Path, where: str) -> Conversation:
    """``texts`` and ``images`` of one length, null where the other has something (OBELICS): the document is the
    assistant's, its first text the request."""
    texts, images = check_list(row["texts"], "texts"), check_list(row["images"], "images")
    if len(texts) != len(images):
        raise ValueError(f"{len(texts)} texts beside {len(images)} images; null fills the gaps")
    parts: list[dict[str, Any]] = []
    for words, picture in zip(texts, images, strict=True):
        if (words is None) == (picture is None):
            raise ValueError("each place of a document holds a text or a picture, the other is null")
        parts.append(
            text(str(words)) if picture is None else {"type": "image", "image": source(picture, folder, where)}
        )
    opening = next((i for i, p in enumerate(parts) if p["type"] == "text" and p["text"].strip()), None)
    if opening is None or len(parts) < 2:
        raise ValueError("a document needs a text and something after or before it")
    return Conversation([chat_message("user", parts.pop(opening)), chat_message("assistant", *parts)], where)


def captioned(row: dict[str, Any], folder: Path, where: str) -> CaptionedPicture:
    return with_captions(
        source(row[first_field(row, IMAGE)], folder, where),
        row[first_field(row, CAPTION)],
        row.get("probabilities"),
        where,
    )


def with_captions(picture: Source, given: Any, probabilities: Any, where: str) -> CaptionedPicture:
    """``given`` is a caption or a list of them, ``probabilities`` how often each is taken; equally often where None.

    Raises ValueError where no caption has a word, or the probabilities are not as many, or none is above 0.
    """
    captions = [c.strip() if isinstance(c, str) else "" for c in (given if isinstance(given, list) else [given])]
    shares = [1.0] * len(captions) if probabilities is None else check_list(probabilities, "probabilities")
    numbers = all(isinstance(s, (int, float)) and 0 <= s < math.inf for s in shares)
    if len(shares) != len(captions) or not numbers or not any(shares):
        raise ValueError(
            f"probabilities {shares!r:.60}: one for each of the {len(captions)} captions, none below 0, not all 0"
        )
    kept = [(c, float(s)) for c, s in zip(captions, shares, strict=True) if c and s]
    if not kept:
        raise ValueError("the caption is empty")
    words, taken = zip(*kept, strict=True)
    return CaptionedPicture(picture, words, where, taken)


def check_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{name} must be a list with something in it, not {value!r:.60}")
    return list(value)


def check_has_reply(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not any(m["role"] == "assistant" and m["content"] for m in messages):
        raise ValueError("nothing to learn: no reply of the assistant")
    return messages
