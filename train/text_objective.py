"""The loss of text alone, by itself and beside a batch with pictures."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..mllm.encoding import IGNORE_INDEX
from ..mllm.masks import attention_masks
from ..mllm.stream import StreamModel
from . import parallel
from .losses import Targets, assistant_logits
from .objective import JointObjective, LanguageObjective
from .text_batches import MixedBatch, TextBatch
from .trainable import TrainableModel


class TextObjective:
    """Cross entropy of the assistant's tokens, averaged over those of all processes and accumulated batches."""

    def __init__(self, trainable: TrainableModel) -> None:
        self.trainable = trainable

    def __call__(self, batch: TextBatch, step: int) -> dict[str, Tensor]:
        stream = self.trainable.stream
        (tokens,) = parallel.sum_counts(batch.counts()[0])
        # looked for before they are on a device, which would be waited for
        answers = (batch.labels[:, 1:] != IGNORE_INDEX).nonzero().T.to(stream.device, non_blocking=True)
        batch = batch.to(stream.device)
        words = Targets().language_error(*assistant_logits(stream, text_states(stream, batch), batch.labels, answers))
        return {"loss": words / max(1, tokens)}


def text_states(stream: StreamModel, batch: TextBatch) -> Tensor:
    """Last hidden states (rows, tokens, width) of packed conversations."""
    embeds = stream.embed_tokens(batch.input_ids)
    rows, tokens = batch.input_ids.shape
    size = (rows, tokens, tokens)
    masks = attention_masks(*batch.mask(), size, stream.llm.config, embeds.device, embeds.dtype)
    return stream.backbone(embeds, masks, batch.position_ids)


class MixedObjective:
    """An objective of pictures and words with text alone beside it: the language loss is averaged over the tokens of both."""

    def __init__(self, objective: JointObjective | LanguageObjective, language_weight: float) -> None:
        self.objective, self.text = objective, TextObjective(objective.trainable)
        self.language_weight = language_weight

    def __call__(self, batch: MixedBatch, step: int) -> dict[str, Tensor]:
        counts = batch.counts()
        losses = self.objective(replace(batch.joint, totals=counts), step)
        words = self.text(replace(batch.text, totals=counts), step)["loss"]
        weighted = losses["loss"] + self.language_weight * words
        return losses | {"loss": weighted, "language": losses["language"] + words}
