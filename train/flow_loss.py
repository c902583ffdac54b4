"""The flow loss of a batch's drawings: what steers them, their velocities and the errors of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detokenizer import flow
from ..detokenizer.mmdit import MMDiT
from . import parallel
from .data import JointBatch
from .losses import PredictedVelocities, Targets, align_loss, box_error, squared_error
from .random_choices import RandomChoices, Sample
from .stages.joint_options import JointStage
from .trainable import TrainableModel


@dataclass
class DrawingInputs:
    """What steers the drawings of a batch, and the features of the pictures that they are to become."""

    features: Tensor
    """(drawings, feature_tokens, vision width): those of the queries or, without the stream, the vision tower's"""
    vision_features: Tensor
    """(drawings, patches, vision width) of the pictures"""
    prompt: Tensor | None
    """(drawings, tokens, width): the prompt's hidden states; None if the model draws without them"""
    prompt_mask: Tensor | None


@dataclass
class DrawingGroup:
    """Samples whose pictures and references have the same shapes, so that nothing is padded."""

    samples: list[Sample]
    latents: Tensor
    """(samples, channels, h, w)"""
    references: list[list[Tensor]]

    @property
    def drawings(self) -> list[int]:
        return [drawing for drawing, _ in self.samples]


def group_by_shape(
    batch: JointBatch, latents: list[Tensor], samples: Sequence[Sample], dropped: set[int]
) -> list[DrawingGroup]:
    """``samples`` of the batch's drawings, grouped by the shapes of their pictures and references.

    ``latents`` are `encode_pictures`; the drawings in ``dropped`` lose their references.
    """
    groups: dict[tuple, list[Sample]] = {}
    for drawing, number in samples:
        references = () if drawing in dropped else tuple(s for s, _ in batch.references[drawing])
        groups.setdefault((batch.target[drawing][0], references), []).append((drawing, number))
    return [
        DrawingGroup(
            members,
            torch.stack([latents[s][i] for s, i in (batch.target[d] for d, _ in members)]),
            [[latents[s][i] for s, i in batch.references[d]] if references else [] for d, _ in members],
        )
        for (_, references), members in groups.items()
    ]


@torch.no_grad()
def encode_pictures(trainable: TrainableModel, batch: JointBatch) -> list[Tensor]:
    """Latents of all the batch's pictures, one tensor (pictures, channels, h, w) for each of its shapes."""
    names = batch.picture_keys or [[]] * len(batch.pictures)
    return [trainable.frozen_encoders.latents(p, k) for p, k in zip(batch.pictures, names, strict=True)]


def predict_velocities(
    trainable: TrainableModel,
    stage: JointStage,
    batch: JointBatch,
    inputs: DrawingInputs,
    choices: RandomChoices,
    only: Tensor | None = None,
) -> tuple[list[PredictedVelocities], Tensor]:
    """Velocities of all samples, or ``only`` of the drawings in a mask (drawings,), and a zero that carries the gradient of
    `dummy_forward`: all processes have to run the MM-DiT equally often."""
    detokenizer = trainable.mmdit_detokenizer
    mmdit = detokenizer.mmdit
    device = mmdit.proj_out.weight.device
    prompt_mask = inputs.prompt_mask
    if prompt_mask is not None:
        prompt_mask = prompt_mask & ~choices.drop_prompt.to(device)[:, None]
    condition = detokenizer.condition(inputs.features, inputs.prompt, prompt_mask, batch.glyph_text, batch.text_boxes)
    condition = condition.without_context(choices.drop_context.to(device))
    selected = None if only is None else set(only.nonzero().flatten().tolist())
    samples = [sample for sample in choices.samples if selected is None or sample[0] in selected]
    dropped = set(choices.drop_references.nonzero().flatten().tolist())
    groups = group_by_shape(batch, encode_pictures(trainable, batch), samples, dropped)
    # before any forward: the others wait in their blocks' all-gathers
    dummy_runs = int(parallel.max_over_processes(len(groups))) - len(groups)
    made = []
    for group in groups:
        x0 = group.latents
        noise = choices.noise(group.samples, x0.shape[1:]).to(x0)
        t = torch.stack([choices.timesteps[number, drawing] for drawing, number in group.samples]).to(device)
        height, width = (n * detokenizer.autoencoder.downsample_factor for n in x0.shape[-2:])
        group_condition = detokenizer.place_glyphs(condition.rows(group.drawings), height, width)
        references = mmdit.pack_references(group.references)
        early: list[Tensor] | None = [] if trainable.align is not None else None
        velocity = mmdit(
            flow.interpolate(x0, noise, t),
            t,
            group_condition.context,
            group_condition.pooled,
            context_mask=group_condition.context_mask,
            references=references,
            image_bias=group_condition.image_bias,
            early=early,
            early_block=stage.align_block,
        )
        made.append(
            PredictedVelocities(group.samples, velocity, flow.velocity_target(x0, noise), early[0] if early else None)
        )
    return made, dummy_forward(mmdit, dummy_runs)


def flow_losses(
    trainable: TrainableModel,
    stage: JointStage,
    batch: JointBatch,
    inputs: DrawingInputs,
    choices: RandomChoices,
    targets: Targets,
) -> dict[str, Tensor]:
    """Flow loss and, where there are any, those of alignment and layout: sums over the batch's drawings, the flow's each the mean
    of its timesteps and noises."""
    groups, flow_sum = predict_velocities(trainable, stage, batch, inputs, choices)
    align_sum = torch.zeros_like(flow_sum)
    for group in groups:
        weights = choices.weights[group.drawings].to(flow_sum.device)
        if group.early is not None:
            assert trainable.align is not None
            patch_size = trainable.mmdit_detokenizer.mmdit.config.patch_size
            pictured = resize_features(inputs.vision_features[group.drawings], group.target.shape[-2:], patch_size)
            align_sum = align_sum + (weights * align_loss(trainable.align, group.early, pictured)).sum()
        weights = targets.weighted(weights, group.drawings)
        flow_sum = flow_sum + (weights * squared_error(group.velocity, targets.velocities(group))).sum()
    losses = {"flow": flow_sum} | ({"align": align_sum} if trainable.align is not None else {})
    if (glyph_images := trainable.mmdit_detokenizer.glyph_images) is not None:
        losses["layout"] = box_error(glyph_images.predict_boxes(inputs.features), batch.text_boxes)
    return losses


def dummy_forward(mmdit: MMDiT, runs: int) -> Tensor:
    """Forwards that add zero to the loss: a sharded block that runs on one process has to run on all."""
    config, like = mmdit.config, mmdit.proj_out.weight
    latents = like.new_zeros(1, config.latent_channels, config.patch_size, config.patch_size)
    context, pooled = like.new_zeros(1, 1, config.context_width), like.new_zeros(1, config.pooled_width)
    nothing = (mmdit(latents, like.new_zeros(1), context, pooled).float().sum() * 0 for _ in range(runs))
    return sum(nothing, torch.zeros((), device=like.device))


def dummy_losses(trainable: TrainableModel) -> dict[str, Tensor]:
    """The (zero) losses of a process without a drawing while other processes have some."""
    losses = {"flow": dummy_forward(trainable.mmdit_detokenizer.mmdit, int(parallel.max_over_processes(0)))}
    has = {"align": trainable.align is not None, "layout": trainable.mmdit_detokenizer.glyph_images is not None}
    return losses | {name: torch.zeros(()) for name, some in has.items() if some}


def resize_features(features: Tensor, latent_size: torch.Size, patch: int) -> Tensor:
    """Vision features (drawings, patches, width), resized to the MM-DiT's token grid (drawings, tokens, width)."""
    side = round(features.shape[1] ** 0.5)
    size = (latent_size[0] // patch, latent_size[1] // patch)
    if size == (side, side):
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side)).float()
    return F.interpolate(grid, size, mode="bilinear").flatten(2).transpose(1, 2)
