"""Chance in training: timesteps, noise and dropout of a batch's drawings, a function of (seed, step, drawing)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..detokenizer import flow
from . import philox
from .data import JointBatch
from .stages.joint_options import JointStage

Sample = tuple[int, int]
"""(drawing of the batch, which of its timesteps and noises)"""
_NOISE_BITS = 24
"""A noise has at most two times so many numbers in two to the power of it: the counter's other bits tell the sample."""
_SCALARS = 0xFF << _NOISE_BITS
"""The first counter of a drawing's other random numbers"""


@dataclass
class RandomChoices:
    """Timesteps, noise and dropout of a batch's drawings.

    They come from `philox`, whose key is that of seed and step, and whose counters are those of drawing, sample and number: so
    they do not depend on the batch that a drawing is in, and the noise is made on the device that needs it.
    """

    drop_context: Tensor
    """(drawings,) True to drop the whole context, as classifier-free guidance needs"""
    drop_references: Tensor
    """(drawings,) True to drop the reference pictures"""
    drop_prompt: Tensor
    """(drawings,) True to drop the prompt's hidden states, so that only the queries' features remain"""
    timesteps: Tensor
    """(flow_samples, drawings)"""
    key: int
    drawing_ids: Sequence[int]
    order: list[float]
    """A random number for each drawing, to choose some by"""
    weights: Tensor
    """(drawings,) weight of each of its samples, 0 if it has none; weight times samples adds up to the number of drawings"""
    counts: list[int]
    """How many samples each drawing has"""

    @property
    def samples(self) -> list[Sample]:
        return [(drawing, number) for drawing, count in enumerate(self.counts) for number in range(count)]

    def noise(self, samples: Sequence[Sample], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Standard normal noise (samples, *shape), fp32, made on ``device``."""
        counters = torch.tensor([[number << _NOISE_BITS, self.drawing_ids[d]] for d, number in samples])
        low, high = counters.to(device, non_blocking=True).unbind(1)
        count = torch.Size(shape).numel()
        assert count <= 2 << _NOISE_BITS, f"a noise of {count} numbers"
        return philox.normal(self.key, low, high, count).unflatten(1, torch.Size(shape))


def random_choices(stage: JointStage, batch: JointBatch, seed: int, step: int) -> RandomChoices:
    """Chance for the drawings of a batch, of which there is at least one; `JointStage` has the rates."""
    key = zlib.crc32(f"{seed}/{step}".encode())
    samples, drawings = stage.flow_samples, len(batch.drawing_ids)
    counters = _SCALARS + torch.arange(2 + (samples + 1) // 2)
    pairs = philox.uniform(key, counters[:, None], torch.tensor(batch.drawing_ids))
    numbers = torch.stack(pairs, 1).flatten(0, 1)  # (4 and the samples, drawings)
    limits = torch.tensor([stage.context_dropout, stage.reference_dropout, stage.prompt_dropout])
    drop_context, drop_references, drop_prompt = (numbers[:3] < limits[:, None]).unbind()
    times = flow.timesteps_at(numbers[4 : 4 + samples], stage.density, stage.density_mean, stage.density_std)
    return RandomChoices(
        drop_context,
        drop_references,
        drop_prompt,
        times,
        key,
        batch.drawing_ids,
        order=numbers[3].tolist(),
        weights=torch.tensor([1 / samples] * drawings),
        counts=[samples] * drawings,
    )
