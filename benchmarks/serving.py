"""What the server bears: its start, requests at once, first words while pictures are drawn, and hours of load.

python benchmarks/serving.py                                  # the figures of docs/serving.md: nano, fp32, two minutes
python benchmarks/serving.py load --requests 64               # so many at once: tokens and pictures a second
python benchmarks/serving.py soak --minutes 60 --rate 2       # memory and errors over time
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
from PIL import Image

TALK = ("hello", "tell me about cats", "what can you draw?", "what is a dog?")
DRAW = ("draw a red cat", "draw a blue dog and a cup", "draw two yellow cars", "draw a small bird")
MIXED = [
    request
    for talk, draw in zip(TALK, DRAW, strict=True)
    for request in ({"messages": talk, "modalities": ["text"]}, {"messages": draw})
]
STEPS = 24
"""Of the pictures beside which is talked"""
KINDS = ("talk", "talk", "draw", "edit", "responses", "images", "stream", "leave")
"""Of requests in a soak"""
IMPORTS = "import torch, transformers, diffusers"


class Client:
    """Asks one server; every request has a connection of its own."""

    def __init__(self, port: int, model: str) -> None:
        self.port, self.model = port, model

    def body(self, messages: Any, **fields: Any) -> bytes:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return json.dumps({"model": self.model, "messages": messages, "seed": 7, **fields}).encode()

    @contextmanager
    def answering(self, body: bytes, path: str = "/v1/chat/completions") -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, messages: Any, **fields: Any) -> dict[str, Any]:
        """A completion. Raises RuntimeError for an answer that is an error."""
        return self.post("/v1/chat/completions", self.body(messages, **fields))

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """An answer. Raises RuntimeError for one that is an error."""
        with self.answering(body, path) as answer:
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {text[:300]!r}")
            return json.loads(text)

    def first_text(self, messages: str, **fields: Any) -> float:
        """Seconds to the first text of a stream."""
        began, found = time.perf_counter(), None
        with self.answering(self.body(messages, stream=True, **fields)) as answer:
            for line in answer:
                if (
                    found is None
                    and line.startswith(b"data: {")
                    and json.loads(line[6:])["choices"][0]["delta"].get("content")
                ):
                    found = time.perf_counter() - began
        assert found is not None, f"no text in a stream of status {answer.status}"
        return found


@contextmanager
def serving(*flags: str) -> Iterator[tuple[Client, psutil.Process, float]]:
    """A client of a server that is started for it, the server's process, and when that was started."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "limner", "serve", "--port", "0", "--log-level", "warning", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # NAME at http://HOST:PORT/v1
            assert line, "the server did not start"
            client = Client(int(line.rsplit(":", 1)[1].split("/")[0]), line.split(" at ")[0])
            yield client, psutil.Process(process.pid), began
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, f"the server ended with status {process.returncode}"
        finally:
            process.kill()


def picture(answer: dict[str, Any]) -> np.ndarray:
    """The first picture of an answer."""
    url = answer["choices"][0]["message"]["images"][0]["image_url"]["url"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def seconds(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def together(client: Client, requests: Sequence[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds that requests take which are sent at once, and their answers."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda request: client.ask(**request), requests))
    return time.perf_counter() - began, answers


def one_by_one(client: Client, requests: Sequence[dict[str, Any]]) -> float:
    began = time.perf_counter()
    for request in requests:
        client.ask(**request)
    return time.perf_counter() - began


def drawing_step(client: Client) -> float:
    """Seconds that a step of four pictures which are drawn together takes."""
    many, few = STEPS, STEPS // 2

    def drawn(steps: int) -> float:
        requests = [{"messages": prompt, "modalities": ["image"], "num_inference_steps": steps} for prompt in DRAW]
        return statistics.median(together(client, requests)[0] for _ in range(3))

    return (drawn(many) - drawn(few)) / (many - few)


def first_words(client: Client, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to the first text, idle and while four clients have pictures drawn without a pause."""
    talk: dict[str, Any] = {"modalities": ["text"], "max_tokens": 8}
    idle = [client.first_text(TALK[i % 4], **talk) for i in range(rounds)]
    ended = threading.Event()

    def draw(prompt: str) -> None:
        while not ended.is_set():
            client.ask(prompt, modalities=["image"], num_inference_steps=STEPS)

    with ThreadPoolExecutor(len(DRAW)) as pool:
        drawing = [pool.submit(draw, prompt) for prompt in DRAW]
        try:
            time.sleep(0.5)
            beside = []
            for i in range(rounds):
                beside.append(client.first_text(TALK[i % 4], **talk))
                time.sleep(0.01 * (i % 7))
        finally:
            ended.set()
        for one in drawing:
            one.result()
    return idle, beside


def figures(options: argparse.Namespace) -> None:
    """Those of docs/serving.md."""
    import limner

    imports = statistics.median(seconds([sys.executable, "-c", IMPORTS]) for _ in range(3))
    with serving("--model", options.model) as (client, _, began):
        client.ask(TALK[0], modalities=["text"], max_tokens=1)
        start = time.perf_counter() - began
        print(f"start to first answer: {start:.1f} s; importing torch, transformers and diffusers: {imports:.1f} s")
        served = picture(client.ask(DRAW[0], modalities=["image"]))
        company = [{"messages": DRAW[0], "modalities": ["image"]}, *MIXED]
        beside = picture(together(client, company)[1][0])
        model = limner.load(options.model)
        alone = np.asarray(model.generate(DRAW[0], seed=7, images="force").images[0])
        error = np.mean((served.astype(float) - beside) ** 2)
        decibels = "the same" if not error else f"{10 * np.log10(255**2 / error):.0f} dB"
        print(
            f"pixels by the server and by generate(): {'the same' if np.array_equal(served, alone) else 'OTHERS'}",
            end="",
        )
        print(f"; beside 8 other requests: {decibels}")
        del model
        one_by_one(client, MIXED), together(client, MIXED)
        pairs = [(one_by_one(client, MIXED), together(client, MIXED)[0]) for _ in range(options.rounds)]
        one, all_ = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"8 requests (4 talk, 4 draw): one by one {one:.2f} s, at once {all_:.2f} s: {one / all_:.2f} x")
        step = drawing_step(client)
        idle, busy = first_words(client, options.talks)
        limit = statistics.median(idle) + 1.5 * step
        print(
            f"first text: idle {statistics.median(idle) * 1000:.0f} ms; while 4 pictures are drawn median "
            f"{statistics.median(busy) * 1000:.0f} ms, p95 {np.percentile(busy, 95) * 1000:.0f} ms "
            f"(idle + 1.5 drawing steps of {step * 1000:.0f} ms: {limit * 1000:.0f} ms)"
        )


def load(options: argparse.Namespace) -> None:
    """So many requests at once."""
    with serving("--model", options.model) as (client, _, _):
        work = [MIXED[i % len(MIXED)] | {"seed": i} for i in range(options.requests)]
        together(client, work[:8])
        taken, answers = together(client, work)
        tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
        pictures = sum(len(answer["choices"][0]["message"].get("images") or ()) for answer in answers)
        print(
            f"{options.requests} requests at once: {taken:.1f} s, {tokens / taken:.0f} tokens and "
            f"{pictures / taken:.1f} pictures a second"
        )


def some_request(client: Client, rng: random.Random) -> Counter[str]:
    """One request of a kind chosen at random, and how it ended."""
    kind = rng.choice(KINDS)
    fields: dict[str, Any] = {"seed": rng.randrange(2**32)}
    if kind == "talk":
        client.ask(rng.choice(TALK), modalities=["text"], **fields)
    elif kind == "draw":
        client.ask(rng.choice(DRAW), **fields)
    elif kind == "edit":
        first = client.ask(rng.choice(DRAW), modalities=["image"], num_inference_steps=2, **fields)
        said = first["choices"][0]["message"]
        history = [{"role": "assistant", **{name: said[name] for name in ("content", "images", "parts")}}]
        asked = [{"role": "user", "content": text} for text in (rng.choice(DRAW), "now make it blue")]
        client.ask([asked[0], *history, asked[1]], num_inference_steps=2, **fields)
    elif kind == "responses":
        asked = {"model": client.model, "input": rng.choice(DRAW), "tools": [{"type": "image_generation"}], **fields}
        first = client.post("/v1/responses", json.dumps(asked).encode())
        asked |= {"input": "now make it blue", "previous_response_id": first["id"]}
        client.post("/v1/responses", json.dumps(asked).encode())
    elif kind == "images":
        asked = {"model": client.model, "prompt": rng.choice(DRAW), **fields}
        made = client.post("/v1/images/generations", json.dumps(asked).encode())
        url = f"data:image/png;base64,{made['data'][0]['b64_json']}"
        asked |= {"prompt": "now make it blue", "images": [{"image_url": url}]}
        client.post("/v1/images/edits", json.dumps(asked).encode())
    else:
        with client.answering(client.body(rng.choice(DRAW), stream=True, **fields)) as answer:
            if kind == "leave":
                answer.read(rng.randrange(2000))
            elif b"data: [DONE]" not in answer.read():
                raise RuntimeError("a stream without its end")
    return Counter({kind: 1})


def soak(options: argparse.Namespace) -> None:
    """Requests at a steady rate; every minute a line of what they did and of what the server holds."""
    ended, errors = Counter[str](), Counter[str]()
    memory: list[float] = []
    with serving("--model", options.model) as (client, process, _), ThreadPoolExecutor(64) as pool:
        for number in range(20):
            some_request(client, random.Random(-number))
        running: list[Future[Counter[str]]] = []
        began = time.monotonic()
        number, said = 0, 0
        while (now := time.monotonic() - began) < options.minutes * 60:
            running.append(pool.submit(some_request, client, random.Random(number)))
            number += 1
            for one in [one for one in running if one.done()]:
                running.remove(one)
                if error := one.exception():
                    errors[f"{type(error).__name__}: {error!s:.200}"] += 1
                else:
                    ended += one.result()
            if now >= 60 * said:
                memory.append(process.memory_info().rss / 2**20)
                said += 1
                print(
                    f"{now / 60:5.1f} min: {ended.total()} requests, {errors.total()} errors, {len(running)} at once; "
                    f"{memory[-1]:.0f} MiB, {process.num_threads()} threads, {process.num_fds()} files",
                    flush=True,
                )
            time.sleep(max(0.0, began + number / options.rate - time.monotonic()))
        for one in running:
            try:
                ended += one.result(300)
            except Exception as error:  # noqa: BLE001 - counted
                errors[f"{type(error).__name__}: {error!s:.200}"] += 1
        memory.append(process.memory_info().rss / 2**20)
    settled = memory[min(len(memory) - 1, max(1, len(memory) // 10))]
    print(f"{options.minutes:g} minutes at {options.rate:g} a second: {dict(ended)}, {errors.total()} errors")
    growth = memory[-1] / settled - 1
    print(f"{settled:.0f} MiB after a tenth of it, {memory[-1]:.0f} MiB at the end ({growth:+.1%})")
    for error, count in errors.most_common(5):
        print(f"{count} x {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("figures", "load", "soak"), default="figures")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--rounds", type=int, default=5, help="of the eight requests")
    parser.add_argument("--talks", type=int, default=40, help="beside pictures")
    parser.add_argument("--requests", type=int, default=64, help="of load")
    parser.add_argument("--minutes", type=float, default=60, help="of soak")
    parser.add_argument("--rate", type=float, default=2, help="requests of soak a second")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    {"figures": figures, "load": load, "soak": soak}[options.what](options)


if __name__ == "__main__":
    main()
