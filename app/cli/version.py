"""``limner --version``."""

from __future__ import annotations

import platform
from importlib import metadata

PARTS = ("limner", "torch", "transformers", "diffusers", "peft", "safetensors")


def version() -> str:
    """What a report of a bug should say: the versions of Limner and of what it runs on, and the device that a model is put on."""
    from ...inference.devices import best_device

    place = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, device {best_device()}"
    return "\n".join((*(f"{name} {installed(name)}" for name in PARTS), place))


def installed(name: str) -> str:
    """The version of a package, as far as it was installed: a checkout need not be."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
