"""Server-sent events, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from .errors import as_api_error
from .service import Answer

T = TypeVar("T")

PING = 15.0
"""Seconds of silence after which a comment is sent, so that nothing on the way takes the connection for dead"""


EVENTS: dict[str, Any] = {
    "itemSchema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
}
"""An event stream in the OpenAPI document, as version 3.2 describes one: readers of 3.1 pass over it"""


class ClientLeftError(Exception):
    """Nobody reads the answer any more."""


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event of JSON."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left; the body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, answer: Answer, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns, which is cancelled when the client leaves. Raises ClientLeftError then; closes the answer."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            answer.service.metrics.disconnected.inc()
            raise ClientLeftError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
        await answer.aclose()


class EventStream(Response):
    """The chunks of a generator as an event stream, until the client leaves; an error on the way is its last event."""

    media_type = "text/event-stream"

    def __init__(
        self, answer: Answer, chunks: AsyncGenerator[bytes, None], error_event: Any = None, headers: Any = None
    ) -> None:
        """``error_event`` makes the last event of an APIError, by default OpenAI's ``data: {"error": …}``."""
        self.answer, self.chunks = answer, chunks
        self.error_event = error_event or (lambda error: event(error.body()))
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all; the answer is closed in any case."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self.answer.service.metrics.disconnected.inc()
        finally:
            for task in (sending, leaving):
                task.cancel()
            (error, _) = await asyncio.gather(sending, leaving, return_exceptions=True)
            await self.chunks.aclose()
            await self.answer.aclose()
        if isinstance(error, Exception) and not isinstance(error, OSError):  # OSError: the client has left
            raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        next_chunk: asyncio.Future[bytes] | None = None
        try:
            while True:
                next_chunk = next_chunk or asyncio.ensure_future(_next(self.chunks))
                done, _ = await asyncio.wait({next_chunk}, timeout=PING)
                if not done:
                    await _body(send, b": waiting\n\n")
                    continue
                chunk, next_chunk = next_chunk.result(), None
                await _body(send, chunk)
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - said in the stream, whose status has been sent
            await _body(send, self.error_event(as_api_error(error)))
        finally:
            if next_chunk is not None:
                next_chunk.cancel()
                await asyncio.gather(next_chunk, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(chunks)


def _body(send: Send, data: bytes) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": data, "more_body": True})
