"""Servers on a free port of this machine, and the official client of each."""

import threading
import time
from contextlib import contextmanager
from unittest.mock import patch

import openai
import pytest
import uvicorn

from helpers import make_limner
from limner.app.server.application import create_app
from limner.app.server.options import ServerOptions
from limner.app.server.run import listen


class Served:
    """A server that runs in a thread, and what is behind it."""

    def __init__(self, model, options):
        self.model = model
        self.app = create_app(model, options)
        self.service, self.history = self.app.state.service, self.app.state.history
        self.listening = listen("127.0.0.1", 0)
        self.root = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.url = f"{self.root}/v1"
        config = uvicorn.Config(self.app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.listening]}, daemon=True)

    def client(self, **options):
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=60, **options)

    def wait_until_free(self, seconds=10.0):
        """Waits until no reply is being made, and nothing is left of one in the engine."""
        until = time.monotonic() + seconds
        while self.service.accepted or self.service.model.engine.requests:
            assert time.monotonic() < until, f"{self.service.accepted} replies are still being made"
            time.sleep(0.01)


@contextmanager
def running(model, **options):
    """A server of a model for a while; ``options`` are `ServerOptions`'."""
    served, engine = Served(model, ServerOptions(**options)), model.engine
    served.thread.start()
    try:
        until = time.monotonic() + 20
        while not served.uvicorn.started:
            assert time.monotonic() < until and served.thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield served
    finally:
        served.uvicorn.should_exit = True
        served.thread.join(20)
        assert not served.thread.is_alive()
        assert model.engine is engine


@pytest.fixture(scope="session")
def tiny():
    """A tiny model with random weights."""
    model = make_limner()
    model.name = "tiny"
    return model


@pytest.fixture(scope="session")
def serve():
    """`running`, for servers of other options."""
    return running


@pytest.fixture(scope="session")
def server(tiny):
    """A server of `tiny`."""
    with running(tiny) as served:
        yield served


@pytest.fixture
def client(server):
    """The official client of `server`."""
    with server.client() as made:
        yield made
    server.wait_until_free()


@pytest.fixture
def slow_steps(tiny):
    """Makes every step of a drawing take a while; gives the list of those that were done."""

    @contextmanager
    def slowly(seconds=0.02):
        steps, advance = [], type(tiny.detokenizer).advance

        def slow(detokenizer, drawings):
            time.sleep(seconds)
            steps.append(len(drawings))
            advance(detokenizer, drawings)

        with patch.object(type(tiny.detokenizer), "advance", slow):
            yield steps

    return slowly
