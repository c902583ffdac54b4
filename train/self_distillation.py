"""Self-distillation: on replayed conversations an adapter's targets are the outputs of the base model.

Learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282). True targets would change the base too, as their noise has
a gradient even where nothing new is to be learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import parallel
from .data import JointBatch
from .flow_loss import dummy_losses, encode_pictures, predict_velocities, random_choices
from .losses import SelfDistillationTargets, assistant_logits
from .stages.joint import forward_losses
from .stages.joint_options import JointStage
from .trainable import TrainableModel

REFERENCE_WEIGHT = 5.0
"""Weight of a replayed drawing with references: captioned pictures train none, and edits are the first that is forgotten."""


@torch.no_grad()
def self_distillation_targets(
    trainable: TrainableModel,
    stage: JointStage,
    seed: int,
    batch: JointBatch,
    step: int,
    conversations: Tensor,
    weight: float = 1.0,
) -> SelfDistillationTargets:
    """Outputs of ``trainable``, with the adapter off, for the ``conversations`` (batch,) that are True, at the timesteps and
    noises of `joint_losses`. Every process has to call it at every step, with or without such conversations."""
    vision_features = trainable.frozen_encoders.features(batch.views(), batch.view_keys)
    latents = encode_pictures(trainable, batch) if len(batch.target) else []
    drawings = conversations[batch.stream.drawing_row]
    has_references = torch.tensor([bool(row) for row in batch.references], dtype=torch.bool, device=drawings.device)
    targets = SelfDistillationTargets(
        conversations,
        drawings,
        logits=vision_features.new_zeros(0, trainable.stream.llm.config.vocab_size),
        features=None,
        velocities={},
        weight=weight,
        weights=torch.where(drawings, weight * torch.where(has_references, REFERENCE_WEIGHT, 1.0), 1.0),
        vision_features=vision_features,
        latents=latents,
    )
    if not parallel.sum_over_processes(int(conversations.sum())):  # saves the forward of the backbone
        return targets
    stream_losses = forward_losses(trainable, batch, vision_features=vision_features)
    assert stream_losses.output is not None
    logits, _, rows = assistant_logits(trainable.stream, stream_losses.output, batch.stream)
    targets.logits, targets.features = logits[conversations[rows]], stream_losses.features
    if stream_losses.features is not None:
        choices = random_choices(stage, batch, seed, step, drawings)
        for group in predict_velocities(trainable, stage, batch, stream_losses, choices, latents, only=drawings)[0]:
            targets.velocities |= zip(group.samples, group.velocity, strict=True)
    elif stream_losses.drawings:  # other processes have some
        dummy_losses(trainable)
    return targets
