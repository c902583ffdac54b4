"""The reader learns on signs that were blurred, noised and passed through the autoencoder, as the judge does."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageFilter
from torch import Tensor

from ...detokenizer.autoencoder import Autoencoder, to_pixels
from ..evaluation.reader import LETTERS, Reader, ReaderConfig
from ..loop import LoopConfig, fit
from ..pictures import rng_for
from ..world.scene import render
from ..world.signs import signed
from .disturbed import bend, decoded


@dataclass
class ReaderStage:
    width: int = 64
    depth: int = 3
    blurred: float = 0.2
    encoded: float = 0.5
    """Share of the batches that pass through the autoencoder"""
    latent_noise: float = 0.2
    bent: float = 0.3
    loop: LoopConfig = field(default_factory=LoopConfig)


def make_batch(stage: ReaderStage, seed: int, step: int) -> dict[str, Any]:
    rng = rng_for(seed, step, "reader")
    shape = (128, 128) if rng.random() < 0.8 else rng.choice(((96, 160), (160, 96)))
    pixels, words = [], []
    while len(words) < stage.loop.batch_size:
        scene = signed(rng, kept=rng.random() < 0.1)  # the reader knows every word
        if (scene.height, scene.width) != shape:
            continue
        image = render(scene)
        if rng.random() < stage.blurred:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
        pixels.append(np.asarray(image))
        words.append(scene.things[0].words)
    return {
        "pixels": torch.from_numpy(np.stack(pixels)),
        "letters": torch.tensor([1 + LETTERS.index(letter) for word in words for letter in word]),
        "lengths": torch.tensor([len(word) for word in words]),
    }


def losses(
    reader: Reader, autoencoder: Autoencoder, stage: ReaderStage, seed: int, batch: dict[str, Tensor], step: int
) -> dict[str, Tensor]:
    weight = reader.stem.weight
    pixels = to_pixels(batch["pixels"].to(weight.device)).to(weight.dtype)
    rng = rng_for(seed, step, "reader encodes")
    if rng.random() < stage.bent:
        pixels = bend(pixels, rng.uniform(0.2, 1.0))
    if rng.random() < stage.encoded:
        pixels = decoded(autoencoder, pixels, stage.latent_noise)
    told = reader(pixels).float().log_softmax(-1).transpose(0, 1)
    columns = torch.full((told.shape[1],), told.shape[0])
    loss = F.ctc_loss(told, batch["letters"], columns, batch["lengths"], zero_infinity=True)
    return {"loss": loss}


def run(
    stage: ReaderStage, autoencoder: Autoencoder, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> Reader:
    done = folder / "model"
    if (done / "config.json").exists():
        return Reader.from_pretrained(done)
    torch.manual_seed(seed + 9)
    reader = Reader(ReaderConfig(stage.width, stage.depth)).to(device, dtype)
    autoencoder.to(device, dtype)
    fit("reader", reader, partial(make_batch, stage, seed + 9), partial(losses, reader, autoencoder, stage, seed),
        stage.loop, folder)  # fmt: skip
    reader.float().cpu().save_pretrained(done)
    return reader.eval()
