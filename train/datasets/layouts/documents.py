"""Texts and pictures in a row: stories and interleaved documents."""

from __future__ import annotations

from typing import Any

from ..example import Conversation, chat_message, text
from .conversations import finished
from .record import Record


def story(record: Record) -> Conversation:
    """SEED-Story's ``images`` and ``captions`` of one length: its first picture and words are the user's, the assistant goes on
    with the words and the picture of each next scene."""
    captions, pictures = record.list("captions"), list(record.pictures("images").values())
    if len(captions) != len(pictures) or not all(isinstance(words, str) for words in captions):
        raise ValueError(f"{len(captions)} captions beside {len(pictures)} images; a story has a text for each")
    if len(captions) < 2:
        raise ValueError("a story of one scene: nothing to go on with")
    parts = [
        [text(words), {"type": "image", "image": source}] for words, source in zip(captions, pictures, strict=True)
    ]
    rest = [part for scene in parts[1:] for part in scene]
    return finished(record, [chat_message("user", *parts[0]), chat_message("assistant", *rest)])


def interleaved(record: Record) -> Conversation:
    """``texts`` and ``images`` of one length, null where the other has something (OBELICS): the document is the
    assistant's, its first text the request."""
    texts, images = record.list("texts"), record.list("images")
    if len(texts) != len(images):
        raise ValueError(f"{len(texts)} texts beside {len(images)} images; null fills the gaps")
    parts: list[dict[str, Any]] = []
    for words, given in zip(texts, images, strict=True):
        if (words is None) == (given is None):
            raise ValueError("each place of a document holds a text or a picture, the other is null")
        parts.append(text(str(words)) if given is None else {"type": "image", "image": record.open(given)})
    opening = next((i for i, p in enumerate(parts) if p["type"] == "text" and p["text"].strip()), None)
    if opening is None or len(parts) < 2:
        raise ValueError("a document needs a text and something after or before it")
    return finished(record, [chat_message("user", parts.pop(opening)), chat_message("assistant", *parts)])
