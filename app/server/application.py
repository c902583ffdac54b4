"""The application: all interfaces of the server over one model."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...inference.model import Limner
from ..web.mounting import PageMount, is_installed
from . import pictures
from .chat import routes as chat
from .errors import DOCUMENTED, add_handlers
from .history import History
from .images import routes as images
from .options import ServerOptions
from .responses import routes as responses
from .security import protect
from .service import Service, stopping
from .streaming import ClientLeftError

logger = logging.getLogger("limner.server")

LEFT = 499
"""Status of an answer that its client did not wait for, in logs and metrics; nginx's"""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Others are words of a client, and not logged"""


def create_app(model: Limner, options: ServerOptions | None = None) -> FastAPI:
    """The application for a model; ``app.state.service`` answers its requests. uvicorn, or whatever runs it, ends it by its
    lifespan. Where it is installed the page is at /ui; it needs all requests of a visitor in one process."""
    options = options or ServerOptions()
    service = Service(model, options)
    history = History(service.store, options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with page.loading() if page else nullcontext():
            yield
        service.close()

    app = FastAPI(
        title="Limner",
        version=version("limner"),
        lifespan=lifespan,
        docs_url=None,  # these pages load their scripts from other hosts
        redoc_url=None,
        responses=DOCUMENTED,
        openapi_url="/openapi.json",
    )
    app.state.service, app.state.history = service, history
    add_handlers(app)

    @app.exception_handler(ClientLeftError)
    async def left(*_: Any) -> Response:
        return Response(status_code=LEFT)

    app.include_router(chat.routes(service, history))
    app.include_router(responses.routes(service, history))
    app.include_router(images.routes(service, history))
    app.include_router(pictures.routes(service))
    page = app.state.page = PageMount(app, service) if is_installed() and not options.no_page else None
    created = int(time.time())

    def entry() -> dict[str, Any]:
        return {"id": model.name, "object": "model", "created": created, "owned_by": "limner"}

    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [entry()]}

    @app.get("/v1/models/{name}")
    def retrieve_model(name: str) -> dict[str, Any]:
        """The model that is served, by its name."""
        service.check_model(name)
        return entry()

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        """Whether requests are taken."""
        if service.is_stopping or not service.engine.thread.is_alive():
            raise stopping("the server is stopping")
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """For Prometheus."""
        service.metrics.accepted.set(service.accepted)
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(
        protect,
        api_keys=options.api_key,
        hosts=(options.host, *options.allow_host, *filter(None, [urlsplit(options.public_url).hostname])),
        origins=options.allow_origin,
        max_body=options.max_body * 2**20,
    )
    app.add_middleware(Log, service=service)
    app.openapi = lambda: document(app, model.name)  # type: ignore[method-assign]
    return app


def document(app: FastAPI, model: str) -> dict[str, Any]:
    """The OpenAPI document, which names the model; mistakes are answered 400 here, not FastAPI's 422."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            made["components"]["schemas"].pop(unused)
        for schema in made["components"]["schemas"].values():
            if "model" in schema.get("properties", {}):
                schema["properties"]["model"]["examples"] = [model]
        app.openapi_schema = made
    return app.openapi_schema


class Log:
    """A record in the log for each answer, without what was said in it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, sent = time.monotonic(), 0, 0

        async def sending(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            status = status or 500  # what the handler outside will answer
            raise
        finally:
            status = status or LEFT
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self.service.metrics.requests.labels(path, status).inc()
            values = {
                "method": scope["method"] if scope["method"] in METHODS else "other",
                "path": path,
                "status": status,
                "seconds": round(time.monotonic() - began, 3),
                "bytes": sent,
            }
            logger.info("answered", extra={"values": values})
