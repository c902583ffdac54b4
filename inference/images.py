"""Image files and PIL images to RGB."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: 8,000 x 8,000."""


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """A path or a PIL image as an RGB image, upright by its EXIF data, on white where it is transparent.

    Raises ValueError for what is missing, not a picture, broken or larger than `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    path = Path(source)
    if not path.exists():
        raise ValueError(f"no such file: {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    with path.open("rb") as stream:
        return decode_image(stream, str(path))


def decode_image(stream: BinaryIO, name: str) -> Image.Image:
    """As `load_image`, for an open file; ``name`` is what errors call it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(stream) as image:
                check_pixels(image, name)
                return to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture in a format Pillow reads") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has more pixels than the limit of {MAX_PIXELS:,}") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name} is broken or cut short: {error}") from None


def check_pixels(image: Image.Image, name: str) -> None:
    """Raises ValueError for an image of more than `MAX_PIXELS`."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{name} is {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS:,}; make it smaller"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """As `load_image`, for a PIL image."""
    check_pixels(image, "the picture")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image)
    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's conversion clips values instead of scaling them
        image = image.point(lambda v: v / 256).convert("L")
    return image.convert("RGB")
