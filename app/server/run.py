"""Runs the application with uvicorn."""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import uvicorn

from .options import ServerOptions
from .security import check_listen, find_keys

if TYPE_CHECKING:
    from ..cli.options import Loading


def run(loading: Loading, options: ServerOptions) -> int:
    """Loads the model and serves it until it is told to stop. Raises ValueError for what cannot be listened at or loaded."""
    from ..web.mounting import MISSING, PATH, is_installed
    from .application import create_app

    options = replace(options, api_key=find_keys(options.api_key))
    check_listen(options.host, options.api_key, options.insecure)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for name in ("httpx", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    listening = listen(options.host, options.port)
    model = loading.load(allow_urls=options.allow_url)
    app = create_app(model, options)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"{model.name} at {address}/v1", flush=True)
    print(f"the page at {address}{PATH}/" if is_installed() else MISSING, flush=True)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=options.grace, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that an address in use is said before anything is loaded. Raises ValueError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from None
    return bound
