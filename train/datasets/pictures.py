"""Finds a record's pictures: paths relative to its data set, `file://`, data URIs, base64, and what Parquet holds of them."""

from __future__ import annotations

import base64
import binascii
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...inference.addresses import data_of_uri, path_of_uri
from .example import EmbeddedPicture, Source

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jfif", ".avif", ".heic")
)
"""Endings of what is meant as a picture; whether it can be read is found out when it is opened."""
Find = Callable[[str], Source]
"""From the name that a record gives a picture to the picture. Raises ValueError where there is none."""


def picture(value: Any, find: Find, where: str) -> Source:
    """A name, the bytes themselves, or an object that holds one of them: `datasets`' and Parquet's ``{"bytes", "path"}``,
    OpenAI's ``{"url"}``, Anthropic's ``{"data"}``.

    Raises ValueError for anything else, for a URL, and where ``find`` finds nothing.
    """
    if isinstance(value, EmbeddedPicture):
        return value
    held = value
    if isinstance(value, dict):
        held = next(
            (value[key] for key in ("bytes", "data", "path", "url", "image", "file_name") if value.get(key)), None
        )
    if isinstance(held, (bytes, bytearray)) and held:
        name = f"{where} ({value.get('path') or 'picture'})" if isinstance(value, dict) else where
        return EmbeddedPicture(name, bytes(held))
    if isinstance(held, str) and held:
        data = base64_bytes(held)
        return find(held) if data is None else EmbeddedPicture(f"{where} (base64)", data)
    raise ValueError(f"a picture must be a path or bytes, not {value!r:.60}")


def base64_bytes(text: str) -> bytes | None:
    """The bytes of a data URI or of a long base64 string, or None for a name. Raises ValueError for a broken data URI."""
    if text[:5].lower() == "data:":
        return data_of_uri(text)
    if len(text) < 100 or not re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}\s*", text):
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return None  # a long name


class PictureFolders:
    """Pictures by their names relative to one of several folders: the table's own, then those above it in the data set."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        root = root if root is not None and folder.is_relative_to(root) else folder
        self.root = os.path.abspath(root)
        self.folders = [p for p in (folder, *folder.parents) if p.is_relative_to(root)]

    def __call__(self, name: str) -> Path:
        """Raises ValueError for a name that leaves the data set, a URL, or where there is no such file.

        A link that stands in the data set may lead anywhere: its owner put it there.
        """
        if re.match(r"file://(localhost)?/", name):
            name = str(path_of_uri(name))
        elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name):
            raise ValueError(f"{name!r:.80} is a URL; download the picture into the folder and name it there")
        for form in spellings(name):
            for folder in self.folders:
                if self.holds(folder / form) and is_file(folder / form):
                    return folder / form
        if re.match(r"[a-zA-Z]:[\\/]|[\\/]", name) or not self.holds(self.folders[0] / name):
            raise ValueError(
                f"{name!r:.80} leaves the data set's folder; pictures are named relative to it: move or link them there"
            )
        raise ValueError(f"no such picture: {name:.200}")

    def holds(self, path: Path) -> bool:
        return Path(os.path.abspath(path)).is_relative_to(self.root)


def spellings(name: str) -> Iterator[str]:
    """A name as it is written, then as another system would have written it: with slashes for backslashes, its accents composed
    (NFC) or apart (NFD, as macOS stores them), and relative where it begins with a slash (SEED-X)."""
    yield name
    slashes = name.replace("\\", "/")
    for form in (slashes, unicodedata.normalize("NFC", slashes), unicodedata.normalize("NFD", slashes)):
        if form != name:
            yield form
        if form.startswith("/"):
            yield form.lstrip("/")


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for a file, or with a null character
        return False
