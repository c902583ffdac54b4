"""Which words a picture is to carry: those in quotes."""

from __future__ import annotations

import re

MAX_CHARACTERS = 64
"""Characters of one of them"""
_QUOTED = re.compile(
    "|".join(
        rf"{begin}([^{end}\n]{{0,{MAX_CHARACTERS}}}){end}"
        for begin, end in (('"', '"'), ("“", "”"), ("「", "」"), ("『", "』"), ("«", "»"))
    )
)


def quoted_strings(text: str) -> tuple[str, ...]:
    """Of 'a red sign "OPEN"' ("OPEN",), in order, whatever quotation marks; what is longer than `MAX_CHARACTERS` is no sign."""
    found = ("".join(groups).strip() for groups in _QUOTED.findall(text))
    return tuple(string for string in found if string)


def find_glyph_text(reply: str, request: str) -> tuple[str, ...]:
    """For a drawing: what is quoted in what the assistant said before it or, where that is nothing, in the request."""
    return quoted_strings(reply) or quoted_strings(request)
