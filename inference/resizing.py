"""Pictures resized to what a model draws or takes as a reference: scaled and cropped about the centre, never stretched."""

from __future__ import annotations

from PIL import Image, ImageOps

from ..mllm.config import LimnerConfig
from ..mllm.encoding import nearest_shape


def resize_to_shape(image: Image.Image, config: LimnerConfig) -> Image.Image:
    """The image at the model's shape that is nearest in aspect ratio (`nearest_size`)."""
    return resize_and_crop(image, nearest_size(image, config))


def nearest_size(image: Image.Image, config: LimnerConfig) -> tuple[int, int]:
    """Height and width of the model's shape that is nearest to the picture's in aspect ratio."""
    shapes = config.shapes or (config.default_size,)
    return shapes[nearest_shape(shapes, image.height, image.width)]


def reference_size(
    image: Image.Image, config: LimnerConfig, size: tuple[int, int], size_multiple: int, max_side: int | None
) -> tuple[int, int]:
    """Height and width in pixels of a reference image for a drawing of ``size``: its own where the model can take that.

    An image larger than what the model draws is resized to the nearest in aspect ratio of the model's shapes and ``size``, so
    that the parts of an edited image keep their places, as in training. Where the model has no shapes it keeps its aspect
    ratio, with the area of a drawing and sides that are multiples of ``size_multiple``. ``max_side`` is the longest side for
    which the model has positions (None: any).
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
    """The image scaled and cropped about its centre to ``size``, (height, width)."""
    if (image.height, image.width) == tuple(size):
        return image
    return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
