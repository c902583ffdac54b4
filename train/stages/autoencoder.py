"""Pictures → latents → pictures: L1, L1 of image gradients, a small KL term and a little latent noise.

Few, smooth latent channels make a small MM-DiT learn faster than a sharper autoencoder would, so the
latents are kept smooth by noise rather than the pictures sharp by width.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...detokenizer.autoencoder import Autoencoder, kl_autoencoder, to_pixels, to_uint8
from ...evaluation.sheet import save_sheet
from ...inference.output import atomic_folder
from ...world import sampling, signs
from ...world.pen import STYLES
from ...world.scene import Scene, render
from ..loop import LoopConfig, fit
from ..option_checks import check_numbers, check_shares


@dataclass(frozen=True)
class DecoderStage:
    crop_size: int = 64
    """Side of the cut-outs that most steps train on, in pixels."""
    full_image_share: float = 0.25
    """Share of the steps, at the end, that train on whole pictures, so that group norms see their statistics."""
    latent_noise: float = 0.1
    """Standard deviation of the noise on the latents, relative to theirs."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "crop_size", least=1)
        check_shares(self, "full_image_share")
        check_numbers(self, "latent_noise", least=0)


@dataclass(frozen=True)
class AutoencoderStage(DecoderStage):
    widths: tuple[int, ...] = (64, 128)
    latent_channels: int = 8
    unshuffle: int = 4
    layers: int = 1
    kl_weight: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths:
            raise ValueError("widths is empty; it has a number for each level of the autoencoder")
        check_numbers(self, "widths", "latent_channels", "unshuffle", "layers", least=1)
        check_numbers(self, "kl_weight", least=0)


def random_scene(rng: random.Random) -> Scene:
    """A scene of any kind: objects in every style, and signs, whose letters are the finest detail."""
    if rng.random() < 0.2:
        return signs.sign_scene(rng)
    scene = sampling.any_scene(rng)
    return replace(scene, style=rng.choice(STYLES)) if rng.random() < 0.4 else scene


def random_crops(seed: int, step: int, count: int, size: int) -> Tensor:
    """Square crops (count, size, size, 3), 8-bit, each near an object: plain background teaches little."""
    rng = sampling.rng_for(seed, step, "crops")
    cut: list[np.ndarray] = []
    while len(cut) < count:
        scene = random_scene(rng)
        pixels = np.asarray(render(scene, rng.choice((0.8, 1.0, 1.25))))
        height, width = pixels.shape[:2]
        for thing in rng.sample(scene.things, min(2, len(scene.things))):
            x = round(thing.x * width - size / 2 + rng.uniform(-0.3, 0.3) * size)
            y = round(thing.y * height - size / 2 + rng.uniform(-0.3, 0.3) * size)
            x, y = max(0, min(x, width - size)), max(0, min(y, height - size))
            cut.append(pixels[y : y + size, x : x + size])
    return torch.from_numpy(np.stack(cut[:count]))


def full_pictures(seed: int, step: int, count: int) -> Tensor:
    """Whole pictures of one shape (count, height, width, 3), 8-bit."""
    rng = sampling.rng_for(seed, step, "full")
    shape = sampling.shape(rng)
    pixels: list[np.ndarray] = []
    while len(pixels) < count:
        scene = random_scene(rng)
        if (scene.height, scene.width) == shape:
            pixels.append(np.asarray(render(scene)))
    return torch.from_numpy(np.stack(pixels))


def make_batch(stage: DecoderStage, seed: int, step: int) -> Tensor:
    if step < stage.loop.steps * (1 - stage.full_image_share):
        return random_crops(seed, step, stage.loop.batch_size, stage.crop_size)
    return full_pictures(seed, step, max(1, stage.loop.batch_size // 4))


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def losses(autoencoder: Autoencoder, stage: DecoderStage, batch: Tensor, step: int) -> dict[str, Tensor]:
    parameter = next(autoencoder.parameters())
    pixels = to_pixels(batch).to(parameter).contiguous(memory_format=torch.channels_last)
    mean, _ = autoencoder.moments(pixels)
    mean = mean.float()
    noise_std = stage.latent_noise * mean.detach().std()
    noisy = mean + noise_std * torch.randn_like(mean)
    decoded = autoencoder.decode_raw(noisy.to(parameter.dtype)).float()
    pixels = pixels.float()
    l1 = (decoded - pixels).abs().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(gradients(decoded), gradients(pixels), strict=True))
    # the variance is fixed by latent_noise; pulling the means towards N(0, 1) keeps their scale in bounds
    kl = 0.5 * mean.square().mean()
    kl_weight = stage.kl_weight if isinstance(stage, AutoencoderStage) else 0.0
    error = (decoded.detach() - pixels).square().mean() / 4
    return {"loss": l1 + 0.5 * edges + kl_weight * kl, "l1": l1, "kl": kl, "psnr": -10 * error.log10()}


def _fit_stage(name: str, stage: DecoderStage, autoencoder: Autoencoder, seed: int, folder: Path) -> None:
    parameter = next(autoencoder.parameters())

    def sample(step: int) -> None:
        batch = full_pictures(seed + 1, 0, 8)
        with torch.no_grad():
            decoded = autoencoder.decode_raw(autoencoder.moments(to_pixels(batch).to(parameter))[0])
        both = [*batch, *to_uint8(decoded)]
        save_sheet([Image.fromarray(x.numpy()) for x in both], 8, folder / f"samples/{step:06d}.png")

    fit(
        name,
        autoencoder,
        partial(make_batch, stage, seed),
        partial(losses, autoencoder, stage),
        stage.loop,
        folder,
        sample=sample,
    )


def run_decoder(
    stage: DecoderStage, autoencoder: Autoencoder, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Train the decoder on, in place. The encoder is frozen, so that the latents stay those that the MM-DiT has
    learned; the noise on them stands for the errors of an MM-DiT."""
    torch.manual_seed(seed)
    autoencoder.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's types
    autoencoder.requires_grad_(False)
    autoencoder.vae.decoder.requires_grad_(True)
    _fit_stage("decoder", stage, autoencoder, seed, folder)
    autoencoder.requires_grad_(True)


def run_autoencoder(
    stage: AutoencoderStage, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    """Train (or resume), measure the latents' scale, save to ``folder/model``."""
    torch.manual_seed(seed)
    done = folder / "model"
    if (done / "config.json").exists():
        return Autoencoder.from_pretrained(done)
    autoencoder = kl_autoencoder(tuple(stage.widths), stage.latent_channels, stage.unshuffle, stage.layers)
    autoencoder.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's types
    _fit_stage("autoencoder", stage, autoencoder, seed, folder)
    autoencoder.float()
    with torch.no_grad():
        batch = full_pictures(seed + 1, 1, 64)
        mean = autoencoder.moments(to_pixels(batch).to(device))[0]
    autoencoder.vae.register_to_config(shift_factor=float(mean.mean()), scaling_factor=1 / float(mean.std()))
    with atomic_folder(done) as fresh:
        autoencoder.cpu().save_pretrained(fresh)
    return autoencoder
