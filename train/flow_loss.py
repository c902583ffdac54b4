"""The flow loss of a batch's drawings: what steers them, their velocities and the errors of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detokenizer import flow
from ..detokenizer.condition import Condition
from ..detokenizer.mmdit import MMDiT
from . import parallel
from .data import JointBatch
from .drawing_calls import DrawingCall, PictureTable, call_inputs, picture_table, plan_calls
from .losses import PredictedVelocities, Targets, align_loss, box_error
from .random_choices import RandomChoices
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
    only: Sequence[int] | None = None,
) -> tuple[list[PredictedVelocities], Tensor]:
    """Velocities of all samples, or those of the drawings ``only``, and a zero that carries the gradient of `dummy_forward`: all
    processes have to run the MM-DiT equally often."""
    detokenizer, shapes = trainable.mmdit_detokenizer, trainable.call_shapes
    mmdit = detokenizer.mmdit
    device = mmdit.proj_out.weight.device
    prompt_mask = inputs.prompt_mask
    if prompt_mask is not None:
        prompt_mask = prompt_mask & ~choices.drop_prompt.to(device, non_blocking=True)[:, None]
    condition = detokenizer.condition(inputs.features, inputs.prompt, prompt_mask, batch.glyph_text, batch.text_boxes)
    condition = condition.without_context(choices.drop_context.to(device, non_blocking=True))
    selected = None if only is None else set(only)
    samples = [sample for sample in choices.samples if selected is None or sample[0] in selected]
    dropped = {drawing for drawing, drop in enumerate(choices.drop_references.tolist()) if drop}
    table = picture_table(mmdit, encode_pictures(trainable, batch), shapes)
    condition, needed = fitted_context(trainable, batch, inputs, choices, condition)
    calls = plan_calls(batch, samples, table.counts, needed, dropped, shapes, mmdit.config.max_references)
    # before any forward: the others wait in their blocks' all-gathers
    dummy_runs = int(parallel.max_over_processes(len(calls))) - len(calls)
    bias = image_bias(trainable, batch, condition, table.tokens.shape[1])
    made = [predict_call(trainable, stage, batch, table, condition, bias, choices, call) for call in calls]
    return made, dummy_forward(mmdit, dummy_runs)


def fitted_context(
    trainable: TrainableModel, batch: JointBatch, inputs: DrawingInputs, choices: RandomChoices, condition: Condition
) -> tuple[Condition, list[int]]:
    """The condition, padded as calls of fixed shapes have it, and how many of its tokens each drawing needs.

    The queries' features come first, then the prompt's hidden states, then what is written: after the last of a drawing's tokens
    that count nothing is computed for it.
    """
    adapter = trainable.mmdit_detokenizer.adapter
    assert adapter is not None
    features = adapter.config.num_tokens
    plain = features + (0 if inputs.prompt is None else inputs.prompt.shape[1])
    given = condition.context.shape[1]
    length = trainable.call_shapes.context_length(given, plain)
    if trainable.call_shapes.fixed:
        context = F.pad(condition.context, (0, 0, 0, length - given))
        padded = replace(condition, context=context, context_mask=F.pad(condition.context_mask, (0, length - given)))
        return padded, [length] * condition.batch
    needed = []
    for drawing, (drop, drop_prompt) in enumerate(
        zip(choices.drop_context.tolist(), choices.drop_prompt.tolist(), strict=True)
    ):
        worded = any(batch.glyph_text[drawing])
        needed.append(features if drop else given if worded else features if drop_prompt else plain)
    return condition, needed


def image_bias(trainable: TrainableModel, batch: JointBatch, condition: Condition, length: int) -> Tensor | None:
    """What the words of each drawing add to its image tokens (drawings, length, width), padded; None where there are none."""
    if condition.glyphs is None:
        return None
    detokenizer = trainable.mmdit_detokenizer
    like, width = detokenizer.mmdit.proj_out.weight, detokenizer.mmdit.config.width
    bias = like.new_zeros(condition.batch, length, width)
    for shape, pictures in enumerate(batch.pictures):
        of = [d for d in condition.glyphs.worded if batch.target[d][0] == shape]
        if of:
            placed = detokenizer.place_glyphs(condition.rows(of), *pictures.shape[1:3]).image_bias
            assert placed is not None
            rows = torch.tensor(of).to(bias.device, non_blocking=True)
            bias = bias.index_copy(0, rows, F.pad(placed, (0, 0, 0, length - placed.shape[1])).to(bias))
    return bias


def predict_call(
    trainable: TrainableModel,
    stage: JointStage,
    batch: JointBatch,
    table: PictureTable,
    condition: Condition,
    bias: Tensor | None,
    choices: RandomChoices,
    call: DrawingCall,
) -> PredictedVelocities:
    """The velocities of one call of the MM-DiT; ``bias`` is `image_bias`."""
    mmdit = trainable.mmdit_detokenizer.mmdit
    device, samples = mmdit.proj_out.weight.device, len(call.samples)
    given = call_inputs(table, batch, call)
    padded = call.samples + call.samples[-1:] * (call.rows - samples)
    numbers = torch.tensor([[number for _, number in padded], [drawing for drawing, _ in padded]])
    times = choices.timesteps[numbers[0], numbers[1]].to(device, non_blocking=True)
    drawings = numbers[1].to(device, non_blocking=True)
    x0 = given.latents
    noise = choices.noise(padded, x0.shape[1:], device).to(x0)
    tokens = torch.cat([flow.interpolate(x0, noise, times), given.references], dim=1)
    mask = torch.cat([given.image_mask, condition.context_mask[drawings, : call.context]], dim=1)
    early: list[Tensor] | None = [] if trainable.align is not None else None
    x = mmdit.patch_embed(tokens) + given.added.to(tokens)
    if bias is not None:
        x = x + F.pad(bias[drawings, : call.own], (0, 0, 0, x.shape[1] - call.own))
    velocity = mmdit.velocity_tokens(
        x,
        call.own,
        condition.context[drawings, : call.context],
        mmdit.modulations(times, condition.pooled[drawings]),
        given.rotary,
        mask,
        early,
        stage.align_block,
    )
    patch = mmdit.config.patch_size
    velocity = velocity.unflatten(-1, (patch, patch, -1)).permute(0, 1, 4, 2, 3).flatten(2)  # as in `patchify`
    return PredictedVelocities(
        call.samples,
        drawings[:samples],
        velocity[:samples],
        flow.velocity_target(x0, noise)[:samples],
        given.image_mask[:samples, : call.own],
        early[0][:samples] if early else None,
    )


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
    weights = choices.weights.to(flow_sum.device, non_blocking=True)
    pictured = None
    if trainable.align is not None:
        pictured = resized_features(trainable, batch, inputs.vision_features)
    for group in groups:
        weight = weights[group.drawings]
        if group.early is not None:
            assert trainable.align is not None and pictured is not None
            seen = pictured[group.drawings, : group.mask.shape[1]]
            align_sum = align_sum + (weight * align_loss(trainable.align, group.early, seen, group.mask)).sum()
        weight = targets.weighted(weight, group.drawings)
        flow_sum = flow_sum + (weight * group.error(targets.velocities(group))).sum()
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


def resized_features(trainable: TrainableModel, batch: JointBatch, features: Tensor) -> Tensor:
    """Vision features (drawings, patches, width) on each drawing's grid of tokens: (drawings, tokens, width), padded."""
    multiple = trainable.mmdit_detokenizer.size_multiple
    grids = [(part.shape[1] // multiple, part.shape[2] // multiple) for part in batch.pictures]
    length = trainable.call_shapes.picture_length(max(h * w for h, w in grids))
    made = features.new_zeros(len(features), length, features.shape[2])
    for shape, (height, width) in enumerate(grids):
        of = torch.tensor([d for d, (s, _) in enumerate(batch.target) if s == shape], dtype=torch.long)
        if len(of):
            of = of.to(features.device, non_blocking=True)
            made[of, : height * width] = resize_features(features[of], height, width).to(made)
    return made


def resize_features(features: Tensor, height: int, width: int) -> Tensor:
    """Vision features (drawings, patches, width), resized to a grid of ``height`` x ``width`` (drawings, tokens, width)."""
    side = round(features.shape[1] ** 0.5)
    if (height, width) == (side, side):
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side)).float()
    return F.interpolate(grid, (height, width), mode="bilinear").flatten(2).transpose(1, 2)
