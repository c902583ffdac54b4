"""Samplers are plain functions of a velocity function, a starting point and falling times.

``velocity(x, step, t)`` gets the index of the step that asks, so that what depends on the step alone can
be computed beforehand. ``callback(step, x)`` runs after each step; raising from it ends the drawing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, int, float], Tensor]
Callback = Callable[[int, Tensor], None]


def euler(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """First order, one evaluation a step."""
    for step, (t, t_next) in enumerate(zip(times.tolist()[:-1], times.tolist()[1:], strict=True)):
        x = x + (t_next - t) * velocity(x, step, t)
        if callback:
            callback(step, x)
    return x


def heun(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order, two evaluations a step (Karras et al. 2022, arXiv:2206.00364, algorithm 1); the last is Euler's."""
    values = times.tolist()
    for step, (t, t_next) in enumerate(itertools.pairwise(values)):
        slope = velocity(x, step, t)
        if t_next > 0:
            ahead = velocity(x + (t_next - t) * slope, step + 1, t_next)
            slope = (slope + ahead) / 2
        x = x + (t_next - t) * slope
        if callback:
            callback(step, x)
    return x


def multistep(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order, one evaluation a step: Adams-Bashforth with variable steps, the first step is Euler's.

    Hairer, Nørsett and Wanner 1993, section III.5.
    """
    values = times.tolist()
    before: Tensor | None = None
    for step, (t, t_next) in enumerate(itertools.pairwise(values)):
        slope = now = velocity(x, step, t)
        if before is not None:
            ratio = (t_next - t) / (t - values[step - 1])
            slope = now + ratio / 2 * (now - before)
        x, before = x + (t_next - t) * slope, now
        if callback:
            callback(step, x)
    return x


SAMPLERS: dict[str, Callable[[Velocity, Tensor, Tensor, Callback | None], Tensor]] = {
    "euler": euler,
    "heun": heun,
    "multistep": multistep,
}


def sampler(name: str) -> Callable[[Velocity, Tensor, Tensor, Callback | None], Tensor]:
    if name not in SAMPLERS:
        raise ValueError(f"no sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def noise_like(shape: tuple[int, ...], seed: int, index: int) -> Tensor:
    """Noise of picture ``index`` of a reply, in fp32 on the CPU: the same on every device and in every batch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(shape, generator=generator)
