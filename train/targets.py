"""Predicted velocities and their targets, which are the true ones or, in self-distillation, the base model's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Sample = tuple[int, int]
"""(drawing of the batch, which of its timesteps and noises)"""


@dataclass
class PredictedVelocities:
    """The MM-DiT's velocities for drawings of one shape."""

    samples: list[Sample]
    velocity: Tensor
    """(samples, channels, h, w)"""
    target: Tensor
    early: Tensor | None
    """Image tokens of an early block (samples, tokens, width), if there is an alignment loss."""


@dataclass
class SelfDistillationTargets:
    """The base model's outputs for those conversations of a batch that are replayed; they are the targets there."""

    conversations: Tensor
    """(batch,) True for replayed conversations"""
    drawings: Tensor
    """(drawings,) True for their drawings"""
    logits: Tensor
    """(predicted tokens of these conversations, vocabulary)"""
    features: Tensor | None
    """(drawings, feature_tokens, vision width) predicted; None if nothing is drawn or replayed"""
    velocities: dict[Sample, Tensor]
    """(channels, h, w) for each sample of a replayed drawing"""
    weight: float
    """Weight of these targets in the language loss; new examples have 1"""
    weights: Tensor
    """(drawings,) weight of each drawing's losses; new examples have 1"""
    vision_features: Tensor
    """(views, patches, vision width): the frozen vision tower's features of the batch's views, so that they are computed once"""
    latents: list[Tensor]
    """Latents of the batch's pictures, one tensor a shape, so that they are computed once"""

    def replace_targets(self, group: PredictedVelocities) -> Tensor:
        """The group's target velocities (samples, channels, h, w), with the base's for replayed drawings."""
        return torch.stack([self.velocities.get(s, true) for s, true in zip(group.samples, group.target, strict=True)])
