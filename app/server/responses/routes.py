"""The endpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from ....inference.inputs import ContextLengthError, recent_messages
from ....inference.masks import fit_mask, keep_outside, masked
from ....inference.resizing import nearest_size
from ....mllm.messages import Message
from ..errors import APIError
from ..fields import DECODING, DRAWING, given, parse_size
from ..history import History
from ..service import Answer, Call, Service, random_seed
from ..streaming import EventStream, event, unless_disconnected
from .input import Input, read_input, with_instructions, without_first_exchange
from .output import Values, response_values
from .schemas import ResponseRequest
from .stored import StoredResponses, new_id
from .streaming import ResponseEvents


def options(body: ResponseRequest, service: Service) -> dict[str, Any]:
    """Of `Limner.generate`. Raises APIError for those that exclude each other and a size that is not drawn."""
    tool, made = body.tool, given(body, (*DECODING, *DRAWING, "max_images"))
    if body.max_output_tokens is not None:
        made["max_new_tokens"] = body.max_output_tokens
    calls = body.max_tool_calls
    if calls is not None and made.setdefault("max_images", calls) != calls:
        raise APIError("max_images and max_tool_calls differ", param="max_images", code="invalid_value")
    if body.tool_choice == "none":
        made["images"] = "never"
    if body.stream and tool.partial_images:
        made["partial_images"] = tool.partial_images
    try:
        size = parse_size(tool.size)
        if size:
            service.check_size(**size)
    except (ValueError, APIError) as error:
        raise of_tool(body, "size", str(error).removeprefix("size: ")) from None
    return made | size


def of_tool(body: ResponseRequest, name: str, message: str) -> APIError:
    """A mistake in a field of the image_generation tool."""
    param = f"tools.{body.own_tools[0]}.{name}"
    return APIError(f"{param}: {message}", param=param, code="invalid_value")


def check_tools(body: ResponseRequest, service: Service, has_pictures: bool) -> None:
    """Raises APIError for what the tools of a request ask for in vain."""
    tool = body.tool
    if len(body.own_tools) > 1:
        param = f"tools.{body.own_tools[1]}"
        raise APIError(f"{param}: image_generation is given twice", param=param, code="invalid_value")
    if body.tool_choice == "required" and body.tools and not body.own_tools:
        raise APIError(
            "tool_choice is required, and this model calls no tool but image_generation",
            param="tool_choice",
            code="invalid_value",
        )
    if tool.model not in (None, service.model.name):
        raise of_tool(body, "model", f"no model {tool.model!r:.80}; this server has {service.model.name!r}")
    if tool.output_format in (None, "png") and tool.output_compression not in (None, 100):
        raise of_tool(body, "output_compression", "png keeps every pixel; choose output_format jpeg or webp")
    if tool.action == "edit" and not has_pictures:
        raise of_tool(body, "action", "it is edit, and there is no picture to edit")
    if tool.action == "generate" and has_pictures:
        raise of_tool(
            body,
            "action",
            "it is generate, and each drawing may be made from the pictures of this conversation: leave it to auto, or begin "
            "another conversation",
        )


def pictures_in(messages: Sequence[Message]) -> list[Image.Image]:
    """All pictures of a conversation, oldest first."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def mask_picture(
    body: ResponseRequest, service: Service, history: History, before: Sequence[Message], new: list[Message]
) -> tuple[Image.Image, Image.Image] | None:
    """Hides what the mask of a request marks: in the picture of the last message of the user, or in the conversation's last,
    which is then shown with it. Returns the picture and its mask, of the size of the drawing; None without a mask.

    Raises APIError for a mask that does not fit.
    """
    if body.tool.input_image_mask is None:
        return None
    where = f"tools.{body.own_tools[0]}.input_image_mask"
    question = next((message for message in reversed(new) if message["role"] == "user"), None)
    shown = pictures_in([question] if question else [])
    pictures = shown or pictures_in([*before, *new])
    if question is None or not pictures or len(shown) > 1:
        raise APIError(
            f"{where}: a mask is of one picture in the last message of the user, or of the conversation's last; there are "
            f"{len(pictures)}",
            param=where,
            code="invalid_value",
        )
    picture, model = pictures[-1], service.model
    size = parse_size(body.tool.size)
    drawn = (size["height"], size["width"]) if size else nearest_size(picture, model.config)
    mask = history.load_mask(body.tool.input_image_mask.image_url, picture, f"{where}.image_url")
    try:
        kept = fit_mask(picture, mask, drawn)
    except ValueError as error:
        raise APIError(f"{where}: {error}", param=where, code="invalid_image") from None
    hidden = {"type": "image", "image": masked(*kept, model.config.mask_color)}
    content = [hidden if part["type"] == "image" else part for part in question["content"]]
    question["content"] = content if shown else [hidden, *content]
    return kept


async def begin(service: Service, call: Call, truncate: bool) -> Answer:
    """As `Service.begin`; with ``truncate`` the first exchanges of a conversation that is too long are left out."""
    while True:
        try:
            return await service.begin(call)
        except ContextLengthError as error:
            shorter = without_first_exchange(call.messages) if truncate else None
            if shorter is None:
                raise APIError(str(error), param="input", code="context_length_exceeded") from None
            call = replace(call, messages=shorter)


class Turn:
    """A request that is being answered."""

    def __init__(
        self, body: ResponseRequest, own_input: Input, stored: StoredResponses, answer: Answer, events: ResponseEvents
    ) -> None:
        self.body, self.input, self.stored, self.answer, self.events = body, own_input, stored, answer, events

    async def all_events(self) -> AsyncGenerator[Values, None]:
        """All of them; before the last one the response is stored."""
        async for made in self.events.begun():
            yield made
        async for made in self.events.items():
            yield made
        last = self.events.last()
        if self.body.store is not False:
            await self.answer.service.in_thread(
                self.stored.put, last["response"], self.input.items, [*self.input.messages, self.reply()]
            )
        yield last

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The events as a client gets them."""
        async for made in self.all_events():
            yield event(made, made["type"])

    async def finish(self) -> Values:
        """The response, when its reply has ended."""
        last: Values = {}
        async for made in self.all_events():
            last = made
        return last["response"]

    def reply(self) -> Message:
        """The message of the reply, with the pictures as they were given out."""
        (reply,), images = self.answer.replies, iter(self.events.images)
        parts = [next(images) if isinstance(part, Image.Image) else part for part in reply.parts]
        return replace(reply, parts=parts).message()


def routes(service: Service, history: History) -> APIRouter:
    """The endpoints of responses."""
    router = APIRouter()
    stored = StoredResponses(service.store, service.model.encoder.spells)

    @router.post("/v1/responses")
    async def create_response(body: ResponseRequest, request: Request) -> Response:
        """Answer a conversation in words and pictures, in order."""
        service.check_model(body.model)
        response_id, wanted = new_id(), options(body, service)
        own_input = await service.in_thread(read_input, body, history, stored, response_id)
        before: list[Message] = []
        if body.previous_response_id is not None:
            before = await service.in_thread(stored.conversation, body.previous_response_id)
        has_pictures = bool(pictures_in([*before, *own_input.messages]))
        check_tools(body, service, has_pictures)
        kept = await service.in_thread(mask_picture, body, service, history, before, own_input.messages)
        if kept is not None:
            wanted |= {"height": kept[0].height, "width": kept[0].width}
        messages = with_instructions(body.instructions, [*before, *own_input.messages])
        last = service.model.defaults.updated(given(body, ("history",))).history
        seed = random_seed() if body.seed is None else body.seed
        draws = body.tool_choice not in (None, "auto", "none")
        call = Call(recent_messages(messages, last), wanted, seed, adapters=body.adapters, draws=draws)
        headers = service.ignored(body)
        answer = await begin(service, call, body.truncation == "auto")
        assert answer.request is not None
        response = response_values(body, response_id, seed, answer.request.config)
        finish = partial(keep_outside, picture=kept[0], mask=kept[1]) if kept else None
        events = ResponseEvents(answer, response, body.tool, has_pictures, finish)
        turn = Turn(body, own_input, stored, answer, events)
        if body.stream:
            return EventStream(answer, turn.chunks(), events.failed, headers)
        return JSONResponse(await unless_disconnected(request, answer, turn.finish()), headers=headers)

    @router.get("/v1/responses/{response_id}")
    def retrieve_response(response_id: str, stream: bool = False) -> dict[str, Any]:
        """A response that is stored."""
        if stream:
            raise APIError("stream: a stored response is given at once", param="stream", code="invalid_value")
        return stored.found(response_id)["response"]

    @router.delete("/v1/responses/{response_id}")
    def delete_response(response_id: str) -> dict[str, Any]:
        """Remove a response; conversations do not go on from it any more."""
        stored.remove(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.get("/v1/responses/{response_id}/input_items")
    def list_input_items(
        response_id: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """What a stored response was the answer to, without what its previous responses were."""
        items = stored.found(response_id)["input"]
        items = items if order == "asc" else items[::-1]
        if after is not None:
            places = [i for i, item in enumerate(items) if item["id"] == after]
            if not places:
                raise APIError(f"after: no item {after[:80]!r}", param="after", code="invalid_value")
            items = items[places[0] + 1 :]
        page = items[:limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(items) > len(page),
        }

    return router
