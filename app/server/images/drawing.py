"""What both endpoints do with a request: pictures are drawn, and answered at once or as events."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from ....inference.inputs import ContextLengthError
from ....inference.masks import keep_outside
from ....inference.reply import Reply
from ....mllm.events import PictureStep
from ....mllm.messages import Message
from ..errors import APIError
from ..pictures import encode, put
from ..service import Answer, Call, Service, random_seed
from ..streaming import EventStream, event, unless_disconnected
from .answer import ImageOut, ImagesResponse, ImagesUsage
from .fields import ImageFields


@dataclass(frozen=True)
class Work:
    """What is to be drawn."""

    kind: Literal["image_generation", "image_edit"]
    """What the types of its events begin with"""
    messages: Sequence[Message]
    options: dict[str, Any]
    """Of `Limner.generate`"""
    kept: tuple[Image.Image, Image.Image] | None = None
    """A picture and its mask, of the size of the drawing: only what is marked is drawn"""
    headers: dict[str, str] = field(default_factory=dict)

    def file(self, drawn: Image.Image, body: ImageFields) -> bytes:
        """A picture, done or on its way, as the client gets it."""
        picture = keep_outside(drawn, *self.kept) if self.kept else drawn
        return encode(picture, file_format(body), 100 if body.output_compression is None else body.output_compression)


async def draw(service: Service, request: Request, body: ImageFields, work: Work) -> Response:
    """The answer to a request. Raises APIError, and ValueError for what `Limner.request` refuses."""
    headers = service.ignored(body) | work.headers
    seed = random_seed() if body.seed is None else body.seed
    try:
        answer = await service.begin(Call(work.messages, work.options, seed, body.n or 1, body.adapters, draws=True))
    except ContextLengthError as error:
        raise APIError(str(error), param="prompt", code="context_length_exceeded") from None
    if body.stream:
        return EventStream(answer, events(service, answer, body, work), headers=headers)

    made = await unless_disconnected(request, answer, finish(service, request, answer, body, work))
    return JSONResponse(made.values(), headers=headers)


async def finish(service: Service, request: Request, answer: Answer, body: ImageFields, work: Work) -> ImagesResponse:
    """All pictures, when they are there."""
    replies, data = await answer.finish(), []
    for row, reply in enumerate(replies):
        file = await service.in_thread(work.file, reply.images[0], body)
        made = ImageOut(revised_prompt=plan(answer, row, reply), seed=answer.call.seed + row)
        if body.response_format == "url":
            made.url = put(service, file, request, file_format(body))
        else:
            made.b64_json = base64.b64encode(file).decode()
        data.append(made)
    return ImagesResponse(
        created=int(time.time()),
        data=data,
        output_format=file_format(body),
        size=size(replies[0].images[0]),
        usage=ImagesUsage.of(answer.usage),
    )


async def events(service: Service, answer: Answer, body: ImageFields, work: Work) -> AsyncGenerator[bytes, None]:
    """Pictures as they stand on the way, then the one that is done."""
    shown = 0

    async def of(kind: str, image: Image.Image, **values: Any) -> bytes:
        name = f"{work.kind}.{kind}"
        common = {
            "type": name,
            "b64_json": base64.b64encode(await service.in_thread(work.file, image, body)).decode(),
            "created_at": int(time.time()),
            "size": size(image),
            "quality": "auto",
            "background": "opaque",
            "output_format": file_format(body),
        }
        return event(common | values, name)

    async for happened in answer.events():
        if isinstance(happened, PictureStep) and happened.image is not None:
            yield await of("partial_image", happened.image, partial_image_index=shown)
            shown += 1
    (reply,) = answer.replies
    values = {"revised_prompt": plan(answer, 0, reply), "seed": answer.call.seed}
    yield await of("completed", reply.images[0], usage=ImagesUsage.of(answer.usage).model_dump(), **values)


def file_format(body: ImageFields) -> Literal["png", "jpeg", "webp"]:
    """Of the pictures' files."""
    return body.output_format or "png"


def size(image: Image.Image) -> str:
    """WIDTHxHEIGHT."""
    return f"{image.width}x{image.height}"


def plan(answer: Answer, row: int, reply: Reply) -> str | None:
    """What the model said before it drew; None where it said nothing, or drew only because it had to."""
    first = next(i for i, part in enumerate(reply.parts) if isinstance(part, Image.Image))
    return None if row in answer.silent else Reply(reply.parts[:first], "stop").text or None
