"""Trains the reader on renders of signs that are blurred, warped and passed through the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageFilter
from torch import Tensor

from ...detokenizer.autoencoder import Autoencoder, to_pixels
from ...evaluation.reader import LETTERS, Reader, ReaderConfig
from ...inference.output import atomic_folder
from ...world.pen import WIDEST_LETTER
from ...world.sampling import rng_for
from ...world.scene import Scene, render
from ...world.signs import sign_scene
from ..loop import LoopConfig, fit
from ..option_checks import check_numbers, check_shares
from .augmentation import elastic_warp, noisy_reconstruction


@dataclass(frozen=True)
class ReaderStage:
    width: int = 64
    depth: int = 3
    blur_rate: float = 0.2
    autoencoder_rate: float = 0.5
    """Share of the batches that are encoded and decoded by the autoencoder"""
    latent_noise: float = 0.2
    warp_rate: float = 0.3
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "width", "depth", least=1)
        check_shares(self, "blur_rate", "autoencoder_rate", "warp_rate")
        check_numbers(self, "latent_noise", least=0)


def make_batch(stage: ReaderStage, seed: int, step: int) -> dict[str, Any]:
    rng = rng_for(seed, step, "reader")
    shape = (128, 128) if rng.random() < 0.8 else rng.choice(((96, 160), (160, 96)))
    pixels: list[np.ndarray] = []
    targets = []
    while len(pixels) < stage.loop.batch_size:
        scene = sign_scene(rng, held_out=rng.random() < 0.1)  # the reader knows every word
        if (scene.height, scene.width) != shape:
            continue
        image = render(scene)
        if rng.random() < stage.blur_rate:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
        pixels.append(np.asarray(image))
        targets.append(letter_columns(scene))
    columns = torch.stack(targets)
    return {"pixels": torch.from_numpy(np.stack(pixels)), "targets": columns, "counts": counts(columns)}


def counts(targets: Tensor) -> Tensor:
    """How many columns (pictures, columns) show a letter, and how many none."""
    return torch.stack([(targets > 0).sum(), (targets == 0).sum()])


def letter_columns(scene: Scene) -> Tensor:
    """Target class of each of the reader's columns (width / 2,): 1 + letter in the middle half of a letter, else 0."""
    (thing,) = scene.things
    text = thing.words
    block = replace(scene, things=(replace(thing, words=WIDEST_LETTER * len(text)),))
    blank = replace(scene, things=(replace(thing, words=""),))
    inked = (np.asarray(render(block)) != np.asarray(render(blank))).any((0, 2)).nonzero()[0]
    ends = np.linspace(inked[0], inked[-1] + 1, len(text) + 1)
    target, columns = torch.zeros(scene.width // 2, dtype=torch.long), torch.arange(scene.width // 2) * 2 + 1
    for start, end, letter in zip(ends, ends[1:], text, strict=False):
        target[(columns - (start + end) / 2).abs() <= max(1, (end - start) / 4)] = 1 + LETTERS.index(letter)
    return target


def losses(
    reader: Reader, autoencoder: Autoencoder, stage: ReaderStage, seed: int, batch: dict[str, Tensor], step: int
) -> dict[str, Tensor]:
    """The mean over the columns with a letter and that over those without, of all accumulated batches."""
    weight = reader.stem.weight
    pixels = to_pixels(batch["pixels"].to(weight.device)).to(weight.dtype)
    rng = rng_for(seed, step, "reader encodes")
    if rng.random() < stage.warp_rate:
        pixels = elastic_warp(pixels, rng.uniform(0.2, 1.0))
    if rng.random() < stage.autoencoder_rate:
        pixels = noisy_reconstruction(autoencoder, pixels, stage.latent_noise)
    logits, targets = reader(pixels).float(), batch["targets"].to(pixels.device)
    errors = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    letters, blanks = batch["counts"].to(errors.device).clamp(min=1).unbind()
    return {"loss": errors[targets > 0].sum() / letters + errors[targets == 0].sum() / blanks}


def run_reader(
    stage: ReaderStage, autoencoder: Autoencoder, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> Reader:
    done = folder / "model"
    if (done / "config.json").exists():
        return Reader.from_pretrained(done)
    torch.manual_seed(seed + 9)
    reader = Reader(ReaderConfig(stage.width, stage.depth)).to(device, dtype)
    autoencoder.to(device, dtype)
    fit(
        "reader",
        reader,
        partial(make_batch, stage, seed + 9),
        partial(losses, reader, autoencoder, stage, seed),
        stage.loop,
        folder,
    )
    with atomic_folder(done) as fresh:
        reader.float().cpu().save_pretrained(fresh)
    return reader.eval()
