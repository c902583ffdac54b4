"""What clients send: OpenAI's fields, and Limner's beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from ..fields import (
    DECODING,
    DRAWING,
    EDITING,
    NO_EFFECT,
    AlwaysFalse,
    Empty,
    Extensions,
    RequestModel,
    Zero,
    options_model,
)

ResponseOptions = options_model("ResponseOptions", (*DECODING, *DRAWING, *EDITING, "max_images", "history"))
ID = Annotated[str, Field(max_length=128)]


def refuse(value: Any) -> None:
    """For fields that could only be honoured by what there is not. Raises ValueError for any value but None."""
    if value is not None:
        raise ValueError("no files are kept here: send the picture itself, as a data URI")


FileId = Annotated[None, BeforeValidator(refuse)]


class InputText(RequestModel):
    """Words that were said to the model."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = Field(None, json_schema_extra=NO_EFFECT)


class InputImage(RequestModel):
    """A picture that was shown to the model: a data URI, or an http(s) URL of a host that the server allows."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = Field(None, json_schema_extra=NO_EFFECT)
    file_id: FileId = None
    prompt_cache_breakpoint: dict[str, Any] | None = Field(None, json_schema_extra=NO_EFFECT)


class OutputText(RequestModel):
    """Words of a reply."""

    type: Literal["output_text"]
    text: str
    annotations: Empty | None = None
    logprobs: Empty | None = None


class Refusal(RequestModel):
    """Words of another model's reply."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[InputText | InputImage | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(RequestModel):
    """A message, or the words of one in ``output``."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: ID | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = Field(None, json_schema_extra=NO_EFFECT)
    phase: Literal["commentary", "final_answer"] | None = Field(None, json_schema_extra=NO_EFFECT)


class PictureItem(RequestModel):
    """A picture of ``output``: ``result``, or only the id of one that was stored."""

    type: Literal["image_generation_call"]
    id: ID | None = None
    result: str | None = None
    status: Literal["in_progress", "completed", "generating", "failed"] | None = None
    action: str | None = None
    background: str | None = None
    error: dict[str, Any] | None = None
    output_format: str | None = None
    quality: str | None = None
    revised_prompt: str | None = None
    size: str | None = None
    svg_usage: None = None


class ItemReference(RequestModel):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: ID


def item_type(item: Any) -> Any:
    """Which item this is: a message and a reference may leave their type out."""
    read = item.get if isinstance(item, dict) else lambda name: getattr(item, name, None)
    return read("type") or ("item_reference" if read("role") is None and read("id") else "message")


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[PictureItem, Tag("image_generation_call")]
    | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(
        item_type,
        custom_error_type="unsupported_item",
        custom_error_message="items are message, image_generation_call and item_reference: this model calls no other tools",
    ),
]


class Mask(RequestModel):
    """Of the picture that is to be edited: where it is transparent, it is drawn anew."""

    image_url: str
    file_id: FileId = None


class ImageGenerationTool(RequestModel):
    """How the model's pictures are drawn."""

    type: Literal["image_generation"]
    action: Literal["auto", "generate", "edit"] | None = Field(
        None,
        description="edit: there must be a picture to edit; generate: there must be none; auto: whatever there is, is used",
    )
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto")
    input_image_mask: Mask | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(None, description="of a stream")
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="quality of JPEG and WebP, 100 by default; PNG keeps every pixel, for 100 or nothing"
    )
    background: Literal["auto", "opaque"] | None = None
    quality: Literal["auto"] | None = Field(None, description="num_inference_steps says it")
    input_fidelity: Literal["low", "high"] | None = Field(
        None, json_schema_extra=NO_EFFECT, description="image_guidance_scale says it"
    )
    moderation: Literal["auto", "low"] | None = Field(None, json_schema_extra=NO_EFFECT)
    model: str | None = None


class OtherTool(BaseModel):
    """A tool that the model may call, and never does."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(json_schema_extra={"not": {"const": "image_generation"}})


def tool_type(tool: Any) -> str:
    """Which of `Tool`."""
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "image_generation" if kind == "image_generation" else "other"


Tool = Annotated[
    Annotated[ImageGenerationTool, Tag("image_generation")] | Annotated[OtherTool, Tag("other")],
    Discriminator(tool_type),
]


class ToolChoice(RequestModel):
    """A picture, whatever the model would say."""

    type: Literal["image_generation"]


class Reasoning(RequestModel):
    """The model writes no thoughts that it does not say."""

    effort: str | None = Field(None, json_schema_extra=NO_EFFECT)
    summary: str | None = Field(None, json_schema_extra=NO_EFFECT)
    generate_summary: str | None = Field(None, json_schema_extra=NO_EFFECT)


class TextFormat(RequestModel):
    """Only text."""

    type: Literal["text"]


class TextConfig(RequestModel):
    """Of the words of a response."""

    format: TextFormat | None = None
    verbosity: str | None = Field(None, json_schema_extra=NO_EFFECT)


class StreamOptions(RequestModel):
    """Of a stream."""

    include_obfuscation: bool | None = Field(None, json_schema_extra=NO_EFFECT)


Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
]
"""Of what there is all of it is in a response anyway, and there are no logprobs"""
Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class ResponseRequest(Extensions, ResponseOptions):  # type: ignore[misc, valid-type]  # the fields are made
    """Without an ``image_generation`` tool the model draws when it decides to, too; ``tool_choice`` "none" means no pictures."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: ID | None = None
    store: bool | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = Field(
        None, description="how pictures are drawn; the model may call other tools, and never does"
    )
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_tool_calls: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="pictures of a reply, as max_images"
    )
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[Includable] | None = None
    top_logprobs: Zero | None = None
    background: AlwaysFalse | None = None
    conversation: None = None
    prompt: None = None
    moderation: None = None
    context_management: Empty | None = None
    parallel_tool_calls: bool | None = Field(None, json_schema_extra=NO_EFFECT)
    user: str | None = Field(None, json_schema_extra=NO_EFFECT)
    safety_identifier: str | None = Field(None, json_schema_extra=NO_EFFECT)
    prompt_cache_key: str | None = Field(None, json_schema_extra=NO_EFFECT)
    prompt_cache_options: dict[str, Any] | None = Field(None, json_schema_extra=NO_EFFECT)
    prompt_cache_retention: str | None = Field(None, json_schema_extra=NO_EFFECT)
    service_tier: str | None = Field(None, json_schema_extra=NO_EFFECT)

    @property
    def own_tools(self) -> list[int]:
        """Places of image_generation in ``tools``."""
        return [i for i, tool in enumerate(self.tools or ()) if isinstance(tool, ImageGenerationTool)]

    @property
    def tool(self) -> ImageGenerationTool:
        """How pictures are drawn."""
        places = self.own_tools
        found = self.tools[places[0]] if self.tools and places else None
        return found if isinstance(found, ImageGenerationTool) else ImageGenerationTool(type="image_generation")

    @property
    def must_draw(self) -> bool:
        """Whether there is to be a picture, whatever the model would say."""
        return self.tool_choice not in (None, "auto", "none")

    def ignored(self) -> set[str]:
        """As of all requests; tools that are never called, and what is shown in streams alone, too."""
        names = super().ignored()
        if len(self.own_tools) < len(self.tools or ()):
            names.add("tools")
        if self.tool.partial_images and not self.stream:
            names.add("partial_images")
        return names
