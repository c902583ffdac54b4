"""A server for the tests of a file, and its client."""

import pytest

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
