"""``limner eval``."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from .options import LOADING, Loading, Out, Whole


def evaluate(
    suite: Literal["world", "geneval", "ladder", "tokens"],
    /,
    *,
    loading: Loading = LOADING,
    out: Out = Path("eval"),
    part: Annotated[str, Parameter(metavar="I/N")] = "1/1",
    limit: Whole = 0,
    only: Annotated[tuple[str, ...], Parameter(metavar="NAME")] = (),
    seeds: Whole | None = None,
    ocr: bool = False,
    num_inference_steps: Annotated[Whole | None, Parameter(alias="--steps")] = None,
    image_temperature: float | None = None,
) -> None:
    """Measure a model.

    Args:
        suite: world: drawing, describing, answering, editing, deciding; geneval: GenEval's prompts;
            ladder: scenes of three to ten atoms; tokens: pictures by the number of their visual tokens or queries
        out: folder of the answers, results and pages; a run that was cut goes on in it
        part: the I-th of N runs that share the work in one folder
        limit: examples a category (default: all)
        only: all but geneval: measures whose names begin so, such as edit/; repeatable
        seeds: pictures of each drawing and edit (world: 1, geneval: 4; the others have 1)
        ocr: world: an OCR of others (limner[ocr]) reads the signs, too
        num_inference_steps: sampling steps of a picture
        image_temperature: tokens: of sampled visual tokens
    """
    from ...evaluation import geneval, ladder, tokens, world

    if ocr and suite != "world":
        raise ValueError("--ocr is for world: there are no signs in other suites")
    if image_temperature is not None and suite != "tokens":
        raise ValueError("--image-temperature is for tokens: other suites draw as the model does by itself")
    index, _, parts = part.partition("/")
    if not (index.isdecimal() and parts.isdecimal()):
        raise ValueError(f"--part {part} is not I/N, such as 1/4")
    shared: dict[str, Any] = {"limit": limit, "steps": num_inference_steps, "part": (int(index) - 1, int(parts))}
    if suite == "geneval":
        if seeds not in (None, geneval.SAMPLES_PER_PROMPT):
            raise ValueError(f"--seeds is {seeds}; GenEval takes {geneval.SAMPLES_PER_PROMPT} pictures of every prompt")
        if only:
            raise ValueError("--only is for world, ladder and tokens; GenEval's prompts are asked together")
        geneval.evaluate(loading.load(), out, **shared)
    elif suite == "ladder":
        if seeds not in (None, 1):
            raise ValueError(f"--seeds is {seeds}; the ladder takes one picture of every prompt")
        ladder.evaluate(loading.load(), out, only=only, **shared)
    elif suite == "tokens":
        if seeds not in (None, 1):
            raise ValueError(f"--seeds is {seeds}; tokens takes one picture of every request")
        tokens.evaluate(loading.load(), out, only=only, image_temperature=image_temperature, **shared)
    else:
        world.evaluate(loading.load(), out, seeds=1 if seeds is None else seeds, only=only, ocr=ocr, **shared)
