"""What of a recipe is sized to the machine: precision, compilation, and the batches of a GPU. It is chosen once, said, and kept
with the run, which goes on by it on another machine, too."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..inference import precision
from . import parallel
from .loop import LoopConfig
from .recipe_options import Recipe

GIB_A_BATCH = 8
"""Memory of a GPU for each of nano's batches of 34 conversations in one step. Measured on an H200: 512 conversations with four
noises took 106 GB"""
MOST_BATCHES = 16
LEAST_STEPS = 300
"""A stage keeps as many steps, whatever a batch could hold"""
MOST_OF_THE_RATE = 2.0
"""The largest factor of a learning rate. The square root is a rule for small factors: with 15 times nano's batch Muon learned at
its rate as it is, and nothing was measured at four times that."""
LEAST_COMPILED = 200
"""Steps of a stage below which compiling would take longer than it saves"""


@dataclass(frozen=True)
class MachineChoices:
    """What a run was sized to."""

    machine: str
    """A line about the processor or the GPU"""
    dtype: str
    compile: bool
    """Whether stages that leave it to the machine are compiled"""
    batch_factor: int
    """Batches of the recipe's size in one of the run's"""

    def __str__(self) -> str:
        compiled = "compiled where it pays" if self.compile else "nothing compiled"
        size = "batches of the recipe's size"
        if self.batch_factor > 1:
            size = f"up to {self.batch_factor} of the recipe's batches in one"
        return f"{self.dtype}, {compiled}, {size} ({self.machine})"


def machine_name(device: torch.device) -> str:
    """The GPU with its memory, or the processor with the cores that this process may use."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor_name()}, {cores} cores"


def processor_name() -> str:
    """As Linux has it, else as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def choose_for_machine(recipe: Recipe, device: torch.device, before: dict[str, Any] | None = None) -> MachineChoices:
    """What the recipe leaves to the machine; ``before`` is what the run was begun with, which is kept."""
    kept = before or {}
    dtype = recipe.dtype if recipe.dtype != "auto" else kept.get("dtype", "auto")
    chosen = parallel.common_dtype(precision.choose_dtype(device, dtype))
    factor = recipe.batch_factor
    if factor == "auto":
        factor = kept.get("batch_factor") or batch_factor(device)
    return MachineChoices(
        machine=machine_name(device),
        dtype=str(chosen).removeprefix("torch."),
        compile=can_compile(device) and kept.get("compile", True),
        batch_factor=factor,
    )


def batch_factor(device: torch.device) -> int:
    """A power of two: 1 on a CPU, which a batch of nano's fills; of a GPU as its memory allows."""
    if device.type != "cuda":
        return 1
    batches = torch.cuda.get_device_properties(device).total_memory / 2**30 / GIB_A_BATCH
    factor = 1
    while 2 * factor <= min(batches, MOST_BATCHES):
        factor *= 2
    return factor


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has its compiler here: Triton for CUDA, one of C++ for a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # it takes a second to import
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cuda":
        return has_triton()
    if device.type != "cpu":
        return False
    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


def read_choices(path: Path) -> dict[str, Any] | None:
    """What the run of a ``recipe.json`` was sized to; None where there is none, or one of before this was noted."""
    return json.loads(path.read_text(encoding="utf-8")).get("sized_to") if path.exists() else None


def recipe_text(recipe: Recipe, choices: MachineChoices) -> str:
    """A run's ``recipe.json``: the recipe as it was given, and what it was sized to."""
    return json.dumps(asdict(recipe) | {"sized_to": asdict(choices)}, indent=1) + "\n"


def sized(recipe: Recipe, choices: MachineChoices, stages: Sequence[str]) -> Recipe:
    """The recipe with its stages at their own length and size: what `run_recipe` runs."""
    changed: dict[str, Any] = {"dtype": choices.dtype}
    for name in stages:
        stage = getattr(recipe, name)
        if not hasattr(stage, "loop"):
            continue
        stage = replace(stage, loop=with_batches(scaled(stage.loop, recipe.scale), choices.batch_factor))
        if getattr(stage, "compile", None) == "auto":
            stage = replace(stage, compile=choices.compile and stage.loop.steps >= LEAST_COMPILED)
        changed[name] = stage
    return replace(recipe, scale=1.0, batch_factor=1, **changed)


def scaled(loop: LoopConfig, scale: float) -> LoopConfig:
    """A loop of ``scale`` times the steps: the warm-up is shortened with them, the fall at the end is a share of them anyway."""
    if scale == 1:
        return loop
    return replace(
        loop,
        steps=max(2, round(loop.steps * scale)),
        warmup_steps=min(loop.warmup_steps, round(loop.warmup_steps * scale)),
    )


def with_batches(loop: LoopConfig, factor: int) -> LoopConfig:
    """A loop over as many conversations in batches ``factor`` times as large, or as much of it as leaves `LEAST_STEPS`.

    The rate grows by the square root of the factor (Malladi et al. 2022, arXiv:2205.10343, for AdamW; taken for Muon, too), at
    most by `MOST_OF_THE_RATE`; the average and the warm-up go over as many conversations as before (Busbridge et al. 2023,
    arXiv:2307.13813).
    """
    while factor > 1 and loop.steps / factor < LEAST_STEPS:
        factor //= 2
    if factor == 1:
        return loop
    return replace(
        loop,
        steps=-(-loop.steps // factor),
        batch_size=loop.batch_size * factor,
        learning_rate=min(1.0, loop.learning_rate * min(MOST_OF_THE_RATE, factor**0.5)),
        warmup_steps=-(-loop.warmup_steps // factor),
        ema_decay=loop.ema_decay**factor,
    )


def plan(recipe: Recipe, stages: Sequence[str]) -> str:
    """A line with what each stage of a sized recipe goes through."""
    loops = {name: getattr(recipe, name).loop for name in stages if hasattr(getattr(recipe, name), "loop")}
    return ", ".join(
        f"{name} {loop.steps:,} x {loop.batch_size * loop.gradient_accumulation_steps}" for name, loop in loops.items()
    )
