"""Edits of a part of a picture: it is shown to the model in the colour of masks, and what is drawn elsewhere is not used.

A mask is an image of mode "L" of the picture's size, 255 where the picture is to be edited and 0 elsewhere. Where none is given,
`kept_pixels` finds out what an edit has not changed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image, ImageOps

from ..mllm.config import LimnerConfig
from ..mllm.events import Event, PictureDone, each_event
from .generation_config import whole_number
from .images import OWNER, PictureLimits, load_mask
from .reply import Reply
from .resizing import nearest_size, resize_and_crop


def read_mask(
    mask: Any, picture: Image.Image, allow_urls: Sequence[str] = (), limits: PictureLimits = OWNER
) -> Image.Image:
    """The mask of a picture, from a box (left, top, right, bottom in pixels, right and bottom not included) or from whatever
    `load_mask` reads: with transparency it marks what is transparent, else what is white.

    Raises ValueError for a box that does not lie in the picture, and for a mask of another size or that marks nothing.
    """
    if isinstance(mask, (tuple, list)):
        return box_mask(mask, picture.size)
    marked = load_mask(mask, allow_urls, limits)
    if marked.size != picture.size:
        raise ValueError(
            f"the mask is {marked.width} x {marked.height} pixels and the picture {picture.width} x {picture.height}: "
            "they must be of one size"
        )
    if not marked.getbbox():
        raise ValueError(
            "the mask marks nothing: of one with transparency what is transparent is edited, of another one what is white"
        )
    return marked


def box_mask(box: Sequence[Any], size: tuple[int, int]) -> Image.Image:
    """The mask of a box (left, top, right, bottom) in a picture of ``size``, (width, height) as of PIL. Raises ValueError as
    `read_mask` does."""
    if len(box) != 4:
        raise ValueError(f"the box {tuple(box)!r:.60} is not left, top, right and bottom in pixels")
    left, top, right, bottom = (whole_number("a side of the box", value) for value in box)
    own = (left, top, right, bottom)
    width, height = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"the box {own} does not lie in the picture: left must be less than right, of 0 to {width}, and top less than "
            f"bottom, of 0 to {height}"
        )
    marked = Image.new("L", size, 0)
    marked.paste(255, own)
    return marked


def fit_mask(picture: Image.Image, mask: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Picture and mask scaled and cropped to ``size``, (height, width), of a drawing. A pixel that is marked in part is marked.

    Raises ValueError where all that is marked is cropped away.
    """
    if mask.size == (size[1], size[0]):
        return picture, mask
    fitted = ImageOps.fit(mask, (size[1], size[0]), Image.Resampling.BOX).point([0] + [255] * 255)
    if not fitted.getbbox():
        raise ValueError(
            f"nothing of what the mask marks is left when the picture is cut to {size[1]} x {size[0]}: cut it yourself, or "
            "choose another size"
        )
    return resize_and_crop(picture, size), fitted


def masked(picture: Image.Image, mask: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """The picture with what is marked in one colour: a model's `LimnerConfig.mask_color`."""
    hidden = Image.composite(Image.new("RGB", picture.size, color), picture, mask)
    hidden.info = {}  # of how the picture was drawn, which this one was not
    return hidden


def mask_picture(
    picture: Image.Image,
    mask: Any,
    config: LimnerConfig,
    size: tuple[int, int] | None = None,
    allow_urls: Sequence[str] = (),
) -> tuple[Image.Image, Image.Image]:
    """What a model of this ``config`` is shown of a picture whose part under the mask (what `read_mask` reads) it is to draw, and
    that mask; both at the ``size`` of the answer, (height, width), by default the nearest of the model's shapes.

    Raises ValueError as `read_mask` and `fit_mask` do.
    """
    marked = read_mask(mask, picture, allow_urls)
    picture, marked = fit_mask(picture, marked, size or nearest_size(picture, config))
    return masked(picture, marked, config.mask_color), marked


def keep_outside(drawn: Image.Image, picture: Image.Image, mask: Image.Image) -> Image.Image:
    """What was drawn where the mask marks, and the pixels of the picture, masked or not, elsewhere. Picture and mask are brought
    to the size of the drawing (`fit_mask`); what the drawing says of how it was drawn stays with it."""
    picture, mask = fit_mask(picture, mask, (drawn.height, drawn.width))
    kept = Image.composite(drawn, picture, mask)
    kept.info = dict(drawn.info)
    return kept


def edited_reply(reply: Reply, picture: Image.Image, mask: Image.Image) -> Reply:
    """The reply with its pictures as `keep_outside` gives them."""
    parts = [keep_outside(part, picture, mask) if isinstance(part, Image.Image) else part for part in reply.parts]
    return replace(reply, parts=parts)


def edited_event(event: Event, picture: Image.Image, mask: Image.Image) -> Event:
    """The event with its picture, if it has one, as `keep_outside` gives it."""
    return replace(event, image=keep_outside(event.image, picture, mask)) if isinstance(event, PictureDone) else event


def edited_events(
    events: Generator[Event, None, list[Reply]], picture: Image.Image, mask: Image.Image
) -> Generator[Event, None, list[Reply]]:
    """Events and replies with their pictures as `keep_outside` gives them."""
    replies = yield from each_event(events, lambda event: edited_event(event, picture, mask))
    return [edited_reply(reply, picture, mask) for reply in replies]
