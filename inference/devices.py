"""Devices by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def check_device(name: str | int | torch.device) -> torch.device:
    """The device called ``name``, or the accelerator of this index. Raises ValueError for one that this machine has not."""
    try:
        if isinstance(name, bool) or not isinstance(name, (str, int, torch.device)):
            raise TypeError
        # an index from the command line is text
        device = torch.device(int(name) if isinstance(name, str) and name.isdecimal() else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError, TypeError):  # by the kind that is missing
        found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        found += ["mps"] if torch.backends.mps.is_available() else []
        said = str(name) if isinstance(name, torch.device) else name
        raise ValueError(f"no such device: {said!r}; this machine has {', '.join(found)}") from None
    return device


def check_devices(devices: Any, halves: Sequence[str]) -> dict[str, str | torch.device]:
    """Devices by the half of a model that they are for, "" for the whole; "auto", for which None stands too, is left as it is.

    ``devices`` is one, or a mapping with one for each half. Raises ValueError for one that this machine has not.
    """
    places = dict(devices) if isinstance(devices, Mapping) else {"": devices}
    unknown = sorted(set(places) - {"", *halves})
    if unknown or not places:
        raise ValueError(f"a device for {unknown[0] if unknown else 'nothing'!r}; name {' and '.join(halves)}")
    if "" not in places and len(places) < len(halves):
        raise ValueError(f"no device for {', '.join(name for name in halves if name not in places)}")
    return {name: "auto" if place is None or place == "auto" else check_device(place) for name, place in places.items()}


def best_device() -> str:
    """The device that a model is put on where none is named: cuda, then mps, then cpu."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
