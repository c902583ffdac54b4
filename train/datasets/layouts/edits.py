"""Edits: a picture, an instruction and what the picture becomes, in one step or several."""

from __future__ import annotations

from typing import Any

from ....mllm.messages import Message
from ..example import Conversation, chat_message, text
from .conversations import finished
from .record import Record

SOURCE = ("source", "source_image", "source_img", "src_img", "input_image", "original_image")
TARGET = ("target", "target_image", "target_img", "edited_image", "edited_img", "output_image")
INSTRUCTION = ("instruction_new", "instruction", "edit_prompt", "edit_instruction", "edit", "prompt")


def edit(record: Record) -> Conversation:
    """``source``, ``instruction``, ``target``, and the names that InstructPix2Pix, MagicBrush, UltraEdit, HQ-Edit, OmniEdit and
    SEED-X use; SEED-X's ``response`` stands before the picture."""
    shown = {"type": "image", "image": record.picture(*SOURCE)}
    return finished(record, turn(record, 0, shown))


def edit_in_turns(record: Record) -> Conversation:
    """``source`` and ``turns`` of instruction and target, each an edit of the picture before."""
    told: list[Message] = []
    for index, fields in enumerate(record.list("turns")):
        if not isinstance(fields, dict):
            raise ValueError(f"turn {index} needs an instruction and a target, not {fields!r:.60}")
        shown = [{"type": "image", "image": record.picture(*SOURCE)}] if index == 0 else []
        told += turn(Record(fields, record.find, record.where), index, *shown)
    return finished(record, told)


def turn(record: Record, index: int, *shown: dict[str, Any]) -> list[Message]:
    words = record.value(*INSTRUCTION)
    if record.first(TARGET) is None or not isinstance(words, str):
        raise ValueError(f"turn {index} needs an instruction and a target")
    said = record.text("response")
    after = {"type": "image", "image": record.picture(*TARGET)}
    return [
        chat_message("user", *shown, text(words)),
        chat_message("assistant", *([text(said)] if said else []), after),
    ]
