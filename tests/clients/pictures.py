"""Pictures as the clients get them, and what the conversation of expected.json has to give."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import urllib.request
from pathlib import Path

from PIL import Image

URL = os.environ["LIMNER_URL"]
FOLDER = Path(os.environ["LIMNER_EXPECTED"])
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
FIRST, SECOND, QUESTION = EXPECTED["first"], EXPECTED["second"], EXPECTED["question"]
SEED = {"seed": EXPECTED["seed"]}


def opened(picture: str | bytes | Path | Image.Image) -> Image.Image:
    """The picture of a file, of bytes, of base64, of a data URI or of an address of the server."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, Path):
        return Image.open(picture)
    if isinstance(picture, str) and picture.startswith(URL):
        with urllib.request.urlopen(picture) as reply:
            picture = reply.read()
    elif isinstance(picture, str):
        assert "://" not in picture, f"not an address of the server: {picture[:80]}"
        picture = base64.b64decode(picture.split(",")[-1], validate=True)
    return Image.open(io.BytesIO(picture))


def file(name: str) -> Path:
    """The file of an expected reply's picture."""
    return FOLDER / f"{name}.png"


def data_uri(name: str) -> str:
    """An expected reply's picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file(name).read_bytes()).decode()


def same(picture: str | bytes | Path | Image.Image, name: str) -> bool:
    """Whether a picture is, pixel for pixel, that of the expected reply ``name``, in one of its forms."""
    got = opened(picture).convert("RGB")
    return any(got.size == form.size and got.tobytes() == form.tobytes() for form in map(Image.open, forms(name)))


def forms(name: str) -> list[Path]:
    """The files of an expected reply's picture: of the conversation read anew, and continued."""
    return sorted(FOLDER.glob(f"{name}*.png"))


def text(name: str) -> str:
    """The words of an expected reply."""
    return EXPECTED["replies"][name]["text"]


def words_and_link(content: str) -> tuple[str, str]:
    """Of a reply whose one picture is a link in Markdown: the words, and the picture's address."""
    words, address = re.fullmatch(r"(.*?)\s*!\[picture\]\(([^)]+)\)\s*", content, re.DOTALL).groups()
    return words, address
