"""``limner edit``."""

import sys
from typing import Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from .draw import draw_and_save, picture_file
from .options import DRAWING, LOADING, Loading, Out, Prompt, Size, Whole, checked, takes


@takes(GenerationConfig, DRAWING, shown=False)
def edit(
    image: str,
    prompt: Prompt,
    /,
    *,
    loading: Loading = LOADING,
    out: Out | None = None,
    seed: Whole = 0,
    size: Size | None = None,
    **options: Unpack[GenerationOptions],
) -> None:
    """Change a picture.

    Args:
        image: file of the picture
        prompt: what to change; after -- it may begin with a dash
        out: file to write (default: the first of limner-001.png, limner-002.png, ... that is free)
        seed: the same request and seed give the same picture
        size: height and width in pixels, such as 128x128
    """
    from ...inference.images import load_image
    from ...inference.resizing import nearest_size

    request = {"seed": seed, **checked(options, size)}
    edited = load_image(image)
    if out and out.exists() and out.samefile(image):
        raise ValueError(f"--out {out} is the picture that is edited; write to another file")
    out = picture_file(out, prompt)
    model = loading.load()
    asked = (request["height"], request["width"]) if "height" in request else None
    if note := model.resize_note(edited, asked):
        print(note, file=sys.stderr)
        height, width = asked or nearest_size(edited, model.config)
        request |= {"height": height, "width": width}
    content = [{"type": "image", "image": edited}, {"type": "text", "text": prompt}]
    draw_and_save(model, [{"role": "user", "content": content}], out, request)
