"""The input of a request as messages, and as the items that a stored response lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ....mllm.messages import Message
from ..errors import APIError
from ..history import History, check_number, check_pictures
from .schemas import ItemReference, MessageItem, PictureItem, ResponseRequest
from .stored import Part, StoredItems, StoredResponses, item_id


@dataclass
class Input:
    """What a request adds to its conversation."""

    items: list[dict[str, Any]] = field(default_factory=list)
    """In OpenAI's form, each with an id"""
    messages: list[Message] = field(default_factory=list)
    """Items of the assistant that follow each other are one message"""


def read_input(body: ResponseRequest, history: History, stored: StoredResponses, response_id: str) -> Input:
    """Reads the input of the response that will have this id. Raises APIError, which names the item, for what cannot be read."""
    given = [MessageItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    check_pictures(body, "input", history.options)
    read, items, num_pictures = Input(), StoredItems(stored), 0
    said: list[tuple[str, list[Part]]] = []
    for index, item in enumerate(given):
        where = "input" if isinstance(body.input, str) else f"input.{index}"
        role, parts, listed = read_item(item, history, items, where)
        num_pictures += sum(isinstance(part, Image.Image) for part in parts)
        check_number(num_pictures, "input", history.options)  # those that only ids tell of too
        kind = "ig" if listed["type"] == "image_generation_call" else "msg"
        read.items.append({**listed, "id": listed["id"] or item_id(response_id, kind, f"i{index}")})
        if role == "assistant" and said and said[-1][0] == role:
            said[-1][1].extend(parts)
        else:
            said.append((role, parts))
    read.messages = [history.message(role, parts) for role, parts in said]
    return read


def read_item(
    item: MessageItem | PictureItem | ItemReference, history: History, items: StoredItems, where: str
) -> tuple[str, list[Part], dict[str, Any]]:
    """Whose item it is, its words and pictures, and how it is listed."""
    if isinstance(item, PictureItem):
        return ("assistant", *read_picture(item, history, items, where))
    if isinstance(item, MessageItem):
        return read_message(item, history, items, where)
    found = items.get(item.id)
    if found is None:
        raise not_found(item.id, where)
    listed, part = found
    if part is not None:
        return "assistant", [part], listed
    kind = PictureItem if listed["type"] == "image_generation_call" else MessageItem
    return read_item(kind.model_validate(listed), history, items, where)


def read_message(
    item: MessageItem, history: History, items: StoredItems, where: str
) -> tuple[str, list[Part], dict[str, Any]]:
    """As `read_item`. Words of the model that were stored are in its own tokens."""
    content = item.content if isinstance(item.content, str) else [part.model_dump() for part in item.content]
    parts = history.parts(content, where)
    role = "system" if item.role == "developer" else item.role
    if role == "system" and any(isinstance(part, Image.Image) for part in parts):
        raise APIError(f"{where}.content: rules are words alone", param=f"{where}.content", code="invalid_value")
    if role != "assistant" and not any(isinstance(part, Image.Image) or part.strip() for part in parts):
        raise APIError(f"{where}: the message is empty", param=where, code="invalid_value")
    found = items.get(item.id) if item.id and role == "assistant" else None
    if found is not None and isinstance(found[1], str) and parts == [found[1]]:
        parts = [found[1]]
    said = "output_text" if item.role == "assistant" else "input_text"
    shown = [{"type": said, "text": content}] if isinstance(content, str) else content
    listed = {
        "id": item.id,
        "type": "message",
        "role": item.role,
        "status": item.status or "completed",
        "content": [listed_part(part) for part in shown],
    }
    return role, parts, listed


def listed_part(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a message in OpenAI's full form."""
    if part["type"] == "output_text":
        return {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []}
    if part["type"] == "input_image":
        return {"type": "input_image", "image_url": part["image_url"], "detail": part.get("detail") or "auto"}
    return {name: value for name, value in part.items() if value is not None}


def read_picture(
    item: PictureItem, history: History, items: StoredItems, where: str
) -> tuple[list[Part], dict[str, Any]]:
    """As `read_item`. A picture that was stored, and comes back as it was given out or by its id alone, has its own pixels."""
    found = items.get(item.id) if item.id else None
    listed = {"id": item.id, "type": "image_generation_call", "status": "completed"}
    if found is not None and isinstance(found[1], Image.Image) and item.result in (None, found[0]["result"]):
        return [found[1]], {**listed, "result": found[0]["result"]}
    if item.result is None:
        raise not_found(item.id or "", where)
    url = item.result if item.result.startswith("data:") else f"data:image/png;base64,{item.result}"
    return [history.load_image(url, f"{where}.result")], {**listed, "result": item.result}


def not_found(own_id: str, where: str) -> APIError:
    """Of an item that is nowhere."""
    return APIError(
        f"{where}: Item with id {own_id[:80]!r} not found: its response was not stored, was deleted, or has expired. Send its "
        "content along.",
        404,
        param=where,
        code="not_found",
    )


def with_instructions(instructions: str | None, messages: Sequence[Message]) -> list[Message]:
    """The conversation with rules of this response alone before it, in one message with rules that stand first in it."""
    if not instructions:
        return list(messages)
    content = [{"type": "text", "text": instructions}]
    if messages and messages[0]["role"] == "system":
        content += [{"type": "text", "text": "\n\n"}, *messages[0]["content"]]
        messages = messages[1:]
    return [{"role": "system", "content": content}, *messages]


def without_first_exchange(messages: Sequence[Message]) -> list[Message] | None:
    """The conversation from the second message of the user on, after the rules; None where there is only one."""
    questions = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if len(questions) < 2:
        return None
    rules = [message for message in messages[:1] if message["role"] == "system"]
    return [*rules, *messages[questions[1] :]]
