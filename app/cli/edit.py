"""``limner edit``."""

import sys
from typing import Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from .draw import check_drawing, draw_and_save
from .options import DRAWING, LOADING, AllowUrl, Loading, Out, Prompt, Size, Whole, checked, takes


@takes(GenerationConfig, DRAWING, shown=False)
def edit(
    image: str,
    prompt: Prompt,
    /,
    *,
    loading: Loading = LOADING,
    allow_url: AllowUrl = (),
    out: Out | None = None,
    seed: Whole = 0,
    size: Size | None = None,
    **options: Unpack[GenerationOptions],
) -> None:
    """Change a picture.

    Args:
        image: file of the picture, or its URL
        allow_url: a host whose URLs are fetched; repeatable
        prompt: what to change; after -- it may begin with a dash
        out: file to write (default: the first of limner-001.png, limner-002.png, ... that is free)
        seed: the same request and seed give the same picture
        size: height and width in pixels, such as 128x128
    """
    from ...inference.images import load_image, local_path
    from ...inference.resizing import nearest_size

    request = {"seed": seed, **checked(options, size)}
    edited = load_image(image, allow_url)
    check_drawing(out, prompt, local_path(image))
    model = loading.load()
    asked = (request["height"], request["width"]) if "height" in request else None
    if note := model.resize_note(edited, asked):
        print(note, file=sys.stderr)
        height, width = asked or nearest_size(edited, model.config)
        request |= {"height": height, "width": width}
    content = [{"type": "image", "image": edited}, {"type": "text", "text": prompt}]
    draw_and_save(model, [{"role": "user", "content": content}], out, request)
