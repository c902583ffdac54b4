"""Batches of rendered pictures as a function of (seed, step)."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..world import sampling, signs
from ..world.pen import STYLES
from ..world.sampling import rng_for
from ..world.scene import Scene, render


def to_array(image: Image.Image) -> np.ndarray:
    """A picture as 8-bit pixels (height, width, 3)."""
    return np.asarray(image.convert("RGB"))


def random_scene(rng: random.Random) -> Scene:
    """A scene of any kind: objects in every style, and signs, whose letters are the finest detail."""
    if rng.random() < 0.2:
        return signs.sign_scene(rng)
    scene = sampling.any_scene(rng)
    return replace(scene, style=rng.choice(STYLES)) if rng.random() < 0.4 else scene


def random_crops(seed: int, step: int, count: int, size: int) -> Tensor:
    """Square crops (count, size, size, 3), 8-bit, each near an object: plain background teaches little."""
    rng = rng_for(seed, step, "crops")
    cut: list[np.ndarray] = []
    while len(cut) < count:
        scene = random_scene(rng)
        pixels = to_array(render(scene, rng.choice((0.8, 1.0, 1.25))))
        height, width = pixels.shape[:2]
        for thing in rng.sample(scene.things, min(2, len(scene.things))):
            x = round(thing.x * width - size / 2 + rng.uniform(-0.3, 0.3) * size)
            y = round(thing.y * height - size / 2 + rng.uniform(-0.3, 0.3) * size)
            x, y = max(0, min(x, width - size)), max(0, min(y, height - size))
            cut.append(pixels[y : y + size, x : x + size])
    return torch.from_numpy(np.stack(cut[:count]))


def full_pictures(seed: int, step: int, count: int) -> tuple[Tensor, list[Scene]]:
    """Whole pictures of one shape (count, height, width, 3), 8-bit, and their scenes."""
    rng = rng_for(seed, step, "full")
    shape = sampling.shape(rng)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng)
        if (scene.height, scene.width) == shape:
            scenes.append(scene)
    return torch.from_numpy(np.stack([to_array(render(scene)) for scene in scenes])), scenes
