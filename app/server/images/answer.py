"""What the endpoints of pictures answer: OpenAI's objects, with ``seed`` beside their fields."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from ..service import Usage
from ..streaming import EVENTS


class InputTokens(BaseModel):
    """Of a prompt."""

    image_tokens: int
    text_tokens: int


class OutputTokens(BaseModel):
    """Of what the model said and drew."""

    image_tokens: int
    text_tokens: int


class ImagesUsage(BaseModel):
    """Tokens; a picture counts for the positions that it takes."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> ImagesUsage:
        """In OpenAI's form."""
        shown, drawn = usage.prompt_image_tokens, usage.image_tokens
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokens(image_tokens=shown, text_tokens=usage.prompt_tokens - shown),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokens(image_tokens=drawn, text_tokens=usage.completion_tokens - drawn),
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        )


class ImageOut(BaseModel):
    """One of ``n`` pictures, as a file in base64 or behind a URL of this server that expires."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    """What the model said before it drew"""
    seed: int

    def values(self) -> dict[str, Any]:
        """As JSON values: of file and URL that which there is."""
        return self.model_dump(exclude={"b64_json" if self.b64_json is None else "url"})


class ImagesResponse(BaseModel):
    """The answer to a request that does not stream."""

    created: int
    data: list[ImageOut]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    size: str
    usage: ImagesUsage

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return self.model_dump(exclude={"data"}) | {"data": [each.values() for each in self.data]}


DOCUMENTED: dict[int | str, dict[str, Any]] = {200: {"model": ImagesResponse, "content": {"text/event-stream": EVENTS}}}
"""Answers, for the OpenAPI document"""
