"""Losses of the stream and of the flow, and their targets: the true ones or, in self-distillation, the base model's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mllm.encoding import IGNORE_INDEX
from ..mllm.stream import StreamBatch, StreamModel, StreamOutput
from . import parallel

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


def assistant_logits(model: StreamModel, output: StreamOutput, batch: StreamBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Where the assistant predicts a token (text, shape token, BOI, end of turn): logits (tokens, vocabulary), with -inf for
    query slots; target ids (tokens,); and the row of the batch (tokens,)."""
    targets = batch.labels[:, 1:]
    counted = targets != IGNORE_INDEX
    logits = model.logits(output.hidden[:, :-1][counted]).float()
    return logits.index_fill(-1, model.slot_ids, float("-inf")), targets[counted], counted.nonzero()[:, 0]


def language_loss(
    model: StreamModel,
    output: StreamOutput,
    batch: StreamBatch,
    decisions: int,
    self_targets: SelfDistillationTargets | None = None,
) -> Tensor:
    """Cross entropy of the assistant's tokens; in replayed conversations the KL divergence from ``self_targets``.

    The batch's sum divided by ``decisions``, the number of the assistant's tokens in all batches of a step, summed over all
    processes.
    """
    logits, targets, rows = assistant_logits(model, output, batch)
    count = parallel.sum_over_processes(decisions)
    if self_targets is None:
        return F.cross_entropy(logits, targets, reduction="sum") / count
    distilled = self_targets.conversations[rows]
    learned = F.cross_entropy(logits[~distilled], targets[~distilled], reduction="sum")
    return (learned + self_targets.weight * kl_divergence(logits[distilled], self_targets.logits).sum()) / count


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target || prediction) of each row (tokens,), from two sets of logits (tokens, vocabulary).

    Ids at -inf in both add nothing.
    """
    log_probs, target_log_probs = (values.log_softmax(-1).clamp(min=-1e4) for values in (logits, target))
    return (target_log_probs.exp() * (target_log_probs - log_probs)).sum(-1)


def feature_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each drawing (drawings,) between features (drawings, tokens, width); the target is detached."""
    return squared_error(predicted, target.detach())


def align_loss(head: nn.Module, tokens: Tensor, target: Tensor) -> Tensor:
    """Alignment loss of REPA (Yu et al. 2024, arXiv:2410.06940): 1 - cosine, averaged over the tokens of each row (batch,).

    ``tokens`` (batch, n, width) of an early MM-DiT block go through ``head``; ``target`` (batch, n, vision width) are the
    vision features of the clean picture.
    """
    return 1 - F.cosine_similarity(head(tokens).float(), target.detach().float(), dim=-1).mean(1)


def squared_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row (batch,)."""
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def add_weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """``losses`` and their weighted sum as ``"loss"``; a loss without a weight is only logged."""
    total = sum((weights.get(name, 0.0) * value for name, value in losses.items()), torch.zeros(()))
    return {"loss": total, **losses}
