"""A server of a tiny model in a thread of this process, whose inside can be looked at."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import httpx
import openai

from helpers import is_empty, make_limner
from limner.app.server.application import create_app
from limner.app.server.listening import listen
from limner.app.server.options import ServerOptions
from limner.app.server.run import Server
from limner.inference.model import Limner
from limner.mllm.decoding import Decoder, Row


class Served:
    """A server whose units of work take ``pace`` seconds more than they need."""

    def __init__(self, model: Limner, pace: float, options: dict[str, Any]) -> None:
        self.model, self.pace = model, pace
        self.app = app = create_app(self.model, ServerOptions(**{"no_page": True, **options}))
        self.service, self.engine = app.state.service, self.model.engine
        self.listening = listen("127.0.0.1", 0)
        self.port = self.listening.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        self.http = httpx.Client(timeout=60)
        """For requests whose connection does not matter"""
        self.server = Server(app, self.service, "served")
        self.units = 0
        self.work, self.engine.step = self.engine.step, self.step
        self.thread = threading.Thread(target=lambda: self.server.run([self.listening]), name="served")

    def step(self) -> None:
        """One unit of work."""
        self.units += 1
        time.sleep(self.pace)
        self.work()

    def wait(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.002)

    def wait_until_free(self, seconds: float = 10) -> None:
        """Until no reply is being made, and nothing is left of one in the engine."""
        self.wait(lambda: not self.service.accepted and is_empty(self.engine), seconds)

    @contextmanager
    def slow(self, pace: float = 0.02) -> Iterator[None]:
        """Units of work take so many seconds more for a while."""
        before, self.pace = self.pace, pace
        try:
            yield
        finally:
            self.pace = before

    def client(self, **options: Any) -> openai.OpenAI:
        """The official one."""
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=60, **options)

    def body(self, text: str, tokens: int, **fields: Any) -> dict[str, Any]:
        asked = [{"role": "user", "content": text}]
        return {"model": self.model.name, "messages": asked, "max_tokens": tokens, "modalities": ["text"], **fields}

    def post(self, body: dict[str, Any]) -> httpx.Response:
        """Of a client of its own, and so by a new connection."""
        return httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=30)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """As the signal does."""
        self.server.handle_exit(number, None)

    def tasks(self) -> int:
        """Of the event loop."""
        return len(asyncio.all_tasks(self.server.servers[0].get_loop()))


@contextmanager
def served(pace: float = 0.0, model: Limner | None = None, **options: Any) -> Iterator[Served]:
    """A server of this model, or of a tiny one; ``options`` are those of `ServerOptions`."""
    running = Served(model or make_limner(), pace, options)
    running.thread.start()
    try:
        running.wait(lambda: running.server.started)
        yield running
    finally:
        running.stop(signal.SIGINT), running.stop(signal.SIGINT)
        running.thread.join(20)
        running.service.close()
        running.listening.close()
        running.http.close()
        assert not running.thread.is_alive()


@contextmanager
def writing(script: str) -> Iterator[None]:
    """Every reply is this text, "@" being a picture, whatever a model would write."""
    left: dict[Row, Iterator[str]] = {}

    def choose(decoder: Decoder, rows: Sequence[Row], scores: Any) -> list[int]:
        return [next_token(decoder, next(left.setdefault(row, iter(script)), None)) for row in rows]

    with patch.object(Decoder, "choose", choose):
        yield


def next_token(decoder: Decoder, letter: str | None) -> int:
    """Of a letter of a script; None is its end."""
    if letter is None:
        return decoder.vocabulary.end_of_turn[0]
    return decoder.begin_image_ids[0] if letter == "@" else decoder.encoder.text_ids(letter)[0]
