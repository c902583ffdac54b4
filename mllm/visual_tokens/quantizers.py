"""Quantizers: vectors to codes of a finite codebook, and back.

Both have ``forward(x, mask) -> (quantized, codes, loss)``, ``vectors_to_codes(x)``, ``codes_to_vectors(codes)``,
``bounded_vectors(x)``, which is what ``codes_to_vectors`` would give without rounding, and ``num_codes``. The gradient of
``quantized`` passes straight through to ``x``. Quantization is done in fp32 whatever the precision around it, since a code is a
decision that rounding should not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VisualTokenizerConfig

MIN_CLUSTER_SIZE = 1e-5
"""Below this average number of vectors a code keeps its place: the quotient of two such averages says nothing."""


def make_quantizer(config: VisualTokenizerConfig) -> FiniteScalarQuantizer | VectorQuantizer:
    """The quantizer that a configuration names."""
    if config.quantizer == "fsq":
        return FiniteScalarQuantizer(config.levels)
    return VectorQuantizer(
        config.codebook_size,
        config.code_width,
        ema_decay=config.ema_decay,
        dead_code_threshold=config.dead_code_threshold,
        commitment_weight=config.commitment_weight,
    )


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The value of ``quantized`` with the gradient of ``x``."""
    return x + (quantized - x).detach()


class FiniteScalarQuantizer(nn.Module):
    """FSQ (Mentzer et al. 2023, arXiv:2309.15505): each of a few dimensions is bounded and rounded to one of its levels.

    A code is the number whose digits, that of the first dimension lowest, are the levels. There are no parameters; ``levels`` is
    saved with the weights, so that those of another codebook with as many dimensions are refused.
    """

    levels: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.num_codes = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels))
        self._expected_levels = list(levels)
        self.register_load_state_dict_pre_hook(self._check_levels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` (..., len(levels)) to vectors in [-1, 1] of the same shape, codes (...) and a loss of 0; ``mask`` is unused."""
        bounded = self.bound(x.float())
        rounded = bounded.round()
        quantized = straight_through(bounded, rounded) / self.half_widths
        return quantized.to(x.dtype), self._number(rounded), quantized.new_zeros(())

    def vectors_to_codes(self, x: Tensor) -> Tensor:
        """``x`` (..., len(levels)) to codes (...)."""
        return self._number(self.bound(x.float()).round())

    def bounded_vectors(self, x: Tensor) -> Tensor:
        """``x`` (..., len(levels)) to the vectors of its codes (..., len(levels)), but for the rounding; in fp32."""
        return self.bound(x.float()) / self.half_widths

    def bound(self, x: Tensor) -> Tensor:
        """Squashes each dimension so that it rounds to one of its levels, which are -⌊L / 2⌋, …, ⌈L / 2⌉ - 1."""
        half_range = (self.levels - 1) * (1 + 1e-3) / 2  # a little more, so that the outermost levels are reached
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return (x + (offset / half_range).atanh()).tanh() * half_range - offset

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """Codes (...) to the vectors (..., len(levels)) that they stand for, in fp32."""
        return (self.digits(codes) - self.half_widths) / self.half_widths

    def one_hot_digits(self, codes: Tensor) -> Tensor:
        """Codes (...) to (..., sum of the levels): of each dimension's levels 1 at the one that the code has, and 0 elsewhere."""
        pairs = zip(self.digits(codes).unbind(-1), self.levels.tolist(), strict=True)
        return torch.cat([F.one_hot(digits, count) for digits, count in pairs], dim=-1).float()

    def digits(self, codes: Tensor) -> Tensor:
        """Codes (...) to the number of the level (..., len(levels)) that they have in each dimension."""
        return codes[..., None] // self.place_values % self.levels

    @property
    def half_widths(self) -> Tensor:
        return self.levels // 2

    @property
    def place_values(self) -> Tensor:
        return self.levels.cumprod(0) // self.levels

    def _number(self, rounded: Tensor) -> Tensor:
        return ((rounded.long() + self.half_widths) * self.place_values).sum(-1)

    def _check_levels(self, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        loaded = state_dict.get(f"{prefix}levels")
        if loaded is not None and loaded.tolist() != self._expected_levels:
            raise ValueError(
                f"the weights are of a codebook with levels {loaded.tolist()}, the configuration names {self._expected_levels}: "
                "set levels to those of the weights"
            )


def nearest_codes(x: Tensor, codebook: Tensor) -> Tensor:
    """The index (...) of the vector of ``codebook`` (codes, width) that is nearest to each of ``x`` (..., width)."""
    return (codebook.square().sum(-1) - 2 * x @ codebook.T).argmin(-1)


class VectorQuantizer(nn.Module):
    """VQ with a codebook that follows the mean of its vectors (van den Oord et al. 2017, arXiv:1711.00937, appendix A.1).

    In training mode a forward updates the codebook: it must not be computed twice (activation checkpointing), and all processes
    have to take part, whose vectors count alike. The buffers stay in fp32; averages hardly move in bf16.

    Codes that are hardly used are replaced by vectors of the batch (Jukebox, arXiv:2005.00341); as none is used at first, this
    also initialises the codebook. Which vectors depends on the number of updates so far, not on a global random state.
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    updates: Tensor

    def __init__(
        self,
        num_codes: int,
        width: int,
        *,
        ema_decay: float = 0.99,
        dead_code_threshold: float = 0.03,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.ema_decay, self.dead_code_threshold = ema_decay, dead_code_threshold
        self.commitment_weight = commitment_weight
        self.register_buffer("codebook", torch.randn(num_codes, width))
        self.register_buffer("cluster_size", torch.zeros(num_codes))
        self.register_buffer("cluster_sum", torch.zeros(num_codes, width))
        self.register_buffer("updates", torch.tensor(0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` (..., width) to vectors of the codebook, codes (...) and the commitment loss.

        Where ``mask`` (...) is False, a vector counts neither in the loss nor in the codebook's averages.
        """
        vectors = x.float()
        codes = self.vectors_to_codes(vectors)
        quantized = self.codes_to_vectors(codes)
        kept = torch.ones_like(codes, dtype=torch.bool) if mask is None else mask
        errors = (vectors - quantized).square().mean(-1) * kept
        loss = self.commitment_weight * errors.sum() / kept.sum()
        if self.training:
            self.update(vectors.detach()[kept], codes[kept])
        return straight_through(vectors, quantized).to(x.dtype), codes, loss

    @torch.no_grad()
    def vectors_to_codes(self, x: Tensor) -> Tensor:
        """``x`` (..., width) to the codes (...) of the nearest vectors."""
        with torch.autocast(x.device.type, enabled=False):
            return nearest_codes(x.float(), self.codebook)

    def bounded_vectors(self, x: Tensor) -> Tensor:
        """``x`` (..., width) itself, in fp32: nothing bounds it."""
        return x.float()

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """Codes (...) to the vectors (..., width) that they stand for."""
        return self.codebook[codes]

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Moves each code to the running mean of the ``vectors`` (n, width) whose ``codes`` (n,) are it; replaces dead ones."""
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, vectors.new_ones(len(codes)))
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, codes, vectors)
        if several_processes():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1 - self.ema_decay)
        self.cluster_sum.lerp_(sums, 1 - self.ema_decay)
        means = self.cluster_sum / self.cluster_size.clamp(min=MIN_CLUSTER_SIZE)[:, None]
        self.codebook.copy_(torch.where(self.cluster_size[:, None] > MIN_CLUSTER_SIZE, means, self.codebook))
        self.replace_dead_codes(vectors)
        self.updates += 1

    def replace_dead_codes(self, vectors: Tensor) -> None:
        """Puts some of ``vectors`` (n, width) in the place of dead codes, as if these had been used as much as the mean.

        Where more codes are dead than there are vectors, some get the same one, and die again but for one.
        """
        mean_size = self.cluster_size.mean()
        dead = self.cluster_size < self.dead_code_threshold * mean_size
        generator = torch.Generator().manual_seed(int(self.updates))
        order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
        replacements = vectors[order[torch.arange(self.num_codes, device=order.device) % len(order)]]
        if several_processes():
            dist.broadcast(replacements, 0)
        self.codebook.copy_(torch.where(dead[:, None], replacements, self.codebook))
        self.cluster_size.copy_(torch.where(dead, mean_size, self.cluster_size))
        self.cluster_sum.copy_(torch.where(dead[:, None], replacements * mean_size, self.cluster_sum))


def several_processes() -> bool:
    """Whether other processes train the same codebook."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
