"""Devices by name."""

from __future__ import annotations

import torch


def check_device(name: str | torch.device) -> torch.device:
    """The device called ``name``. Raises ValueError for one that this machine has not."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError):  # by the kind that is missing
        found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        found += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"no such device: {str(name)!r}; this machine has {', '.join(found)}") from None
    return device


def best_device() -> str:
    """The device that a model is put on where none is named: cuda, then mps, then cpu."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
