"""A service without a server, and conversations on it."""

import asyncio
from contextlib import aclosing

import pytest

from helpers import make_limner
from limner.app.server.options import ServerOptions
from limner.app.server.service import Service
from limner.app.web.conversations import Conversations

SETTLED = {"seed": 3, "images": "force", "max_images": 1, "max_new_tokens": 3, "num_inference_steps": 4}


@pytest.fixture(scope="session")
def service():
    made = Service(make_limner(), ServerOptions(max_batch=3, max_queue=0, max_pictures=2, max_megapixels=1.0))
    yield made
    made.close()


@pytest.fixture
def conversations(service):
    yield Conversations(service)
    assert service.accepted == 0, "every place in the queue is free again"


@pytest.fixture
def conversation(conversations):
    """An empty one, whose options draw at once."""
    made = conversations.open()
    made.chat.options = dict(SETTLED)
    return made


@pytest.fixture
def run():
    """All of a generator, and what `look` returns each time."""

    def run(events, look=lambda: None):
        async def work():
            async with aclosing(events) as running:
                return [look() async for _ in running]

        return asyncio.run(work())

    return run
