"""What is trained, and its losses.

    conversation -> stream -+-> logits ................................ language: cross entropy of the assistant's tokens
                            +-> visual tokens' logits ................. codes: cross entropy of the visual tokenizer's codes
                            +-> query states -> output resampler -+.... features: squared error from the vision tower's
                                  codes -> visual tokenizer ------+
                                                                  +-> adapter -> MM-DiT -+.... flow: squared error of velocities
                                                                                         +.... align: cosine (REPA)
                                  image features -> layout ............ layout: distance of the box in which words stand

An objective is called with a batch and the number of its step, and returns the weighted sum of its losses as ``"loss"``, and
each of them. A loss is this process's sum over its share of the batch, divided by what is counted on all processes and in all
batches whose gradients are accumulated, so the sum over them is what one process would get of one large batch. The unit of the
language loss is a token that the assistant predicts, that of the others a drawing: its features are averaged over themselves, its
codes too, its flow and alignment over its pixels and its timesteps. A drawing has either features or codes to learn, or both
where its queries make a draft of the codes. All processes have the same losses, zero where one has no picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..mllm.stream import StreamOutput
from ..mllm.vision_tower import pool_features
from . import parallel
from .data import JointBatch
from .flow_loss import DrawingInputs, dummy_losses, flow_losses
from .losses import Targets, add_weighted_sum, assistant_logits, code_errors, squared_error
from .picture_shares import with_needed_lengths
from .stages.joint_options import JointStage, LanguageStage
from .trainable import TrainableModel
from .word_dropout import apply_word_dropout


class JointObjective:
    """Language and drawing together: ``lm + λ_features · features + λ_flow · flow + λ_align · align``."""

    def __init__(self, trainable: TrainableModel, stage: JointStage, seed: int) -> None:
        self.trainable, self.stage, self.seed = trainable, stage, seed

    def __call__(self, batch: JointBatch, step: int) -> dict[str, Tensor]:
        batch = batch.to(self.trainable.stream.device)
        return self.losses(batch, step, self.targets(batch, step))

    def targets(self, batch: JointBatch, step: int) -> Targets:
        """What the outputs for ``batch`` are measured against."""
        return Targets()

    def losses(self, batch: JointBatch, step: int, targets: Targets) -> dict[str, Tensor]:
        """The losses of a batch on the model's device, against ``targets``."""
        count = count_over_processes(batch)
        output, inputs = run_stream(self.trainable, batch, self.stage.token_closeness)
        losses = stream_losses(self.trainable, batch, output, inputs, targets, count)
        return self.add_sum(losses | self.drawing_losses(batch, step, inputs, targets, count))

    def drawing_losses(
        self, batch: JointBatch, step: int, inputs: DrawingInputs | None, targets: Targets, count: Count
    ) -> dict[str, Tensor]:
        """Flow loss and, if configured, alignment loss; none if no process draws."""
        if not count.drawn:
            return {}
        if inputs is None:
            sums = dummy_losses(self.trainable)
        else:
            choices = targets.choices(self.stage, batch, self.seed, step)
            sums = flow_losses(self.trainable, self.stage, batch, inputs, choices, targets)
        return {name: value / count.drawings for name, value in sums.items()}

    def add_sum(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """``losses`` and their sum, weighted as the stage says."""
        weights = {
            "language": self.stage.language_weight,
            "features": self.stage.feature_weight,
            "codes": self.stage.code_weight,
            "flow": self.stage.flow_weight,
            "align": self.stage.align_weight,
            "layout": self.stage.layout_weight,
        }
        return add_weighted_sum(losses, weights)


class LanguageObjective:
    """The stream alone: it learns to talk, and its queries learn the vision tower's features of the picture to be drawn."""

    def __init__(self, trainable: TrainableModel, stage: LanguageStage) -> None:
        self.trainable, self.stage = trainable, stage

    def __call__(self, batch: JointBatch, step: int) -> dict[str, Tensor]:
        stream = self.trainable.stream
        if self.stage.word_dropout:
            words = apply_word_dropout(batch.stream, stream.vocabulary, self.stage.word_dropout, step)
            batch = replace(batch, stream=words)
        batch = batch.to(stream.device)
        output, inputs = run_stream(self.trainable, batch, self.stage.token_closeness)
        losses = stream_losses(self.trainable, batch, output, inputs, Targets(), count_over_processes(batch))
        weights = {"language": 1.0, "features": self.stage.feature_weight, "codes": self.stage.code_weight}
        return add_weighted_sum(losses, weights)


class DetokenizerObjective(JointObjective):
    """SEED-X's first stage: the de-tokenizer learns to draw a picture from its vision features; the stream does not run."""

    def losses(self, batch: JointBatch, step: int, targets: Targets) -> dict[str, Tensor]:
        """The losses of a batch on the model's device, against ``targets``."""
        inputs = vision_inputs(self.trainable, batch)
        return self.add_sum(self.drawing_losses(batch, step, inputs, targets, count_over_processes(batch)))


@dataclass(frozen=True)
class Count:
    """What is counted on all processes."""

    tokens: int
    """The assistant's tokens in all batches of an optimizer step: what the language loss is averaged over"""
    drawings: int
    """Drawings in all batches of an optimizer step: what the other losses are averaged over"""
    drawn: int
    """Drawings in this batch alone; 0 if no process has one"""


def count_over_processes(batch: JointBatch) -> Count:
    """All processes have to call it at once."""
    return Count(*parallel.sum_counts(*batch.counts(), len(batch.target)))


def run_stream(
    trainable: TrainableModel, batch: JointBatch, closeness: float = 0.0
) -> tuple[StreamOutput, DrawingInputs | None]:
    """One forward of the stream, and what steers the drawings of the batch; None if it has none. With a ``closeness`` the batch
    gets the lengths of `with_needed_lengths`, in place."""
    stream = trainable.stream
    with torch.no_grad():
        features = trainable.frozen_encoders.features(batch.views(), batch.view_keys)
    if closeness:
        batch.stream = with_needed_lengths(stream, batch.stream, features, closeness)
    conversations, queries = batch.stream, batch.stream.branch_boi.shape[1] * stream.branch_tokens(batch.stream)
    columns = conversations.input_ids.shape[1] + queries
    padded = trainable.call_shapes.stream_length(columns) - queries
    conversations = conversations.padded(stream.vocabulary.pad, padded)
    output = stream(conversations, features[: len(batch.stream.view_positions)])
    if not batch.target:
        return output, None
    predicted = stream.drawing_features(batch.stream, output)
    shown = features[batch.target_view_index(features.device)]
    return output, DrawingInputs(predicted, shown, output.prompt, output.prompt_mask)


def vision_inputs(trainable: TrainableModel, batch: JointBatch) -> DrawingInputs | None:
    """The vision tower's features in the place of the stream's, and an empty prompt; None if the batch has no drawing."""
    if not batch.target:
        return None
    with torch.no_grad():
        features = target_features(trainable, batch)
    pooled = pool_vision_features(trainable, features)
    adapter = trainable.mmdit_detokenizer.adapter
    assert adapter is not None
    if not adapter.config.prompt_width:
        return DrawingInputs(pooled, features, None, None)
    prompt = pooled.new_zeros(len(pooled), 1, adapter.config.prompt_width)
    return DrawingInputs(
        pooled, features, prompt, torch.zeros(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
    )


def target_features(trainable: TrainableModel, batch: JointBatch) -> Tensor:
    """The vision tower's features (drawings, patches, width) of the pictures to be drawn."""
    names = [batch.view_keys[i] for i in batch.target_views] if batch.view_keys else []
    views = batch.views()[batch.target_view_index(batch.view_index.device)]
    return trainable.frozen_encoders.features(views, names)


def pool_vision_features(trainable: TrainableModel, features: Tensor) -> Tensor:
    """Vision features (drawings, patches, width) as the output resampler is to give them (drawings, feature_tokens, width)."""
    config = trainable.stream.config
    return pool_features(features, config.feature_tokens, config.feature_pool)


def stream_losses(
    trainable: TrainableModel,
    batch: JointBatch,
    output: StreamOutput,
    inputs: DrawingInputs | None,
    targets: Targets,
    count: Count,
) -> dict[str, Tensor]:
    """Language loss and, if any process draws, those of features and, in a model with visual tokens, of codes."""
    words = targets.language_error(
        *assistant_logits(trainable.stream, output.hidden, batch.stream.labels, batch.stream.answers)
    )
    losses = {"language": words / max(1, count.tokens)}  # a batch may have no answer
    if count.drawn:
        feature_sum = code_sum = output.hidden.new_zeros(())
        if inputs is not None:
            target = targets.features(pool_vision_features(trainable, inputs.vision_features))
            errors = squared_error(inputs.features, target).index_fill(0, batch.stream.token_drawing, 0.0)
            if output.draft_features is not None:
                draft = squared_error(output.draft_features, target[batch.stream.token_drawing])
                errors = errors.index_copy(0, batch.stream.token_drawing, draft)
            feature_sum = targets.weighted(errors, slice(None)).sum()
        if output.codes is not None:
            code_sum = targets.weighted(
                code_errors(trainable.stream, batch.stream, output), batch.stream.token_drawing
            ).sum()
        losses["features"] = feature_sum / count.drawings
        if trainable.stream.config.visual_codes:
            losses["codes"] = code_sum / count.drawings
    return losses
