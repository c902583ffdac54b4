"""Losses of the stream and the flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mllm.encoding import IGNORED
from ..mllm.stream import StreamBatch, StreamModel, StreamOutput
from . import parallel
from .targets import SelfDistillationTargets


def assistant_logits(model: StreamModel, output: StreamOutput, batch: StreamBatch) -> tuple[Tensor, Tensor, Tensor]:
    """What the assistant decides, text, shape token, BOI, end of turn: logits (decisions, vocabulary), the slots' -inf;
    what it is to decide (decisions,); and in which conversation (decisions,)."""
    targets = batch.labels[:, 1:]
    counted = targets != IGNORED
    logits = model.logits(output.hidden[:, :-1][counted]).float()
    return logits.index_fill(-1, model.slot_ids, float("-inf")), targets[counted], counted.nonzero()[:, 0]


def language_loss(
    model: StreamModel,
    output: StreamOutput,
    batch: StreamBatch,
    decisions: int,
    self_targets: SelfDistillationTargets | None = None,
) -> Tensor:
    """Cross entropy of what the assistant decides; where something is ``self_targets``, the divergence from it.

    The batch's sum over the number of ``decisions``, this process's in all the batches of a step, with several processes
    over those of all of them.
    """
    logits, targets, rows = assistant_logits(model, output, batch)
    count = parallel.sum_over_processes(decisions)
    if self_targets is None:
        return F.cross_entropy(logits, targets, reduction="sum") / count
    distilled = self_targets.conversations[rows]
    learned = F.cross_entropy(logits[~distilled], targets[~distilled], reduction="sum")
    return (learned + self_targets.weight * kl_divergence(logits[distilled], self_targets.logits).sum()) / count


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler, from the distributions of ``target`` to those of ``logits``, both (decisions, vocabulary): (decisions,).

    Ids at -inf in both count nothing.
    """
    log_probs, target_log_probs = (values.log_softmax(-1).clamp(min=-1e4) for values in (logits, target))
    return (target_log_probs.exp() * (target_log_probs - log_probs)).sum(-1)


def feature_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error of each drawing (drawings,), from (drawings, tokens, width) and the eye's detached features (SEED-X)."""
    return squared_error(predicted, target.detach())


def align_loss(head: nn.Module, tokens: Tensor, target: Tensor) -> Tensor:
    """Of each row, 1 - cosine of early MM-DiT tokens, through ``head``, with the eye's features of the clean picture (REPA).

    tokens (batch, n, width), target (batch, n, eye width). Yu et al. 2024, arXiv:2410.06940.
    """
    return 1 - F.cosine_similarity(head(tokens).float(), target.detach().float(), dim=-1).mean(1)


def squared_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row (batch,)."""
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def add_weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Adds ``"loss"``, the weighted sum of the named ones."""
    total = sum((weights.get(name, 0.0) * value for name, value in losses.items()), torch.zeros(()))
    return {"loss": total, **losses}
