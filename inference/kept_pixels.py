"""``keep="exact"``: what an edit has not changed is pasted back from the edited picture, pixel for pixel.

Where something has changed is told by pictures alone, so that it is the same for every model. The drawing is compared with the
edited picture as the autoencoder gives it back, since what the autoencoder loses is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..detokenizer.autoencoder import Autoencoder, to_pixels, to_uint8
from .generation_config import GenerationConfig

THRESHOLD = 12.0
"""Of the difference in a colour channel, of 255: less counts as unchanged"""
STRONG = 1 / 3
"""Of the largest difference: a part that differs nowhere by so much is not what was asked for"""
UNITS = 64
"""Parts of the shorter side that a unit of `changed_part` is"""


def kept_size(config: GenerationConfig, picture: Image.Image) -> GenerationConfig:
    """The options of an edit that keeps pixels of a picture: the answer has its size. Raises ValueError where another size was
    asked for."""
    if config.size not in (None, (picture.height, picture.width)):
        raise ValueError(
            f"keep='exact' gives back pixels of the picture that is edited, which is {picture.height} x {picture.width}, and the "
            f"answer is to be {config.height} x {config.width}: scale the picture to that first, or leave keep at 'model'"
        )
    return config.updated({"height": picture.height, "width": picture.width})


def with_kept_pixels(drawn: Tensor, edited: Sequence[Image.Image | None], autoencoder: Autoencoder) -> Tensor:
    """Drawings (batch, height, width, 3) with what each keeps of its edited picture (`kept_pixels`), where it has one."""
    pairs = zip(drawn, edited, strict=True)
    return torch.stack([own if old is None else kept_pixels(own, old, autoencoder) for own, old in pairs])


def kept_pixels(drawn: Tensor, picture: Image.Image, autoencoder: Autoencoder) -> Tensor:
    """A drawing with the pixels of the edited picture where it shows the same: 8-bit pixels (height, width, 3) on the CPU. Both
    have one size."""
    given = torch.from_numpy(np.array(picture.convert("RGB")))
    weights = changed_part(reconstructed(given[None], autoencoder)[0], drawn)[..., None]
    return (given + weights * (drawn.float() - given)).round().to(torch.uint8)


@torch.no_grad()
def reconstructed(images: Tensor, autoencoder: Autoencoder) -> Tensor:
    """8-bit pixels (batch, height, width, 3), encoded and decoded by the autoencoder: no drawing can be closer to them."""
    pixels = to_pixels(images).to(next(autoencoder.parameters()))
    return to_uint8(autoencoder.decode(autoencoder.encode(pixels)))


def changed_part(before: Tensor, after: Tensor) -> Tensor:
    """How much of each pixel (height, width) is taken from ``after``, in [0, 1], from 8-bit pixels (height, width, 3).

    With u a unit, 1/64 of the shorter side: the signed difference of each channel is averaged over a square of 2u + 1 pixels, in
    which noise cancels out. Where a channel's average is above `THRESHOLD` something differs; it counts as changed where that
    part, across gaps of u pixels, reaches a place that differs by `STRONG` of the largest difference: what a model redraws
    beside what it was asked for differs less. The changed part is grown by 2u, and its edge feathered by averaging over 2u + 1
    pixels: what is farther than 3u from it is 0.
    """
    unit = max(1, round(min(before.shape[:2]) / UNITS))
    difference = (after.float() - before.float()).permute(2, 0, 1)
    size = pooled(F.avg_pool2d, difference, unit).abs().amax(0, keepdim=True)
    differs = (size > THRESHOLD).float()
    changed = differs * (size >= STRONG * size.max())
    while not torch.equal(grown := differs * pooled(F.max_pool2d, changed, unit), changed):
        changed = grown
    return pooled(F.avg_pool2d, pooled(F.max_pool2d, changed, 2 * unit), unit)[0]


def pooled(pool: Callable[..., Tensor], values: Tensor, radius: int) -> Tensor:
    """Mean or maximum over the square of this radius around each pixel of (channels, height, width), as rows and then columns.
    What lies outside of the picture is left out."""
    beyond = {"count_include_pad": False} if pool is F.avg_pool2d else {}
    side = 2 * radius + 1
    rows = pool(values[None], (1, side), stride=1, padding=(0, radius), **beyond)
    return pool(rows, (side, 1), stride=1, padding=(radius, 0), **beyond)[0]
