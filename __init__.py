"""Limner: one autoregressive model that writes and draws in a single stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# heavy imports wait until a name is used, so that `import limner` and `limner --help` are quick
_HOMES = {
    "load": ".inference.loading",
    "finetune": ".train.finetune",
    "Limner": ".inference.model",
    "Reply": ".inference.reply",
    "Chat": ".inference.chat",
    "PlainGeneration": ".inference.plain_generation",
    "read_metadata": ".inference.picture_metadata",
    "save_image": ".inference.output",
    "LimnerConfig": ".mllm.config",
}
__all__ = [
    "Chat",
    "Limner",
    "LimnerConfig",
    "PlainGeneration",
    "Reply",
    "__version__",
    "finetune",
    "load",
    "read_metadata",
    "save_image",
]

if TYPE_CHECKING:
    from .inference.chat import Chat
    from .inference.loading import load
    from .inference.model import Limner
    from .inference.output import save_image
    from .inference.picture_metadata import read_metadata
    from .inference.plain_generation import PlainGeneration
    from .inference.reply import Reply
    from .mllm.config import LimnerConfig
    from .train.finetune import finetune


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
