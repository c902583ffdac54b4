"""What each command of the command line does.

What a command needs is imported inside it: `limner --help` must not wait for torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def drawing_options(options: argparse.Namespace) -> dict[str, Any]:
    height, width = options.size or (None, None)
    return {
        "seed": options.seed,
        "height": height,
        "width": width,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
    }


def loaded(options: argparse.Namespace, dtype: str = "auto") -> Any:
    import transformers

    from ...inference.adapters import split_weight
    from ...inference.loading import load

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    halves = options.device.split(",")
    device = options.device if len(halves) == 1 else dict(zip(("mllm", "detokenizer"), halves, strict=False))
    if len(halves) > 2:
        raise ValueError(f"--device {options.device}: one device, or one for what writes and one for what paints")
    more = {name: getattr(options, name) for name in ("bits", "offload") if hasattr(options, name)}
    model = load(options.model, device=device, dtype=dtype, **more)
    for given in getattr(options, "adapter", []):
        folder, weight = split_weight(given)
        model.load_adapter(folder, weight=weight)
    return model


def run_chat(options: argparse.Namespace) -> int:
    from ...inference.model_folders import find_model
    from . import line_input

    find_model(options.model)  # a mistyped name is said before anything loads

    def make() -> Any:
        from .repl import Repl

        return Repl(loaded(options), drawing_options(options))

    loading, first = line_input.meanwhile(make), ""
    if sys.stdin.isatty():
        line_input.greet(Path(options.model).name)
        first = line_input.read()
        if first is None:
            return 0
    return loading.result().run(first)


def run_draw(options: argparse.Namespace) -> int:
    if options.backend == "sd3":
        return _draw_sd3(options)
    return _save(options, [{"role": "user", "content": options.prompt}], options.prompt)


def _draw_sd3(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ...detokenizer.files import resolve_source
    from ...inference.loading import place_model
    from ...inference.output import check_picture_path, free_path, save_image
    from ...integrations.sd3.text_to_image import StableDiffusion3

    for name in ("adapter", "bits", "offload"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for a Limner model, not for the sd3 backend")
    options.out = options.out or free_path("limner-{:03d}.png")
    check_picture_path(options.out)
    model = place_model(StableDiffusion3.from_pretrained(resolve_source(options.model)), options.device)
    chosen = {name: value for name, value in drawing_options(options).items() if value is not None}
    with tqdm(desc="drawing", disable=None, leave=False) as bar:

        def report(step: int, steps: int) -> None:
            bar.total = steps
            bar.update()

        save_image(model.generate(options.prompt, callback=report, **chosen)[0], options.out)
    print(options.out)
    return 0


def run_edit(options: argparse.Namespace) -> int:
    from ...inference.images import load_image

    image = load_image(options.image)
    if options.out and options.out.exists() and options.out.samefile(options.image):
        raise ValueError(f"--out {options.out} is the picture that is edited; write to another file")
    content = [{"type": "image", "image": image}, {"type": "text", "text": options.prompt}]
    return _save(options, [{"role": "user", "content": content}], options.prompt, edited=image)


def _save(
    options: argparse.Namespace, messages: list[dict[str, Any]], prompt: str, edited: Image.Image | None = None
) -> int:
    from ...inference.output import check_picture_path, free_path, save_image
    from ...inference.progress import ProgressBar
    from ...inference.resizing import nearest_size

    if not prompt.strip():
        raise ValueError("the prompt is empty")
    out = options.out or free_path("limner-{:03d}.png")
    check_picture_path(out)
    model = loaded(options)
    if edited is not None and (note := model.resize_note(edited, options.size)):
        print(note, file=sys.stderr)
        options.size = options.size or nearest_size(edited, model.config)
    with ProgressBar() as progress:
        reply = model.draw(messages, callback=progress, **drawing_options(options))
    save_image(reply.images[0], out)
    if reply.text:
        print(reply.text)
    print(out)
    return 0


def run_describe(options: argparse.Namespace) -> int:
    from ...inference.boxes import draw_boxes
    from ...inference.images import load_image
    from ...inference.output import check_picture_path, free_path, save_image

    image = load_image(options.image)
    out = options.out or free_path(f"{Path(options.image).stem.replace('{', '(').replace('}', ')')}-boxes-{{:03d}}.png")
    if options.boxes:
        check_picture_path(out)
    elif options.out:
        raise ValueError("--out is the picture with boxes: it needs --boxes")
    content = [{"type": "image", "image": image}, {"type": "text", "text": options.prompt}]
    reply = loaded(options).generate([{"role": "user", "content": content}], images="never", boxes=options.boxes)
    print(reply.text)
    if options.boxes:
        if not reply.boxes:
            raise ValueError("the reply holds no boxes; nano writes none, SEED-X does where it is asked for a place")
        for box in reply.boxes:
            print("box", *box.pixels(*image.size))
        save_image(draw_boxes(image, reply.boxes), out)
        print(out)
    return 0


def run_info(options: argparse.Namespace) -> int:
    from ...inference.info import describe_memory, describe_model

    options.model = options.folder or options.model
    model = loaded(options)
    print(describe_model(model))
    if options.memory:
        print(describe_memory(model))
    return 0


def run_eval(options: argparse.Namespace) -> int:
    from ...evaluation import geneval, world

    index, _, parts = options.part.partition("/")
    if not (index.isdigit() and parts.isdigit()):
        raise ValueError(f"--part {options.part} is not I/N, such as 1/4")
    given = {"limit": options.limit, "steps": options.steps, "part": (int(index) - 1, int(parts))}
    if options.suite == "geneval":
        if options.seeds not in (None, geneval.SAMPLES_PER_PROMPT):
            raise ValueError(
                f"--seeds is {options.seeds}; GenEval takes {geneval.SAMPLES_PER_PROMPT} pictures of every prompt"
            )
        if options.only:
            raise ValueError("--only is for world; GenEval's prompts are asked together")
        geneval.evaluate(loaded(options, options.dtype), options.output, **given)
    else:
        seeds = 1 if options.seeds is None else options.seeds
        world.evaluate(loaded(options, options.dtype), options.output, seeds=seeds, only=options.only, **given)
    return 0


def run_compare(options: argparse.Namespace) -> int:
    from ...evaluation.compare import compare

    compare(options.before, options.after)
    return 0


def run_train(options: argparse.Namespace) -> int:
    try:
        from ...train import recipe
        from ...train.loop import Interrupted
    except ModuleNotFoundError as error:
        raise ValueError(f"training needs {error.name}: install limner[train]") from None
    # a first KEY=VALUE is an override, not a recipe
    name, overrides = (options.recipe, options.overrides)
    if "=" in name:
        name, overrides = "nano", [name, *overrides]
    stages = tuple(options.stages.split(",")) if options.stages else None
    loaded = recipe.load_recipe(name, overrides)
    if options.dry_run:
        recipe.dry_run(loaded, stages)
        print("two steps of every stage went through")
        return 0
    try:
        print(recipe.run_recipe(loaded, stages))
    except Interrupted as stopped:
        print(f"limner: {stopped}", file=sys.stderr)
        return 130
    return 0


def run_finetune(options: argparse.Namespace) -> int:
    # at once: importing torch takes seconds
    print(f"finetune  {options.model} on {options.data}, into {options.output}", flush=True)
    try:
        from ...train import finetune
        from ...train.loop import Interrupted
    except ModuleNotFoundError as error:
        raise ValueError(f"training needs {error.name}: install limner[train]") from None
    steps = [] if options.steps is None else [f"joint.loop.steps={options.steps}"]
    config = finetune.load_config([*options.set, *steps])
    try:
        folder = finetune.finetune(loaded(options), options.data, options.output, config, options.dry_run)
    except Interrupted as stopped:
        print(f"limner: {stopped}", file=sys.stderr)
        return 130
    if not options.dry_run:
        print(f"{folder}: limner chat --adapter {folder}")
    return 0


def run_distill(options: argparse.Namespace) -> int:
    try:
        from ...train import distill
        from ...train.loop import Interrupted
        from ...train.recipe import load_recipe
    except ModuleNotFoundError as error:
        raise ValueError(f"training needs {error.name}: install limner[train]") from None
    config = distill.load_config(options.set)
    prompts = load_recipe("nano").joint.sample_prompts[:8] if options.model == "nano" else ()
    try:
        folder = distill.distill(loaded(options), options.output, config, prompts)
    except Interrupted as stopped:
        print(f"limner: {stopped}", file=sys.stderr)
        return 130
    print(f"{folder}: limner chat --adapter {folder}")
    return 0


def run_data(options: argparse.Namespace) -> int:
    from ...train.datasets import check, filter, readers

    if options.what == "check":
        options.device = "cpu"
        model = loaded(options)
        report = check.check(readers.read(options.data), model.encoder, model.mllm.max_position_embeddings)
        print(report.table())
        report.raise_if_unusable()
        return 0
    if options.output is None:
        raise ValueError("data filter needs -o DIR, the folder of the filtered data set")
    names = ("min_side", "max_aspect", "min_similarity", "similarity_model", "duplicate_bits")
    rules = filter.Rules(**{name: getattr(options, name) for name in names})
    counts = filter.filter_dataset(options.data, options.output, rules)
    print(f"kept {counts['kept']}, dropped {counts['dropped']} ({options.output / 'dropped.jsonl'} says why)")
    return 0


def run_build(options: argparse.Namespace) -> int:
    from ...inference.build import build, sources
    from ...inference.info import describe_model
    from ...inference.output import check_folder

    check_folder(options.output)
    model = build(options.llm, options.vision, options.mmdit, glyphs=options.glyphs)
    named = sources(model, options.llm, options.vision, options.mmdit) if options.reference else {}
    model.save_pretrained(options.output, named)
    if options.reference and "llm" not in named:
        print("the backbone's weights are copied: its embeddings grew by the control tokens")
    model.name = options.output.name
    print(describe_model(model))
    print(f"next: limner train released warm_start={options.output} --stages align align.data='[\"YOUR-DATA\"]'")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    from ...inference.convert import convert_seed_x

    print(convert_seed_x(options.source, options.output, options.which))
    return 0


def run_precompute(options: argparse.Namespace) -> int:
    from ...inference.output import check_folder
    from ...train.datasets import check, readers
    from ...train.frozen_encoders import precompute

    check_folder(options.output)
    model = loaded(options)
    report = check.check(readers.read(options.data), model.encoder, model.mllm.max_position_embeddings)
    print(report.table())
    report.raise_if_unusable()
    count = precompute(model, report.examples, options.output)
    print(f"{options.output}: {count} tensors; train with STAGE.precomputed={options.output}")
    return 0


def run_merge(options: argparse.Namespace) -> int:
    from ...inference.output import check_folder

    if not options.adapter:
        raise ValueError("nothing to merge: name at least one --adapter DIR")
    check_folder(options.output)
    model = loaded(options, dtype="float32")
    student = model.student_steps
    model.merge_adapters()
    if student and not model.student_steps:
        print(f"the {student}-step student is left out: it was distilled before (limner distill makes another)")
    model.to(model.stored_dtype).save_pretrained(options.output)
    print(options.output)
    return 0
