"""Whatever is a picture to an RGB image: files, bytes, PIL images, arrays, tensors and addresses."""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..mllm.picture_tokens import keep_tokens
from .addresses import data_of_uri, fetch, is_address, path_of_uri, shown
from .foreign_formats import foreign_format
from .pixels import PictureError, flatten, from_array, grey_maximum, scale_grey

logger = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: 8,000 x 8,000."""
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX"),
    *("PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
"""Pillow's names of the formats that are opened, all of them plain pixels. Its other plugins are never tried on a file: some
hand it to another program (EPS to Ghostscript), the others read what is rarely met and rarely tested."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of each EXIF orientation upright"""
NEW_SUBFILE_TYPE, SUB_IFDS, DNG_VERSION = 254, 330, 50706
"""Tags of TIFF that tell a camera's raw file, whose first page is a thumbnail"""
Result = TypeVar("Result")
Convert = Callable[[Image.Image, str], Result]
"""What is made of an image, which may not have been decoded, and of what errors call it"""
FORMATS_SAID: set[str | None] = set()
"""Formats of which a file with several frames was met"""


@dataclass(frozen=True)
class PictureLimits:
    """What the pictures of messages may be. The defaults are for the owner of the machine; a server, whose messages come from a
    network, narrows them."""

    local_files: bool = True
    """Whether paths and ``file:`` URIs are read"""
    max_bytes: int | None = None
    """Of a picture's file, fetched or in a data URI; what is fetched is bounded by `addresses.MAX_BYTES` in any case"""
    max_pixels: int = MAX_PIXELS
    """Of a picture, which is refused before it is decoded"""
    max_pictures: int | None = None
    """Of all messages together, which are refused before any is loaded"""


OWNER = PictureLimits()


def load_image(source: Any, allow_urls: Sequence[str] = (), limits: PictureLimits = OWNER) -> Image.Image:
    """Whatever is a picture as a new RGB image in sRGB, upright by its EXIF data, on white where it is transparent.

    ``source`` is one of:

    - a path, a ``file:`` or ``data:`` URI, or an http(s) URL of one of the hosts in ``allow_urls`` (`addresses.fetch`);
    - the bytes of a file, or an open file, which is read from its beginning and left where it stood;
    - a PIL image of any mode;
    - an array (height, width) or (height, width, channels) of 1, 3 or 4 channels, or a tensor (channels, height, width), each
      also with its axes the other way where only that makes sense. uint8 counts from 0 to 255, uint16 to 65,535, other whole
      numbers as uint8, bool and floating-point numbers from 0 to 1.

    Greys of more than 8 bits are scaled by the format's maximum. Of a file's frames the first is taken, of a PIL image's the one
    it stands at. A broken colour profile or broken EXIF data are ignored. This is logged. The source is not changed. Raises
    ValueError, which names the source, for everything else: what is missing, no picture, broken, larger than `MAX_PIXELS`, beyond
    the ``limits``, or of values out of range.
    """
    return load_as(to_rgb, source, allow_urls, limits)


def load_mask(source: Any, allow_urls: Sequence[str] = (), limits: PictureLimits = OWNER) -> Image.Image:
    """What `load_image` reads as a mask: an image of mode "L", 255 where the picture is to be edited and 0 elsewhere.

    With transparency it marks what is transparent (OpenAI's form), else what is white (diffusers'). Raises ValueError as
    `load_image` does.
    """
    return load_as(to_mask, source, allow_urls, limits)


def load_as(
    convert: Convert[Result], source: Any, allow_urls: Sequence[str] = (), limits: PictureLimits = OWNER
) -> Result:
    """What ``convert`` (`to_rgb`, `to_mask`, …) makes of whatever is a picture (`load_image`)."""
    if isinstance(source, Image.Image):
        return convert(source, str(getattr(source, "filename", "") or "the picture"))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_bytes(bytes(source), "the picture", convert, limits)
    if isinstance(source, (str, os.PathLike)):
        if not source:
            raise PictureError("the path of the picture is empty")
        path = local_path(source)
        if path is None:
            return load_address(str(source), allow_urls, convert, limits)
        if not limits.local_files:
            name = repr(str(source))[:100]
            raise PictureError(f"{name} is not read: a picture is a data URI or the URL of an allowed host here")
        return load_file(path, convert, limits)
    if hasattr(source, "read"):
        return decode_bytes(read_all(source), str(getattr(source, "name", "the open file")), convert, limits)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        values = source.detach().cpu()
        array = values.float().numpy() if values.is_floating_point() else values.numpy()
        return array_image(array, channels_first=True, convert=convert)
    if hasattr(source, "__array__"):
        return array_image(np.asarray(source), channels_first=False, convert=convert)
    raise PictureError(
        "a picture is a path, a data URI, a URL of an allowed host, a PIL image, an array, a tensor, bytes or an open file, "
        f"not {source!r:.60} ({type(source).__name__})"
    )


def load_address(address: str, allow_urls: Sequence[str], convert: Convert[Result], limits: PictureLimits) -> Result:
    """As `load_as`, for a ``data:`` URI or a URL."""
    if address[:5].lower() == "data:":
        return decode_bytes(data_of_uri(address), f"{address:.30}…", convert, limits)
    return decode_bytes(fetch(address, allow_urls, limits.max_bytes), shown(address), convert, limits)


def local_path(source: str | os.PathLike[str]) -> Path | None:
    """The file that a path or a ``file:`` URI names, ``~`` being the home folder as in a shell; None for other URIs."""
    if isinstance(source, str) and is_address(source):
        return path_of_uri(source) if source[:5].lower() == "file:" else None
    path = Path(source)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def load_file(path: Path, convert: Convert[Result], limits: PictureLimits) -> Result:
    """As `load_as`, for a path."""
    name = f"{path!s:.300}"
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise PictureError(f"{name} is a folder, not a picture")
        if not stat.S_ISREG(found.st_mode):
            raise PictureError(f"{name} is no regular file")  # a pipe would be waited for
        if found.st_size == 0:
            raise PictureError(f"{name} is empty (0 bytes)")
        with path.open("rb") as stream:
            return decode_image(stream, name, convert, limits.max_pixels)
    except (FileNotFoundError, NotADirectoryError):
        hint = " (a URL is given as a string, not as a Path)" if name.startswith(("http:/", "https:/")) else ""
        raise PictureError(f"no such file: {name}{hint}") from None
    except OSError as error:
        raise PictureError(f"cannot read {name}: {error.strerror or error}") from None
    except PictureError:
        raise
    except ValueError as error:
        raise PictureError(f"no such file: {name!r}: {error}") from None  # a null byte


def read_all(stream: Any) -> bytes:
    """The bytes of an open file from its beginning, where it can be set back; it stands then where it stood."""
    back = stream.seekable() if hasattr(stream, "seekable") else False
    place = stream.tell() if back else 0
    if back:
        stream.seek(0)
    data = stream.read()
    if back:
        stream.seek(place)
    if not isinstance(data, bytes):
        raise PictureError("the open file gives text, not bytes: open it with mode 'rb'")
    return data


def decode_bytes(data: bytes, name: str, convert: Convert[Result], limits: PictureLimits) -> Result:
    """As `load_as`, for the bytes of a file."""
    if not data:
        raise PictureError(f"{name} is empty (0 bytes)")
    if limits.max_bytes is not None and len(data) > limits.max_bytes:
        raise PictureError(
            f"{name} is {len(data):,} bytes, more than the limit of {limits.max_bytes:,}; make it smaller"
        )
    return decode_image(io.BytesIO(data), name, convert, limits.max_pixels)


def decode_image(stream: BinaryIO, name: str, convert: Convert[Result], max_pixels: int = MAX_PIXELS) -> Result:
    """As `load_as`, for an open file; ``name`` is what errors call it."""
    try:
        check_icon(stream, name, max_pixels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, where the limit is ours, and of odd metadata
            with refusals(name), Image.open(stream, formats=formats()) as image:
                check_pixels(image, name, max_pixels)
                refuse_raw(image, name)
                say_first_frame(image, name)
                return convert(image, name)
    except UnidentifiedImageError:
        stream.seek(0)
        foreign = foreign_format(stream.read(4096), "HEIF" in formats())
        raise PictureError(
            f"{name} is {foreign}"
            if foreign
            else f"{name} is not a picture of a format that is read: {', '.join(FORMATS)}"
        ) from None


@cache
def formats() -> list[str]:
    """What Pillow may open: `FORMATS`, and HEIC where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return [*FORMATS]
    register_heif_opener()
    return [*FORMATS, "HEIF"]


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Whatever Pillow's decoders raise becomes a `PictureError` that names the picture: broken bytes end in struct.error,
    SyntaxError, IndexError, zlib.error, NotImplementedError and more, and no list of them is complete."""
    try:
        yield
    except (PictureError, UnidentifiedImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"{name} has more pixels than the limit of {MAX_PIXELS:,}; make it smaller") from None
    except Exception as error:
        said = str(error).partition("\n")[0][:200] or type(error).__name__
        raise PictureError(f"{name} is broken or cut short, or of a kind that is not read: {said}") from error


def check_pixels(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Raises ValueError for an image without pixels or of more than ``max_pixels``."""
    check_size(image.width, image.height, name, max_pixels)


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """As `check_pixels`, for a size in pixels."""
    if width * height > max_pixels:
        raise PictureError(
            f"{name} is {width} x {height} pixels, more than the limit of {max_pixels:,}; make it smaller"
        )
    if not width * height:
        raise PictureError(f"{name} has no pixels: it is {width} x {height}")


def check_icon(stream: BinaryIO, name: str, max_pixels: int) -> None:
    """As `check_pixels`, for an icon (ICO), of which Pillow decodes the largest picture when it opens it."""
    stream.seek(0)
    head = stream.read(6)
    if head[:4] != b"\0\0\1\0":
        return
    entries = stream.read(16 * int.from_bytes(head[4:], "little"))
    for (place,) in struct.iter_unpack("<12xI", entries[: len(entries) // 16 * 16]):
        stream.seek(place)
        picture = stream.read(24)
        if picture.startswith(b"\x89PNG") and len(picture) == 24:
            width, height = struct.unpack(">II", picture[16:])
            check_size(width, height, name, max_pixels)
        elif len(picture) == 24:
            width, height = struct.unpack("<ii", picture[4:12])
            check_size(abs(width), abs(height) // 2, name, max_pixels)  # the picture and its mask


def array_image(values: np.ndarray[Any, Any], channels_first: bool, convert: Convert[Result]) -> Result:
    """As `load_as`, for an array."""
    image = from_array(values, channels_first)
    check_pixels(image, "the picture")
    return convert(image, "the picture")


def to_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """As `load_image`, for a PIL image; ``name`` is what errors call it."""
    with refusals(name):
        check_pixels(image, name)
        image.load()
        profile, given = image.info.get("icc_profile"), image
        maximum = grey_maximum(image)
        image = upright(image, name)
        if maximum is not None:
            image = scale_grey(image, maximum, name)
        made = flatten(image, profile, name)
        keep_tokens(given, made)
        return made


def to_mask(image: Image.Image, name: str = "the mask") -> Image.Image:
    """As `load_mask`, for a PIL image; ``name`` is what errors call it."""
    with refusals(name):
        check_pixels(image, name)
        image.load()
        maximum = grey_maximum(image)
        image = upright(image, name)
        if maximum is not None:
            image = scale_grey(image, maximum, name)
        if image.has_transparency_data:
            image = image.convert("LA") if image.mode == "La" else image  # Pillow turns "La" into nothing else
            marked = image.convert("RGBA").getchannel("A").point([255] * 128 + [0] * 128)
        else:
            marked = image.convert("L").point([0] * 128 + [255] * 128)
        marked.info.clear()
        return marked


def refuse_raw(image: Image.Image, name: str) -> None:
    """Raises ValueError for a camera's raw file that is a TIFF: its first page is a thumbnail or values of the sensor."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    thumbnail = SUB_IFDS in tags and tags.get(NEW_SUBFILE_TYPE) == 1
    if thumbnail or DNG_VERSION in tags:
        raise PictureError(f"{name} is a camera's raw file: develop it to PNG or JPEG first")


def say_first_frame(image: Image.Image, name: str) -> None:
    """Logs that of several frames the first is taken, as a warning for the first such file of a format: a data set may hold
    millions. Not of an MPO, a photo that comes with smaller versions of itself."""
    if image.format != "MPO" and getattr(image, "is_animated", False):
        known = image.format in FORMATS_SAID
        FORMATS_SAID.add(image.format)
        level = logging.INFO if known else logging.WARNING
        logger.log(level, "%s has several frames: the first one is taken", name)


def upright(image: Image.Image, name: str) -> Image.Image:
    """Turned and mirrored as its EXIF data say. These may be broken, and the picture is what it is."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # noqa: BLE001 - as in `refusals`
        logger.info("%s: its EXIF data are broken and are ignored: %s", name, error)
        return image
    # not ImageOps.exif_transpose: it writes the rest of the EXIF data anew, which fails where a value is out of range
    return image if turn is None else image.transpose(turn)
