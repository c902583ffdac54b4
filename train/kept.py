"""What an adapter is to leave alone: where it learns nothing new, the base's own answers are its targets.

Li and Hoiem 2016, arXiv:1606.09282 (learning without forgetting). The truth would pull at the base as well: its noise is no
reason to change, and what the base makes of a request is what its users know.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import parallel
from .data import JointBatch
from .flow_loss import Painted, Sample, draws, encoded, idle_losses, painted
from .losses import decided
from .stages.joint import JointStage, Trainee, tell

CHANGED = 5.0
"""How much more a drawing counts that is made of earlier pictures: captioned pictures say nothing of those, and which of two
things an edit takes away hangs by a thread."""


@dataclass
class Kept:
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
    seen: Tensor
    """(views, patches, eye width): what the frozen eye made of the batch's views, and"""
    latents: list[Tensor]
    """the autoencoder of its pictures, so that neither is asked twice"""

    def target(self, group: Painted) -> Tensor:
        """The group's (samples, channels, h, w), with what is kept in its place."""
        return torch.stack([self.velocities.get(s, true) for s, true in zip(group.samples, group.target, strict=True)])


@torch.no_grad()
def keep(
    trainee: Trainee, stage: JointStage, seed: int, batch: JointBatch, step: int, conversations: Tensor,
    weight: float = 1.0,
) -> Kept:  # fmt: skip
    """What ``trainee``, as it is now, makes of the ``conversations`` (batch,) that are True, at the times and noises that
    `joint_losses` will take. Every process calls it at every step, whether it has some or not."""
    seen = trainee.frozen.features(batch.views(), batch.view_keys)
    latents = encoded(trainee, batch) if len(batch.target) else []
    drawings = conversations[batch.stream.drawing_row]
    if not parallel.total(int(conversations.sum())):  # the backbone's forward would be for nothing
        nothing = seen.new_zeros(0, trainee.stream.llm.config.vocab_size)
        return Kept(conversations, drawings, nothing, None, {}, weight, seen.new_ones(len(drawings)), seen, latents)
    told = tell(trainee, batch, seen=seen)
    logits, _, rows = decided(trainee.stream, told.output, batch.stream)
    velocities: dict[Sample, Tensor] = {}
    if told.features is not None:
        chance = draws(stage, batch, seed, step, drawings)
        for group in painted(trainee, stage, batch, told, chance, latents, only=drawings)[0]:
            velocities |= dict(zip(group.samples, group.velocity, strict=True))
    elif told.drawings:  # other processes have some
        idle_losses(trainee)
    made_of_others = torch.tensor([bool(row) for row in batch.references], dtype=torch.bool, device=drawings.device)
    weights = torch.where(drawings, weight * torch.where(made_of_others, CHANGED, 1.0), 1.0)
    return Kept(
        conversations,
        drawings,
        logits[conversations[rows]],
        told.features,
        velocities,
        weight,
        weights,
        seen,
        latents,
    )
