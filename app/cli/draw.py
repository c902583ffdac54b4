"""``limner draw``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from .options import DRAWING, LOADING, Loading, NoMetadata, Out, Prompt, Size, Whole, checked, takes

if TYPE_CHECKING:
    from PIL import Image


DRAWN = "limner-{:03d}.png"
"""Names of pictures where none was given"""


@takes(GenerationConfig, DRAWING, shown=False)
def draw(
    prompt: Prompt,
    /,
    *,
    loading: Loading = LOADING,
    backend: Literal["limner", "sd3"] = "limner",
    out: Out | None = None,
    seed: Whole = 0,
    size: Size | None = None,
    no_metadata: NoMetadata = False,
    **options: Unpack[GenerationOptions],
) -> None:
    """Draw one picture.

    Args:
        prompt: what to draw; after -- it may begin with a dash
        backend: sd3: --model is a diffusers folder of SD3, drawn from by its own text encoders
        out: file to write (default: the first of limner-001.png, limner-002.png, ... that is free)
        seed: the same request and seed give the same picture
        size: height and width in pixels, such as 128x128
        no_metadata: write no prompt, seed and options into the PNG file
    """
    request = {"seed": seed, **checked(options, size)}
    check_drawing(out, prompt)
    if backend == "sd3":
        drawn, text = draw_with_sd3(prompt, loading, request), ""
    else:
        from ...inference.progress import ProgressBar

        model = loading.load()
        with ProgressBar() as progress:
            reply = model.draw(prompt, callback=progress, **request)
        drawn, text = reply.images[0], reply.text
    show_drawn(drawn, text, out, no_metadata)


def check_drawing(out: Path | None, prompt: str, source: Path | None = None) -> None:
    """Raises ValueError for an empty prompt, and for a file that cannot be written or is the picture ``source``."""
    from ...inference.output import check_picture_path, free_path

    if not prompt.strip():
        raise ValueError("the prompt is empty")
    check_picture_path(out or free_path(DRAWN), source)


def show_drawn(image: Image.Image, text: str, out: Path | None, no_metadata: bool) -> None:
    """Saves what was drawn, and prints what was said and where it is."""
    written = save(image, out, metadata=not no_metadata)
    if text:
        print(text)
    print(written)


def save(image: Image.Image, out: Path | None, pattern: str = DRAWN, metadata: bool = True) -> Path:
    """Saves to ``out``, or under a name that is free; returns where."""
    from ...inference.output import save_image, save_new_image

    if out is None:
        return save_new_image(image, pattern, metadata)
    save_image(image, out, metadata)
    return out


def draw_with_sd3(prompt: str, loading: Loading, request: dict[str, Any]) -> Image.Image:
    from tqdm import tqdm

    from ...detokenizer.files import resolve_source
    from ...inference.loading import place_model
    from ...inference.picture_metadata import PictureMetadata, installed_version
    from ...integrations.sd3.text_to_image import DEFAULTS, StableDiffusion3

    used = {"seed", "height", "width", "num_inference_steps", "guidance_scale"}
    own = [name for name in ("adapter", "bits", "offload", "dtype") if getattr(loading, name) != getattr(LOADING, name)]
    given = [*own, *sorted(set(request) - used)]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for a Limner model, not for the sd3 backend")
    folder = resolve_source(loading.model, loading.revision, loading.variant)
    model = place_model(StableDiffusion3.from_pretrained(folder, loading.variant), loading.device)
    with tqdm(desc="drawing", disable=None, leave=False) as bar:

        def report(step: int, steps: int) -> None:
            bar.total = steps
            bar.update()

        (image,) = model.generate(prompt, callback=report, **request)
    defaults = {name: getattr(DEFAULTS, name) for name in ("num_inference_steps", "guidance_scale", "sampler")}
    seed = request.pop("seed")
    options = {"height": image.height, "width": image.width, **defaults, **request}
    name = Path(folder).resolve().name
    PictureMetadata(prompt, True, "", 0, seed, options, {}, name, None, installed_version(), "sd3").attach(image)
    return image
