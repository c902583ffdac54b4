"""Condition in, pixels out: what every de-tokenizer does, whatever network paints.

A drawing is begun, advanced by one evaluation of the network at a time, and decoded. Drawings at any times of their own are
advanced together, in one batch (`Detokenizer.advance`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .autoencoder import Autoencoder, to_uint8
from .condition import Condition
from .drawing_options import DrawingOptions
from .samplers import Steps, noise_like

NOT_FINITE = (
    "are not finite numbers: a guidance scale or an adapter's weight is too large, the precision overflows (dtype float32 does "
    "not), or the weights are broken"
)


class NotFiniteError(ValueError):
    """A model computed what is no number, of which there would be a black picture, or words without sense."""


class Drawing:
    """Pictures of one size that are being drawn in common steps.

    ``begin`` makes the sampler, ``guided`` is what the network needs of their condition and guidance, ``step_of`` in it the
    number of steps done at a time of the schedule, ``total`` that of all. With Heun's sampler a step counts as done when its
    second velocity is asked for.
    """

    def __init__(self, begin: Callable[[], Steps], guided: Any, total: int, shape: Hashable) -> None:
        self.begin, self.guided, self.total, self.shape = begin, guided, total, shape
        self.latents: Tensor | None = None
        """(batch, channels, h, w) when all is done"""
        self.estimate: Tensor | None = None
        """The latents as the network would have them in the end by what it last said"""
        self.steps = begin()
        self.x, self.t = next(self.steps)

    @property
    def done(self) -> int:
        """Steps that are done, of ``total``."""
        return self.total if self.latents is not None else self.guided.step_of[self.t]

    def send(self, prediction: Tensor, estimate: Tensor) -> None:
        """What the network says of ``x`` at time ``t``, and the latents at the end that follow from it."""
        self.estimate = estimate
        try:
            self.x, self.t = self.steps.send(prediction)
        except StopIteration as stopped:
            self.latents = stopped.value
        except BaseException:  # an interrupt has ended the sampler: the same picture is drawn from its beginning
            self.steps = self.begin()
            self.x, self.t = next(self.steps)
            raise


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
    def begin(
        self,
        condition: Condition,
        height: int,
        width: int,
        *,
        seeds: Sequence[tuple[int, int]],
        options: DrawingOptions,
    ) -> Drawing:
        """A drawing of pictures with noise of their own. ``seeds`` holds a row's (seed, index of the picture in its reply).
        Raises ValueError for sizes or options that make no sense here."""

    @abstractmethod
    def advance(self, drawings: Sequence[Drawing]) -> None:
        """One evaluation of the network for all drawings, which have the same ``shape``."""

    @torch.no_grad()
    def decode(self, drawing: Drawing) -> Tensor:
        """8-bit pictures (batch, height, width, 3) of a drawing; of one that is not done, as the network expects them to become.
        Raises NotFiniteError where they would be black."""
        latents = drawing.estimate if drawing.latents is None else drawing.latents
        assert latents is not None
        pixels = self.autoencoder.decode(latents.to(next(self.autoencoder.parameters()).dtype))
        if not pixels.isfinite().all():
            raise NotFiniteError(f"the pixels {NOT_FINITE}")
        return to_uint8(pixels)

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
        """A drawing from its beginning to its end; ``callback`` gets the steps done and in all."""
        return self.run(self.begin(condition, height, width, seeds=seeds, options=options), callback)

    def run(self, drawing: Drawing, callback: Callable[[int, int], None] | None = None) -> Tensor:
        """Advances a drawing to its end; returns 8-bit pictures (batch, height, width, 3)."""
        while drawing.latents is None:
            before = drawing.done
            self.advance([drawing])
            if callback is not None and drawing.done > before:
                callback(drawing.done, drawing.total)
        return self.decode(drawing)

    def check_request(self, condition: Condition, height: int, width: int, seeds: Sequence[tuple[int, int]]) -> None:
        """Raises ValueError for a size that cannot be drawn, and for another number of seeds than pictures."""
        self.check_size(height, width)
        if len(seeds) != condition.batch:
            raise ValueError(f"{len(seeds)} seeds for {condition.batch} pictures")

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
