"""Pixels to latents and back: a diffusers autoencoder, optionally on pixel-unshuffled input.

On a CPU most of an autoencoder's time goes into convolutions at full size. With ``unshuffle`` 4 the first one works at a
quarter of the height and width (the idea of DC-AE's space-to-channel shortcut, arXiv:2410.10733).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, AutoencoderKL
from torch import Tensor, nn

from .files import check_types, load_strict, read_json, read_part_config, stored_dtype

_CLASSES = {"AutoencoderKL": AutoencoderKL, "AutoencoderDC": AutoencoderDC}


class Autoencoder(nn.Module):
    """``vae`` works on ``(batch, 3 · unshuffle², height / unshuffle, width / unshuffle)``; pixels are in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL | AutoencoderDC, unshuffle: int = 1) -> None:
        super().__init__()
        if unshuffle < 1:
            raise ValueError(f"unshuffle is {unshuffle}; it must be at least 1")
        if vae.config.in_channels != 3 * unshuffle**2:
            raise ValueError(
                f"unshuffle {unshuffle} gives {3 * unshuffle**2} channels, the autoencoder takes {vae.config.in_channels}"
            )
        self.vae, self.unshuffle = vae, unshuffle

    @property
    def downsample_factor(self) -> int:
        """Pixels per latent along each side."""
        widths = "encoder_block_out_channels" if isinstance(self.vae, AutoencoderDC) else "block_out_channels"
        return self.unshuffle * 2 ** (len(self.vae.config[widths]) - 1)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def shift(self) -> float:
        """Subtracted from the ``vae``'s latents before `scale`, 0 where its config has none."""
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    @property
    def scale(self) -> float:
        """Factor that brings the ``vae``'s latents to unit variance."""
        return self.vae.config.scaling_factor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance of the latents before shift and scale; the log-variance is None for a deterministic ``vae``.

        Pixels (batch, 3, height, width) in [-1, 1]; both are (batch, channels, height / factor, width / factor).
        """
        encoded = self.vae.encode(F.pixel_unshuffle(pixels, self.unshuffle))
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean, encoded.latent_dist.logvar
        return encoded.latent, None

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (batch, 3, height, width) in [-1, 1] to latents (batch, channels, height / factor, width / factor) of unit
        scale, ``factor`` being `downsample_factor`. Raises ValueError for sides that it does not divide."""
        height, width = pixels.shape[-2:]
        if height % self.downsample_factor or width % self.downsample_factor:
            raise ValueError(
                f"a picture of {height} x {width} pixels; both must be multiples of {self.downsample_factor}"
            )
        return (self.moments(pixels)[0] - self.shift) * self.scale

    def decode_raw(self, latents: Tensor) -> Tensor:
        """As `decode`, for latents before shift and scale (`moments`)."""
        return F.pixel_shuffle(self.vae.decode(latents).sample, self.unshuffle)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels in [-1, 1] (not clamped)."""
        return self.decode_raw(latents / self.scale + self.shift)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what `from_pretrained` reads."""
        self.vae.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path of this machine does not belong into a published file
        (Path(folder) / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (Path(folder) / "limner.json").write_text(json.dumps({"unshuffle": self.unshuffle}) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, variant: str | None = None) -> Autoencoder:
        """Reads a diffusers folder; ``limner.json`` in it may hold ``unshuffle``.

        Raises ValueError for a class that Limner does not know, and as `load_strict` does.
        """
        name = read_part_config(Path(folder)).get("_class_name")
        if name not in _CLASSES:
            raise ValueError(f"{folder}: an autoencoder of class {name!r}; Limner reads {', '.join(_CLASSES)}")
        folder, own = Path(folder), Path(folder) / "limner.json"
        options = read_json(own, ("unshuffle",)) if own.exists() else {}
        check_types(options, cls.__init__, own)
        vae = load_strict(_CLASSES[name], folder, variant, torch_dtype=stored_dtype(folder, variant))
        return cls(vae, **options)


def kl_autoencoder(widths: tuple[int, ...], latent_channels: int, unshuffle: int, layers: int = 1) -> Autoencoder:
    """A new `AutoencoderKL` without attention; ``widths`` has one number for each resolution."""
    blocks = len(widths)
    channels = 3 * unshuffle**2
    vae = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=min(16, *widths),
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    return Autoencoder(vae, unshuffle)


def to_pixels(images: Tensor) -> Tensor:
    """8-bit pixels (batch, height, width, 3) to [-1, 1] (batch, 3, height, width)."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels (batch, 3, height, width) in [-1, 1] to 8 bits (batch, height, width, 3) on the CPU, rounded and clamped."""
    return pixels.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
