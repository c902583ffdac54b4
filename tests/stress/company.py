"""One request alone and in company: beside others in a batch, in the engine, and in other threads."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import strategies as st

from cases import Outcome, try_cases
from helpers import make_limner, picture, psnr
from limner.inference.model import Limner
from limner.mllm.decoding import Decoder

TITLE = "one request in 1,000 mixes and orders: what it is alone, at 45 dB and with the same words"
CASES = 1_000
MIN_DB = 45.0
TIE = 1e-4
"""Logits of the two likeliest tokens that lie so close may change places"""
MAX_TIES = 0.01
"""Of the cases: more are a fault"""

MODELS = [
    {"shapes": ((32, 32), (16, 32)), "prompt_tokens": 6},
    {"drawn_images": "queries"},
    {"backbone": "gemma3_text", "prompt_tokens": 4},
]
SHOWN = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "as this"}]}]
PROMPTS = ["a", "a cat, and then a longer text that is padded", "draw", SHOWN]

requests = st.fixed_dictionaries(
    {
        "messages": st.sampled_from(range(len(PROMPTS))),
        "seed": st.integers(0, 5),
        "options": st.fixed_dictionaries(
            {"max_new_tokens": st.integers(2, 8), "images": st.sampled_from(["force", "auto", "never"])},
            optional={
                "num_inference_steps": st.integers(1, 3),
                "guidance_scale": st.sampled_from([1.0, 4.0]),
                "image_guidance_scale": st.sampled_from([1.0, 2.0]),
                "sampler": st.sampled_from(["euler", "heun", "multistep"]),
                "temperature": st.sampled_from([0.7, 2.0]),
                "max_images": st.just(2),
            },
        ),
    }
)
mixes = st.fixed_dictionaries(
    {
        "model": st.sampled_from(range(len(MODELS))),
        "request": requests,
        "others": st.lists(requests, min_size=1, max_size=4),
        "way": st.sampled_from(["batch", "engine", "threads"]),
        "place": st.integers(0, 4),
        "head_start": st.integers(0, 6),
    }
)


@functools.cache
def model_of(number: int) -> Limner:
    return make_limner(**MODELS[number])


def answer(model: Limner, request: dict) -> Any:
    return model.generate(PROMPTS[request["messages"]], seed=request["seed"], **request["options"])


@contextmanager
def closest_logits():
    """A list of the gaps between the two likeliest tokens of every choice within."""
    choose, gaps = Decoder.choose, []

    def chosen(decoder, rows, logits):
        first, second = logits.float().topk(2).values.unbind(-1)
        gaps.append(float((first - second).min()))
        return choose(decoder, rows, logits)

    with patch.object(Decoder, "choose", chosen):
        yield gaps


def in_batch(model: Limner, mix: dict) -> Any:
    """In any place of a batch, whose rows have the same options."""
    rows = list(mix["others"])
    place = min(mix["place"], len(rows))
    rows.insert(place, mix["request"])
    messages, seeds = [PROMPTS[row["messages"]] for row in rows], [row["seed"] for row in rows]
    return model.generate(messages, seed=seeds, **mix["request"]["options"])[place]


def in_engine(model: Limner, mix: dict) -> Any:
    """Beside requests that have come some events far, and that go on with it."""
    streams = [
        model.stream(PROMPTS[other["messages"]], seed=other["seed"], **other["options"]) for other in mix["others"]
    ]
    for stream in streams:
        for _ in range(mix["head_start"]):
            next(stream, None)
    reply = answer(model, mix["request"])
    for stream in streams[::2]:
        stream.close()
    for stream in streams[1::2]:
        for _ in stream:
            pass
    return reply


def in_threads(model: Limner, mix: dict) -> Any:
    """While other threads ask."""
    requests = [mix["request"], *mix["others"]]
    with ThreadPoolExecutor(len(requests)) as pool:
        return next(iter(pool.map(lambda request: answer(model, request), requests)))


WAYS = {"batch": in_batch, "engine": in_engine, "threads": in_threads}


def run(cases: int, seed: int) -> Outcome:
    """Try `cases` mixes; near ties are a failure of the whole where they are many."""
    ties = []

    def check(mix: dict) -> None:
        model = model_of(mix["model"])
        with closest_logits() as gaps:
            alone = answer(model, mix["request"])
        again = answer(model, mix["request"])
        assert [i.tobytes() for i in alone.images] == [i.tobytes() for i in again.images], "another picture alone"
        beside = WAYS[mix["way"]](model, mix)
        words = [[part if isinstance(part, str) else None for part in reply.parts] for reply in (alone, beside)]
        if words[0] != words[1]:
            assert min(gaps) < TIE, f"other words: {words}, the closest logits are {min(gaps):.2g} apart"
            ties.append(mix)
            return
        assert alone.finish_reason == beside.finish_reason
        worst = min((psnr(a, b) for a, b in zip(alone.images, beside.images, strict=True)), default=99.0)
        assert worst >= MIN_DB, f"{worst:.1f} dB"
        engine = model.engine
        assert not (engine.requests or engine.writing or engine.waiting or engine.drawing), "the engine is not empty"

    torch.manual_seed(seed)
    outcome = try_cases(mixes, check, cases, seed)
    if len(ties) > max(1, MAX_TIES * cases):
        outcome.failures.append(f"{len(ties)} mixes with other words, from logits that lie within {TIE}")
    return outcome
