"""Paths as people type them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path


def typed_path(text: str) -> Path:
    """A path that was typed, or dragged into a terminal: with ``~``, in quotes, with backslashes before blanks, as ``file://``,
    with blanks around it. One that is there as it stands is taken as it stands."""
    text = text.strip()
    paths = [expanded(form) for form in (text, unquoted(text))]
    return next((path for path in paths if os.path.exists(path)), paths[-1])


def typed_mask(text: str) -> Path | str | tuple[int, ...]:
    """A mask that was typed: a box as LEFT,TOP,RIGHT,BOTTOM in pixels, or a picture by its path or URL."""
    if re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+)*\s*", text) and not os.path.exists(text):
        return tuple(map(int, text.split(",")))
    return text if re.match("(https?|data):", text) else typed_path(text)


def unquoted(text: str) -> str:
    """Without the quotes and backslashes that a terminal adds to a path that is dragged into it."""
    if text[:1] not in ("'", '"'):
        # never before letters and digits: there it parts the folders of a path of Windows
        return text if os.name == "nt" else re.sub(r"\\([^\w/])", r"\1", text)
    if os.name == "nt":
        return text[1:-1] if text.endswith(text[0]) else text
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed
        return text
    return words[0] if len(words) == 1 else text


def quoted(path: Path) -> str:
    """The path as it is typed in a shell, where it begins with a dash, too."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def expanded(text: str | os.PathLike[str]) -> Path:
    """With ``~`` as the home folder, and a ``file://`` address as the path that it names."""
    text = os.fspath(text)
    if text.startswith("file:"):
        from ...inference.addresses import path_of_uri

        return path_of_uri(text)
    return Path(os.path.expanduser(text))
