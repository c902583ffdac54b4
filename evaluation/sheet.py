"""Many pictures on one, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..inference.output import save_image


def save_sheet(images: Sequence[Image.Image], columns: int, path: Path) -> None:
    """One PNG of many pictures in rows."""
    wide, high = max(i.width for i in images), max(i.height for i in images)
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (wide + 4), rows * (high + 4)), (255, 255, 255))
    for index, image in enumerate(images):
        page.paste(image, (index % columns * (wide + 4) + 2, index // columns * (high + 4) + 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(page, path)
