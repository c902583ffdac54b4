"""Several processes of the server, on one machine or on a cluster, by Ray Serve: the same application in each replica.

A request goes to one of two replicas taken at random, that which has fewer requests. What one replica keeps for clients
(pictures behind URLs, stored responses) the others find in the folder that all share, ``ServerOptions.store``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...inference.model_folders import find_model
from .listening import KEEP_ALIVE, LAST_WORDS, listen
from .options import ServerOptions
from .security import check_listen, find_keys

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..cli.options import Loading

NAME = "limner"
"""Of the application and its deployment"""
ROOM = 32
"""Requests that a replica takes beside those that it answers or lets wait: it refuses them itself, as one server does"""
ON_THE_WAY = 1024
"""Requests that wait for the choice of a replica, or because all are full or dead; Ray refuses more in its own words. All that
come at the same moment are counted"""
HEALTH = 2.0
"""Seconds between two looks at a replica; one that has died is replaced after that"""
LOGGING = {"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False}
"""Of Ray Serve's own messages: the application logs its answers itself"""
LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # its processes listen on the loopback interface alone, as on the other systems; only a replica's port for other replicas is
    # open on all, and answers nobody who does not know the token
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
}
"""Ray's environment where it runs for one server alone"""


class Replica:
    """The application in a process of its own."""

    def __init__(self, loading: Loading, options: ServerOptions) -> None:
        from . import logs
        from .application import create_app

        logs.configure(options.log_level)
        # the page needs all requests of a visitor in one process
        options = replace(options, no_page=True)
        self.asgi = create_app(loading.load(allow_urls=options.allow_url), options)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.asgi

    def check_health(self) -> None:
        """Ray replaces a replica where this raises."""
        service = self.asgi.state.service
        if not (service.is_stopping or service.engine.thread.is_alive()):
            raise RuntimeError("the engine has ended")

    async def stop(self) -> int:
        """As a single server stops; returns the number of replies that were cut."""
        service = self.asgi.state.service
        cut: int = await service.stop(lambda: False)
        end = time.monotonic() + LAST_WORDS
        while service.accepted and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return cut


def application(loading: Loading, options: ServerOptions, **resources: Any) -> Any:
    """The application for `ray.serve.run`. ``resources`` are those of a replica (``num_cpus``, ``num_gpus``)."""
    from ray import serve

    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_batch + options.max_queue + ROOM,
        max_queued_requests=ON_THE_WAY,
        backpressure_config={"status_code": 429, "retry_after_s": 10},
        health_check_period_s=HEALTH,
        graceful_shutdown_timeout_s=options.grace + LAST_WORDS,
        ray_actor_options=resources,
        logging_config=LOGGING,
    )
    return deployment.bind(loading, options)


def build(arguments: Mapping[str, Any]) -> Any:
    """The application for a file of a cluster (docs/ray-serve.yaml), whose ``args`` are the flags of `limner serve`. Raises
    ValueError for others, and for a cluster without a key or a folder that its machines share."""
    from ..cli.options import Loading

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()
    }
    loading = {field.name: given.pop(field.name) for field in fields(Loading) if field.name in given}
    if unknown := set(given) - {field.name for field in fields(ServerOptions)}:
        raise ValueError(f"limner serve has no option {', '.join(sorted(unknown))}")
    options = ServerOptions(**({"host": "0.0.0.0"} | given))
    if options.store is None:
        raise ValueError("store: name a folder that all machines of the cluster share")
    options = replace(options, api_key=find_keys(options.api_key), store=Path(options.store))
    check_listen(options.host, options.api_key, options.insecure)
    return application(Loading(**loading), options)


def run(loading: Loading, options: ServerOptions) -> int:
    """Serves ``options.replicas`` replicas on this machine until it is told to stop. Raises ValueError for an address
    that cannot be listened at and a model that there is not."""
    find_model(loading.model)  # what is mistyped or in use is said before anything starts
    with listen(options.host, options.port) as free:
        port = free.getsockname()[1]
    os.environ |= LOCAL | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from ray import serve

    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        options = replace(options, port=port, store=options.store or Path(folder))
        ray.init(address="local", include_dashboard=False, logging_level="WARNING")
        # Ray has handlers of its own, which end the process without a word to anyone
        before = {number: signal.signal(number, interrupted(stopped)) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": options.host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE},
                logging_config=LOGGING,
            )
            handle = deploy(application(loading, options, **shares(options.replicas)))
            print(f"{options.replicas} replicas at http://{options.host}:{port}/v1", flush=True)
            while not stopped.wait(1):
                pass
            cut = sum(handle.broadcast("stop").results(timeout_s=options.grace + 2 * LAST_WORDS))
            print(f"stopped; {cut} replies were cut", flush=True)
            serve.shutdown()
        except KeyboardInterrupt:  # the second one
            pass
        finally:
            ray.shutdown()
            for number, handler in before.items():
                signal.signal(number, handler)
    return 0


def deploy(made: Any) -> Any:
    """A handle of the application, when all replicas are there. Raises ValueError where they do not start; the log says why."""
    from ray import serve

    try:
        return serve.run(made, name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ValueError(f"the replicas did not start: {str(error).strip().splitlines()[-1]}") from None


def interrupted(stopped: threading.Event) -> Any:
    """A handler of signals: the first one sets ``stopped``, a SIGINT after it raises KeyboardInterrupt."""

    def handle(number: int, _: Any) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    return handle


def shares(replicas: int) -> dict[str, float]:
    """The part of this machine's processors and GPUs that each of so many replicas gets. Ray wants whole ones above 1."""
    import torch

    there = {"num_cpus": os.cpu_count() or 1, "num_gpus": torch.cuda.device_count()}
    return {name: float(count // replicas or count / replicas) for name, count in there.items()}
