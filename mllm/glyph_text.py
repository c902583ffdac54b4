"""Text that is to be written in an image: what stands in quotes."""

from __future__ import annotations

import re

MAX_CHARACTERS = 64
"""Longer strings in quotes are not taken for text in an image."""
_QUOTED = re.compile(
    "|".join(
        rf"{begin}([^{end}\n]{{0,{MAX_CHARACTERS}}}){end}"
        for begin, end in (('"', '"'), ("“", "”"), ("「", "」"), ("『", "』"), ("«", "»"))
    )
)


def quoted_strings(text: str) -> tuple[str, ...]:
    """Strings of at most `MAX_CHARACTERS` in quotation marks of any language, in order: 'a red sign "OPEN"' gives ("OPEN",)."""
    found = ("".join(groups).strip() for groups in _QUOTED.findall(text))
    return tuple(string for string in found if string)


def find_glyph_text(reply: str, request: str) -> tuple[str, ...]:
    """The strings to be written in an image: those quoted in the reply before it or, where there are none, in the request."""
    return quoted_strings(reply) or quoted_strings(request)
