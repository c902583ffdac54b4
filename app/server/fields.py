"""Fields that the requests of all interfaces share."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, get_type_hints

from docstring_parser import parse_from_object
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, create_model, model_validator

from ...detokenizer.drawing_options import SAMPLERS
from ...inference.generation_config import GenerationConfig, GenerationOptions

MAX_SEED = 2**53 - 1
"""The largest that a client in JavaScript can say"""

NO_EFFECT: dict[str, Any] = {"x-no-effect": True}
"""Marks a field that many clients send and that changes nothing here"""


def boolean(value: Any) -> Any:
    """A Literal of False or True takes 0 or 1, too."""
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


AlwaysFalse = Annotated[Literal[False], BeforeValidator(boolean)]
AlwaysTrue = Annotated[Literal[True], BeforeValidator(boolean)]
Zero = Annotated[float, Field(ge=0, le=0)]
Empty = Annotated[list[Any], Field(max_length=0)]
NoKeys = Annotated[dict[str, Any], Field(max_length=0)]


class RequestModel(BaseModel):
    """Unknown fields are refused, unless they are null."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, values: Any) -> Any:
        """Clients send back what they were given with fields of their own that are null."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name in cls.model_fields}

    def ignored(self) -> set[str]:
        """Names of fields, of parts of it too, that were given and have no effect."""
        names: set[str] = set()
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is not None and type(self).model_fields[name].json_schema_extra == NO_EFFECT:
                names.add(name)
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, RequestModel):
                    names |= part.ignored()
        return names


Time = Annotated[float, Field(ge=0, le=1)]


BOUNDS: dict[str, Any] = {
    "max_new_tokens": Field(ge=1, le=1_000_000),
    "max_images": Field(ge=0, le=100),
    "temperature": Field(ge=0, le=100),
    "top_p": Field(gt=0, le=1),
    "top_k": Field(ge=0, le=10_000_000),
    "height": Field(ge=1, le=65_536),
    "width": Field(ge=1, le=65_536),
    "num_inference_steps": Field(ge=1, le=1000),
    "guidance_scale": Field(ge=0, le=1000),
    "image_guidance_scale": Field(ge=0, le=1000),
    "sampler": Field(json_schema_extra={"enum": [*SAMPLERS, None]}),
    "keep": Field(json_schema_extra={"enum": ["model", "exact", None]}),
    "partial_images": Field(ge=0, le=3),
    "history": Field(ge=0, le=10_000),
}
"""Of `GenerationConfig`'s fields, for the OpenAPI document; the config checks its values once more"""


def options_model(name: str, names: tuple[str, ...]) -> type[RequestModel]:
    """A model with these fields of `GenerationConfig`, which are left to the model's folder where they are null."""
    hints = get_type_hints(GenerationOptions)
    helps = {
        found.arg_name: found.description
        for base in GenerationConfig.__mro__[:-1]
        for found in parse_from_object(base).params
    }
    made: dict[str, Any] = {}
    for field in fields(GenerationConfig):
        if field.name in names:
            bound = BOUNDS.get(field.name)
            hint = hints[field.name] if bound is None else Annotated[hints[field.name], bound]
            hint = Annotated[tuple[Time, Time], Strict(False)] | None if field.name == "guidance_interval" else hint
            made[field.name] = (hint, Field(None, description=helps.get(field.name)))
    return create_model(name, __base__=RequestModel, **made)


DRAWING = (
    "num_inference_steps",
    "guidance_scale",
    "image_guidance_scale",
    "guidance_interval",
    "sampler",
)
"""Options of a picture that all interfaces take"""
EDITING = ("keep",)
"""Options of a picture that is made from another one"""
DECODING = ("temperature", "top_p", "top_k")

DrawingFields = options_model("DrawingFields", DRAWING)
EditingFields = options_model("EditingFields", EDITING)
DecodingFields = options_model("DecodingFields", (*DECODING, *DRAWING, *EDITING))


class Extensions(RequestModel):
    """What Limner takes beside OpenAI's own fields."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None,
        description="the same request and seed give the same reply; chosen at random, and told, where it is not given",
    )
    adapters: dict[str, float] | None = Field(None, description="names of loaded adapters with their weights")
    negative_prompt: Literal[""] | None = Field(
        None, description="no model has one yet: say in the prompt what the picture is to have instead"
    )


def given(body: RequestModel, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named fields that have a value."""
    return {name: value for name in names if (value := getattr(body, name, None)) is not None}


def parse_size(text: str | None) -> dict[str, int]:
    """OpenAI's "1024x768", the width first, as height and width; nothing for "auto" and None. Raises ValueError for anything
    else."""
    if text in (None, "auto"):
        return {}
    width, found, height = str(text).partition("x")
    if not (found and width.isdecimal() and height.isdecimal() and len(text) < 12):
        raise ValueError(f"size is {text!r:.40}; it must be auto or WIDTHxHEIGHT in pixels, such as 160x96")
    return {"height": int(height), "width": int(width)}
