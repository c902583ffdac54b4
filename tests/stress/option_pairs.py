"""Every way to run a model with every option of a request: the picture that the plain model gives, or a refusal."""

from __future__ import annotations

import copy
import functools
import itertools
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from fake_cuda import fake_gpu

import limner
from cases import Outcome
from helpers import make_limner, picture, psnr, trained_adapter
from limner.inference import lora
from limner.inference.loading import place_model
from limner.inference.model import Limner
from limner.inference.offload import ModelOffload

TITLE = "bits, offload, compile, flex, student, folded LoRA, two devices x every option: the same picture or refused"
FEWEST = 20
"""Pairs that are tried whatever the share"""

SHOWN = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "as this"}]}]
COMMON = {"images": "force", "max_images": 1, "max_new_tokens": 4, "num_inference_steps": 3, "seed": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a picture shown": {"messages": SHOWN},
    "a batch": {"messages": ["a", "a longer prompt", SHOWN]},
    "n": {"n": 3},
    "two pictures": {"max_images": 2, "max_new_tokens": 12, "temperature": 1.5},
    "max_new_tokens": {"max_new_tokens": 1},
    "images auto": {"images": "auto"},
    "images never": {"images": "never"},
    "temperature": {"temperature": 1.0},
    "top_p": {"temperature": 1.0, "top_p": 0.5},
    "top_k": {"temperature": 1.0, "top_k": 4},
    "stop": {"stop": ["e", "a"]},
    "height and width": {"height": 16, "width": 32},
    "a size that is refused": {"height": 17, "width": 32},
    "num_inference_steps": {"num_inference_steps": 5},
    "no guidance": {"guidance_scale": 1.0},
    "guidance_scale": {"guidance_scale": 6.0},
    "image_guidance_scale": {"messages": SHOWN, "image_guidance_scale": 2.0},
    "guidance_interval": {"guidance_scale": 6.0, "guidance_interval": (0.2, 0.8)},
    "heun": {"sampler": "heun"},
    "multistep": {"sampler": "multistep"},
    "seeds": {"messages": ["a", "b"], "seed": [5, 6]},
    "history": {"history": 1},
    "boxes": {"boxes": True},
    "adapters": {"adapters": {}},
    "an adapter": {"adapters": {"unknown": 1.0}},
}


@dataclass
class Way:
    """A way to run a model, and the plain model that draws the same."""

    plain: Limner
    model: Limner
    min_db: float
    same_words: bool = True
    around: Callable[[], AbstractContextManager] = nullcontext
    place: Callable[[Limner], Limner] = lambda model: model
    """Called with it within `around`, whose devices last as long as that"""
    around_plain: Callable[[], AbstractContextManager] = nullcontext


def tiny() -> Limner:
    return make_limner(prompt_tokens=6, shapes=((32, 32), (16, 32)))


def quantised(bits: int, min_db: float) -> Way:
    """Of nano: tiny layers have fewer weights than a block of 4 bits."""
    options: Any = {"device": "cpu", "dtype": "float32"}
    plain = limner.load("nano", **options)
    for name in list(plain.adapters.loaded):
        del plain.adapters.loaded[name]  # the student is not loaded beside fewer bits
    return Way(plain, limner.load("nano", **options, bits=bits), min_db, same_words=False)


def offloaded() -> Way:
    def place(model: Limner) -> Limner:
        model = place_model(copy.deepcopy(model), "cuda", "float32")
        model.offload = ModelOffload(model.mllm, model.detokenizer)
        return model

    return Way(tiny(), tiny(), 45, around=fake_gpu, place=place)


def two_devices() -> Way:
    places = {"mllm": "cuda", "detokenizer": "cpu"}
    return Way(
        tiny(), tiny(), 45, around=fake_gpu, place=lambda model: place_model(copy.deepcopy(model), places, "float32")
    )


def compiled() -> Way:
    model = tiny()
    for block in model.detokenizer.mmdit.blocks:
        block.compile(dynamic=True)
    return Way(tiny(), model, 45)


def flexible() -> Way:
    model = tiny()
    model.mllm.llm.set_attn_implementation("flex_attention")
    return Way(tiny(), model, 45)


def adapted(folder: Path, **made: Any) -> Limner:
    model = tiny()
    name = model.load_adapter(trained_adapter(model, folder, 1))
    model.adapters.loaded[name].made = made
    return model


def student() -> Way:
    """Fused, against LoRA beside the weights."""
    with TemporaryDirectory() as folder:
        model = adapted(Path(folder) / "student", student_steps=3)
    return Way(copy.deepcopy(model), model, 45, around_plain=lambda: patch.object(lora, "fuse"))


def folded() -> Way:
    with TemporaryDirectory() as folder:
        plain = adapted(Path(folder) / "a")
    model = copy.deepcopy(plain)
    model.merge_adapters()
    return Way(plain, model, 45)


WAYS: dict[str, Callable[[], Way]] = {
    "8 bits": functools.partial(quantised, 8, 25.0),
    "4 bits": functools.partial(quantised, 4, 15.0),
    "offload": offloaded,
    "compile": compiled,
    "flex attention": flexible,
    "student": student,
    "folded LoRA": folded,
    "two devices": two_devices,
}
PAIRS = list(itertools.product(WAYS, OPTIONS))
CASES = len(PAIRS)


@functools.cache
def way_of(name: str) -> Way:
    return WAYS[name]()


def answer(model: Limner, options: dict[str, Any]) -> Any:
    """Replies, or what refused the request."""
    options = COMMON | options
    if max(model.mllm.width, 64) > 64:  # nano: its smallest sizes
        options = {"height": 64, "width": 64} | {
            name: 4 * value if name in ("height", "width") else value for name, value in options.items()
        }
    if options.get("adapters") == {} and model.adapters.user:
        options.pop("adapters")  # a folded one can't be left out
    try:
        made = model.generate(options.pop("messages", "a cat"), **options)
    except ValueError as refused:
        return refused
    return made if isinstance(made, list) else [made]


def check(name: str, options: dict[str, Any]) -> None:
    """Raises AssertionError for another picture, other words or only one refusal."""
    way = way_of(name)
    with way.around_plain():
        plain = answer(way.plain, options)
    with way.around():
        other = answer(way.place(way.model), options)
    if isinstance(plain, ValueError):
        assert isinstance(other, ValueError), f"not refused, and the plain model says: {plain}"
        return
    if isinstance(other, ValueError):
        return
    for a, b in zip(plain, other, strict=True):
        if way.same_words:
            assert (a.text, len(a.images)) == (b.text, len(b.images)), "other words"
        # with other words, later pictures are others, too
        pairs = list(zip(a.images, b.images, strict=False))[: None if way.same_words else 1]
        worst = min((psnr(*pair) for pair in pairs), default=99.0)
        assert worst >= way.min_db, f"{worst:.1f} dB where {way.min_db:.0f} are promised"


def run(cases: int, seed: int) -> Outcome:
    """Try all pairs, or as many of them, chosen by the seed."""
    torch.manual_seed(seed)
    chosen = random.Random(seed).sample(PAIRS, min(len(PAIRS), max(cases, FEWEST)))
    outcome = Outcome()
    for name, option in sorted(chosen, key=lambda pair: list(WAYS).index(pair[0])):
        outcome.tried += 1
        try:
            check(name, OPTIONS[option])
        except Exception as error:  # noqa: BLE001 - whatever a pair brings about is what is counted
            outcome.failures.append(f"{name} with {option}: {type(error).__name__}: {error!s:.400}")
    return outcome
