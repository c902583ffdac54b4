"""The public layouts of records, each recognised by its own fields and read as an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..example import Example
from .captions import CAPTION, captioned, captioned_by_the_other_column
from .conversations import (
    DRAWN,
    INPUT_IMAGES,
    REPLY,
    REQUEST,
    conversations,
    instruction,
    messages,
    preference,
    question_list,
)
from .documents import interleaved, story
from .edits import SOURCE, TARGET, edit, edit_in_turns
from .record import IMAGE, Record


@dataclass(frozen=True)
class Layout:
    """A layout: what it is called, the fields that it needs (one of each group), and how it is read."""

    name: str
    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Record], Example]

    def lacks(self, record: Record) -> list[tuple[str, ...]]:
        return [names for names in self.needs if record.first(names) is None]


LAYOUTS = (
    Layout("preference pairs", (("chosen",), ("rejected",)), preference),
    Layout("messages", (("messages",),), messages),
    Layout("conversations (LLaVA, ShareGPT)", (("conversations", "conversation"),), conversations),
    Layout("questions and answers (SEED-X)", (("data",),), question_list),
    Layout("edits in turns", (SOURCE, ("turns",)), edit_in_turns),
    Layout("edits", (SOURCE, TARGET), edit),
    Layout("stories", (("images",), ("captions",)), story),
    Layout("interleaved documents", (("texts",), ("images",)), interleaved),
    Layout("instructions (Alpaca, OmniGen2)", (REQUEST, (*REPLY, *DRAWN)), instruction),
    Layout("captions", ((*IMAGE, "images"), CAPTION), captioned),
)
"""The first whose fields a record has is its layout."""
PICTURES = tuple(dict.fromkeys((*INPUT_IMAGES, *DRAWN, *SOURCE, *TARGET)))
"""Names of all fields that hold pictures"""
NO_CAPTION = ("id", "key", "url", "label", "split", "license", "source", "hash", "md5", "sha256")
"""Columns that are no caption although a table has no other beside its pictures."""


def lost_pictures(record: Record) -> int:
    """How many pictures are lost with a record that no example is made of."""
    given = (record.fields[name] for name in PICTURES if name in record.fields)
    return sum(len(pictures) if isinstance(pictures, (list, tuple)) else 1 for pictures in given)


def has_layout(fields: dict[str, Any]) -> bool:
    """Whether an object is a record of some layout."""
    return any(not layout.lacks(Record(fields, Path, "")) for layout in LAYOUTS)


def layout_of(record: Record) -> Layout:
    """Raises ValueError for a record in none of them: it tells the fields that it has and those that the nearest layouts need."""
    fitting = next((layout for layout in LAYOUTS if not layout.lacks(record)), None)
    if fitting is not None:
        return fitting
    words = [
        name for name, value in record.fields.items() if name not in (*IMAGE, *NO_CAPTION) and isinstance(value, str)
    ]
    if len(record.columns) == 2 and record.first(IMAGE) and words:
        return Layout(f"captions ({words[0]})", (), captioned_by_the_other_column)
    lacking = [(layout.lacks(record), layout) for layout in LAYOUTS[1:]]
    nearest = sorted((pair for pair in lacking if len(pair[0]) < len(pair[1].needs)), key=lambda pair: len(pair[0]))
    missing = [
        f"{layout.name} need {' and '.join(' or '.join(names[:4]) for names in lacks)}" for lacks, layout in nearest[:3]
    ] or [f"known are {', '.join(layout.name for _, layout in lacking)}"]
    raise ValueError(f"fields {', '.join(record.fields) or '(none)'} are no known layout; {'; '.join(missing)}")
