"""The terms of the loss, and what they are measured against (`Targets`): the truth, unless a subclass has other targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mllm.encoding import IGNORE_INDEX
from ..mllm.stream import StreamBatch, StreamModel, StreamOutput
from .data import JointBatch
from .random_choices import RandomChoices, Sample, random_choices
from .stages.joint_options import JointStage


@dataclass
class PredictedVelocities:
    """The MM-DiT's velocities for the samples of one call, as patches of latents; those of pictures of different shapes are
    padded to one length."""

    samples: list[Sample]
    drawings: Tensor
    """(samples,) index of each sample's drawing in the batch"""
    velocity: Tensor
    """(samples, tokens, channels · patch²)"""
    target: Tensor
    mask: Tensor
    """(samples, tokens), False where padding is"""
    early: Tensor | None
    """Image tokens of an early block (samples, tokens, width), if there is an alignment loss."""

    def error(self, target: Tensor) -> Tensor:
        """Mean squared error of each sample's tokens (samples,) from ``target``, which is detached."""
        errors = (self.velocity.float() - target.detach().float()).square().mean(-1)
        return (errors * self.mask).sum(1) / self.mask.sum(1)


class Targets:
    """What the outputs for a batch are measured against: the conversations' own words, pictures and their features.

    A subclass may have other targets for some of them (`self_distillation`).
    """

    def choices(self, stage: JointStage, batch: JointBatch, seed: int, step: int) -> RandomChoices:
        """Timesteps, noise and dropout of the batch's drawings, of which there is at least one."""
        return random_choices(stage, batch, seed, step)

    def language_error(self, logits: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        """The sum over all tokens that the assistant predicts: logits (tokens, vocabulary), target ids (tokens,) and the row of
        the batch that each is in (tokens,)."""
        return F.cross_entropy(logits, ids, reduction="sum")

    def features(self, true: Tensor) -> Tensor:
        """Target features (drawings, feature_tokens, vision width), given the true ones."""
        return true

    def velocities(self, group: PredictedVelocities) -> Tensor:
        """Target velocities (samples, tokens, channels · patch²) of a group."""
        return group.target

    def weighted(self, values: Tensor, drawings: Tensor | slice) -> Tensor:
        """``values`` (drawings,) of the losses of features and velocities, each times the weight of its drawing."""
        return values


def assistant_logits(
    model: StreamModel, hidden: Tensor, labels: Tensor, answers: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the assistant predicts a token (text, what announces or begins a picture, end of turn), from last hidden states
    (batch, tokens, width) and labels (batch, tokens): logits (tokens, vocabulary), with -inf for query slots and visual tokens,
    none of which is ever chosen there; target ids (tokens,); and the row of the
    batch (tokens,). ``answers`` (2, tokens) are `StreamBatch.answers`; without them the labels are looked through, for which the
    host waits."""
    if answers is None:
        answers = (labels[:, 1:] != IGNORE_INDEX).nonzero().T
    rows, columns = answers
    logits = model.logits(hidden[rows, columns]).float()
    return logits.index_fill(-1, model.block_ids, float("-inf")), labels[rows, columns + 1], rows


def code_errors(model: StreamModel, batch: StreamBatch, output: StreamOutput) -> Tensor:
    """Cross entropy of each token drawing's codes (token drawings,), averaged over as many as it has.

    It is over the visual tokens alone: nothing else is ever chosen there, as the grammar of pictures has it, and no row of words
    needs to learn to be unlikely there.
    """
    assert output.codes is not None and output.code_states is not None
    logits = model.code_logits(output.code_states).float()
    if output.draft_features is not None:
        logits = logits + model.draft_logits(output.draft_features)
    errors = F.cross_entropy(logits.transpose(1, 2), output.codes, reduction="none")
    mask = model.code_mask(batch)
    return (errors * mask).sum(1) / mask.sum(1)


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target || prediction) of each row (tokens,), from two sets of logits (tokens, vocabulary); the target is detached.

    Ids at -inf in both add nothing. The gradient is the difference of the probabilities, exactly zero where the logits are the
    same. Autograd's own would be rounding errors there, of which an optimizer that normalises gradients makes whole steps.
    """
    with torch.no_grad():
        log_probs, target_log_probs = (values.log_softmax(-1).clamp(min=-1e4) for values in (logits, target))
        divergence = (target_log_probs.exp() * (target_log_probs - log_probs)).sum(-1)
        difference = log_probs.exp() - target_log_probs.exp()
    slope = (difference * logits.clamp(min=-1e4)).sum(-1)
    return divergence + slope - slope.detach()


def align_loss(head: nn.Module, tokens: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Alignment loss of REPA (Yu et al. 2024, arXiv:2410.06940): 1 - cosine, averaged over the tokens of each row (batch,) that
    are True in ``mask`` (batch, n).

    ``tokens`` (batch, n, width) of an early MM-DiT block go through ``head``; ``target`` (batch, n, vision width) are the
    vision features of the clean picture.
    """
    similar = F.cosine_similarity(head(tokens).float(), target.detach().float(), dim=-1)
    return 1 - (similar * mask).sum(1) / mask.sum(1)


def box_error(predicted: Tensor, known: Tensor) -> Tensor:
    """The mean absolute difference of each predicted box (drawings, 4) from the known one, summed over the drawings; 0 where that
    is NaN."""
    return torch.where(known.isnan(), predicted.detach(), known).sub(predicted).abs().mean(1).sum()


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row (batch,); the target is detached."""
    return (predicted.float() - target.detach().float()).square().flatten(1).mean(1)


def add_weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """``losses`` and their weighted sum as ``"loss"``; a loss without a weight is only logged."""
    total = sum((weights.get(name, 0.0) * value for name, value in losses.items()), torch.zeros(()))
    return {"loss": total, **losses}
