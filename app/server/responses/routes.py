"""The endpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from ....inference.inputs import ContextLengthError, recent_messages
from ....inference.masks import keep_outside
from ....mllm.messages import Message
from ..errors import APIError
from ..fields import given
from ..history import History
from ..service import Answer, Call, Service, random_seed
from ..streaming import EVENTS, EventStream, event, unless_disconnected
from .input import Input, read_input, with_instructions, without_first_exchange
from .output import Values, response_values
from .schemas import ResponseRequest
from .stored import StoredResponses, new_id
from .streaming import ResponseEvents
from .tool import check_tools, mask_picture, options, pictures_in

OBJECT = {"type": "object", "required": ["id", "object", "status", "output"]}
"""Of a response in the OpenAPI document, which leaves the rest to OpenAI's"""


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
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "OpenAI's object of a response, or its events",
            "content": {"application/json": {"schema": OBJECT}, "text/event-stream": EVENTS},
        }
    }
    stored = StoredResponses(service.store, service.model.encoder.spells)

    @router.post("/v1/responses", responses=answers)
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
            wanted |= {"height": kept[0].height, "width": kept[0].width, "keep": "model"}
        messages = with_instructions(body.instructions, [*before, *own_input.messages])
        last = service.model.defaults.updated(given(body, ("history",))).history
        seed = random_seed() if body.seed is None else body.seed
        shown = recent_messages(messages, last)
        assert not isinstance(shown, str)  # it takes prompts too
        call = Call(shown, wanted, seed, adapters=body.adapters, draws=body.must_draw)
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
