"""What a model's training was, its commands and the cost of each stage: ``training.json`` and, to be read, the model's card."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..inference.model import Limner
from ..inference.output import write_text
from . import parallel
from .checkpoints import saved_checkpoints
from .loop import LoopConfig, append_line
from .machine import MachineChoices
from .recipe_options import Recipe

COSTS_FILE = "costs.jsonl"
"""In a run's output: a line for each stage of each command, with its seconds"""
COMMANDS_FILE = "commands.txt"
"""In a run's output: the commands that trained there"""
HISTORY_FILE = "training.json"
"""In a model's folder: its runs, those of the warm starts before it first"""
CARD_FILE = "README.md"


def note_command(folder: Path) -> None:
    """Add this process's command to those of a run."""
    words = ["limner", *sys.argv[1:]] if sys.argv[1:2] == ["train"] else ["# run_recipe, called from Python"]
    command, path = shlex.join(words) if words[0] == "limner" else words[0], folder / COMMANDS_FILE
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if command not in before:
        write_text(path, "\n".join([*before, command]) + "\n")


@contextmanager
def measured(folder: Path, name: str, loop: LoopConfig | None, choices: MachineChoices) -> Iterator[None]:
    """Note what a stage of the run in ``folder`` costs: its steps within, and their seconds, also where it is interrupted."""
    stage = folder / name
    run = stage / "run" if name == "student" else stage
    begin, begun = newest_step(run), time.monotonic()
    finished = loop is not None and begin >= loop.steps
    if (stage / "model").exists() or (name == "student" and (stage / CARD_FILE).exists()) or finished:
        yield
        return
    end: int | None = None
    try:
        yield
        end = loop.steps if loop else 0
    finally:
        end = newest_step(run) if end is None else end
        if parallel.rank() == 0:
            values = {
                "stage": name,
                "begin": begin,
                "end": end,
                "batch": loop.batch_size * loop.gradient_accumulation_steps if loop else 0,
                "seconds": round(time.monotonic() - begun, 1),
                "precision": choices.dtype,
                "threads": torch.get_num_threads(),
                "processes": parallel.world_size(),
                "machine": choices.machine,
            }
            append_line(folder / COSTS_FILE, values)


def newest_step(folder: Path) -> int:
    """Of the newest checkpoint in a stage's folder; 0 without one."""
    found = saved_checkpoints(folder / "checkpoints")
    return int(found[-1].name) if found else 0


def stage_costs(folder: Path) -> list[dict[str, Any]]:
    """A row for each stage and machine of a run, in the order in which they were begun: steps, conversations, seconds."""
    path = folder / COSTS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in map(json.loads, lines):
        kind = ("stage", "batch", "precision", "threads", "processes", "machine")
        row = rows.setdefault(
            tuple(line[key] for key in kind),
            {key: line[key] for key in kind} | {"steps": 0, "conversations": 0, "seconds": 0.0},
        )
        steps = line["end"] - line["begin"]
        row["steps"] += steps
        row["conversations"] += steps * line["batch"]
        row["seconds"] = round(row["seconds"] + line["seconds"], 1)
    return list(rows.values())


def run_history(recipe: Recipe, choices: MachineChoices, folder: Path) -> dict[str, Any]:
    """What a run was, as `HISTORY_FILE` has it."""
    commands = (folder / COMMANDS_FILE).read_text(encoding="utf-8").splitlines()
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "base": recipe.warm_start,
        "commands": commands,
        "sized_to": asdict(choices),
        "stages": stage_costs(folder),
    }


def write_card(model: Path, run: dict[str, Any], parts: str) -> None:
    """Write a model's history and card to its folder; those of its warm start are continued. ``parts`` is its size in words."""
    base = Path(run["base"]) if run["base"] else None
    before: list[dict[str, Any]] = []
    own_words = ""
    if base is not None and (base / HISTORY_FILE).exists():
        before = json.loads((base / HISTORY_FILE).read_text(encoding="utf-8"))
    if base is not None and (base / CARD_FILE).exists():
        own_words = written_by_hand((base / CARD_FILE).read_text(encoding="utf-8"))
    history = [*before, run]
    write_text(model / HISTORY_FILE, json.dumps(history, indent=1) + "\n")
    write_text(model / CARD_FILE, card(history, parts, own_words))


EARLIER = "## What the model it began from said of itself"


def written_by_hand(text: str) -> str:
    """Of a warm start's card, what no recipe wrote."""
    if EARLIER in text:
        return text.partition(EARLIER)[2].strip()
    if "<!-- written by limner train -->" in text:
        return ""
    lines = text.splitlines()
    if lines[:1] == ["---"] and "---" in lines[1:]:  # without its metadata
        lines = lines[lines.index("---", 1) + 1 :]
    return "\n".join("##" + line if line.startswith("#") else line for line in lines).strip()


def card(history: Sequence[dict[str, Any]], parts: str, own_words: str) -> str:
    """The card of a model of these runs, the oldest first."""
    last, first = history[-1], history[0]
    origin = f"from `{first['base']}`" if first["base"] else "from nothing"
    sections = [
        f"---\nlibrary_name: limner\n---\n<!-- written by limner train -->\n\n# {last['recipe']}\n",
        f"A Limner model, trained {origin} by `limner train`: {parts}.\n",
        "## How it was made\n",
        *map(run_section, history),
    ]
    if own_words:
        sections += [f"{EARLIER}\n", own_words + "\n"]
    return "\n".join(sections)


def run_section(run: dict[str, Any]) -> str:
    """A run's commands and a table of its stages."""
    rows = [
        "| stage | steps x batch | conversations or pictures | seconds | a second | precision, threads | machine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in run["stages"]:
        size = f"{row['steps']:,} x {row['batch']}" if row["batch"] else "-"
        count = f"{row['conversations']:,}" if row["batch"] else "-"
        rate = f"{row['conversations'] / row['seconds']:,.1f}" if row["batch"] and row["seconds"] else "-"
        where = f"{row['precision']}, {row['threads']}" + (f" x {row['processes']}" if row["processes"] > 1 else "")
        rows.append(
            f"| `{row['stage']}` | {size} | {count} | {row['seconds']:,.0f} | {rate} | {where} | {row['machine']} |"
        )
    seconds = sum(row["seconds"] for row in run["stages"])
    told = sum(row["conversations"] for row in run["stages"])
    commands = "\n".join(f"    {command}" for command in run["commands"])
    base = f", on from `{run['base']}`" if run["base"] else ""
    summary = f"In all {seconds / 3600:.2f} hours, {told:,} conversations and pictures."
    return (
        f"Recipe `{run['recipe']}`, seed {run['seed']}{base}:\n\n{commands}\n\n" + "\n".join(rows) + f"\n\n{summary}\n"
    )


def parameter_summary(model: Limner) -> str:
    """A line with the number of parameters of each part, in millions."""
    stream, detokenizer = model.mllm, model.detokenizer
    parts: dict[str, list[Any]] = {
        "backbone": [stream.llm],
        "vision tower": [stream.vision_tower],
        "visual tokenizer": [stream.visual_tokenizer],
        "stream": [stream.queries, stream.input_resampler, stream.output_resampler, stream.draft],
        "adapter": [detokenizer.adapter],
        "glyphs": [detokenizer.glyphs, detokenizer.glyph_images],
        "mmdit": [detokenizer.mmdit],
        "autoencoder": [detokenizer.autoencoder],
    }
    counts = {
        name: sum(p.numel() for part in own if part for p in part.parameters()) / 1e6 for name, own in parts.items()
    }
    counts = {name: count for name, count in counts.items() if count}
    return ", ".join(f"{k} {v:.2f} M" for k, v in counts.items()) + f", in all {sum(counts.values()):.2f} M"
