"""Runs the application with uvicorn, and stops it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import webbrowser
from dataclasses import replace
from typing import TYPE_CHECKING

import uvicorn

from .listening import KEEP_ALIVE, LAST_WORDS, listen
from .options import ServerOptions
from .security import check_listen, find_keys

if TYPE_CHECKING:
    from ..cli.options import Loading
    from .service import Service


def run(loading: Loading, options: ServerOptions, open_page: bool = False) -> int:
    """Loads the model and serves it until it is told to stop; with ``open_page`` a browser shows the page. Raises ValueError for
    what cannot be listened at or loaded."""
    # entries: with oneDNN's own 1024 what it compiles for each size of a batch comes to hundreds of MiB
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    options = replace(options, api_key=find_keys(options.api_key))
    check_listen(options.host, options.api_key, options.insecure)
    if options.replicas > 1:
        from . import ray_serve

        return ray_serve.run(loading, options)
    with listen(options.host, options.port) as listening:
        from ..web.mounting import MISSING, PATH, is_installed
        from . import logs
        from .application import create_app

        logs.configure(options.log_level)
        model = loading.load(allow_urls=options.allow_url)
        app = create_app(model, options)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        page = f"{address}{PATH}/"
        said = f"\nthe page at {page}" if is_installed() else f"\n{MISSING}"
        lines = f"{model.name} at {address}/v1{'' if options.no_page else said}"
        server = Server(app, app.state.service, lines, page if open_page else "")
        server.run_until_stopped(listening)
    return 0


class Server(uvicorn.Server):
    """uvicorn, which when told to stop listens until what was accepted is answered: whoever asks for more learns that it stops,
    instead of a connection that is refused."""

    def __init__(self, app: object, service: Service, lines: str, opened: str = "") -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn has a type of its own for applications
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_WORDS,
        )
        super().__init__(config)
        self.service, self.lines, self.opened = service, lines, opened

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
        """Says where it listens when it does, and has a browser open ``opened`` where that is an address."""
        await super().startup(sockets)
        print(self.lines, flush=True)
        if self.opened:
            threading.Thread(target=webbrowser.open, args=(self.opened,), daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First what was accepted is answered or told that it is not, then uvicorn closes its connections."""
        await self.service.stop(lambda: self.force_exit)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves this out then, and the application would be cut with an error in the log
            await self.lifespan.shutdown()
