"""The command line: ``limner chat|draw|edit|describe|info|eval|train|finetune|merge|data|precompute|build|convert``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .sizes import parse_size

# what a command needs is imported inside it: `limner --help` must not wait for torch


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="limner", description="One model that writes and draws in a single stream.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, run: Any, drawing: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=run)
        sub.add_argument("--model", default="nano", help="embedded name, folder or hub id (default: nano)")
        sub.add_argument(
            "--device", default="auto", help="auto, cpu, cuda, mps; A,B puts what writes on A, what paints on B"
        )
        sub.add_argument("--bits", type=int, choices=[8, 4], help="quantise the weights (needs limner[quantized])")
        sub.add_argument("--offload", action="store_true", help="the half that rests waits in host memory")
        sub.add_argument(
            "--adapter", action="append", default=[], metavar="DIR[:WEIGHT]", help="a LoRA adapter; repeatable"
        )
        if drawing:
            sub.add_argument("--seed", type=int, default=0, help="the same request and seed give the same picture")
            sub.add_argument("--size", type=size, metavar="HxW", help="height and width in pixels, such as 128x128")
            sub.add_argument("--steps", type=int, help="sampling steps")
            sub.add_argument("--guidance", type=float, metavar="SCALE", help="how strictly a drawing follows the words")
        return sub

    command("chat", "talk with the model; it draws when asked", run_chat, drawing=True)
    draw = command("draw", "draw one picture", run_draw, drawing=True)
    draw.add_argument("prompt")
    draw.add_argument("--backend", default="limner", choices=["limner", "sd3"],
                      help="sd3: --model is a diffusers folder of SD3, drawn from by its own text encoders")  # fmt: skip
    draw.add_argument("--out", type=Path, default=Path("limner.png"), help="file to write (default: limner.png)")
    edit = command("edit", "change a picture", run_edit, drawing=True)
    edit.add_argument("image")
    edit.add_argument("prompt")
    edit.add_argument("--out", type=Path, default=Path("limner.png"), help="file to write (default: limner.png)")
    describe = command("describe", "say what a picture shows", run_describe)
    describe.add_argument("image")
    describe.add_argument("--prompt", default="What is in this picture?")
    describe.add_argument("--boxes", action="store_true", help="ask for boxes, print them and draw them on the picture")
    describe.add_argument("--out", type=Path, help="file of the picture with boxes (default: NAME-boxes.png)")
    info = command("info", "what a model is made of", run_info)
    info.add_argument("folder", nargs="?", help="the same as --model")
    info.add_argument("--memory", action="store_true", help="what each part's weights take in each precision")
    evaluate = command("eval", "measure a model", run_eval)
    evaluate.add_argument("suite", choices=["world", "geneval"])
    evaluate.add_argument(
        "--part", metavar="I/N", default="1/1", help="geneval: draw every N-th prompt only, from the I-th"
    )
    evaluate.add_argument("--limit", type=int, default=0, metavar="N", help="examples a category (default: all)")
    evaluate.add_argument("--steps", type=int, help="sampling steps")
    evaluate.add_argument("--dtype", default="auto", help="of the model: auto, bfloat16 (faster on a CPU), float32")
    evaluate.add_argument("--output", type=Path, default=Path("eval"), metavar="DIR")
    train = commands.add_parser("train", help="train a model from a recipe; interrupted runs go on")
    train.set_defaults(run=run_train)
    train.add_argument("recipe", nargs="?", default="nano", help="a file of configs/recipe (default: nano)")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as joint.loop.steps=100")
    train.add_argument("--stages", help="comma-separated; default: those that make a model from nothing")
    train.add_argument(
        "--dry-run", action="store_true", help="two steps of every stage, in a folder that is thrown away"
    )
    finetune = commands.add_parser("finetune", help="teach a model something new with LoRA; interrupted runs go on")
    finetune.set_defaults(run=run_finetune)
    finetune.add_argument("data", help="pictures with captions, conversations, tar shards, a hub data set id")
    finetune.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the adapter")
    finetune.add_argument("--model", default="nano", help="embedded name, folder or hub id (default: nano)")
    finetune.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    finetune.add_argument("--steps", type=int, help="training steps (default: 500)")
    finetune.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="such as rank=8 joint.loop.batch_size=8"
    )
    finetune.add_argument("--dry-run", action="store_true", help="check the data, take two steps, write nothing")
    data = commands.add_parser("data", help="look through a data set, or filter it into a new one")
    data.set_defaults(run=run_data)
    data.add_argument("what", choices=["check", "filter"])
    data.add_argument("data", help="what `limner finetune` takes")
    data.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the filtered data set")
    data.add_argument("--model", default="nano", help="check: whose tokens and shapes count (default: nano)")
    data.add_argument("--min-side", type=int, default=0, metavar="PIXELS")
    data.add_argument("--max-aspect", type=float, default=0.0, metavar="RATIO")
    data.add_argument(
        "--duplicate-bits", type=int, default=-1, metavar="N", help="of 64, that duplicates may differ in"
    )
    data.add_argument("--min-similarity", type=float, default=-1.0, metavar="COSINE", help="of picture and caption")
    data.add_argument("--similarity-model", default="google/siglip-base-patch16-224", help="folder or hub id")
    built = commands.add_parser("build", help="join a backbone, a vision tower and an SD3 into a model to be aligned")
    built.set_defaults(run=run_build)
    built.add_argument("--llm", required=True, help="folder or hub id of a causal language model with a chat template")
    built.add_argument("--vision", required=True, help="folder or hub id of SigLIP, CLIP, DINOv2 or the like")
    built.add_argument("--mmdit", required=True, help="folder or hub id of a diffusers SD3 or SD3.5")
    built.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the model")
    built.add_argument(
        "--reference", action="store_true", help="name the parts' folders or ids instead of copying weights"
    )
    converted = commands.add_parser("convert", help="make a model folder of weights released elsewhere")
    converted.set_defaults(run=run_convert)
    converted.add_argument("what", choices=["seed-x"])
    converted.add_argument("source", type=Path, metavar="DIR", help="SEED-X's `pretrained` folder")
    converted.add_argument("--which", default="seed_x_i", help="seed_x, seed_x_i (default) or seed_x_edit")
    converted.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the model")
    ahead = command("precompute", "run the frozen encoders over a data set, for training to read", run_precompute)
    ahead.add_argument("data", help="what `limner finetune` takes")
    ahead.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the tensors")
    merge = command("merge", "write adapters into a model's weights", run_merge)
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the whole model")
    return top


def size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ValueError as error:  # argparse would drop a ValueError's words
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; user mistakes end in one clear line and exit status 2."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`limner describe … | head`)
        return 0
    except (ValueError, FloatingPointError, OSError) as error:  # OSError: a full disk, a folder without rights
        print(f"limner: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlimner: stopped", file=sys.stderr)
        return 130


def drawing_options(options: argparse.Namespace) -> dict[str, Any]:
    height, width = options.size or (None, None)
    return {
        "seed": options.seed, "height": height, "width": width, "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
    }  # fmt: skip


def loaded(options: argparse.Namespace, dtype: str = "auto") -> Any:
    import logging

    # imported by diffusers where it is installed; on a CPU it reports a kernel that it does without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    from .adapters import with_weight
    from .model import load

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    halves = options.device.split(",")
    device = options.device if len(halves) == 1 else dict(zip(("mllm", "detokenizer"), halves, strict=False))
    if len(halves) > 2:
        raise ValueError(f"--device {options.device}: one device, or one for what writes and one for what paints")
    more = {name: getattr(options, name) for name in ("bits", "offload") if hasattr(options, name)}
    model = load(options.model, device=device, dtype=dtype, **more)
    for given in getattr(options, "adapter", []):
        folder, weight = with_weight(given)
        model.load_adapter(folder, weight=weight)
    return model


def run_chat(options: argparse.Namespace) -> int:
    from . import prompt

    prompt.place(options.model)  # a mistyped name is said before anything loads

    def make() -> Any:
        from .repl import Repl

        return Repl(loaded(options), drawing_options(options))

    loading, first = prompt.meanwhile(make), ""
    if sys.stdin.isatty():
        prompt.greet(Path(options.model).name)
        first = prompt.read()
        if first is None:
            return 0
    return loading.result().run(first)


def run_draw(options: argparse.Namespace) -> int:
    if options.backend == "sd3":
        return _draw_sd3(options)
    return _save(options, [{"role": "user", "content": options.prompt}], options.prompt)


def _draw_sd3(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..detokenizer.files import found
    from .model import settle
    from .text_to_image import StableDiffusion3

    if options.adapter:
        raise ValueError("an adapter is for a Limner model, not for the sd3 backend")
    check_output(options.out)
    model = settle(StableDiffusion3.from_pretrained(found(options.model)), options.device)
    chosen = {name: value for name, value in drawing_options(options).items() if value is not None}
    with tqdm(desc="drawing", disable=None, leave=False) as bar:

        def report(step: int, steps: int) -> None:
            bar.total = steps
            bar.update()

        model.generate(options.prompt, callback=report, **chosen)[0].save(options.out)
    print(options.out)
    return 0


def run_edit(options: argparse.Namespace) -> int:
    from .images import load_image

    content = [{"type": "image", "image": load_image(options.image)}, {"type": "text", "text": options.prompt}]
    return _save(options, [{"role": "user", "content": content}], options.prompt)


def _save(options: argparse.Namespace, messages: list[dict[str, Any]], prompt: str) -> int:
    from .progress import Progress

    if not prompt.strip():
        raise ValueError("the prompt is empty")
    check_output(options.out)
    with Progress() as progress:
        reply = loaded(options).generate(
            messages, images="force", max_images=1, callback=progress, **drawing_options(options)
        )
    reply.images[0].save(options.out)
    if reply.text:
        print(reply.text)
    print(options.out)
    return 0


def check_output(path: Path) -> None:
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise ValueError(f"cannot write {path}: {path.suffix or 'no ending'} is not a picture format, try .png")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"cannot write {path}: no folder {path.absolute().parent}")


def run_describe(options: argparse.Namespace) -> int:
    from .boxes import draw_boxes
    from .images import load_image

    image = load_image(options.image)
    content = [{"type": "image", "image": image}, {"type": "text", "text": options.prompt}]
    reply = loaded(options).generate([{"role": "user", "content": content}], images="never", boxes=options.boxes)
    print(reply.text)
    if options.boxes:
        if not reply.boxes:
            raise ValueError("the reply holds no boxes; nano writes none, SEED-X does where it is asked for a place")
        out = options.out or Path(f"{Path(options.image).stem}-boxes.png")
        check_output(out)
        for box in reply.boxes:
            print("box", *box.pixels(*image.size))
        draw_boxes(image, reply.boxes).save(out)
        print(out)
    return 0


def run_info(options: argparse.Namespace) -> int:
    from .info import describe_memory, describe_model

    options.model = options.folder or options.model
    model = loaded(options)
    print(describe_model(model))
    if options.memory:
        print(describe_memory(model))
    return 0


def run_eval(options: argparse.Namespace) -> int:
    from ..train.evaluation import geneval, world

    index, _, parts = options.part.partition("/")
    if not (index.isdigit() and parts.isdigit()):
        raise ValueError(f"--part {options.part} is not I/N, such as 1/4")
    model = loaded(options, options.dtype)
    if options.suite == "world":
        world.evaluate(model, options.output, limit=options.limit, steps=options.steps)
    else:
        part = (int(index) - 1, int(parts))
        geneval.evaluate(model, options.output, limit=options.limit, steps=options.steps, part=part)
    return 0


def run_train(options: argparse.Namespace) -> int:
    try:
        from ..train import recipe
        from ..train.loop import Interrupted
    except ModuleNotFoundError as error:
        raise ValueError(f"training needs {error.name}: install limner[train]") from None
    # a first KEY=VALUE is an override, not a recipe
    name, overrides = (options.recipe, options.overrides)
    if "=" in name:
        name, overrides = "nano", [name, *overrides]
    stages = tuple(options.stages.split(",")) if options.stages else recipe.FROM_NOTHING
    unknown = set(stages) - set(recipe.STAGES)
    if unknown:
        raise ValueError(f"no stage {sorted(unknown)[0]!r}; there are {', '.join(recipe.STAGES)}")
    loaded = recipe.load_recipe(name, overrides)
    if options.dry_run:
        recipe.dry_run(loaded, stages)
        print("two steps of every stage went through")
        return 0
    try:
        print(recipe.run(loaded, stages))
    except Interrupted as stopped:
        print(f"limner: {stopped}", file=sys.stderr)
        return 130
    return 0


def run_finetune(options: argparse.Namespace) -> int:
    try:
        from ..train import finetune
        from ..train.loop import Interrupted
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


def run_data(options: argparse.Namespace) -> int:
    from ..train.datasets import check, filter, readers

    if options.what == "check":
        options.device = "cpu"
        model = loaded(options)
        longest = getattr(model.mllm.llm.config, "max_position_embeddings", None) or 10**9
        report = check.check(readers.read(options.data), model.encoder, longest)
        print(report.table())
        report.require()
        return 0
    if options.output is None:
        raise ValueError("data filter needs -o DIR, the folder of the filtered data set")
    names = ("min_side", "max_aspect", "min_similarity", "similarity_model", "duplicate_bits")
    rules = filter.Rules(**{name: getattr(options, name) for name in names})
    counts = filter.run(options.data, options.output, rules)
    print(f"kept {counts['kept']}, dropped {counts['dropped']} ({options.output / 'dropped.jsonl'} says why)")
    return 0


def run_build(options: argparse.Namespace) -> int:
    from .build import build, sources
    from .info import describe_model

    if (options.output / "config.json").exists():
        raise ValueError(f"{options.output} holds a model already; choose another folder")
    model = build(options.llm, options.vision, options.mmdit)
    named = sources(model, options.llm, options.vision, options.mmdit) if options.reference else {}
    model.save_pretrained(options.output, named)
    if options.reference and "llm" not in named:
        print("the backbone's weights are copied: its embeddings grew by the control tokens")
    model.name = options.output.name
    print(describe_model(model))
    print(f"next: limner train nano warm_start={options.output} --stages align align.data='[\"YOUR-DATA\"]'")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    from .convert import convert_seed_x

    print(convert_seed_x(options.source, options.output, options.which))
    return 0


def run_precompute(options: argparse.Namespace) -> int:
    from ..train.datasets import check, readers
    from ..train.frozen import precompute

    model = loaded(options)
    model.to(model.stored_dtype)
    longest = getattr(model.mllm.llm.config, "max_position_embeddings", None) or 10**9
    report = check.check(readers.read(options.data), model.encoder, longest)
    print(report.table())
    report.require()
    count = precompute(model, report.examples, options.output)
    print(f"{options.output}: {count} tensors; train with STAGE.precomputed={options.output}")
    return 0


def run_merge(options: argparse.Namespace) -> int:
    if not options.adapter:
        raise ValueError("nothing to merge: name at least one --adapter DIR")
    if (options.output / "config.json").exists():
        raise ValueError(f"{options.output} holds a model already; choose another folder")
    model = loaded(options, dtype="float32")
    model.merge_adapters()
    model.to(model.stored_dtype).save_pretrained(options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
