"""What all interfaces of the server stand on: requests come in, wait for their turn, are answered and are counted."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from PIL import Image

from ...inference.async_engine import AsyncEngine, EngineClosedError
from ...inference.engine import Engine
from ...inference.model import FORCED_PICTURE, Limner
from ...inference.reply import Reply
from ...inference.requests import Request
from ...inference.scheduler import EngineLimits
from ...mllm.events import Event, PictureDone
from ...mllm.messages import Message
from .errors import APIError
from .fields import RequestModel
from .metrics import Metrics
from .options import ServerOptions
from .store import Store

T = TypeVar("T")
logger = logging.getLogger("limner.server")


@dataclass(frozen=True)
class Call:
    """What a request asks of the model, by whatever interface it came."""

    messages: Sequence[Message]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `Limner.generate`"""
    seed: int = 0
    n: int = 1
    adapters: Mapping[str, float] | None = None
    draws: bool = False
    """At least one picture in each reply, whatever the model would say, as of `Limner.draw`; no more unless ``max_images`` is
    given"""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; a picture counts for the positions that it takes."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int
    """Of the completion's"""
    prompt_image_tokens: int = 0
    """Of the prompt's"""


class Service:
    """A model behind the server's interfaces."""

    def __init__(self, model: Limner, options: ServerOptions) -> None:
        self.model, self.options = model, options
        model.engine = Engine(model, EngineLimits(rows=options.max_batch))
        self.engine = AsyncEngine(model)
        self.store = Store(options.expire, options.store)
        self.metrics = Metrics()
        self.accepted = 0
        """Replies that were asked for and are not over"""
        self.seconds_per_reply = 1.0
        """About what one takes, with what else is done meanwhile"""
        self.is_stopping = False
        self.at_stop: list[Callable[[], None]] = []
        """Called when what was accepted is over: end what clients keep open"""

    async def in_thread(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """What takes a while (a picture to read or to compress) and would keep the event loop waiting."""
        return await asyncio.get_running_loop().run_in_executor(
            self.engine.readers, partial(function, *args, **options)
        )

    async def begin(self, call: Call) -> Answer:
        """The answer to a call, before its first event. Raises APIError where too many wait, ValueError for what `Limner.request`
        refuses; whoever gets an answer closes it."""
        limit = self.options.max_batch + self.options.max_queue
        if call.n > self.options.max_replies:
            raise APIError(f"n is {call.n}; this server gives at most {self.options.max_replies}", param="n")
        if self.is_stopping:
            raise stopping("the server is stopping")
        if self.accepted + call.n > limit:
            self.metrics.refused.inc()
            wait = math.ceil(self.seconds_per_reply * max(1, self.accepted / self.options.max_batch))
            raise APIError(
                f"{self.accepted} replies are being made or wait, and this server takes {limit}; try again in {wait} s",
                429,
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )
        self.check_options(call)
        self.accepted += call.n
        answer = Answer(self, call)
        try:
            # nothing of a request is read by address here: pictures came with it, or were fetched from hosts that are allowed
            answer.request = await self.engine.request(
                call.messages,
                seed=call.seed,
                n=call.n,
                adapters=call.adapters,
                # what goes on from a kept cache is rounded otherwise, and nobody goes on from one drawing
                keep_cache=call.n == 1 and not call.draws,
                **(({"max_images": 1} if call.draws else {}) | dict(call.options)),
            )
        except BaseException:
            await answer.aclose()
            raise
        return answer

    def check_options(self, call: Call) -> None:
        """Raises APIError, which names the field, for a size that is not drawn and an adapter that is not there."""
        if "height" in call.options:
            self.check_size(call.options["height"], call.options["width"])
        try:
            self.model.adapters.weights(call.adapters)
        except ValueError as error:
            raise APIError(f"adapters: {error}", param="adapters", code="invalid_value") from None

    def check_size(self, height: int, width: int) -> None:
        """Raises APIError for a size that is not drawn."""
        try:
            if height * width > self.options.max_megapixels * 1e6:
                limit = f"{self.options.max_megapixels:g} megapixels, the limit of this server"
                raise ValueError(f"a picture of {width} x {height} is more than {limit}")
            self.model.detokenizer.check_size(height, width)
        except ValueError as error:
            raise APIError(f"size: {error}", param="size", code="invalid_value") from None

    def check_model(self, name: str) -> None:
        """Raises APIError for a model that is not this one."""
        if name != self.model.name:
            raise APIError(
                f"no model {name!r:.80}; this server has {self.model.name!r}",
                404,
                param="model",
                code="model_not_found",
            )

    def ignored(self, body: RequestModel) -> dict[str, str]:
        """A header that names the fields of a request which have no effect, where there are any."""
        names = sorted(body.ignored())
        return {"X-Limner-Ignored": ", ".join(names)} if names else {}

    async def stop(self, is_forced: Callable[[], bool]) -> int:
        """Takes no more calls; gives those that were accepted ``ServerOptions.grace`` seconds, unless it is forced to stop at
        once, and then tells the clients of the rest that it stopped. Returns how many replies were cut; `close` follows when
        their clients have heard of it."""
        self.is_stopping = True
        end = time.monotonic() + self.options.grace
        logger.info("stopping", extra={"values": {"accepted": self.accepted}})
        while self.accepted and time.monotonic() < end and not is_forced():
            await asyncio.sleep(0.05)
        self.engine.stop()
        cut = self.accepted
        for end_streams in self.at_stop:
            end_streams()
        logger.log(logging.WARNING if cut else logging.INFO, "stopped", extra={"values": {"cut": cut}})
        return cut

    def close(self) -> None:
        """Ends the engine and removes what was kept."""
        self.is_stopping = True
        self.engine.close()
        self.store.close()


class Answer:
    """A call that was accepted: its events, and what there is afterwards."""

    def __init__(self, service: Service, call: Call) -> None:
        self.service, self.call = service, call
        self.request: Request | None = None
        self.forced: Request | None = None
        """Of a call that draws: pictures of the replies in `silent`, which the model gave without"""
        self.silent: list[int] = []
        self.running: AsyncGenerator[Event, None] | None = None
        self.began = time.monotonic()
        self.is_open = True

    async def events(self) -> AsyncGenerator[Event, None]:
        """As they happen. Raises APIError where the server stops, and what the model's work raises."""
        assert self.request is not None and self.running is None
        self.running = self._events(self.request)
        first = True
        try:
            async for event in self.running:
                if first:
                    self.service.metrics.first_event.observe(time.monotonic() - self.began)
                    first = False
                if isinstance(event, PictureDone):
                    self.service.metrics.pictures.inc()
                    if self.service.options.no_metadata:
                        event.image.info.clear()
                yield event
        except EngineClosedError:
            raise stopping("the server stopped before this request was answered") from None
        seconds = time.monotonic() - self.began
        self.service.seconds_per_reply += (seconds - self.service.seconds_per_reply) / 16
        self.service.metrics.answered.observe(seconds)
        self.service.metrics.tokens.inc(self.usage.completion_tokens)

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        async with aclosing(self.service.engine.events(request)) as events:
            async for event in events:
                yield event
        if not self.call.draws:
            return
        self.silent = [row for row, reply in enumerate(request.replies) if not reply.images]
        if not self.silent:
            return
        self.forced = await self.service.engine.request(
            [self.call.messages] * len(self.silent),
            seed=[self.call.seed + row for row in self.silent],
            adapters=self.call.adapters,
            **{**self.call.options, **FORCED_PICTURE},
        )
        async with aclosing(self.service.engine.events(self.forced)) as events:
            async for event in events:
                yield replace(event, row=self.silent[event.row])

    async def finish(self) -> list[Reply]:
        """Waits for its end; the answer is closed then."""
        try:
            async for _ in self.events():
                pass
            return self.replies
        finally:
            await self.aclose()

    @property
    def replies(self) -> list[Reply]:
        """When all events are there."""
        assert self.request is not None
        replies = self.request.replies
        if self.forced is not None:
            for row, forced in zip(self.silent, self.forced.replies, strict=True):
                replies[row] = replace(replies[row], parts=[*replies[row].parts, *forced.images])
        return replies

    @property
    def usage(self) -> Usage:
        """When all events are there."""
        assert self.request is not None
        encoded = {id(own): own for own in self.request.encoded}.values()
        rows = [*self.request.rows, *(self.forced.rows if self.forced else ())]
        text = sum(row.num_text_tokens for row in rows)
        pictures = sum(row.num_images for row in rows) * self.service.model.engine.image_positions
        shown = sum(len(own.views) for own in encoded) * self.service.model.config.view_tokens
        return Usage(sum(len(own.input_ids) for own in encoded), text + pictures, pictures, shown)

    async def aclose(self) -> None:
        """Frees its slot: whatever is not done of it is left, within one unit of work."""
        if self.is_open:
            self.is_open = False
            self.service.accepted -= self.call.n
            if self.running is not None:
                await self.running.aclose()


def stopping(message: str) -> APIError:
    """The error of a server that stops."""
    return APIError(message, 503, code="stopping", headers={"Retry-After": "10"})


def random_seed() -> int:
    """One for a request that has none."""
    return secrets.randbelow(2**32)


def texts_and_images(reply: Reply) -> list[str | Image.Image]:
    """The parts of a reply, one text after another put together: those of a client's message."""
    parts: list[str | Image.Image] = []
    for part in reply.parts:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return parts
