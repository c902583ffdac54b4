"""Trains the judge on renders that are blurred, noised, warped, passed through the autoencoder, and on halves of objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageFilter
from torch import Tensor

from ...detokenizer.autoencoder import Autoencoder, to_pixels
from ...evaluation.geneval_cases import SIDES, halve
from ...evaluation.judge import CELL_SIZE, Judge, JudgeConfig
from ...inference.output import atomic_folder
from ...world import sampling
from ...world.scene import Scene, render
from ...world.scenes import any_arranged_scene
from ..loop import LoopConfig, fit
from ..option_checks import check_numbers, check_shares
from .augmentation import elastic_warp, noisy_reconstruction


@dataclass(frozen=True)
class JudgeStage:
    width: int = 96
    depth: int = 4
    blur_rate: float = 0.3
    noise_rate: float = 0.3
    autoencoder_rate: float = 0.5
    """Share of the batches that are encoded and decoded by the autoencoder."""
    latent_noise: float = 0.1
    """Largest standard deviation of the noise on their latents, as a model's latents have errors."""
    warp_rate: float = 0.0
    """Share of the batches that are warped, as a model's lines are not straight"""
    cut_rate: float = 0.25
    """Share of the pictures in which one object is cut in half, which is then no object."""
    featured_object: str = ""
    """One of the world's things that stands in many of the pictures (`FEATURED_SHARE`), so that the judge learns it quickly"""
    warm_start: str = ""
    """Folder of a judge to train further; classes that the world has gained since are added"""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "width", "depth", least=1)
        check_shares(self, "blur_rate", "noise_rate", "autoencoder_rate", "warp_rate", "cut_rate")
        check_numbers(self, "latent_noise", least=0)
        if self.featured_object and self.featured_object not in sampling.NAMES:
            raise ValueError(f"featured_object is {self.featured_object!r}; the world has {', '.join(sampling.NAMES)}")


FEATURED_SHARE = 1 / 3
"""Share of the pictures with the featured object."""


def with_object(scene: Scene, name: str) -> Scene:
    """With a thing (or things) called ``name`` in place of the first and its like."""
    old = scene.things[0].name
    return replace(scene, things=tuple(replace(t, name=name) if t.name == old else t for t in scene.things))


def make_batch(stage: JudgeStage, seed: int, step: int) -> dict[str, Any]:
    rng = sampling.rng_for(seed, step, "judge")
    height, width = sampling.shape(rng)
    rows, columns = height // CELL_SIZE, width // CELL_SIZE
    pixels, centres, grounds = [], [], []
    for index in range(stage.loop.batch_size):
        arranged = 2 if height == width else 0  # a square picture may hold many things
        kinds = (sampling.single, sampling.several, sampling.pair, any_arranged_scene)
        make = rng.choices(kinds, (4, 3, 3, arranged))[0]
        scene = make(rng)  # the judge knows every combination, held out from nano or not
        while (scene.height, scene.width) != (height, width):
            scene = make(rng)
        scene = sampling.with_random_style(rng, scene)
        if stage.featured_object and rng.random() < FEATURED_SHARE:
            scene = with_object(scene, stage.featured_object)
        cut = rng.choice(scene.things) if rng.random() < stage.cut_rate else None
        image = halve(scene, cut, rng.choice(SIDES)) if cut else render(scene)
        if rng.random() < stage.blur_rate:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
        array = np.asarray(image, dtype=np.float32)
        if rng.random() < stage.noise_rate:
            noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 14), array.shape)
            array = (array + noise).clip(0, 255)
        pixels.append(array.astype(np.uint8))
        grounds.append(sampling.BACKGROUND_NAMES.index(scene.background))
        for thing in scene.things:
            if thing is not cut:
                cell = (int(thing.y * rows), int(thing.x * columns))
                kind = (sampling.NAMES.index(thing.name), sampling.COLOR_NAMES.index(thing.color))
                centres.append((index, *cell, *kind))
    return {
        "pixels": torch.from_numpy(np.stack(pixels)),
        "centres": torch.tensor(centres).reshape(-1, 5),
        "grounds": torch.tensor(grounds),
        # pictures, cells, things
        "counts": torch.tensor([len(grounds), len(grounds) * rows * columns, len(centres)]),
    }


def losses(
    judge: Judge, autoencoder: Autoencoder, stage: JudgeStage, seed: int, batch: dict[str, Tensor], step: int
) -> dict[str, Tensor]:
    """Each averaged over what it is about, of all accumulated batches: ground over pictures, centre over cells, objects and
    colours over things."""
    parameter = judge.ground.weight
    batch = {k: v.to(parameter.device) for k, v in batch.items()}
    pixels = to_pixels(batch["pixels"]).to(parameter.dtype)
    rng = sampling.rng_for(seed, step, "judge encodes")
    if rng.random() < stage.warp_rate:
        pixels = elastic_warp(pixels, rng.uniform(0.3, 2.0))
    if rng.random() < stage.autoencoder_rate:
        pixels = noisy_reconstruction(autoencoder, pixels, stage.latent_noise)
    cells, ground = judge(pixels)
    cells = cells.float()
    pictures, places, things = batch["counts"].clamp(min=1).unbind()
    image, row, column, name, color = batch["centres"].unbind(1)
    heat = torch.zeros_like(cells[:, 0])
    heat[image, row, column] = 1
    near = F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0] - heat  # a peak one cell off is hardly a mistake
    centre = F.binary_cross_entropy_with_logits(cells[:, 0], heat, reduction="none")
    centre = (centre * (1 - 0.9 * near) * (1 + 19 * heat)).sum() / places
    objects, colors = [], []
    rows, columns = heat.shape[1:]
    for dy, dx in product((-1, 0, 1), repeat=2):
        at = cells[image, :, (row + dy).clamp(0, rows - 1), (column + dx).clamp(0, columns - 1)]
        objects.append(F.cross_entropy(at[:, 1 : 1 + judge.config.objects], name, reduction="sum") / things)
        colors.append(F.cross_entropy(at[:, 1 + judge.config.objects :], color, reduction="sum") / things)
    parts = {
        "centre": centre,
        "objects": torch.stack(objects).mean(),
        "colors": torch.stack(colors).mean(),
        "ground": F.cross_entropy(ground.float(), batch["grounds"], reduction="sum") / pictures,
    }
    return {"loss": 3 * parts["centre"] + parts["objects"] + parts["colors"] + 0.3 * parts["ground"], **parts}


def run_judge(
    stage: JudgeStage, autoencoder: Autoencoder, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> Judge:
    done = folder / "model"
    if (done / "config.json").exists():
        return Judge.from_pretrained(done)
    torch.manual_seed(seed + 7)
    judge = (
        Judge.from_pretrained(Path(stage.warm_start)).with_classes(len(sampling.NAMES), len(sampling.BACKGROUND_NAMES))
        if stage.warm_start
        else Judge(JudgeConfig(stage.width, stage.depth))
    )
    judge.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's types
    autoencoder.to(device, dtype)
    fit(
        "judge",
        judge,
        partial(make_batch, stage, seed + 7),
        partial(losses, judge, autoencoder, stage, seed),
        stage.loop,
        folder,
    )
    with atomic_folder(done) as fresh:
        judge.float().cpu().save_pretrained(fresh)
    return judge.eval()
