"""The cost of a training step, estimated before a run: its time, and the memory that it takes."""

from __future__ import annotations

import sys
import time

import torch
from torch import nn
from tqdm import tqdm

from . import parallel
from .data import JointBatch
from .datasets.mixture import Mixture
from .loop import backward
from .objective import JointObjective
from .optimizer import MasterOptimizer
from .self_distillation import distilled_choices
from .stages.joint_options import JointStage
from .trainable import TrainableModel


def estimate_cost(make_batch: Mixture, objective: JointObjective) -> tuple[float, int]:
    """Seconds a step and peak memory in bytes, from two steps that change nothing.

    The batches of a pool differ, as they are sorted by what is drawn in them. The largest one shows the memory, and warms up;
    the one that is nearest to the pool's mean in `step_cost` is timed.
    """
    trainable, stage = objective.trainable, objective.stage
    batches = [make_batch(step) for step in tqdm(range(make_batch.pool), desc="a pool", leave=False, disable=None)]
    # summed, so that all processes choose the same two
    costs = [parallel.sum_over_processes(step_cost(batch, trainable, stage)) for batch in batches]
    mean = sum(costs) / len(costs)
    largest = costs.index(max(costs))
    typical = min(range(len(costs)), key=lambda i: abs(costs[i] - mean))
    optimizer = MasterOptimizer(trainable.named_parameters(), 1.0, ema_decay=0.9)
    for step in tqdm((largest, typical), desc="trying", leave=False, disable=None):
        begun = time.monotonic()
        backward(objective(batches[step], step)["loss"])
        optimizer.step(0.0, 1.0)
        seconds = time.monotonic() - begun
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()
    return seconds * mean / costs[typical], peak


def step_cost(batch: JointBatch, trainable: TrainableModel, stage: JointStage) -> float:
    """About how many multiplications a step of this batch takes: parameters times tokens, for forward, backward and, if
    conversations are replayed, the base's forward."""
    stream, detokenizer = trainable.stream, trainable.mmdit_detokenizer
    tokens = batch.stream.input_ids.numel() + len(batch.target) * stream.config.max_drawing
    passes = 3 if any(batch.sources) else 2
    total: float = tokens * passes * count_parameters(stream.llm.get_decoder().layers)
    if not batch.target:
        return total
    distilled = torch.tensor(batch.sources)[batch.stream.drawing_row] > 0
    assert detokenizer.adapter is not None
    context = detokenizer.adapter.config.num_tokens + stream.config.prompt_tokens
    stream_parameters = count_parameters(detokenizer.mmdit.blocks) / 2  # either stream has half of them
    for drawing, count in enumerate(distilled_choices(stage, batch, 0, 0, distilled).counts):
        shown = [batch.target[drawing], *batch.references[drawing]]
        pixels = sum(batch.pictures[shape][0, ..., 0].numel() for shape, _ in shown)
        tokens = context + pixels // detokenizer.size_multiple**2
        total += count * (tokens * stream_parameters) * (3 if distilled[drawing] else 2)
    return total


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def peak_memory() -> int:
    """Peak memory of this process in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # which accelerate brings

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
