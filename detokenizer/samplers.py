"""Samplers are plain generators over falling times: each yields ``(x, t)`` where it wants a velocity, is sent one of x's
shape, and returns the last x.

Whoever drives one decides when and in which batch a velocity is computed, and leaves it by closing it: `integrate` is the
plain driver. Nothing here turns gradients off, so that training can differentiate through a path.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator

import torch
from torch import Tensor

Steps = Generator[tuple[Tensor, float], Tensor, Tensor]
Velocity = Callable[[Tensor, float], Tensor]


def euler(x: Tensor, times: Tensor) -> Steps:
    """First order, one evaluation a step."""
    for t, t_next in itertools.pairwise(times.tolist()):
        velocity = yield x, t
        x = x + (t_next - t) * velocity
    return x


def heun(x: Tensor, times: Tensor) -> Steps:
    """Second order, two evaluations a step (Karras et al. 2022, arXiv:2206.00364, algorithm 1); the last is Euler's."""
    for t, t_next in itertools.pairwise(times.tolist()):
        velocity = yield x, t
        if t_next > 0:
            ahead = yield x + (t_next - t) * velocity, t_next
            velocity = (velocity + ahead) / 2
        x = x + (t_next - t) * velocity
    return x


def multistep(x: Tensor, times: Tensor) -> Steps:
    """Second order, one evaluation a step: Adams-Bashforth with variable steps, the first step is Euler's.

    Hairer, Nørsett and Wanner 1993, section III.5.
    """
    before: Tensor | None = None
    t_before = 0.0
    for t, t_next in itertools.pairwise(times.tolist()):
        slope = now = yield x, t
        if before is not None:
            ratio = (t_next - t) / (t - t_before)
            slope = now + ratio / 2 * (now - before)
        x, before, t_before = x + (t_next - t) * slope, now, t
    return x


def sampler(name: str) -> Callable[[Tensor, Tensor], Steps]:
    """One of `drawing_options.SAMPLERS`, by its name."""
    return {"euler": euler, "heun": heun, "multistep": multistep}[name]


def integrate(steps: Steps, velocity: Velocity) -> Tensor:
    """Runs a sampler to its end: x at time 0."""
    try:
        x, t = next(steps)
        while True:
            x, t = steps.send(velocity(x, t))
    except StopIteration as finished:
        return finished.value


def noise_like(shape: tuple[int, ...], seed: int, index: int) -> Tensor:
    """Noise of picture ``index`` of a reply, in fp32 on the CPU: the same on every device and in every batch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
