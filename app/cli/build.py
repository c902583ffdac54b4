"""``limner build``."""

from typing import Any

from ...inference.build_options import BuildOptions
from .options import Out, takes


@takes(BuildOptions)
def build(
    *, llm: str, vision: str, mmdit: str, glyphs: str | None = None, out: Out, reference: bool = False, **options: Any
) -> None:
    """Join a backbone, a vision tower and an SD3 into a model to be aligned.

    Args:
        llm: folder or hub id of a causal language model with a chat template
        vision: folder or hub id of SigLIP, CLIP, DINOv2 or the like
        mmdit: folder or hub id of a diffusers SD3 or SD3.5
        glyphs: folder or hub id of a ByT5, to write words in pictures
        out: folder of the model
        reference: name the parts' folders or ids instead of copying weights
    """
    from ...inference.build import build, sources
    from ...inference.info import describe_model
    from ...inference.output import check_folder

    check_folder(out)
    model = build(llm, vision, mmdit, BuildOptions(**options), glyphs=glyphs)
    named = sources(model, llm, vision, mmdit) if reference else {}
    model.save_pretrained(out, named)
    if reference and "llm" not in named:
        print("the backbone's weights are copied: its embeddings grew by the control tokens")
    model.name = out.resolve().name
    print(describe_model(model))
    print(f"next: limner train released warm_start={out} --stages align align.data='[\"YOUR-DATA\"]'")
