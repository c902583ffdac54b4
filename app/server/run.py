"""Runs the application with uvicorn, and stops it."""

from __future__ import annotations

import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import uvicorn

from .options import ServerOptions
from .security import check_listen, find_keys

if TYPE_CHECKING:
    from ..cli.options import Loading
    from .service import Service

LAST_WORDS = 5
"""Seconds in which clients can take the end of an answer that was cut"""
KEEP_ALIVE = 75
"""Seconds that a connection may be idle: more than in the clients and proxies that use it again, which would otherwise do so
just when it is closed"""


def run(loading: Loading, options: ServerOptions) -> int:
    """Loads the model and serves it until it is told to stop. Raises ValueError for what cannot be listened at or loaded."""
    options = replace(options, api_key=find_keys(options.api_key))
    check_listen(options.host, options.api_key, options.insecure)
    with listen(options.host, options.port) as listening:
        from ..web.mounting import MISSING, PATH, is_installed
        from . import logs
        from .application import create_app

        logs.configure(options.log_level)
        model = loading.load(allow_urls=options.allow_url)
        app = create_app(model, options)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        page = f"the page at {address}{PATH}/" if is_installed() else MISSING
        lines = f"{model.name} at {address}/v1\n{page}"
        Server(app, app.state.service, lines).run_until_stopped(listening)
    return 0


class Server(uvicorn.Server):
    """uvicorn, which when told to stop listens until what was accepted is answered: whoever asks for more learns that it stops,
    instead of a connection that is refused."""

    def __init__(self, app: object, service: Service, lines: str) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn has a type of its own for applications
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_WORDS,
        )
        super().__init__(config)
        self.service, self.lines = service, lines

    def run_until_stopped(self, listening: socket.socket) -> None:
        """Serves until SIGTERM or SIGINT; a SIGINT after that ends it at once."""
        # uvicorn raises a signal once more after it has stopped, for the handler that was there before: the default one would end
        # the process by the signal, and not with status 0
        before = {number: signal.signal(number, self.handle_exit) for number in uvicorn.server.HANDLED_SIGNALS}
        try:
            self.run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.service.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it listens when it does."""
        await super().startup(sockets)
        print(self.lines, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First what was accepted is answered or told that it is not, then uvicorn closes its connections."""
        await self.service.stop(lambda: self.force_exit)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves this out then, and the application would be cut with an error in the log
            await self.lifespan.shutdown()


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
