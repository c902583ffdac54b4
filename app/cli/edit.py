"""``limner edit``."""

import sys
from typing import Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from .draw import check_drawing, show_drawn
from .options import (
    EDITING,
    LOADING,
    AllowUrl,
    Loading,
    NoMetadata,
    Out,
    Prompt,
    Size,
    Whole,
    checked,
    takes,
)
from .paths import typed_mask


@takes(GenerationConfig, EDITING, shown=False)
def edit(
    image: str,
    prompt: Prompt,
    /,
    *,
    loading: Loading = LOADING,
    allow_url: AllowUrl = (),
    mask: str | None = None,
    out: Out | None = None,
    seed: Whole = 0,
    size: Size | None = None,
    no_metadata: NoMetadata = False,
    **options: Unpack[GenerationOptions],
) -> None:
    """Change a picture.

    Args:
        image: file of the picture, or its URL
        allow_url: a host whose URLs are fetched; repeatable
        mask: LEFT,TOP,RIGHT,BOTTOM in pixels, or the file of a mask, transparent or
            else white where the picture is to change; the rest of it stays
        prompt: what to change; after -- it may begin with a dash
        out: file to write (default: the first of limner-001.png, limner-002.png, ... that is free)
        seed: the same request and seed give the same picture
        size: height and width in pixels, such as 128x128
        no_metadata: write no prompt, seed and options into the PNG file
    """
    from ...inference.images import load_image, local_path
    from ...inference.masks import read_mask
    from ...inference.progress import ProgressBar
    from ...inference.resizing import nearest_size

    request = {"seed": seed, **checked(options, size)}
    edited = load_image(image, allow_url)
    check_drawing(out, prompt, local_path(image))
    marked = None if mask is None else read_mask(typed_mask(mask), edited, allow_url)
    model = loading.load()
    asked = (request["height"], request["width"]) if "height" in request else None
    if note := model.resize_note(edited, asked):
        print(note, file=sys.stderr)
        height, width = asked or nearest_size(edited, model.config)
        request |= {"height": height, "width": width}
    with ProgressBar() as progress:
        reply = model.edit(edited, prompt, marked, callback=progress, **request)
    show_drawn(reply.images[0], reply.text, out, no_metadata)
