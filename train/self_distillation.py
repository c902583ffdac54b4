"""Self-distillation: on replayed conversations an adapter's targets are the outputs of the base model.

Learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282). True targets would change the base too, as their noise has
a gradient even where nothing new is to be learned.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import parallel
from .data import JointBatch
from .flow_loss import dummy_losses, predict_velocities
from .losses import PredictedVelocities, Targets, assistant_logits, kl_divergence
from .objective import JointObjective, count_over_processes, run_stream
from .random_choices import RandomChoices, Sample, random_choices
from .stages.joint_options import JointStage
from .trainable import TrainableModel

REFERENCE_WEIGHT = 5.0
"""Weight of a replayed drawing with references: captioned pictures train none, and edits are the first that is forgotten."""
MAX_DISTILLED_DRAWINGS = 2
"""How many drawings of a replayed conversation are compared with the base at a step."""


class Adapter(Protocol):
    """What can be taken out of the model for a while (`adapter_training.AdapterTraining`)."""

    def disabled(self) -> AbstractContextManager[None]: ...


class ReplayObjective(JointObjective):
    """The joint objective of an adapter: true targets for the examples of a mixture's first source, the base's outputs, with
    ``weight``, for those of the others, which are replayed."""

    def __init__(
        self, trainable: TrainableModel, stage: JointStage, seed: int, adapter: Adapter, weight: float = 1.0
    ) -> None:
        super().__init__(trainable, stage, seed)
        self.adapter, self.weight = adapter, weight

    def targets(self, batch: JointBatch, step: int) -> Targets:
        """The base's outputs for what is replayed."""
        replayed = torch.tensor(batch.sources, device=self.trainable.stream.device) > 0
        with self.adapter.disabled():
            return self_distillation_targets(self.trainable, self.stage, self.seed, batch, step, replayed, self.weight)


@dataclass
class SelfDistillationTargets(Targets):
    """The base model's outputs for those conversations of a batch that are replayed; the others have the true targets."""

    conversations: Tensor
    """(batch,) True for replayed conversations"""
    drawings: Tensor
    """(drawings,) True for their drawings"""
    weight: float
    """Weight of these targets in the language loss; new examples have 1"""
    weights: Tensor
    """(drawings,) weight of each drawing's losses; new examples have 1"""
    logits: Tensor
    """(predicted tokens of these conversations, vocabulary)"""
    predicted_features: Tensor | None
    """(drawings, feature_tokens, vision width); None if nothing is drawn or replayed"""
    predicted_velocities: dict[Sample, Tensor]
    """(tokens, channels · patch²) for each sample of a replayed drawing"""

    def choices(self, stage: JointStage, batch: JointBatch, seed: int, step: int) -> RandomChoices:
        """Those of `distilled_choices`; and without context only the base is learned, as guidance would enlarge a difference."""
        choices = distilled_choices(stage, batch, seed, step, self.drawings)
        return replace(choices, drop_context=choices.drop_context & self.drawings.to(choices.drop_context.device))

    def language_error(self, logits: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        """Cross entropy, and in replayed conversations the KL divergence from the base's distribution."""
        replayed = self.conversations[rows]
        learned = F.cross_entropy(logits[~replayed], ids[~replayed], reduction="sum")
        return learned + self.weight * kl_divergence(logits[replayed], self.logits).sum()

    def features(self, true: Tensor) -> Tensor:
        """The base's features for replayed drawings."""
        if self.predicted_features is None:
            return true
        return torch.where(self.drawings[:, None, None], self.predicted_features, true)

    def velocities(self, group: PredictedVelocities) -> Tensor:
        """The base's velocities for replayed drawings."""
        of, length = self.predicted_velocities, group.target.shape[1]

        def target(sample: Sample, true: Tensor) -> Tensor:
            # by what else is in a call, its rows are padded to other lengths
            return F.pad(of[sample], (0, 0, 0, length - len(of[sample]))) if sample in of else true

        return torch.stack([target(*pair) for pair in zip(group.samples, group.target, strict=True)])

    def weighted(self, values: Tensor, drawings: Tensor | slice) -> Tensor:
        """Those of replayed drawings by `weights`."""
        return values * self.weights[drawings]


def distilled_choices(stage: JointStage, batch: JointBatch, seed: int, step: int, distilled: Tensor) -> RandomChoices:
    """`random_choices`, of which the ``distilled`` drawings (drawings,) take one time and noise each, and at most
    `MAX_DISTILLED_DRAWINGS` of a conversation: a story of six is most of the work and teaches no more than another story does."""
    choices = random_choices(stage, batch, seed, step)
    counts, weights = list(choices.counts), choices.weights.tolist()
    rows = batch.stream.drawing_row.tolist()
    by_row: dict[int, list[int]] = {}
    for drawing in distilled.nonzero().flatten().tolist():
        by_row.setdefault(rows[drawing], []).append(drawing)
    for drawings in by_row.values():
        selected = sorted(drawings, key=lambda d: choices.order[d])[:MAX_DISTILLED_DRAWINGS]
        for drawing in drawings:
            counts[drawing] = int(drawing in selected)
            weights[drawing] = counts[drawing] * len(drawings) / len(selected)
    return replace(choices, counts=counts, weights=torch.tensor(weights))


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
    noises of the loss. Every process has to call it at every step, with or without such conversations."""
    drawings = conversations[batch.stream.drawing_row]
    has_references = torch.tensor([bool(row) for row in batch.references], dtype=torch.bool, device=drawings.device)
    targets = SelfDistillationTargets(
        conversations,
        drawings,
        weight,
        weights=torch.where(drawings, weight * torch.where(has_references, REFERENCE_WEIGHT, 1.0), 1.0),
        logits=torch.zeros(0, trainable.stream.llm.config.vocab_size, device=conversations.device),
        predicted_features=None,
        predicted_velocities={},
    )
    if not parallel.sum_over_processes(int(conversations.sum())):  # saves the forward of the backbone
        return targets
    output, inputs = run_stream(trainable, batch, stage.token_closeness)
    logits, _, rows = assistant_logits(trainable.stream, output.hidden, batch.stream.labels, batch.stream.answers)
    targets.logits = logits[conversations[rows]]
    drawn = count_over_processes(batch).drawn
    if inputs is not None:
        targets.predicted_features = inputs.features
        choices = distilled_choices(stage, batch, seed, step, drawings)
        only = drawings.nonzero().flatten().tolist()
        for group in predict_velocities(trainable, stage, batch, inputs, choices, only)[0]:
            targets.predicted_velocities |= zip(group.samples, group.velocity, strict=True)
    elif drawn:  # other processes have some
        dummy_losses(trainable)
    return targets
