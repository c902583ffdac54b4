"""Fields of ``/v1/images/generations`` and ``/v1/images/edits``, and what both routes of a client's body say in the OpenAPI
document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import APIError
from ..fields import (
    DRAWING,
    EDITING,
    NO_EFFECT,
    DrawingFields,
    EditingFields,
    Extensions,
    RequestModel,
    given,
    parse_size,
)


def size_or_auto(text: str) -> str:
    """Raises ValueError for what is neither."""
    parse_size(text)
    return text


def no_file(value: Any) -> None:
    """Raises ValueError for the name of a file."""
    if value is not None:
        raise ValueError("no files are kept here: send the picture along, as image_url")


class ImageFields(Extensions, DrawingFields):  # type: ignore[misc, valid-type]  # the fields are made
    """What both endpoints take."""

    prompt: Annotated[str, Field(max_length=32_000, pattern=r"\S")]
    model: str | None = Field(None, description="the model that is served, also where it is not given")
    n: Annotated[int, Field(ge=1)] | None = Field(
        None, description="pictures, with the seeds seed, seed + 1, …; 1 where it streams"
    )
    size: Annotated[str, AfterValidator(size_or_auto)] | None = Field(
        None, description="WIDTHxHEIGHT in pixels, or auto"
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="url: of this server, for a while; b64_json where it streams and where nothing is said"
    )
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="quality of jpeg and webp, 100 unless given"
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="pictures have no transparency")
    quality: Literal["auto", "standard"] | None = Field(None, description="num_inference_steps chooses it")
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="pictures as they stand on the way, where it streams"
    )
    complexity: None = None
    frame_count: None = None
    frame_duration_ms: None = None
    svg: None = None
    moderation: Literal["auto", "low"] | None = Field(None, json_schema_extra=NO_EFFECT)
    user: str | None = Field(None, json_schema_extra=NO_EFFECT)
    safety_identifier: str | None = Field(None, json_schema_extra=NO_EFFECT)


class GenerationRequest(ImageFields):
    """OpenAI's fields, and Limner's beside them."""

    style: Literal["vivid"] | None = Field(None, json_schema_extra=NO_EFFECT, description="say it in the prompt")


class EditFields(ImageFields, EditingFields):  # type: ignore[misc, valid-type]  # the fields are made
    """Of an edit, but for its pictures."""

    input_fidelity: Literal["low", "high"] | None = Field(
        None,
        json_schema_extra=NO_EFFECT,
        description="the model always sees the whole picture; image_guidance_scale tells it how much to keep",
    )


class ImageReference(RequestModel):
    """A data URI, or an http(s) URL of a host that the server allows."""

    file_id: Annotated[None, BeforeValidator(no_file)] = None
    image_url: str


class EditRequest(EditFields):
    """An edit as JSON; with multipart/form-data its pictures are files."""

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=16)]
    mask: ImageReference | None = Field(None, description="of the first picture: what is transparent is edited")


def drawing_options(body: ImageFields) -> dict[str, Any]:
    """Of `Limner.generate`. Raises APIError for fields that exclude each other."""
    if body.stream and (body.n or 1) > 1:
        raise APIError("n: streaming is only supported with n=1", param="n", code="invalid_value")
    if body.stream and body.response_format == "url":
        raise APIError(
            "response_format: the events of a stream hold pictures as b64_json",
            param="response_format",
            code="invalid_value",
        )
    if body.partial_images and not body.stream:
        raise APIError(
            "partial_images: pictures on the way are shown with stream=true alone",
            param="partial_images",
            code="invalid_value",
        )
    if body.output_compression not in (None, 100) and body.output_format in (None, "png"):
        raise APIError(
            "output_compression: png keeps every pixel; choose output_format jpeg or webp",
            param="output_compression",
            code="invalid_value",
        )
    return given(body, (*DRAWING, *EDITING, "partial_images")) | parse_size(body.size)


def edit_body() -> dict[str, Any]:
    """The body of an edit in the OpenAPI document: JSON, or a form with files."""
    form = EditFields.model_json_schema()
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    files = {"type": "array", "items": file, "minItems": 1}
    form["properties"] |= {
        "image": {"anyOf": [file, files], "description": "the picture, or several: the field may be repeated"},
        "image[]": files | {"description": "the same under the name that OpenAI's clients use for several"},
        "mask": file | {"description": "of the first picture: what is transparent is edited"},
    }
    form["anyOf"] = [{"required": ["image"]}, {"required": ["image[]"]}]
    json = EditRequest.model_json_schema()
    content = {
        "multipart/form-data": {"schema": form, "encoding": {"adapters": {"style": "deepObject", "explode": True}}},
        "application/json": {"schema": inlined(json, json.pop("$defs"))},
    }
    return {"requestBody": {"required": True, "content": content}}


def inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its definitions in place of references to them: in another document these lead nowhere."""
    if isinstance(schema, dict):
        if name := schema.get("$ref"):
            return inlined(definitions[name.rpartition("/")[2]], definitions)
        return {key: inlined(value, definitions) for key, value in schema.items()}
    return [inlined(value, definitions) for value in schema] if isinstance(schema, list) else schema
