"""Responses that are kept for a while, with what the next turn of their conversations is made of.

A response is one file: its object, the items of its input, and its turn as the model knows it, with the model's own tokens and
every pixel. The ids of its items hold its own, so that an item is found by its id: ``resp_X``, ``msg_X_0``, ``ig_X_1``, and
``msg_X_i0`` for the first one of the input.
"""

from __future__ import annotations

import base64
import io
import json
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from ....inference.chat_files import with_ids
from ....inference.images import load_image
from ....mllm.messages import Message
from ..errors import APIError
from ..store import Store

ITEM_ID = re.compile(r"(?:msg|ig)_([0-9a-f]{48})_(i?)([0-9]{1,4})")
Part = str | Image.Image


def new_id() -> str:
    """Of a response; nobody can guess it."""
    return f"resp_{secrets.token_hex(24)}"


def item_id(response_id: str, kind: str, index: int | str) -> str:
    """Of an item of the response: ``kind`` is "msg" or "ig"."""
    return f"{kind}_{response_id.removeprefix('resp_')}_{index}"


class StoredResponses:
    """``spells`` tells whether token ids write a text (`StreamEncoder.spells`)."""

    def __init__(self, store: Store, spells: Callable[[Sequence[int], str], bool]) -> None:
        self.store, self.spells = store, spells

    def put(self, response: dict[str, Any], items: Sequence[dict[str, Any]], turn: Sequence[Message]) -> None:
        """Keeps a response with the items of its input and the messages of its turn, the reply last."""
        messages = [
            {"role": message["role"], "content": [written(part) for part in message["content"]]} for message in turn
        ]
        token_ids = [[getattr(part.get("text"), "ids", None) for part in message["content"]] for message in turn]
        record = {"response": response, "input": items, "messages": messages, "token_ids": token_ids}
        self.store.put(json.dumps(record).encode(), ".json", response["id"])

    def get(self, response_id: str) -> dict[str, Any] | None:
        """What `put` kept; None for an id that there is not, or not any more."""
        data = self.store.get(f"{response_id}.json") if response_id.startswith("resp_") else None
        return None if data is None else json.loads(data)

    def found(self, response_id: str) -> dict[str, Any]:
        """As `get`. Raises APIError where it is not there."""
        if (record := self.get(response_id)) is None:
            raise APIError(f"Response with id {response_id[:80]!r} not found.", 404, code="not_found")
        return record

    def remove(self, response_id: str) -> None:
        """Raises APIError where it is not there."""
        self.found(response_id)
        self.store.remove(f"{response_id}.json")

    def messages(self, record: dict[str, Any]) -> list[Message]:
        """The messages of a response's turn, as they were."""
        return [
            with_ids({**message, "content": [read(part) for part in message["content"]]}, ids, self.spells)
            for message, ids in zip(record["messages"], record["token_ids"], strict=True)
        ]

    def conversation(self, response_id: str) -> list[Message]:
        """All messages up to the reply of this response. Raises APIError where one of its turns is not there any more."""
        turns: list[list[Message]] = []
        previous: str | None = response_id
        while previous is not None:
            if (record := self.get(previous)) is None:
                before = "" if previous == response_id else f", which comes before {response_id!r},"
                raise APIError(
                    f"Previous response with id {previous[:80]!r}{before} not found: it was not stored, was deleted, or has "
                    "expired.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            turns.append(self.messages(record))
            previous = record["response"]["previous_response_id"]
        return [message for turn in reversed(turns) for message in turn]


class StoredItems:
    """Items of stored responses for one request, which reads each response once."""

    def __init__(self, stored: StoredResponses) -> None:
        self.stored = stored
        self.records: dict[str, dict[str, Any] | None] = {}

    def get(self, own_id: str) -> tuple[dict[str, Any], Part | None] | None:
        """An item of a stored response, and the words or the picture of an output item as the model knows them. None for an id
        that there is not, or not any more."""
        match = ITEM_ID.fullmatch(own_id)
        if match is None:
            return None
        response_id = f"resp_{match[1]}"
        if response_id not in self.records:
            self.records[response_id] = self.stored.get(response_id)
        if (record := self.records[response_id]) is None:
            return None
        items = record["input"] if match[2] else record["response"]["output"]
        index = next((i for i, item in enumerate(items) if item["id"] == own_id), None)
        if index is None:
            return None
        return items[index], None if match[2] else self.part(record, index)

    def part(self, record: dict[str, Any], index: int) -> Part:
        """Of the reply, that of an output item."""
        pairs = zip(record["messages"][-1]["content"], record["token_ids"][-1], strict=True)
        # words without a character are no item
        written, ids = [pair for pair in pairs if pair[0]["type"] == "image" or pair[0]["text"]][index]
        message = {"role": "assistant", "content": [read(written)]}
        (part,) = with_ids(message, [ids], self.stored.spells)["content"]
        return part["image"] if part["type"] == "image" else part["text"]


def written(part: dict[str, Any]) -> dict[str, str]:
    """A part of a message as JSON values."""
    if part["type"] == "text":
        return {"type": "text", "text": str(part["text"])}
    file = io.BytesIO()
    part["image"].save(file, "PNG", compress_level=1)
    return {"type": "image", "image": base64.b64encode(file.getvalue()).decode()}


def read(part: dict[str, str]) -> dict[str, Any]:
    """What `written` wrote."""
    if part["type"] == "text":
        return dict(part)
    return {"type": "image", "image": load_image(base64.b64decode(part["image"]))}
