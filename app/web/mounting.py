"""The page in the server's application: its parts are imported when the server listens, since they take seconds."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount, Route

from ...inference.output import png_bytes
from ..server.errors import APIError
from ..server.service import Service
from .conversation import Conversation
from .conversations import Conversations
from .details import details
from .examples import EXAMPLES
from .texts import language_of, text

if TYPE_CHECKING:
    from .page import Page

logger = logging.getLogger("limner.server")

PATH = "/ui"
STATIC = Path(__file__).parent / "static"
HEAD = """
<link rel="icon" href="own/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="own/page.css">
<link rel="stylesheet" href="own/panel.css">
<link rel="stylesheet" href="own/picture.css">
"""
FIRST = 0.5
"""Seconds in which a server that has just begun answers whoever waited for it, before the import takes a core"""
MISSING = "the page needs gradio: pip install 'limner[ui]'"


def is_installed() -> bool:
    """Whether there can be a page."""
    return find_spec("gradio") is not None


class PageMount:
    """The page of an application: `loading` brings it, and until it is there ``/ui`` asks for a moment."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        self.app, self.conversations = app, Conversations(service)
        service.at_stop.append(self.close_streams)
        self.failed = False
        self.mount: Mount | None = None
        app.include_router(routes(self.conversations), prefix=PATH, include_in_schema=False)
        app.mount(f"{PATH}/own", StaticFiles(directory=STATIC))
        app.add_route("/favicon.ico", lambda _: FileResponse(STATIC / "icon.svg"), include_in_schema=False)
        app.add_route("/", lambda _: RedirectResponse(f"{PATH}/"), include_in_schema=False)
        self.waiting = Mount(PATH, routes=[Route("/{path:path}", self._moment)])
        app.router.routes.append(self.waiting)

    async def _moment(self, request: Request) -> Response:
        language = language_of(request.headers.get("accept-language", ""))
        said = text("unavailable" if self.failed else "moment", language)
        refresh = "" if self.failed else '<meta http-equiv="refresh" content="1">'
        html = (
            f'<!doctype html><html lang="{language}"><meta charset="utf-8">{refresh}<title>Limner</title>'
            '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
            f'<body style="font:1rem system-ui;display:grid;place-content:center;min-height:90vh">{said}'
        )
        return HTMLResponse(html, 503, {"Retry-After": "1"})

    @asynccontextmanager
    async def loading(self) -> AsyncGenerator[None, None]:
        """While the application runs."""
        with tempfile.TemporaryDirectory(prefix="limner-ui-") as folder:
            task = asyncio.create_task(self._load(folder))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _load(self, folder: str) -> None:
        await asyncio.sleep(FIRST)
        try:
            mount, page = await asyncio.to_thread(made, self.conversations, folder)
        except Exception:
            logger.exception("the page could not be loaded")
            self.failed = True
            return
        application: Any = mount.app
        async with application.router.lifespan_context(application):
            page.blocks.run_startup_events()
            await page.blocks.run_extra_startup_events()
            routes = self.app.router.routes
            routes[routes.index(self.waiting)] = self.mount = mount
            try:
                await asyncio.Event().wait()
            finally:
                self.close_streams()

    def close_streams(self) -> None:
        """Ends what each open tab keeps open, which a server that stops would wait for."""
        if self.mount is not None:
            application: Any = self.mount.app
            application.stop_event.set()


def made(conversations: Conversations, folder: str) -> tuple[Mount, Page]:
    """The page as an application to be mounted; uploaded files go to ``folder``. Imports gradio."""
    # it reads these when it is imported
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    import gradio
    from gradio import processing_utils

    from .page import Page, theme

    processing_utils.async_ssrf_protected_get = refuse_to_fetch

    page = Page(conversations)
    options = conversations.service.options
    parent = FastAPI()
    gradio.mount_gradio_app(
        parent,
        page.blocks,
        PATH,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=options.max_body * 2**20,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        i18n=page.i18n,
        theme=theme(),
        head=HEAD,
    )
    (mount,) = [route for route in parent.routes if isinstance(route, Mount) and route.path == PATH]
    return mount, page


async def refuse_to_fetch(url: str) -> Any:
    """In place of gradio's own: it would fetch what a client names in place of a file that was uploaded."""
    raise ValueError(f"{url:.200} is not fetched: upload the picture")


def routes(conversations: Conversations) -> APIRouter:
    """Pictures, what is known of them, and saved conversations."""
    router, metadata = APIRouter(), not conversations.service.options.no_metadata

    def find(key: str) -> Conversation:
        found = conversations.get(key)
        if found is None:
            raise APIError("no such conversation, or not any more", 404, code="not_found")
        return found

    @router.get("/gradio_api/{name}=http{rest:path}")
    def foreign(name: str, rest: str) -> Response:
        """gradio would fetch these, or send the browser there."""
        raise APIError("no such file", 404, code="not_found")

    @router.get("/examples/{index}/{number}.png")
    def example(index: int, number: int) -> Response:
        pictures = EXAMPLES[index].pictures() if index < len(EXAMPLES) else []
        if number >= len(pictures):
            raise APIError("no such picture", 404, code="not_found")
        return Response(png_bytes(pictures[number]), media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    @router.get("/pictures/{key}/{name}.png")
    def picture(key: str, name: str) -> Response:
        image = find(key).picture(name)
        if image is None:
            raise APIError("no such picture, or not any more", 404, code="not_found")
        data = png_bytes(image, metadata)
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/pictures/{key}/{name}.json")
    def picture_details(key: str, name: str) -> dict[str, Any]:
        return details(find(key), name) or {}

    @router.get("/conversations/{key}.zip")
    def saved(key: str) -> Response:
        conversation = find(key)
        conversation.check_idle()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "conversation.zip")
            data = conversation.chat.copy().save(path, metadata=metadata).read_bytes()
        headers = {"Content-Disposition": 'attachment; filename="conversation.zip"'}
        return Response(data, media_type="application/zip", headers=headers)

    return router
