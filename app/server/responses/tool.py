"""What a request says of its pictures: the image_generation tool, and what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ....inference.masks import fit_mask, masked
from ....inference.resizing import nearest_size
from ....mllm.messages import Message
from ..errors import APIError
from ..fields import DECODING, DRAWING, EDITING, given, parse_size
from ..history import History
from ..service import Service
from .schemas import ResponseRequest


def options(body: ResponseRequest, service: Service) -> dict[str, Any]:
    """Of `Limner.generate`. Raises APIError for those that exclude each other and a size that is not drawn."""
    tool, made = body.tool, given(body, (*DECODING, *DRAWING, *EDITING, "max_images"))
    if body.max_output_tokens is not None:
        made["max_new_tokens"] = body.max_output_tokens
    calls = body.max_tool_calls
    if calls is not None and made.setdefault("max_images", calls) != calls:
        raise APIError("max_images and max_tool_calls differ", param="max_images", code="invalid_value")
    if body.tool_choice == "none":
        made["images"] = "never"
    if body.must_draw and made.get("max_images") == 0:
        raise APIError(
            "tool_choice asks for a picture, and there may be none", param="tool_choice", code="invalid_value"
        )
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
