"""Views of an image for the vision tower: the whole image or, as in SEED-X, the tiles of the best grid before it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .config import LimnerConfig


@dataclass(frozen=True)
class View:
    """An input of the vision tower."""

    image: Image.Image
    """RGB: a tile or the whole image"""
    config: LimnerConfig
    position: tuple[float, float] = (0.5, 0.5)
    """Centre (x, y) in [0, 1] within the image"""
    length: int | None = None
    """Tokens that it has in the stream, where these are not all"""

    @property
    def tokens(self) -> int:
        """Slots that it takes in the stream."""
        return self.config.view_tokens if self.length is None else self.length

    @property
    def pixel_values(self) -> Tensor:
        """(3, image_size, image_size), normalised; made when it is asked for: of a conversation that goes on only the new
        images are."""
        return normalise(self.image, self.config)


Grids = tuple[tuple[int, int], ...]
"""Rows and columns of each tile grid."""


def least_waste(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """Width and height in pixels of the grid that keeps most of the image's pixels and, among equals, wastes least."""

    def rank(grid: tuple[int, int]) -> tuple[int, int]:
        w, h = grid[1] * tile, grid[0] * tile
        scale = min(w / width, h / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, w * h - kept

    rows, columns = min(grids, key=rank)
    return columns * tile, rows * tile


def nearest_aspect(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """Width and height in pixels of the grid with the closest aspect ratio and, among equals, the closest area."""

    def rank(grid: tuple[int, int]) -> tuple[float, float]:
        ratios = sorted((grid[0] / grid[1], height / width))
        areas = sorted((grid[0] * grid[1] * tile * tile, height * width))
        return ratios[1] / ratios[0], areas[1] / areas[0]

    rows, columns = min(grids, key=rank)
    return columns * tile, rows * tile


def best_grid(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """SEED-X's rule: the smaller of `least_waste` and `nearest_aspect`, the first where they are equal."""
    picks = least_waste(width, height, grids, tile), nearest_aspect(width, height, grids, tile)
    return min(picks, key=lambda size: size[0] * size[1])


def normalise(image: Image.Image, config: LimnerConfig) -> Tensor:
    """An RGB image, stretched to a square, to pixel values (3, image_size, image_size)."""
    size = (config.image_size, config.image_size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return normalise_pixels(stack_pixels([image]), config)[0]


def stack_pixels(images: Sequence[Image.Image]) -> Tensor:
    """8-bit pixels (images, height, width, 3) of images of one size."""
    width, height = images[0].size
    data = bytearray().join((i if i.mode == "RGB" else i.convert("RGB")).tobytes() for i in images)
    return torch.frombuffer(data, dtype=torch.uint8).view(len(images), height, width, 3)


def stretch_pixels(pixels: Tensor, size: int) -> Tensor:
    """8-bit pixels (images, height, width, 3) stretched to a square (images, size, size, 3), on their device.

    They differ from Pillow's by two of 255 steps at most, and that in a few of a hundred pixels.
    """
    if pixels.shape[1:3] == (size, size):
        return pixels
    channels_first = pixels.permute(0, 3, 1, 2)
    if pixels.device.type == "cpu":  # ten times as fast as in floats; GPUs have no kernel for it
        stretched = F.interpolate(channels_first, (size, size), mode="bicubic", antialias=True)
    else:
        stretched = stretch_floats(channels_first.float(), size).to(torch.uint8)
    return stretched.permute(0, 2, 3, 1)


def stretch_floats(values: Tensor, size: int) -> Tensor:
    """Values from 0 to 255 (images, 3, height, width) stretched to a square, and rounded after the rows and after the columns,
    as Pillow does."""
    for shape in ((values.shape[2], size), (size, size)):
        values = F.interpolate(values, shape, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return values


def normalise_pixels(pixels: Tensor, config: LimnerConfig) -> Tensor:
    """8-bit pixels (images, image_size, image_size, 3) to pixel values (images, 3, image_size, image_size), on their device.

    They stay where they are in memory, colour by colour of a pixel (torch's channels_last): moving them would take longer than
    all else.
    """
    images, size = len(pixels), config.image_size
    mean, std = (rows_of(v, size, pixels.device) for v in (config.image_mean, config.image_std))
    values = pixels.reshape(images, size, size * 3).float().div_(255).sub_(mean).div_(std)
    return values.view(images, size, size, 3).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def rows_of(values: tuple[float, float, float], size: int, device: torch.device) -> Tensor:
    """Red's, green's and blue's value for every pixel of a row (size · 3,), kept on the device: a copy would be waited for."""
    return torch.tensor(values, dtype=torch.float32, device=device).repeat(size)


def image_views(image: Image.Image, config: LimnerConfig, tiles: bool) -> list[View]:
    """Views of an RGB image: tiles, then the whole image. ``tiles`` False: only the whole (for drawn images)."""
    whole_view = View(image, config)
    if not tiles or not config.tile_grids:
        return [whole_view]
    tile = config.image_size
    width, height = best_grid(*image.size, config.tile_grids, tile)
    stretched = image.resize((width, height), Image.Resampling.BICUBIC)
    columns, rows = width // tile, height // tile
    views = []
    for row, column in itertools.product(range(rows), range(columns)):
        part = stretched.crop((column * tile, row * tile, (column + 1) * tile, (row + 1) * tile))
        views.append(View(part, config, ((column + 0.5) / columns, (row + 0.5) / rows)))
    return [*views, whole_view]
