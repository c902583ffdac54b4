"""``limner describe``."""

from pathlib import Path
from typing import Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from .options import DESCRIBING, LOADING, Loading, Out, Prompt, Whole, checked, takes


@takes(GenerationConfig, DESCRIBING, shown=False)
def describe(  # type: ignore[misc]  # boxes is an option of the request too: here it is told apart
    image: str,
    /,
    *,
    loading: Loading = LOADING,
    prompt: Prompt = "What is in this picture?",
    boxes: bool = False,
    out: Out | None = None,
    seed: Whole = 0,
    **options: Unpack[GenerationOptions],
) -> None:
    """Say what a picture shows.

    Args:
        image: file of the picture
        prompt: what to ask
        boxes: ask for boxes, print them and draw them on the picture
        out: file of the picture with boxes (default: NAME-boxes-001.png, ...)
        seed: of the words, where they are sampled
    """
    from ...inference.boxes import draw_boxes
    from ...inference.images import load_image
    from ...inference.output import check_picture_path, free_path, save_image

    request = {"seed": seed, **checked(options)}
    picture = load_image(image)
    if out and not boxes:
        raise ValueError("--out is the picture with boxes: it needs --boxes")
    out = out or free_path(f"{Path(image).stem.replace('{', '(').replace('}', ')')}-boxes-{{:03d}}.png")
    check_picture_path(out)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    reply = loading.load().generate(messages, images="never", boxes=boxes, **request)
    print(reply.text)
    if boxes:
        if not reply.boxes:
            raise ValueError("the reply holds no boxes; nano writes none, SEED-X does where it is asked for a place")
        for box in reply.boxes:
            print("box", *box.pixels(*picture.size))
        save_image(draw_boxes(picture, reply.boxes), out)
        print(out)
