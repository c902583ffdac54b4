"""The command line: ``limner chat|draw|edit|describe|info|eval|compare|train|finetune|distill|merge|data|precompute|…``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import commands
from .memory import out_of_memory
from .sizes import parse_size

OUT = "file to write (default: the first of limner-001.png, limner-002.png, … that is free)"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="limner", description="One model that writes and draws in a single stream.")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, run: Any, drawing: bool = False) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=help_, description=help_)
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

    command("chat", "talk with the model; it draws when asked", commands.run_chat, drawing=True)
    draw = command("draw", "draw one picture", commands.run_draw, drawing=True)
    draw.add_argument("prompt")
    draw.add_argument(
        "--backend",
        default="limner",
        choices=["limner", "sd3"],
        help="sd3: --model is a diffusers folder of SD3, drawn from by its own text encoders",
    )
    draw.add_argument("--out", type=Path, help=OUT)
    edit = command("edit", "change a picture", commands.run_edit, drawing=True)
    edit.add_argument("image")
    edit.add_argument("prompt")
    edit.add_argument("--out", type=Path, help=OUT)
    describe = command("describe", "say what a picture shows", commands.run_describe)
    describe.add_argument("image")
    describe.add_argument("--prompt", default="What is in this picture?")
    describe.add_argument("--boxes", action="store_true", help="ask for boxes, print them and draw them on the picture")
    describe.add_argument("--out", type=Path, help="file of the picture with boxes (default: NAME-boxes-001.png, …)")
    info = command("info", "what a model is made of", commands.run_info)
    info.add_argument("folder", nargs="?", help="the same as --model")
    info.add_argument("--memory", action="store_true", help="what each part's weights take in each precision")
    evaluate = command("eval", "measure a model", commands.run_eval)
    evaluate.add_argument("suite", choices=["world", "geneval"])
    evaluate.add_argument(
        "--part",
        metavar="I/N",
        default="1/1",
        help="the I-th of N runs that share the work in one folder",
    )
    evaluate.add_argument("--limit", type=int, default=0, metavar="N", help="examples a category (default: all)")
    evaluate.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="world: measures whose names begin so, such as edit/; repeatable",
    )
    evaluate.add_argument(
        "--seeds", type=int, metavar="N", help="pictures of each drawing and edit (world: 1, geneval: 4)"
    )
    evaluate.add_argument("--steps", type=int, help="sampling steps")
    evaluate.add_argument(
        "--dtype",
        default="auto",
        help="of the model: auto (what the machine computes faster), float32, bfloat16 (many CPUs emulate it, slowly)",
    )
    evaluate.add_argument("--output", type=Path, default=Path("eval"), metavar="DIR")
    compared = subparsers.add_parser("compare", help="two evaluations of the same questions, question by question")
    compared.set_defaults(run=commands.run_compare)
    compared.add_argument("before", type=Path, help="a folder of limner eval world")
    compared.add_argument("after", type=Path, help="another one's, of other weights, an adapter or other steps")
    train = subparsers.add_parser("train", help="train a model from a recipe; interrupted runs go on")
    train.set_defaults(run=commands.run_train)
    train.add_argument("recipe", nargs="?", default="nano", help="a file of configs/recipe (default: nano)")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as joint.loop.steps=100")
    train.add_argument("--stages", help="comma-separated; default: those that make a model from nothing")
    train.add_argument(
        "--dry-run", action="store_true", help="two steps of every stage, in a folder that is thrown away"
    )
    finetune = subparsers.add_parser("finetune", help="teach a model something new with LoRA; interrupted runs go on")
    finetune.set_defaults(run=commands.run_finetune)
    finetune.add_argument("data", help="pictures with captions, conversations, tar shards, a hub data set id")
    finetune.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the adapter")
    finetune.add_argument("--model", default="nano", help="embedded name, folder or hub id (default: nano)")
    finetune.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    finetune.add_argument("--steps", type=int, help="training steps (default: 375)")
    finetune.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="such as rank=8 joint.loop.batch_size=8; repeatable",
    )
    finetune.add_argument("--dry-run", action="store_true", help="check the data, take two steps, write nothing")
    distil = subparsers.add_parser("distill", help="train a student that draws in a few steps; interrupted runs go on")
    distil.set_defaults(run=commands.run_distill)
    distil.add_argument("--model", default="nano", help="embedded name, folder or hub id (default: nano)")
    distil.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    distil.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the adapter")
    distil.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="such as steps=2 loop.steps=1000; repeatable",
    )
    data = subparsers.add_parser("data", help="look through a data set, or filter it into a new one")
    data.set_defaults(run=commands.run_data)
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
    built = subparsers.add_parser("build", help="join a backbone, a vision tower and an SD3 into a model to be aligned")
    built.set_defaults(run=commands.run_build)
    built.add_argument("--llm", required=True, help="folder or hub id of a causal language model with a chat template")
    built.add_argument("--vision", required=True, help="folder or hub id of SigLIP, CLIP, DINOv2 or the like")
    built.add_argument("--mmdit", required=True, help="folder or hub id of a diffusers SD3 or SD3.5")
    built.add_argument("--glyphs", help="folder or hub id of a ByT5, to write words in pictures")
    built.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the model")
    built.add_argument(
        "--reference", action="store_true", help="name the parts' folders or ids instead of copying weights"
    )
    converted = subparsers.add_parser("convert", help="make a model folder of weights released elsewhere")
    converted.set_defaults(run=commands.run_convert)
    converted.add_argument("what", choices=["seed-x"])
    converted.add_argument("source", type=Path, metavar="DIR", help="SEED-X's `pretrained` folder")
    converted.add_argument("--which", default="seed_x_i", help="seed_x, seed_x_i (default) or seed_x_edit")
    converted.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the model")
    ahead = command(
        "precompute", "run the frozen encoders over a data set, for training to read", commands.run_precompute
    )
    ahead.add_argument("data", help="what `limner finetune` takes")
    ahead.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the tensors")
    merge = command("merge", "write adapters into a model's weights", commands.run_merge)
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the whole model")
    return top


def size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ValueError as error:  # argparse would drop a ValueError's words
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; user mistakes end in one clear line and exit status 2."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    # argparse takes a list of positionals in one go: KEY=VALUE after an option is handed back
    if rest and not (options.command == "train" and all("=" in word and word[0] != "-" for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    # imported by diffusers where it is installed; on a CPU it reports a kernel that it does without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return options.run(options) or 0
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`limner describe … | head`)
        return 0
    except (ValueError, FloatingPointError, OSError) as error:  # OSError: a full disk, a folder without rights
        print(f"limner: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print("limner: there is not enough memory for this", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlimner: stopped", file=sys.stderr)
        return 130
