"""Pixels of any kind to 8-bit RGB: deep greys, floating point, arrays, colour profiles and transparency."""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF"""
SLACK = 1e-3
"""So far out of 0 to 1 floating-point values may lie by rounding"""
CHANNELS = (1, 3, 4)

Array = np.ndarray[Any, Any]


class PictureError(ValueError):
    """A picture that is refused. The message names it."""


def grey_maximum(image: Image.Image) -> float | None:
    """The value of white in a grey image of more than 8 bits by its format, negative where that is black; None for others.

    It is 1 for floating point, and 65,535 for whole numbers: of 16-bit files, of Pillow's PGM, which is scaled to that, and of
    mode "I". A TIFF says its own for 9 to 16 bits, and whether it counts from white to black, which Pillow ignores there.
    """
    if image.mode == "F":
        maximum = 1.0
    elif image.mode == "I" or image.mode.startswith("I;16"):
        maximum = 65535.0
    else:
        return None
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return maximum
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if image.mode != "F" and 8 < bits <= 16:
        maximum = float((1 << (bits - signed)) - 1)
    return -maximum if tags.get(PHOTOMETRIC) == 0 else maximum


def scale_grey(image: Image.Image, maximum: float, name: str) -> Image.Image:
    """A grey image of more than 8 bits in mode "L", or "LA" where one of its values is transparent; see `grey_maximum`."""
    values = np.asarray(image)
    scaled = Image.fromarray(scale(values, abs(maximum), name))
    if maximum < 0:
        scaled = Image.eval(scaled, lambda value: 255 - value)
    if isinstance(clear := image.info.get("transparency"), int):
        scaled.putalpha(Image.fromarray((values != clear).astype(np.uint8) * 255))
    if profile := image.info.get("icc_profile"):
        scaled.info["icc_profile"] = profile
    return scaled


def scale(values: Array, maximum: float, name: str) -> Array:
    """0 to ``maximum`` as 0 to 255. Raises ValueError for values beyond, and for different values that become one and the same:
    a depth map in millimetres, 8-bit values in a 16-bit file would be black."""
    low, high = float(values.min()), float(values.max())
    slack = SLACK if maximum == 1 else 0
    if not (low >= -slack and high <= maximum + slack):  # NaN too
        raise PictureError(f"{name} holds values from {low:g} to {high:g}: scale them to 0 … {maximum:g}")
    scaled = np.rint(np.clip(values, 0, maximum).astype(np.float32) * np.float32(255 / maximum)).astype(np.uint8)
    if low < high and scaled.min() == scaled.max():
        raise PictureError(
            f"{name} holds values from {low:g} to {high:g} of 0 … {maximum:g}, which are one colour in 8 bits: scale them"
        )
    return scaled


def from_array(values: Array, channels_first: bool) -> Image.Image:
    """An array as an image of mode "L", "RGB" or "RGBA"; see `load_image`.

    The channels are where there are 1, 3 or 4 values along an axis, ``channels_first`` or last where both may be meant.
    Raises ValueError for other shapes, types and values.
    """
    name, shape = "the picture", tuple(values.shape)
    if 0 in shape or values.ndim not in (2, 3):
        one = ": give the pictures one by one" if values.ndim == 4 else ""
        raise PictureError(
            f"an array of shape {shape} is no picture{one}; one has (height, width) or (height, width, channels)"
        )
    if values.ndim == 3:
        first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
        if not (first or last):
            raise PictureError(f"an array of shape {shape} is no picture: it has neither 1, 3 nor 4 channels")
        if first and (channels_first or not last):
            values = values.transpose(1, 2, 0)
        if values.shape[2] == 1:
            values = values[..., 0]
    kind = values.dtype.kind
    if kind == "b":
        values = values.astype(np.uint8) * 255
    elif kind == "f":
        values = scale(values, 1, name)
    elif values.dtype == np.uint16:
        values = scale(values, 65535, name)
    elif kind in "iu":
        if values.min() < 0 or values.max() > 255:
            raise PictureError(
                f"{name} holds {values.dtype} from {values.min()} to {values.max()}: whole numbers are 0 … 255, or uint16"
            )
        values = values.astype(np.uint8)
    else:
        raise PictureError(f"an array of {values.dtype} is no picture: take uint8 from 0 to 255, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(values))


def flatten(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """An 8-bit image of any mode in RGB and sRGB, on white where it is transparent, without metadata."""
    alpha = None
    if image.has_transparency_data:
        clear = image.info.get("transparency")
        if isinstance(clear, tuple) and max(clear) > 255:  # of a 16-bit PNG, of which Pillow keeps the high bytes
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha, image = image.getchannel("A"), image.convert("RGB")
    rgb = convert_colors(image, profile, name) if profile or image.mode == "LAB" else image.convert("RGB")
    if alpha is not None:
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, (255, 255, 255, 255)), rgb).convert("RGB")
    # what is in them is done: turned, in sRGB, on white. Saved with the picture or read again, it would be done twice
    rgb.info.clear()
    return rgb


def convert_colors(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """RGB in sRGB by a colour profile, which is ignored where it is broken or of other channels than the image."""
    from PIL import ImageCms

    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        transform = color_transform(profile if image.mode != "LAB" else None, image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        if image.mode == "LAB":
            raise
        logger.info("%s: its colour profile is not used: %s", name, error)
        return image.convert("RGB")
    if transform is None:
        return image.convert("RGB")
    if image.mode == "L" and transform.input_mode == "RGB":
        image = image.convert("RGB")
    return transform.apply(image)


@lru_cache(maxsize=16)  # the pictures of a folder come from a few cameras
def color_transform(profile: bytes | None, mode: str) -> Any:
    """From a profile (None: CIELAB) to sRGB, for images of this mode or, for a grey one with an RGB profile, RGB; None for sRGB
    itself. Raises PyCMSError for a profile that does not fit."""
    from PIL import ImageCms

    if profile is None:
        own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(own).startswith("sRGB"):
            return None
        if own.profile.xcolor_space.strip() == "RGB" and mode == "L":
            mode = "RGB"
    return ImageCms.ImageCmsTransform(own, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB")
