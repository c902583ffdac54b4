"""``limner --version``."""

from __future__ import annotations

import platform
from importlib import metadata

PARTS = ("transformers", "diffusers", "peft", "safetensors")


def version() -> str:
    """What a report of a bug should say: Limner's version, of what it runs on, and the device that a model would be put on."""
    import torch

    from ... import __version__
    from ...inference.devices import best_device

    parts = (f"{name} {metadata.version(name)}" for name in PARTS)
    place = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, device {best_device()}"
    return "\n".join((f"limner {__version__}", f"torch {torch.__version__}", *parts, place))
