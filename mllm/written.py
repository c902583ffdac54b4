"""Which words a picture is to carry: those in quotes."""

from __future__ import annotations

import re

LONGEST = 64
"""Characters of one of them"""
_QUOTED = re.compile(
    "|".join(
        rf"{begin}([^{end}\n]{{0,{LONGEST}}}){end}"
        for begin, end in (('"', '"'), ("“", "”"), ("「", "」"), ("『", "』"), ("«", "»"))
    )
)


def quoted(text: str) -> tuple[str, ...]:
    """Of 'a red sign "OPEN"' ("OPEN",), in order, whatever quotation marks; what is longer than `LONGEST` is no sign."""
    found = ("".join(groups).strip() for groups in _QUOTED.findall(text))
    return tuple(words for words in found if words)


def to_write(told: str, asked: str) -> tuple[str, ...]:
    """For a drawing: what is quoted in what the assistant said before it or, where that is nothing, in the request."""
    return quoted(told) or quoted(asked)
