"""``/v1/chat/completions``: words and pictures in the form in which litellm, OpenRouter and Open WebUI read them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ....inference.output import png_bytes
from ....mllm.events import Finished, PictureDone, TextPiece
from ..errors import APIError
from ..history import History, check_pictures
from ..pictures import markdown_link, put, streamed
from ..service import Answer, Call, Service, random_seed
from ..streaming import EVENTS, EventStream, event, unless_disconnected
from .completion import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    CompletionUsage,
    Delta,
    image,
    linked_message,
    message,
)
from .request import ChatCompletionRequest, options, read_messages


def routes(service: Service, history: History) -> APIRouter:
    """The endpoint."""
    router = APIRouter()
    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": ChatCompletion, "content": {"text/event-stream": EVENTS}}
    }

    @router.post("/v1/chat/completions", responses=answers)
    async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation in words and pictures."""
        service.check_model(body.model)
        body.picture_format = picture_format(body, request)
        check_pictures(body, "messages", service.options)
        messages, missing = await service.in_thread(read_messages, body, history)
        seed = random_seed() if body.seed is None else body.seed
        headers = service.ignored(body) | ({"X-Limner-Missing-Pictures": str(missing)} if missing else {})
        answer = await service.begin(Call(messages, options(body), seed, body.n or 1, body.adapters))
        if body.stream:
            return EventStream(answer, chunks(service, history, answer, body, request), headers=headers)
        made = await unless_disconnected(request, answer, completion(service, history, answer, body, request))
        return JSONResponse(made.model_dump(), headers=headers)

    return router


async def completion(
    service: Service, history: History, answer: Answer, body: ChatCompletionRequest, request: Request
) -> ChatCompletion:
    """The answer to a request that does not stream, when all of it is there."""
    choices = []
    for index, reply in enumerate(await answer.finish()):
        await service.in_thread(history.remember, reply.parts)
        files = [await service.in_thread(png_bytes, picture) for picture in reply.images]
        choices.append(
            Choice(
                index=index,
                message=linked_message(reply, [put(service, file, request) for file in files])
                if body.picture_format == "markdown"
                else message(reply, files),
                finish_reason=reply.finish_reason,
                seed=answer.call.seed + index,
            )
        )
    return ChatCompletion(
        id=new_id(),
        created=int(time.time()),
        model=body.model,
        choices=choices,
        usage=CompletionUsage.of(answer.usage),
    )


async def chunks(
    service: Service, history: History, answer: Answer, body: ChatCompletionRequest, request: Request
) -> AsyncGenerator[bytes, None]:
    """A chunk for every piece of text and every picture."""
    made, created = new_id(), int(time.time())
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    def chunk(*choices: ChunkChoice, usage: CompletionUsage | None = None) -> bytes:
        head = ChatCompletionChunk(id=made, created=created, model=body.model, choices=list(choices))
        if with_usage:
            head.usage = usage
        return event(head.values())

    drawn = [0] * answer.call.n
    for row in range(answer.call.n):
        start = Delta(role="assistant", content="", seed=answer.call.seed + row)
        yield chunk(ChunkChoice(index=row, delta=start))
    async for happened in answer.events():
        row = happened.row
        if isinstance(happened, TextPiece):
            yield chunk(ChunkChoice(index=row, delta=Delta(content=happened.text)))
        elif isinstance(happened, PictureDone):
            data = await service.in_thread(png_bytes, happened.image)
            if body.picture_format == "markdown":
                delta = Delta(content=markdown_link(put(service, data, request)))
            else:
                delta = Delta(images=[image(drawn[row], streamed(service, data, request))])
            yield chunk(ChunkChoice(index=row, delta=delta))
            drawn[row] += 1
        elif isinstance(happened, Finished):
            yield chunk(ChunkChoice(index=row, delta=Delta(), finish_reason=happened.reason))
    for reply in answer.replies:
        await service.in_thread(history.remember, reply.parts)
    if with_usage:
        yield chunk(usage=CompletionUsage.of(answer.usage))
    yield b"data: [DONE]\n\n"


def picture_format(body: ChatCompletionRequest, request: Request) -> Literal["images", "markdown"]:
    """The field's, else the header's. Raises APIError for a header that says something else."""
    said = body.picture_format or request.headers.get("X-Limner-Picture-Format", "images")
    if said not in ("images", "markdown"):
        raise APIError(f"X-Limner-Picture-Format is {said!r:.40}; it can be images or markdown")
    return "markdown" if said == "markdown" else "images"


def new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
