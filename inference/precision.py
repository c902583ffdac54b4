"""The choice of precision: bfloat16 where the machine multiplies it faster than float32, else float32.

Many CPUs emulate bf16 a hundred times slower than they compute fp32, and their feature flags are no help: an x86-64 with plain
AVX-512 passes torch's query and still emulates. So a matrix product is timed.
"""

from __future__ import annotations

import logging
import time
from functools import cache

import torch

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
SHORT_NAMES = {
    **dict.fromkeys(("fp32", "f32", "float"), "float32"),
    **dict.fromkeys(("bf16", "bfloat"), "bfloat16"),
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
}
"""What precisions are called elsewhere"""
FASTER_BELOW = 0.8
"""A precision is faster if a product takes less than this share of its time in fp32."""
SLOW_ABOVE = 2.0
"""A warning is logged for a requested precision whose product takes more than this many times as long as in fp32."""


def choose_dtype(device: torch.device | str, wanted: str | torch.dtype = "auto") -> torch.dtype:
    """The precision for ``device``: ``wanted``, with a warning if it is slow there, or for "auto" bfloat16 where it is faster
    than float32.

    Raises ValueError for an unknown precision.
    """
    device, name = torch.device(device), check_dtype(wanted)
    if name == "auto":
        return torch.bfloat16 if relative_time(device.type, torch.bfloat16) < FASTER_BELOW else torch.float32
    dtype = getattr(torch, name)
    if (ratio := relative_time(device.type, dtype)) > SLOW_ABOVE:
        logger.warning(
            "%s is slow on this %s: a matrix product takes %.0f times as long as in float32", name, device.type, ratio
        )
    return dtype


def check_dtype(wanted: str | torch.dtype | None) -> str:
    """The name of a precision, or "auto", for which None stands too. Raises ValueError for an unknown one."""
    name = "auto" if wanted is None else str(getattr(wanted, "__name__", wanted)).removeprefix("torch.")
    name = SHORT_NAMES.get(name, name)
    if name not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {name!r}; it can be auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    return name


@cache
def relative_time(kind: str, dtype: torch.dtype) -> float:
    """The time of a matrix product in ``dtype`` on a ``kind`` of device, as a multiple of that in fp32.

    Measuring takes a few milliseconds, some twenty where the precision is emulated. Nothing is measured on CUDA, where the
    driver knows (emulation counts as 10), nor on kinds other than CPU and MPS, which count as 1.
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
        for a, b in inputs.values():  # the first call compiles kernels
            (a @ b)[0, 0].item()
        best = dict.fromkeys(inputs, float("inf"))
        for _ in range(5):  # alternating, and the minimum of each: another process may take the core for a while
            for d, (a, b) in inputs.items():
                begun = time.perf_counter()
                (a @ b)[0, 0].item()  # reading a value waits for a device that computes asynchronously
                best[d] = min(best[d], time.perf_counter() - begun)
            if best[dtype] > 10 * best[torch.float32]:
                break
    except (RuntimeError, TypeError):  # mps before macOS 14 has no bf16 at all
        return float("inf")
    return best[dtype] / best[torch.float32]
