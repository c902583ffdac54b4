"""``limner describe``."""

from typing import Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from .draw import save
from .options import DESCRIBING, LOADING, AllowUrl, Loading, Out, Prompt, Whole, checked, takes


@takes(GenerationConfig, DESCRIBING, shown=False)
def describe(  # type: ignore[misc]  # boxes is an option of the request too: here it is told apart
    image: str,
    /,
    *,
    loading: Loading = LOADING,
    allow_url: AllowUrl = (),
    prompt: Prompt = "What is in this picture?",
    boxes: bool = False,
    out: Out | None = None,
    seed: Whole = 0,
    **options: Unpack[GenerationOptions],
) -> None:
    """Say what a picture shows.

    Args:
        image: file of the picture, or its URL
        allow_url: a host whose URLs are fetched; repeatable
        prompt: what to ask
        boxes: ask for boxes, print them and draw them on the picture
        out: file of the picture with boxes (default: NAME-boxes-001.png, ...)
        seed: of the words, where they are sampled
    """
    from ...inference.boxes import draw_boxes
    from ...inference.images import load_image, local_path
    from ...inference.output import check_picture_path, free_path

    request = {"seed": seed, **checked(options)}
    picture, file = load_image(image, allow_url), local_path(image)
    if out and not boxes:
        raise ValueError("--out is the picture with boxes: it needs --boxes")
    stem = file.stem.replace("{", "(").replace("}", ")") if file else "picture"
    if boxes:
        check_picture_path(out or free_path(f"{stem}-boxes-{{:03d}}.png"), file)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    reply = loading.load().generate(messages, images="never", boxes=boxes, **request)
    print(reply.text)
    if boxes:
        if not reply.boxes:
            raise ValueError("the reply holds no boxes; nano writes none, SEED-X does where it is asked for a place")
        for box in reply.boxes:
            print("box", *box.pixels(*picture.size))
        print(save(draw_boxes(picture, reply.boxes), out, f"{stem}-boxes-{{:03d}}.png"))
