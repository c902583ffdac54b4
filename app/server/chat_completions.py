"""``/v1/chat/completions``: words and pictures in the form in which litellm, OpenRouter and Open WebUI read them.

``content`` is always a string, since clients break otherwise; ``images`` are beside it; ``parts`` tells their true order.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import Field

from ...mllm.events import Event, Finished, PictureDone, TextPiece
from ...mllm.messages import Message
from .errors import APIError
from .fields import (
    DECODING,
    DRAWING,
    NO_EFFECT,
    DecodingFields,
    Empty,
    Extensions,
    NoKeys,
    RequestModel,
    given,
    parse_size,
)
from .history import History, Part, check_pictures
from .pictures import data_uri, png, streamed
from .service import Answer, Call, Service, random_seed, texts_and_images
from .streaming import EventStream, event, unless_disconnected


class TextPart(RequestModel):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(RequestModel):
    """A data URI, or an http(s) URL of a host that the server allows."""

    url: str
    detail: Literal["auto", "low", "high"] | None = Field(None, json_schema_extra=NO_EFFECT)


class ImagePart(RequestModel):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl
    index: int | None = Field(None, json_schema_extra=NO_EFFECT)


class OrderPart(RequestModel):
    """A part of a reply in ``parts``: words, or the picture of this index in ``images``."""

    type: Literal["text", "image"]
    text: str | None = None
    index: int | None = None


class SystemMessage(RequestModel):
    """Rules that stand first."""

    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = Field(None, json_schema_extra=NO_EFFECT)


class UserMessage(RequestModel):
    """What a person says and shows."""

    role: Literal["user"]
    content: str | list[TextPart | ImagePart]
    name: str | None = Field(None, json_schema_extra=NO_EFFECT)


class AssistantMessage(RequestModel):
    """What the model said and drew: ``content`` and ``images`` of a completion, with its ``parts`` or without."""

    role: Literal["assistant"]
    content: str | list[TextPart | ImagePart] | None = None
    images: list[ImagePart] | None = None
    parts: list[OrderPart] | None = None
    refusal: None = None
    audio: None = None
    annotations: Empty | None = None
    tool_calls: Empty | None = None
    function_call: None = None
    name: str | None = Field(None, json_schema_extra=NO_EFFECT)


class StreamOptions(RequestModel):
    """Of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, json_schema_extra=NO_EFFECT)


class ResponseFormat(RequestModel):
    """Only text."""

    type: Literal["text"]


class ChatCompletionRequest(Extensions, DecodingFields):  # type: ignore[misc, valid-type]  # the fields are made
    """OpenAI's fields, and Limner's beside them."""

    model: str
    messages: Annotated[
        list[Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]],
        Field(min_length=1),
    ]
    modalities: list[Literal["text", "image"]] | None = Field(
        None, description='["text"]: no pictures; ["image"]: one at once; both or absent: the model decides'
    )
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_images: Annotated[int, Field(ge=0, le=100)] | None = Field(None, description="pictures of a reply")
    size: str | None = Field(None, description="of its pictures: WIDTHxHEIGHT in pixels, or auto")
    n: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: NoKeys | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    tools: Empty | None = None
    functions: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    parallel_tool_calls: bool | None = Field(None, json_schema_extra=NO_EFFECT)
    store: bool | None = Field(None, json_schema_extra=NO_EFFECT)
    metadata: dict[str, Any] | None = Field(None, json_schema_extra=NO_EFFECT)
    user: str | None = Field(None, json_schema_extra=NO_EFFECT)
    safety_identifier: str | None = Field(None, json_schema_extra=NO_EFFECT)
    prompt_cache_key: str | None = Field(None, json_schema_extra=NO_EFFECT)
    prompt_cache_retention: str | None = Field(None, json_schema_extra=NO_EFFECT)
    service_tier: str | None = Field(None, json_schema_extra=NO_EFFECT)
    reasoning_effort: str | None = Field(None, json_schema_extra=NO_EFFECT)
    verbosity: str | None = Field(None, json_schema_extra=NO_EFFECT)


def options(body: ChatCompletionRequest) -> dict[str, Any]:
    """Of `Limner.generate`. Raises ValueError for those that exclude each other."""
    made = given(body, (*DECODING, *DRAWING, "max_images", "stop")) | parse_size(body.size)
    limits = {limit for limit in (body.max_completion_tokens, body.max_tokens) if limit is not None}
    if len(limits) > 1:
        raise APIError("max_tokens and max_completion_tokens differ", param="max_tokens")
    made |= {"max_new_tokens": limits.pop()} if limits else {}
    wanted = set(body.modalities or ("text", "image"))
    if wanted != {"text", "image"}:
        made["images"] = "never" if wanted == {"text"} else "force"
    return made


def read_messages(body: ChatCompletionRequest, history: History) -> list[Message]:
    """Messages in the model's form. Raises APIError for pictures that are not read and parts that do not fit."""
    messages = []
    for index, message in enumerate(body.messages):
        where = f"messages.{index}"
        content = message.content
        parts = history.parts(content if isinstance(content, str | None) else [p.model_dump() for p in content], where)
        role = "system" if message.role == "developer" else message.role
        if isinstance(message, AssistantMessage):
            images = [
                history.load_image(image.image_url.url, f"{where}.images.{i}")
                for i, image in enumerate(message.images or [])
            ]
            parts = ordered(parts, images, message.parts, where)
        messages.append(history.message(role, parts))
    return messages


def ordered(parts: list[Part], images: list[Image.Image], order: list[OrderPart] | None, where: str) -> list[Part]:
    """Words and pictures in the order of ``parts`` of a completion; where it is not told, the pictures come last. Raises APIError
    where it does not fit them."""
    if order is None:
        return [*parts, *images]
    words = "".join(part for part in parts if isinstance(part, str))
    said = "".join(part.text or "" for part in order if part.type == "text")
    places = [part.index for part in order if part.type == "image"]
    if said != words or sorted(p for p in places if p is not None) != list(range(len(images))):
        raise APIError(f"{where}.parts: these are not the words of content and the pictures of images", param=where)
    return [part.text or "" if part.type == "text" else images[part.index or 0] for part in order]


def completion(answer: Answer, body: ChatCompletionRequest, made: str, pictures: list[list[bytes]]) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    usage, choices = answer.usage, []
    for index, (reply, files) in enumerate(zip(answer.replies, pictures, strict=True)):
        parts = texts_and_images(reply)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(part for part in parts if isinstance(part, str)),
            "refusal": None,
        }
        if files:
            message["images"] = [picture(place, data_uri(data)) for place, data in enumerate(files)]
        place = iter(range(len(files)))
        message["parts"] = [
            {"type": "text", "text": str(part)} if isinstance(part, str) else {"type": "image", "index": next(place)}
            for part in parts
        ]
        choices.append(
            {
                "index": index,
                "message": message,
                "finish_reason": reply.finish_reason,
                "logprobs": None,
                "seed": answer.call.seed + index,
            }
        )
    return {
        "id": made,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": choices,
        "usage": usage_values(usage),
    }


def picture(index: int, url: str) -> dict[str, Any]:
    """One of ``images``."""
    return {"type": "image_url", "index": index, "image_url": {"url": url}}


def usage_values(usage: Any) -> dict[str, Any]:
    """As OpenAI counts."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {"image_tokens": usage.image_tokens},
    }


async def chunks(
    service: Service, history: History, answer: Answer, body: ChatCompletionRequest, made: str, request: Request
) -> AsyncGenerator[bytes, None]:
    """A chunk for every piece of text and every picture."""
    head = {"id": made, "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    count = body.n or 1

    def chunk(row: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": row, "delta": delta, "finish_reason": reason, "logprobs": None}
        return event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    for row in range(count):
        yield chunk(row, {"role": "assistant", "content": "", "seed": answer.call.seed + row})
    drawn = [0] * count
    last: dict[int, Event] = {}
    async for happened in answer.events():
        if isinstance(happened, TextPiece):
            yield chunk(happened.row, {"content": happened.text})
        elif isinstance(happened, PictureDone):
            data = await service.in_thread(png, happened.image)
            url = streamed(service, data, request)
            yield chunk(happened.row, {"images": [picture(drawn[happened.row], url)]})
            drawn[happened.row] += 1
        elif isinstance(happened, Finished):
            last[happened.row] = happened
            yield chunk(happened.row, {}, happened.reason)
    for reply in answer.replies:
        await service.in_thread(history.remember, reply.parts)
    if with_usage:
        yield event({**head, "choices": [], "usage": usage_values(answer.usage)})
    yield b"data: [DONE]\n\n"


def routes(service: Service, history: History) -> APIRouter:
    """The endpoint."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation in words and pictures."""
        service.check_model(body.model)
        messages = await service.in_thread(read_messages, body, history)
        check_pictures(messages, service.options)
        seed = random_seed() if body.seed is None else body.seed
        answer = await service.begin(Call(messages, options(body), seed, body.n or 1, body.adapters))
        made, headers = f"chatcmpl-{uuid.uuid4().hex}", service.ignored(body)
        if body.stream:
            return EventStream(answer, chunks(service, history, answer, body, made, request), headers=headers)

        async def work() -> dict[str, Any]:
            replies = await answer.finish()
            for reply in replies:
                await service.in_thread(history.remember, reply.parts)
            files = [[await service.in_thread(png, image) for image in reply.images] for reply in replies]
            return completion(answer, body, made, files)

        return JSONResponse(await unless_disconnected(request, answer, work()), headers=headers)

    return router
