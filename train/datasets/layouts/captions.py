"""Pictures with captions."""

from __future__ import annotations

import math
from typing import Any

from ..example import CaptionedPicture, Source
from .record import IMAGE, Record, check_list

CAPTION = ("text", "caption", "captions", "prompt", "description", "tags")
PLACEHOLDER = "[trigger]"


def captioned(record: Record) -> CaptionedPicture:
    """A picture and ``text`` or ``caption``: one or a list of them, with ``probabilities`` or without; a list of ``tags`` is one
    caption."""
    name = record.first(CAPTION)
    given = record.value(*CAPTION)
    if name == "tags" and isinstance(given, (list, tuple)):
        given = ", ".join(map(str, given))
    return with_captions(record.picture(*IMAGE, "images"), given, record.value("probabilities"), record.where)


def captioned_by_the_other_column(record: Record) -> CaptionedPicture:
    """A table of two columns, the picture and a text, whatever that is called: as diffusers' training scripts take it."""
    (caption,) = (name for name in record.fields if name not in IMAGE)
    return with_captions(record.picture(*IMAGE), record.text(caption), None, record.where)


def with_captions(picture: Source, given: Any, probabilities: Any, where: str) -> CaptionedPicture:
    """``given`` is a caption or a list of them, ``probabilities`` how often each is taken; equally often where None.

    Raises ValueError where no caption has a word or one is no text, or the probabilities are not as many, or none is above 0.
    """
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [c for c in several if c is not None and not isinstance(c, str)]
    if wrong:
        raise ValueError(f"the caption is {wrong[0]!r:.60}, not text")
    captions = [(c or "").strip() for c in several]
    check_captions(captions)
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


def check_captions(captions: list[str]) -> None:
    """Raises ValueError for ai-toolkit's placeholder, which would be learned as a word."""
    if any(PLACEHOLDER in caption for caption in captions):
        raise ValueError(
            f"the caption holds {PLACEHOLDER}, in whose place ai-toolkit puts your trigger word; write the word there"
        )
