"""Condition in, pixels out: what every de-tokenizer does, whatever network paints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .condition import Condition
from .drawing_options import DrawingOptions
from .samplers import noise_like

Sampling = Generator[tuple[int, int], None, Tensor]
"""Yields (steps done, steps in all) after each step and returns 8-bit pictures (batch, height, width, 3)."""


class Detokenizer(nn.Module, ABC):
    """A conditioning adapter, a network that paints latents, an autoencoder.

    A class to inherit from and no `typing.Protocol`: whoever holds one also moves it, counts its parameters and copies it,
    so it must be a module.
    """

    adapter: Any
    """A module whose ``config`` has a ``prompt_width``; None where conditions come from elsewhere, as from SD3's own text
    encoders"""
    autoencoder: Autoencoder
    stretches_references = False
    """Whether `encode_reference` brings any picture to the drawing's size by itself"""

    @property
    @abstractmethod
    def transformer(self) -> nn.Module:
        """The network that paints latents."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Heights and widths in pixels must be multiples of this."""

    @property
    def max_side(self) -> int | None:
        """The longest side in pixels that can be drawn; None where there is no limit."""
        return None

    @abstractmethod
    def condition(
        self, features: Tensor, prompt: Tensor | None, prompt_mask: Tensor | None, glyph_text: Sequence[Sequence[str]]
    ) -> Condition:
        """Of the stream's image features (batch, tokens, feature_width), its prompt states (batch, tokens, width) with
        their mask, and the words that each picture is to carry."""

    @abstractmethod
    def encode_reference(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """8-bit pixels (height, width, 3) to the latents (channels, h, w) that a drawing of ``size`` refers to."""

    @abstractmethod
    def sample(
        self,
        condition: Condition,
        height: int,
        width: int,
        *,
        seeds: Sequence[tuple[int, int]],
        options: DrawingOptions,
    ) -> Sampling:
        """Draws step by step; closing the generator leaves the drawing. ``seeds`` holds a row's (seed, index of the picture
        in its reply). Raises ValueError for sizes or options that make no sense here."""

    def draw(
        self,
        condition: Condition,
        height: int,
        width: int,
        *,
        seeds: Sequence[tuple[int, int]],
        options: DrawingOptions,
        callback: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """`sample` to its end; ``callback`` gets what that yields."""
        return run_sampling(self.sample(condition, height, width, seeds=seeds, options=options), callback)

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for a size that cannot be drawn, naming those that can."""
        step = self.size_multiple
        is_multiple = min(height, width) >= step and height % step == 0 and width % step == 0
        if not is_multiple or (self.max_side and max(height, width) > self.max_side):
            most = f" up to {self.max_side}" if self.max_side else ""
            raise ValueError(
                f"cannot draw {height} x {width} pixels: height and width must be multiples of {step}, from {step}{most}"
            )

    def noise(self, seeds: Sequence[tuple[int, int]], height: int, width: int) -> Tensor:
        """What a drawing starts from: (batch, channels, h, w) in fp32, where the network is."""
        factor = self.autoencoder.downsample_factor
        shape = (self.autoencoder.channels, height // factor, width // factor)
        noise = torch.stack([noise_like(shape, seed, index) for seed, index in seeds])
        return noise.to(next(self.transformer.parameters()).device)

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Every part in a folder of its own."""


def run_sampling(sampling: Sampling, callback: Callable[[int, int], None] | None = None) -> Tensor:
    """Runs a drawing to its end."""
    while True:
        try:
            progress = next(sampling)
        except StopIteration as stopped:
            return stopped.value
        if callback is not None:
            callback(*progress)
