"""Losses of the stream and the flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mllm.encoding import IGNORED
from ..mllm.stream import StreamBatch, StreamModel, StreamOutput
from . import parallel


def language_loss(model: StreamModel, output: StreamOutput, batch: StreamBatch) -> Tensor:
    """Cross entropy of what the assistant decides: text, shape token, BOI, end of turn. The slots' logits are -inf.

    With several processes: this one's sum over the number of tokens in all.
    """
    targets = batch.labels[:, 1:]
    counted = targets != IGNORED
    logits = model.logits(output.hidden[:, :-1][counted]).float()
    logits = logits.index_fill(-1, model.slot_ids, float("-inf"))
    return F.cross_entropy(logits, targets[counted], reduction="sum") / parallel.total(int(counted.sum()))


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


def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Adds ``"loss"``, the weighted sum of the named ones."""
    total = sum((weights.get(name, 0.0) * value for name, value in losses.items()), torch.zeros(()))
    return {"loss": total, **losses}
