"""A server for the tests of a file, and its client."""

import httpx
import pytest
from openai.types.responses import Response
from responses import FAST, RESPONSE, forget

import limner
from helpers import make_limner
from served import served


@pytest.fixture(scope="module")
def server():
    """A server of a tiny model with random weights."""
    model = make_limner()
    model.name = "tiny"
    with served(model=model) as running:
        yield running


@pytest.fixture(scope="module")
def serve():
    """Makes a server of another model for a while: ``with serve(model, **options) as running``."""
    return lambda model, **options: served(model=model, **options)


@pytest.fixture
def tiny(server):
    """The model of `server`."""
    return server.model


@pytest.fixture(scope="module")
def shared_client(server):
    """See `client`; to make one takes a tenth of a second."""
    with server.client() as made:
        yield made


@pytest.fixture
def client(server, shared_client):
    """The official client of `server`; nothing that it asked for goes on after the test."""
    yield shared_client
    server.wait_until_free()


@pytest.fixture(scope="module")
def nano_server():
    with served(model=limner.load("nano")) as running:
        yield running


@pytest.fixture(scope="module")
def reference():
    return limner.load("nano")


@pytest.fixture
def nano(reference):
    """Another one, whose caches know nothing of what was said before."""
    reference.engine.kept.kept.clear()
    return reference


@pytest.fixture
def http(nano_server):
    forget(nano_server)
    with httpx.Client(base_url=nano_server.url, timeout=60) as made:
        yield made
    nano_server.wait_until_free()


@pytest.fixture
def create(http, nano_server):
    """A response by the official client, as it came."""
    client = nano_server.client()

    def create(input, **fields):
        known = {name: fields.pop(name) for name in ("tools", "tool_choice", "previous_response_id") if name in fields}
        made = client.responses.create(model="nano", input=input, extra_body=FAST | fields, **known)
        assert isinstance(made, Response)
        values = made.to_dict()
        RESPONSE.validate_python(values)
        return values

    yield create
    client.close()
