"""What an adapter is to leave alone: where it learns nothing new, the base's own answers are its targets.

Li and Hoiem 2016, arXiv:1606.09282 (learning without forgetting). The truth would pull at the base as well: its noise is no
reason to change, and what the base makes of a request is what its users know.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import parallel
from .data import JointBatch
from .flow_loss import draws, encoded, idle_losses, painted
from .losses import decided
from .stages.joint import tell
from .stages.joint_options import JointStage
from .targets import Kept, Sample
from .trainee import Trainee

CHANGED = 5.0
"""How much more a drawing counts that is made of earlier pictures: captioned pictures say nothing of those, and which of two
things an edit takes away hangs by a thread."""


@torch.no_grad()
def keep(
    trainee: Trainee,
    stage: JointStage,
    seed: int,
    batch: JointBatch,
    step: int,
    conversations: Tensor,
    weight: float = 1.0,
) -> Kept:
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
