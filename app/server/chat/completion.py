"""What `/v1/chat/completions` answers: OpenAI's objects, with ``images``, ``parts`` and ``seed`` beside their fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ....inference.reply import Reply
from ..pictures import data_uri, markdown_link
from ..service import Usage, texts_and_images

FinishReason = Annotated[str, Field(json_schema_extra={"enum": ["stop", "length"]})]


class ImageUrlOut(BaseModel):
    """A data URI, or a URL of this server that expires."""

    url: str


class ImageOut(BaseModel):
    """A picture of a reply."""

    type: Literal["image_url"] = "image_url"
    index: int
    image_url: ImageUrlOut


class PartOut(BaseModel):
    """Words, or the picture of this index in ``images``."""

    type: Literal["text", "image"]
    text: str | None = None
    index: int | None = None


class MessageOut(BaseModel):
    """A reply: ``content`` is always a string, since clients break otherwise."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    images: list[ImageOut] | None = None
    parts: list[PartOut] | None = None


class Choice(BaseModel):
    """One of ``n`` replies."""

    index: int
    message: MessageOut
    finish_reason: FinishReason
    logprobs: None = None
    seed: int


class TokenDetails(BaseModel):
    """Of a completion's tokens."""

    image_tokens: int


class CompletionUsage(BaseModel):
    """Tokens; a picture counts for the positions that it takes."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: TokenDetails

    @classmethod
    def of(cls, usage: Usage) -> CompletionUsage:
        """In OpenAI's form."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            completion_tokens_details=TokenDetails(image_tokens=usage.image_tokens),
        )


class ChatCompletion(BaseModel):
    """The answer to a request that does not stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class Delta(BaseModel):
    """What a chunk adds to a reply."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    images: list[ImageOut] | None = None
    seed: int | None = None


class ChunkChoice(BaseModel):
    """Of one of ``n`` replies."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class ChatCompletionChunk(BaseModel):
    """A chunk of a stream; ``usage`` comes with the last one where it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None

    def values(self) -> dict[str, Any]:
        """As JSON values; a delta has the fields that it adds, and no others."""
        made = self.model_dump(exclude={"usage"})
        for choice, own in zip(made["choices"], self.choices, strict=True):
            choice["delta"] = own.delta.model_dump(exclude_none=True)
        return made | ({"usage": self.usage and self.usage.model_dump()} if "usage" in self.model_fields_set else {})


def image(index: int, url: str) -> ImageOut:
    """One of ``images``."""
    return ImageOut(index=index, image_url=ImageUrlOut(url=url))


def linked_message(reply: Reply, urls: list[str]) -> MessageOut:
    """Of a reply whose pictures are links in its words."""
    links = iter(map(markdown_link, urls))
    return MessageOut(content="".join(part if isinstance(part, str) else next(links) for part in reply.parts))


def message(reply: Reply, files: list[bytes]) -> MessageOut:
    """Of a reply and its pictures as PNG files."""
    parts = texts_and_images(reply)
    places = iter(range(len(files)))
    return MessageOut(
        content="".join(part for part in parts if isinstance(part, str)),
        images=[image(place, data_uri(data)) for place, data in enumerate(files)] or None,
        parts=[
            PartOut(type="text", text=part) if isinstance(part, str) else PartOut(type="image", index=next(places))
            for part in parts
        ],
    )
