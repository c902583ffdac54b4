"""``limner serve``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..server.options import ServerOptions
from .options import LOADING, Loading

SERVER = ServerOptions()


def serve(
    *,
    loading: Loading = LOADING,
    server: Annotated[ServerOptions, Parameter(name="*")] = SERVER,
) -> int:
    """Serve the model by OpenAI's interface, and a page to chat on at /ui where limner[ui] is installed."""
    from ..server.run import run

    return run(loading, server)
