"""A picture as the vision tower sees it: one view, or the tiles of the best grid and the whole picture last (SEED-X)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .config import LimnerConfig


@dataclass(frozen=True)
class View:
    pixel_values: Tensor
    """(3, image_size, image_size), normalised"""
    position: tuple[float, float] | None
    """Centre (x, y) in [0, 1] within the picture; None where the model uses no tiles."""


Grids = tuple[tuple[int, int], ...]
"""Rows and columns."""


def least_waste(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """Width and height in pixels of the grid that keeps most of the picture's pixels, of equal ones wastes least."""

    def rank(grid: tuple[int, int]) -> tuple[int, int]:
        w, h = grid[1] * tile, grid[0] * tile
        scale = min(w / width, h / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, w * h - kept

    rows, columns = min(grids, key=rank)
    return columns * tile, rows * tile


def nearest_aspect(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """Width and height in pixels of the grid with the closest aspect ratio, of equal ones the closest area."""

    def rank(grid: tuple[int, int]) -> tuple[float, float]:
        ratios = sorted((grid[0] / grid[1], height / width))
        areas = sorted((grid[0] * grid[1] * tile * tile, height * width))
        return ratios[1] / ratios[0], areas[1] / areas[0]

    rows, columns = min(grids, key=rank)
    return columns * tile, rows * tile


def best_grid(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """SEED-X's rule: of `least_waste` and `nearest_aspect` the one with fewer tiles, the first when they tie."""
    picks = least_waste(width, height, grids, tile), nearest_aspect(width, height, grids, tile)
    return min(picks, key=lambda size: size[0] * size[1])


def normalise(image: Image.Image, config: LimnerConfig) -> Tensor:
    size = (config.image_size, config.image_size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.image_mean, config.image_std))
    return (pixels - mean) / std


def image_views(image: Image.Image, config: LimnerConfig, tiles: bool) -> list[View]:
    """Views of an RGB picture, the whole one last. ``tiles`` False: the whole one only (drawn pictures)."""
    whole_view = View(normalise(image, config), (0.5, 0.5) if config.tile_grids else None)
    if not tiles or not config.tile_grids:
        return [whole_view]
    tile = config.image_size
    width, height = best_grid(*image.size, config.tile_grids, tile)
    stretched = image.resize((width, height), Image.Resampling.BICUBIC)
    columns, rows = width // tile, height // tile
    tile_views = []
    for row in range(rows):
        for column in range(columns):
            part = stretched.crop((column * tile, row * tile, (column + 1) * tile, (row + 1) * tile))
            centre = ((column + 0.5) / columns, (row + 0.5) / rows)
            tile_views.append(View(normalise(part, config), centre))
    return [*tile_views, whole_view]
