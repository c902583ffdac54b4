"""Pictures of any size to sizes that a model draws and refers to, scaled and cut about their centre, never stretched."""

from __future__ import annotations

from PIL import Image, ImageOps

from ..mllm.config import LimnerConfig
from ..mllm.encoding import nearest_shape


def resize_to_shape(image: Image.Image, config: LimnerConfig) -> Image.Image:
    """To the model's shape that is nearest in aspect ratio."""
    return resize_and_crop(image, nearest_size(image, config))


def nearest_size(image: Image.Image, config: LimnerConfig) -> tuple[int, int]:
    """Height and width of the model's shape that is nearest to the picture's in aspect ratio."""
    shapes = config.shapes or (config.default_size,)
    return shapes[nearest_shape(shapes, image.height, image.width)]


def reference_size(
    image: Image.Image, config: LimnerConfig, size: tuple[int, int], size_multiple: int, max_side: int | None
) -> tuple[int, int]:
    """Height and width at which a picture is referred to by a drawing of ``size``: its own where the model holds that.

    A larger one than the model draws goes to the nearest in aspect ratio of the model's shapes and ``size``, so that what
    is edited lies where it is drawn, as in training; where the model has no shapes, to its own ratio in the room of a
    drawing, whole multiples of ``size_multiple`` pixels. ``max_side`` is the longest side that the model can place.
    """
    area = image.height * image.width
    shapes = (*config.shapes, size)
    max_area = max(height * width for height, width in (*shapes, config.default_size))
    if area <= max_area and (max_side is None or max(image.size) <= max_side):
        return image.height, image.width
    if config.shapes:
        return shapes[nearest_shape(shapes, image.height, image.width)]
    scale = min((max_area / area) ** 0.5, (max_side or max(image.size)) / max(image.size))
    height, width = (
        max(size_multiple, int(side * scale / size_multiple) * size_multiple) for side in (image.height, image.width)
    )
    return height, width


def resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled and cut about its centre to (height, width)."""
    if (image.height, image.width) == tuple(size):
        return image
    return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
