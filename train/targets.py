"""What losses compare: what is painted with what it is to be, the truth or what the base makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Sample = tuple[int, int]
"""A drawing of the batch, and which of its times and noises"""


@dataclass
class PredictedVelocities:
    """What the MM-DiT makes of drawings of one shape."""

    samples: list[Sample]
    velocity: Tensor
    """(samples, channels, h, w)"""
    target: Tensor
    early: Tensor | None
    """Image tokens of an early block, where they are to be aligned"""


@dataclass
class SelfDistillationTargets:
    """The base's answers to some conversations of a batch."""

    conversations: Tensor
    """(batch,) True where they count"""
    drawings: Tensor
    """(drawings,) True where they count"""
    logits: Tensor
    """(decisions of these conversations, vocabulary)"""
    features: Tensor | None
    """(drawings, feature_tokens, eye width) predicted; None where nothing is drawn or kept"""
    velocities: dict[Sample, Tensor]
    """Of each sample of a drawing that counts (channels, h, w)"""
    weight: float
    """What leaving them counts, beside 1 for what is learned"""
    weights: Tensor
    """(drawings,) the same for each drawing, 1 where it is learned"""
    eye_features: Tensor
    """(views, patches, eye width): what the frozen eye made of the batch's views, and"""
    latents: list[Tensor]
    """the autoencoder of its pictures, so that neither is asked twice"""

    def replace_targets(self, group: PredictedVelocities) -> Tensor:
        """The group's (samples, channels, h, w), with what is kept in its place."""
        return torch.stack([self.velocities.get(s, true) for s, true in zip(group.samples, group.target, strict=True)])
