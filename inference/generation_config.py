"""The options of a request, one object: the model folder's ``generation_config.json``, and what a call changes of it.

Nothing here imports torch: the command line makes its flags of these fields before it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from ..detokenizer.drawing_options import DrawingOptions
from ..mllm.decoding_options import DecodingOptions


@dataclass(frozen=True)
class GenerationConfig(DecodingOptions, DrawingOptions):
    """What `Limner.generate` takes beside messages, seed, n, callback and adapters.

    Raises ValueError for values that make no sense.
    """

    boxes: bool = False
    """ask for boxes (`Reply.boxes`) where the chat template has a form for it"""
    history: int = 0
    """exchanges that the model is shown before the last message; 0 is as many as it holds"""

    def __post_init__(self) -> None:
        DecodingOptions.__post_init__(self)
        DrawingOptions.__post_init__(self)
        if self.history < 0:
            raise ValueError(f"history is {self.history}; it must not be negative")

    def updated(self, options: Mapping[str, Any]) -> GenerationConfig:
        """With ``options`` in place of its own values; None leaves a value as it is. Raises ValueError for unknown names."""
        known = [field.name for field in fields(self)]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"unknown options {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in options.items() if value is not None})


class GenerationOptions(TypedDict, total=False):
    """Fields of `GenerationConfig` as keyword arguments; None, or one that is left out, is what the model's folder says."""

    max_new_tokens: int | None
    max_images: int | None
    images: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    stop: str | Sequence[str] | None
    height: int | None
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    image_guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    sampler: str | None
    boxes: bool | None
    history: int | None
