"""Random numbers as a function of a key and a counter: Philox 2x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3").

A torch generator has a state: what it gives depends on what it gave before, and on the device. These numbers are computed for any
counters at once, where they are needed, so that a drawing has the same noise in whatever batch and on whichever process it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIER, _WEYL, _MASK = 0xD256D193, 0x9E3779B9, 0xFFFFFFFF
ROUNDS = 10


def philox(key: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Two random 32-bit numbers for each counter, two 32-bit numbers ``low`` and ``high``; int64 tensors that broadcast."""
    low, high = torch.broadcast_tensors(low, high)
    for round_ in range(ROUNDS):
        # of the 64 bits, which wrap into the sign, the halves are right all the same
        product = low * _MULTIPLIER
        low = ((product >> 32) & _MASK) ^ ((key + round_ * _WEYL) & _MASK) ^ high
        high = product & _MASK
    return low, high


def uniform(key: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers in (0, 1) for each counter, fp32 of 24 random bits each."""
    first, second = philox(key, low, high)
    return tuple(((bits >> 8).float() + 0.5) * 2**-24 for bits in (first, second))  # type: ignore[return-value]  # two


def normal(key: int, low: Tensor, high: Tensor, count: int) -> Tensor:
    """``count`` standard normal numbers for each of the first counters ``low`` and ``high`` (rows,), as (rows, count), by Box and
    Muller; the counters after ``low``, half of ``count``, are used too."""
    following = torch.arange((count + 1) // 2, device=low.device)
    radius, angle = uniform(key, low[:, None] + following, high[:, None])
    radius, angle = (-2 * radius.log()).sqrt(), 2 * math.pi * angle
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(1)[:, :count]
