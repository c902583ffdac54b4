"""Rectified flow, written once: t in [0, 1], t = 1 is noise, the network predicts ``noise - x0``.

Esser et al. 2024 (Stable Diffusion 3), arXiv:2403.03206.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """``x_t = (1 - t) · x0 + t · noise`` with t of shape (batch,)."""
    t = t.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    return (1 - t) * x0 + t * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """``noise - x0``, which the network learns to predict."""
    return noise - x0


DENSITIES = ("logit_normal", "mode", "cosmap", "uniform")


def sample_timesteps(
    count: int, density: str = "logit_normal", a: float = 0.0, b: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Training timesteps (count,) in [0, 1]: `timesteps_at` uniform numbers."""
    return timesteps_at(torch.rand(count, generator=generator, dtype=torch.float32), density, a, b)


def timesteps_at(u: Tensor, density: str = "logit_normal", a: float = 0.0, b: float = 1.0) -> Tensor:
    """The timesteps in [0, 1] of a density's quantiles ``u`` in (0, 1) (section 3.1 of the paper; any shape).

    ``logit_normal``: sigmoid of N(a, b²); ``mode``: heavy tails, scale ``a``; ``cosmap``; ``uniform``.
    Raises ValueError for another name (diffusers' `compute_density_for_timestep_sampling`, which has no CosMap, takes it for
    uniform).
    """
    if density == "logit_normal":
        return torch.sigmoid(a + b * torch.special.ndtri(u))
    if density == "uniform":
        return u
    if density == "mode":
        return 1 - u - a * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    if density == "cosmap":
        return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)
    raise ValueError(f"no timestep density {density!r}; there are {', '.join(DENSITIES)}")


def shift_timesteps(t: Tensor, alpha: float) -> Tensor:
    """``t' = α t / (1 + (α - 1) t)``, α = sqrt(m / n) for m tokens where n were trained (section 5.3.2)."""
    return alpha * t / (1 + (alpha - 1) * t)


def inference_timesteps(steps: int, alpha: float = 1.0) -> Tensor:
    """``steps + 1`` falling times from 1 to 0, in float64. Raises ValueError for fewer than one step."""
    if steps < 1:
        raise ValueError(f"num_inference_steps is {steps}; it must be at least 1")
    return shift_timesteps(torch.linspace(1, 0, steps + 1, dtype=torch.float64), alpha)
