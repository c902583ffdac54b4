"""The one place that chooses a precision: bfloat16 where the machine multiplies it faster than float32, else float32.

Many CPUs emulate bf16 a hundred times slower than they compute fp32, and what a processor says of itself does not tell:
an x86-64 with plain AVX-512 passes torch's own query and still emulates. So a product is timed.
"""

from __future__ import annotations

import logging
import time
from functools import cache

import torch

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
FASTER_BELOW = 0.8
"""Share of fp32's time that a product may take to count as faster: below it, rounding more buys nothing."""
SLOW_ABOVE = 2.0
"""Times as long as fp32's product from which a precision that was asked for is said to be slow."""


def choose_dtype(device: torch.device | str, wanted: str | torch.dtype = "auto") -> torch.dtype:
    """The precision to compute in on ``device``: the ``wanted`` one (a slow one is said to be slow), or for "auto" bfloat16
    where it is faster than float32 there.

    Raises ValueError for what is no precision.
    """
    device = torch.device(device)
    if wanted == "auto":
        return torch.bfloat16 if relative_time(device.type, torch.bfloat16) < FASTER_BELOW else torch.float32
    name = str(wanted).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}; it can be auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    dtype = getattr(torch, name)
    if (ratio := relative_time(device.type, dtype)) > SLOW_ABOVE:
        logger.warning(
            "%s is slow on this %s: a matrix product takes %.0f times as long as in float32", name, device.type, ratio
        )
    return dtype


@cache
def relative_time(kind: str, dtype: torch.dtype) -> float:
    """How long a matrix product in ``dtype`` takes on a ``kind`` of device, beside one in fp32.

    A few milliseconds, or some twenty where it is emulated. Nothing is timed on CUDA, where the driver knows (an emulating
    card counts as ten times slower), nor on devices of other kinds, where it counts as equal.
    """
    if dtype == torch.float32:
        return 1.0
    if kind == "cuda":
        if not torch.cuda.is_available():
            return 1.0
        return 0.1 if dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False) else 10.0
    if kind not in ("cpu", "mps"):
        return 1.0
    try:
        inputs = {
            d: [torch.ones(shape, dtype=d, device=kind) for shape in ((128, 256), (256, 512))]
            for d in (torch.float32, dtype)
        }
        for a, b in inputs.values():  # kernels are made at the first call
            (a @ b)[0, 0].item()
        best = dict.fromkeys(inputs, float("inf"))
        for _ in range(5):  # in turns, and the shortest of each: another process may take the core for a while
            for d, (a, b) in inputs.items():
                begun = time.perf_counter()
                (a @ b)[0, 0].item()  # reading a value waits for a device that computes asynchronously
                best[d] = min(best[d], time.perf_counter() - begun)
            if best[dtype] > 10 * best[torch.float32]:
                break
    except (RuntimeError, TypeError):  # mps before macOS 14 has no bf16 at all
        return float("inf")
    return best[dtype] / best[torch.float32]
