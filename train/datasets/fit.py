"""Pictures of any size to a shape the model draws."""

from __future__ import annotations

from PIL import Image, ImageOps

from ...mllm.config import LimnerConfig
from ...mllm.encoding import nearest_shape


def fitted(image: Image.Image, config: LimnerConfig) -> Image.Image:
    """Scaled and cut about its centre to the model's shape that is nearest in aspect ratio."""
    shapes = config.shapes or (config.default_size,)
    height, width = shapes[nearest_shape(shapes, image.height, image.width)]
    if (image.height, image.width) == (height, width):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
