"""What `/v1/chat/completions` takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from ....mllm.messages import Message
from ..errors import APIError
from ..fields import (
    DECODING,
    DRAWING,
    EDITING,
    NO_EFFECT,
    AlwaysFalse,
    AlwaysTrue,
    DecodingFields,
    Empty,
    Extensions,
    NoKeys,
    RequestModel,
    Zero,
    given,
    parse_size,
)
from ..history import History, Part


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
    # litellm's
    provider_specific_fields: Any = Field(None, json_schema_extra=NO_EFFECT)
    reasoning_content: Any = Field(None, json_schema_extra=NO_EFFECT)
    thinking_blocks: Any = Field(None, json_schema_extra=NO_EFFECT)
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
    picture_format: Literal["images", "markdown"] | None = Field(
        None,
        description='how pictures come: beside the words, in "images", or as links in them, for clients that show and send back '
        "nothing but words; the header X-Limner-Picture-Format says the same where a client has no other fields",
    )
    size: str | None = Field(None, description="of its pictures: WIDTHxHEIGHT in pixels, or auto")
    n: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: NoKeys | None = None
    logprobs: AlwaysFalse | None = None
    top_logprobs: Zero | None = None
    tools: list[dict[str, Any]] | None = Field(
        None, json_schema_extra=NO_EFFECT, description="the model may call one, and never does"
    )
    functions: list[dict[str, Any]] | None = Field(None, json_schema_extra=NO_EFFECT)
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
    # what vLLM's router adds to every request
    ignore_eos: AlwaysFalse | None = None
    no_stop_trim: AlwaysFalse | None = None
    continue_final_message: AlwaysFalse | None = None
    return_hidden_states: AlwaysFalse | None = None
    skip_special_tokens: AlwaysTrue | None = None
    separate_reasoning: bool | None = Field(None, json_schema_extra=NO_EFFECT)
    stream_reasoning: bool | None = Field(None, json_schema_extra=NO_EFFECT)
    include_reasoning: bool | None = Field(None, json_schema_extra=NO_EFFECT)


def options(body: ChatCompletionRequest) -> dict[str, Any]:
    """Of `Limner.generate`. Raises ValueError for those that exclude each other."""
    made = given(body, (*DECODING, *DRAWING, *EDITING, "max_images", "stop")) | parse_size(body.size)
    limits = {limit for limit in (body.max_completion_tokens, body.max_tokens) if limit is not None}
    if len(limits) > 1:
        raise APIError("max_tokens and max_completion_tokens differ", param="max_tokens")
    made |= {"max_new_tokens": limits.pop()} if limits else {}
    wanted = set(body.modalities or ("text", "image"))
    if wanted != {"text", "image"}:
        made["images"] = "never" if wanted == {"text"} else "force"
    return made


def read_messages(body: ChatCompletionRequest, history: History) -> tuple[list[Message], int]:
    """Messages in the model's form, and the number of linked pictures in replies that are not here any more. Raises APIError for
    pictures that are not read and parts that do not fit."""
    messages, missing = [], 0
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
            parts, lost = history.linked(parts)
            missing += lost
        messages.append(history.message(role, parts))
    return messages, missing


def ordered(parts: list[Part], images: list[Image.Image], order: list[OrderPart] | None, where: str) -> list[Part]:
    """Words and pictures in the order of ``parts`` of a completion; where it is not told, the pictures come last. Raises APIError
    where it does not fit them."""
    if order is None:
        return [*parts, *images]
    words = "".join(part for part in parts if isinstance(part, str))
    said = "".join(part.text or "" for part in order if part.type == "text")
    places = [part.index for part in order if part.type == "image"]
    if said != words or sorted(-1 if p is None else p for p in places) != list(range(len(images))):
        raise APIError(f"{where}.parts: these are not the words of content and the pictures of images", param=where)
    return [part.text or "" if part.type == "text" else images[part.index or 0] for part in order]
