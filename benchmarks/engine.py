"""What the engine saves: turns of a chat, requests at once, and words while pictures are drawn.

python benchmarks/engine.py                 # nano, fp32, all processors
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import limner
from limner.inference.model import Limner
from limner.mllm.events import PictureBegun, PictureStep, TextPiece

QUESTIONS = (
    "draw a red cat",
    "what colour is it?",
    "draw a blue dog and a cup",
    "what is in the picture?",
    "now make the dog green",
    "tell me about cats",
    "draw two yellow cars",
    "how many are there?",
    "draw a small bird",
    "what colour is the bird?",
)
TALK = ("hello", "tell me about cats", "what can you draw?", "what is a dog?")
DRAW = ("draw a red cat", "draw a blue dog and a cup", "draw two yellow cars", "draw a small bird")


def first_event(model: Limner, messages: Any, **options: Any) -> tuple[float, Any]:
    """Seconds until a reply begins, and the reply."""
    began, first = time.perf_counter(), None
    events = model.stream(messages, **options)
    while True:
        try:
            event = next(events)
        except StopIteration as stopped:
            assert first is not None
            return first, stopped.value[0]
        if first is None and isinstance(event, (TextPiece, PictureBegun)):
            first = time.perf_counter() - began


def chat(model: Limner, keep_cache: bool) -> list[float]:
    """Seconds to the first token of each turn, all history shown."""
    messages: list[dict[str, Any]] = []
    seconds = []
    for question in QUESTIONS:
        asked = {"role": "user", "content": [{"type": "text", "text": question}]}
        first, reply = first_event(model, [*messages, asked], keep_cache=keep_cache)
        seconds.append(first)
        messages += [asked, reply.message()]
    model.engine.kept.kept.clear()
    return seconds


def at_once(work: list[Callable[[], Any]]) -> float:
    """Seconds that streams take which are begun together and pulled in turn by one thread, as a server does."""
    began = time.perf_counter()
    streams = [one() for one in work]
    while streams:
        streams = [stream for stream in streams if next(stream, None) is not None]
    return time.perf_counter() - began


def one_by_one(work: list[Callable[[], Any]]) -> float:
    began = time.perf_counter()
    for one in work:
        list(one())
    return time.perf_counter() - began


def drawing_step(model: Limner, count: int) -> float:
    """Seconds between two steps of so many pictures, each step one evaluation without guidance."""
    times: list[float] = []

    def saw(event: Any) -> None:
        if isinstance(event, PictureStep) and event.row == 0:
            times.append(time.perf_counter())

    model.draw(list(DRAW[:count]), num_inference_steps=16, guidance_scale=1.0, height=128, width=128, callback=saw)
    return float(np.median(np.diff(times)))


def talk_beside_pictures(model: Limner, steps: int, rounds: int) -> tuple[list[float], list[float], float]:
    """Seconds to the first token of a talker, alone and while four pictures are drawn, and of a step of these four."""
    talk = {"max_new_tokens": 8, "images": "never"}
    idle = [first_event(model, TALK[i % 4], **talk)[0] for i in range(rounds)]
    beside: list[float] = []
    gaps: list[float] = []
    for number in range(rounds):
        drawing = threading.Event()
        times: list[float] = []

        def saw(event: Any, drawing: threading.Event = drawing, times: list[float] = times) -> None:
            if isinstance(event, PictureStep) and event.step > 1:
                times.append(time.perf_counter())
                drawing.set()

        threads = [
            threading.Thread(target=partial(model.draw, prompt, num_inference_steps=steps, seed=number, callback=saw))
            for prompt in DRAW
        ]
        for thread in threads:
            thread.start()
        drawing.wait()
        time.sleep(0.01 * (number % 7))
        beside.append(first_event(model, TALK[number % 4], **talk)[0])
        for thread in threads:
            thread.join()
        gaps += [gap for gap in np.diff(sorted(times)) if gap > 0.01]  # the four end a step at the same time
    return idle, beside, statistics.median(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--rounds", type=int, default=40, help="talks beside pictures")
    parser.add_argument("--steps", type=int, default=28, help="of the pictures beside which is talked")
    options = parser.parse_args()
    model = limner.load(options.model, dtype="float32")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{model.name}: {parameters:.1f} M parameters, fp32, {torch.get_num_threads()} threads")

    runs = {kept: [chat(model, kept) for _ in range(5)] for kept in (True, False)}
    for kept, name in ((True, "kept"), (False, "read anew")):
        median = np.median(runs[kept], axis=0) * 1000
        print(f"first token of turns 2 and 10, cache {name}: {median[1]:.1f} ms, {median[9]:.1f} ms")

    work = [
        partial(model.stream, prompt, images=images)
        for pair in zip(TALK, DRAW, strict=True)
        for prompt, images in zip(pair, ("never", "auto"), strict=True)
    ]
    one_by_one(work)
    alone = statistics.median(one_by_one(work) for _ in range(5))
    together = statistics.median(at_once(work) for _ in range(5))
    print(f"8 requests (4 talk, 4 draw): one by one {alone:.2f} s, at once {together:.2f} s: {alone / together:.2f} x")
    one, four = drawing_step(model, 1), drawing_step(model, 4)
    print(f"drawing step: of one {one * 1000:.1f} ms, of four {four * 1000:.1f} ms: {4 * one / four:.2f} x")

    idle, beside, step = talk_beside_pictures(model, options.steps, options.rounds)
    p95, limit = np.percentile(beside, 95), statistics.median(idle) + 1.2 * step
    print(
        f"first token: idle {statistics.median(idle) * 1000:.1f} ms; beside four pictures median "
        f"{statistics.median(beside) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms (idle + 1.2 drawing steps of "
        f"{step * 1000:.1f} ms: {limit * 1000:.1f} ms)"
    )


if __name__ == "__main__":
    main()
