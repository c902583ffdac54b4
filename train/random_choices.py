"""Chance in training: timesteps, noise and dropout of a batch's drawings, a function of (seed, step, drawing)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..detokenizer import flow
from .data import JointBatch
from .stages.joint_options import JointStage

Sample = tuple[int, int]
"""(drawing of the batch, which of its timesteps and noises)"""


@dataclass
class RandomChoices:
    """Timesteps, noise and dropout of a batch's drawings: a function of (seed, step, drawing), on whichever process."""

    drop_context: Tensor
    """(drawings,) True to drop the whole context, as classifier-free guidance needs"""
    drop_references: Tensor
    """(drawings,) True to drop the reference pictures"""
    drop_prompt: Tensor
    """(drawings,) True to drop the prompt's hidden states, so that only the queries' features remain"""
    timesteps: Tensor
    """(flow_samples, drawings)"""
    seeds: list[int]
    weights: Tensor
    """(drawings,) weight of each of its samples, 0 if it has none; weight times samples adds up to the number of drawings"""
    counts: list[int]
    """How many samples each drawing has"""

    @property
    def samples(self) -> list[Sample]:
        return [(drawing, number) for drawing, count in enumerate(self.counts) for number in range(count)]

    def noise(self, samples: Sequence[Sample], shape: torch.Size) -> Tensor:
        """Standard normal noise (samples, *shape), on the CPU."""
        repeats = len(self.timesteps)
        made = {
            d: torch.randn(repeats, *shape, generator=torch.Generator().manual_seed(self.seeds[d]))
            for d in {d for d, _ in samples}
        }
        return torch.stack([made[d][number] for d, number in samples])


def random_choices(stage: JointStage, batch: JointBatch, seed: int, step: int) -> RandomChoices:
    """Chance for the drawings of a batch, of which there is at least one; `JointStage` has the rates."""
    seeds, uniforms, timesteps = [], [], []
    for drawing_id in batch.drawing_ids:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{step}/{drawing_id}".encode()))
        seeds.append(int(torch.randint(2**31, (1,), generator=generator)))
        uniforms.append(torch.rand(3, generator=generator))
        timesteps.append(
            flow.sample_timesteps(stage.flow_samples, stage.density, stage.density_mean, stage.density_std, generator)
        )
    limits = torch.tensor([stage.context_dropout, stage.reference_dropout, stage.prompt_dropout])
    drop_context, drop_references, drop_prompt = (torch.stack(uniforms) < limits).unbind(1)
    drawings = len(seeds)
    return RandomChoices(
        drop_context,
        drop_references,
        drop_prompt,
        torch.stack(timesteps, 1),
        seeds,
        weights=torch.tensor([1 / stage.flow_samples] * drawings),
        counts=[stage.flow_samples] * drawings,
    )
