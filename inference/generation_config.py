"""The options of a request, one object: the model folder's ``generation_config.json``, and what a call changes of it.

Nothing here imports torch: the command line makes its flags of these fields before it does.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from ..detokenizer.drawing_options import DrawingOptions
from ..mllm.decoding_options import DecodingOptions

MEANT = {
    **dict.fromkeys(("max_tokens", "max_length", "max_completion_tokens", "max_output_tokens"), "max_new_tokens"),
    **dict.fromkeys(("steps", "num_steps", "inference_steps", "sampling_steps", "sample_steps"), "num_inference_steps"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance", "true_cfg_scale", "text_guidance_scale"), "guidance_scale"),
    **dict.fromkeys(("image_cfg_scale", "img_guidance_scale", "image_guidance"), "image_guidance_scale"),
    **dict.fromkeys(("size", "resolution", "image_size"), "height and width"),
    **dict.fromkeys(("num_images", "num_images_per_prompt", "num_return_sequences"), "n, of generate"),
    **dict.fromkeys(("stop_strings", "stop_sequences", "stop_words"), "stop"),
    **dict.fromkeys(("scheduler", "sampler_name"), "sampler"),
    **dict.fromkeys(("generator", "manual_seed", "random_seed"), "seed, a number"),
    **dict.fromkeys(("image", "pictures"), "a part of a message: {'type': 'image', 'image': ...}"),
    **dict.fromkeys(("num_beams", "logits_processor", "streamer"), "for PlainGeneration (docs/python.md)"),
    "do_sample": "temperature, which is 0 without sampling",
    "max_history": "history",
    "negative_prompt": "for other models: say in the prompt what the picture is to have instead",
    "prompt": "the first argument",
    "cross_attention_kwargs": "adapters={name: weight}",
}
"""What options of other libraries, most of them transformers' and diffusers', are called here"""


def whole_number(name: str, value: Any) -> int:
    """A whole number, numpy's and torch's too, as an int. Raises ValueError, which calls it ``name``, for anything else."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r:.60}; it must be a whole number") from None


def real_number(name: str, value: Any) -> float:
    """A number as a float. Raises ValueError, which calls it ``name``, for anything else."""
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of torch: a tensor of several values
        raise ValueError(f"{name} is {value!r:.60}; it must be a number") from None


def finite_number(name: str, value: Any) -> float:
    """As `real_number`; neither infinite nor NaN."""
    if not math.isfinite(number := real_number(name, value)):
        raise ValueError(f"{name} is {number}; it must be a finite number")
    return number


def yes_or_no(name: str, value: Any) -> bool:
    """Raises ValueError for what is neither True nor False, numpy's too."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise ValueError(f"{name} is {value!r:.60}; it must be True or False")
    return bool(value)


def word(name: str, value: Any) -> str:
    """Raises ValueError for what is no string."""
    if not isinstance(value, str):
        pictures = "; pictures to look at are parts of the messages" if name == "images" else ""
        raise ValueError(f"{name} is {value!r:.60}; it must be a word{pictures}")
    return str(value)  # numpy's too


def words(name: str, value: Any) -> tuple[str, ...]:
    """Raises ValueError for what is neither a string nor several."""
    values = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(each, str) for each in values):
        raise ValueError(f"{name} is {value!r:.60}; it must be a string or a list of strings")
    return tuple(map(str, values))


def two_numbers(name: str, value: Any) -> tuple[float, float]:
    """Raises ValueError for anything else."""
    values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(values) != 2:
        raise ValueError(f"{name} is {value!r:.60}; it must be two numbers")
    return real_number(name, values[0]), real_number(name, values[1])


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "int": whole_number,
    "float": real_number,
    "bool": yes_or_no,
    "str": word,
    "tuple[str, ...]": words,
    "tuple[float, float]": two_numbers,
}
"""By the type of a field, as it is written"""


@dataclass(frozen=True)
class GenerationConfig(DecodingOptions, DrawingOptions):
    """What `Limner.generate` takes beside messages, seed, n, callback and adapters.

    Numbers of numpy and torch become Python's. Raises ValueError for values that make no sense.
    """

    boxes: bool = False
    """ask for boxes (`Reply.boxes`) where the chat template has a form for it"""
    keep: str = "model"
    """model: a picture is as the model draws it; exact: what an edit does not change is pasted back from the picture that was
    shown or drawn last before, pixel for pixel"""
    history: int = 0
    """exchanges that the model is shown before the last message; 0 is as many as it holds"""

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, _, optional = str(field.type).partition(" | ")
            value = getattr(self, field.name)
            if not (optional and value is None):
                object.__setattr__(self, field.name, CHECKS[kind](field.name, value))
        DecodingOptions.__post_init__(self)
        DrawingOptions.__post_init__(self)
        if self.keep not in ("model", "exact"):
            raise ValueError(f"keep is {self.keep!r}; it can be model or exact")
        if self.history < 0:
            raise ValueError(f"history is {self.history}; it must not be negative")

    def updated(self, options: Mapping[str, Any]) -> GenerationConfig:
        """With ``options`` in place of its own values; None leaves a value as it is. Raises ValueError for unknown names."""
        known = sorted(field.name for field in fields(self))
        if unknown := sorted(set(options) - set(known)):
            said = [f"{name} is {meant}" for name in unknown if (meant := self.meant(name, known))]
            hint = f" (here {', '.join(said)})" if said else ""
            raise ValueError(f"unknown options {', '.join(unknown)}{hint}; there are {', '.join(known)}")
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    @staticmethod
    def meant(name: str, known: Sequence[str]) -> str | None:
        """What an unknown option is called here, as far as one can guess."""
        return MEANT.get(name) or next(iter(difflib.get_close_matches(name, known, 1, 0.75)), None)


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
    image_mode: str | None
    image_tokens: int | None
    image_temperature: float | None
    image_top_p: float | None
    image_top_k: int | None
    token_guidance_scale: float | None
    num_inference_steps: int | None
    guidance_scale: float | None
    image_guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    sampler: str | None
    partial_images: int | None
    boxes: bool | None
    keep: str | None
    history: int | None
