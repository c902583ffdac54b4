"""The engine for an event loop: a thread of its own drives it, for the requests of all coroutines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from ..mllm.events import Event
from .model import Limner
from .requests import Request

logger = logging.getLogger(__name__)

Deliver = Callable[[list[Event], bool], None]
"""Takes events of a request, and whether they are the last"""


class EngineClosedError(RuntimeError):
    """The engine was closed before a request was answered."""


class AsyncEngine:
    """Answers requests of coroutines with the engine of a model, which other threads may use at the same time."""

    def __init__(self, model: Limner) -> None:
        self.model, self.engine = model, model.engine
        self.delivers: dict[Request, Deliver] = {}
        """Of each request that a coroutine waits for"""
        self.left: list[Request] = []
        """Requests that no coroutine waits for any more"""
        self.closed = False
        self.changed = threading.Condition()
        """Held to look at these, never during the work"""
        self.readers = ThreadPoolExecutor(2, "limner-reader")
        self.thread = threading.Thread(target=self._run, name="limner-engine", daemon=True)
        self.thread.start()

    async def request(self, *args: Any, **options: Any) -> Request:
        """`Limner.request`, in another thread: it reads words and pictures."""
        made = partial(self.model.request, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self.readers, made)

    async def events(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of a request as they happen; ``request.replies`` are there afterwards. Closing the generator, or cancelling
        who waits for it, ends the request within one unit of work. Raises what its work raised."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[list[Event], bool]]()

        def deliver(events: list[Event], is_last: bool) -> None:
            with suppress(RuntimeError):  # the loop was closed, and nobody waits any more
                loop.call_soon_threadsafe(queue.put_nowait, (events, is_last))

        with self.changed:
            if self.closed:
                raise EngineClosedError("the engine was closed")
            self.engine.submit(request)
            self.delivers[request] = deliver
            self.changed.notify()
        try:
            is_last = False
            while not is_last:
                events, is_last = await queue.get()
                for event in events:
                    yield event
            if request.error is not None:
                raise request.error
        finally:
            with self.changed:
                self.delivers.pop(request, None)
                self.left.append(request)
                self.changed.notify()

    def stop(self) -> None:
        """Ends the work after the unit that is going on; requests that were not answered raise `EngineClosedError`."""
        with self.changed:
            self.closed = True
            self.changed.notify()

    def close(self) -> None:
        """Stops, and waits for the threads."""
        self.stop()
        self.thread.join()
        self.readers.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while True:
            with self.changed:
                while not (self.delivers or self.left or self.closed):
                    self.changed.wait()
                waiting, left, self.left = dict(self.delivers), self.left, []
                closed = self.closed
            for request in left:
                self.engine.leave(request)
            if closed:
                self._fail(waiting, EngineClosedError("the engine was closed before this request was answered"))
            elif waiting:
                try:
                    if self.engine.wait(*waiting):
                        self.engine.drive()
                except Exception as error:  # of no request that is known: all learn of it, and the thread goes on
                    logger.exception("a unit of work failed")
                    self._fail(waiting, error)
            for request, deliver in waiting.items():
                is_last = request.over  # looked at before the events are taken: none comes after it
                events = [request.events.popleft() for _ in range(len(request.events))]
                if events or is_last:
                    deliver(events, is_last)
                if is_last:
                    with self.changed:
                        self.delivers.pop(request, None)
            if closed:
                return

    def _fail(self, requests: dict[Request, Deliver], error: Exception) -> None:
        for request in requests:
            if not request.over:
                request.error = error
            self.engine.leave(request)
