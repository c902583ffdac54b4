"""The engine: requests come and go at any time, their rows write together and their pictures are drawn together.

Whoever waits for events of a request drives the engine, one unit of work of its scheduler at a time, for all requests; there is
no thread.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Generator
from typing import Any

import torch

from ..mllm.events import Event
from ..mllm.text_stream import TextStream
from .isolation import plain_torch
from .reply import Reply
from .requests import Request, RequestRow
from .scheduler import EngineLimits, EngineModel, Scheduler

PATIENCE = 0.02
"""Seconds that a caller which has got events has to come back and drive on, before another one does"""


class Engine(Scheduler):
    """Answers the requests of one model: a scheduler that its callers drive."""

    def __init__(self, model: EngineModel, limits: EngineLimits | None = None) -> None:
        super().__init__(model, limits)
        self.requests: list[Request] = []
        """Those that somebody waits for"""
        self.left: deque[Request] = deque()
        """Requests that nobody waits for any more"""
        self.busy: Request | None = None
        """That whose caller is at a unit of work"""
        self.driver: int | None = None
        """The thread that drives the engine"""
        self.driven = 0.0
        """When it last did"""
        self.lock = threading.RLock()
        """Held to look at who drives and who waits, never during the work"""
        self.process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "limits": self.limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a copied or pickled engine begins empty

    def events(self, request: Request) -> Generator[Event, None, list[Reply]]:
        """The events of a request as they happen; returns its replies. The request begins with the first event that is asked
        for; closing the generator ends it within one unit of work. Raises what its work raised."""
        is_exiting = sys.is_finalizing  # of a generator that is left until then, when modules are empty
        try:
            self.submit(request)
            while True:
                if self.wait(request):
                    self.drive()
                while request.events:
                    yield request.events.popleft()
                if request.error is not None:
                    raise request.error
                if request.over and not request.events:
                    return request.replies
        finally:
            if not is_exiting():
                self.leave(request)

    def wait(self, *requests: Request) -> bool:
        """Waits for events of one of a caller's requests; True where nobody else drives and the caller has to (`drive`)."""
        with self.lock:
            while not any(request.events or request.over for request in requests):
                # one that drove is soon back: the processors are torch's best for one calling thread at a time, since the
                # threads that OpenMP keeps for each caller stay busy for a while
                nobody_drives = self.driver is None or time.monotonic() - self.driven > PATIENCE
                if not self.busy and (nobody_drives or self.driver == threading.get_ident()):
                    self.busy, self.driver = requests[0], threading.get_ident()
                    return True
                requests[0].changed.wait(PATIENCE)
            return False

    def drive(self) -> None:
        """One unit of work, after `wait` has said so."""
        try:
            self.step()
        finally:
            with self.lock:
                self._drop_left()
                self.busy, self.driven = None, time.monotonic()
                for request in self.requests:
                    if request.events or request.over:
                        request.changed.notify()

    def leave(self, request: Request) -> None:
        """Takes a request off that is over or that nobody waits for: at once, or after the unit of work that is going on."""
        with self.lock:
            if request in self.requests:  # else an interrupt came before it was submitted
                self.requests.remove(request)
                self.left.append(request)
            if self.busy is request:  # an interrupt came just before its unit of work, or just after
                self.busy = None
            if not self.busy:
                self._drop_left()
            if self.driver == threading.get_ident():
                self.driver = None
                for other in self.requests[:1]:
                    other.changed.notify()

    def submit(self, request: Request) -> None:
        """Takes a request in; its caller waits for its events, drives where it has to, and leaves."""
        if self.process != os.getpid():  # a fork: nobody is here who was driving when it came
            self.__init__(self.model, self.limits)  # type: ignore[misc]
        tokenizer = self.model.encoder.tokenizer
        request.rows = [
            RequestRow(
                index,
                request.options(encoded),
                request.events.append,
                torch.Generator().manual_seed(seed % 2**63),
                TextStream(tokenizer, request.config.stop),
                [p.image for p in encoded.pictures],
                encoded.last_request,
                request=request,
                encoded=encoded,
                fitting_images=self.fitting_images(encoded, request.config),
                max_tokens=self.max_tokens(encoded, request.config),
            )
            for index, (encoded, seed) in enumerate(zip(request.encoded, request.seeds, strict=True))
        ]
        request.changed = threading.Condition(self.lock)
        with self.lock:
            self.requests.append(request)
            self.submitted.append(request)

    def _drop_left(self) -> None:
        """Takes the rows of requests off that were left."""
        left = list(self.left)
        if not left:
            return
        for request in left:
            if request in self.submitted:
                self.submitted.remove(request)
        with plain_torch(), torch.inference_mode():
            self._drop(left)
        for request in left:  # last, so that an interrupt leaves them to the next call
            self.left.remove(request)
