"""The flow loss of a batch's drawings: conditions, random choices, velocities and their errors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detokenizer import flow
from ..detokenizer.mmdit import MMDiT
from ..detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from . import parallel
from .data import JointBatch
from .losses import PredictedVelocities, Sample, SelfDistillationTargets, align_loss, squared_error
from .stages.joint_options import JointStage
from .trainable import StreamLosses, TrainableModel

MAX_DISTILLED_DRAWINGS = 2
"""How many drawings of a replayed conversation are compared with the base at a step."""


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


@dataclass
class RandomChoices:
    """Timesteps, noise and dropout of a batch's drawings: a function of (seed, step, drawing), on whichever process."""

    drop_context: Tensor
    """(drawings,) True to drop the whole context, as classifier-free guidance needs"""
    drop_references: Tensor
    """(drawings,) True to drop the reference pictures"""
    drop_prompt: Tensor
    """(drawings,) True to drop the prompt's hidden states, so that only the queries' features remain"""
    timesteps: Tensor
    """(flow_samples, drawings)"""
    seeds: list[int]
    weights: Tensor
    """(drawings,) weight of each of its samples, 0 if it has none; weight times samples adds up to the number of drawings"""
    counts: list[int]
    """How many samples each drawing has"""

    @property
    def samples(self) -> list[Sample]:
        return [(drawing, number) for drawing, count in enumerate(self.counts) for number in range(count)]

    def noise(self, samples: Sequence[Sample], shape: torch.Size) -> Tensor:
        """Standard normal noise (samples, *shape), on the CPU."""
        repeats = len(self.timesteps)
        made = {
            d: torch.randn(repeats, *shape, generator=torch.Generator().manual_seed(self.seeds[d]))
            for d in {d for d, _ in samples}
        }
        return torch.stack([made[d][number] for d, number in samples])


def random_choices(
    stage: JointStage, batch: JointBatch, seed: int, step: int, distilled: Tensor | None = None
) -> RandomChoices:
    """Chance for the drawings of a batch. Those that are ``distilled`` (drawings,) take one time and noise each, and at most
    `MAX_DISTILLED_DRAWINGS` of a conversation: a story of six is most of the work and teaches no more than another story does."""
    seeds, uniforms, timesteps = [], [], []
    drawing_ids = batch.drawing_ids
    for drawing_id in drawing_ids:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{step}/{drawing_id}".encode()))
        seeds.append(int(torch.randint(2**31, (1,), generator=generator)))
        uniforms.append(torch.rand(3, generator=generator))
        timesteps.append(
            flow.sample_timesteps(stage.flow_samples, stage.density, stage.density_mean, stage.density_std, generator)
        )
    uniform = torch.stack(uniforms)
    limits = torch.tensor([stage.context_dropout, stage.reference_dropout, stage.prompt_dropout])
    drop_context, drop_references, drop_prompt = (uniform < limits).unbind(1)
    counts, shares = [stage.flow_samples] * len(drawing_ids), [1 / stage.flow_samples] * len(drawing_ids)
    by_row: dict[int, list[int]] = {}
    distilled_drawings = [] if distilled is None else distilled.nonzero().flatten().tolist()
    rows = batch.stream.drawing_row.tolist()
    for drawing in distilled_drawings:
        by_row.setdefault(rows[drawing], []).append(drawing)
    for drawings in by_row.values():
        selected = sorted(drawings, key=lambda d: seeds[d])[:MAX_DISTILLED_DRAWINGS]
        for drawing in drawings:
            counts[drawing] = int(drawing in selected)
            shares[drawing] = counts[drawing] * len(drawings) / len(selected)
    return RandomChoices(
        drop_context, drop_references, drop_prompt, torch.stack(timesteps, 1), seeds, torch.tensor(shares), counts
    )


@torch.no_grad()
def encode_pictures(trainable: TrainableModel, batch: JointBatch) -> list[Tensor]:
    """Latents of all the batch's pictures, one tensor (pictures, channels, h, w) for each of its shapes."""
    names = batch.picture_keys or [[]] * len(batch.pictures)
    return [trainable.frozen_encoders.latents(p, k) for p, k in zip(batch.pictures, names, strict=True)]


def predict_velocities(
    trainable: TrainableModel,
    stage: JointStage,
    batch: JointBatch,
    stream_losses: StreamLosses,
    choices: RandomChoices,
    latents: list[Tensor],
    only: Tensor | None = None,
) -> tuple[list[PredictedVelocities], Tensor]:
    """Velocities of all samples, or ``only`` of the drawings in a mask (drawings,), and a zero that carries the gradient of
    `dummy_forward`: all processes have to run the MM-DiT equally often. ``latents`` are `encode_pictures`."""
    detokenizer = trainable.mmdit_detokenizer
    mmdit = detokenizer.mmdit
    assert stream_losses.features is not None
    device = mmdit.proj_out.weight.device
    prompt, prompt_mask = prompt_states(detokenizer, stream_losses)
    if prompt_mask is not None:
        prompt_mask = prompt_mask & ~choices.drop_prompt.to(device)[:, None]
    condition = detokenizer.condition(stream_losses.features, prompt, prompt_mask, batch.glyph_text)
    condition = condition.without_context(choices.drop_context.to(device))
    selected = None if only is None else set(only.nonzero().flatten().tolist())
    samples = [sample for sample in choices.samples if selected is None or sample[0] in selected]
    groups = group_by_shape(batch, latents, samples, set(choices.drop_references.nonzero().flatten().tolist()))
    # before any forward: the others wait in their blocks' all-gathers
    dummy_runs = int(parallel.max_over_processes(len(groups))) - len(groups)
    made = []
    for group in groups:
        x0 = group.latents
        noise = choices.noise(group.samples, x0.shape[1:]).to(x0)
        t = torch.stack([choices.timesteps[number, drawing] for drawing, number in group.samples]).to(device)
        group_condition = condition.rows(group.drawings)
        references = mmdit.pack_references(group.references)
        early: list[Tensor] | None = [] if trainable.align is not None else None
        velocity = mmdit(
            flow.interpolate(x0, noise, t),
            t,
            group_condition.context,
            group_condition.pooled,
            context_mask=group_condition.context_mask,
            references=references,
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
    stream_losses: StreamLosses,
    choices: RandomChoices,
    self_targets: SelfDistillationTargets | None = None,
) -> dict[str, Tensor]:
    """Flow loss and, if configured, alignment loss, averaged over all drawings, timesteps and noises. Replayed drawings have the
    velocities of ``self_targets`` as targets."""
    latents = encode_pictures(trainable, batch) if self_targets is None else self_targets.latents
    groups, flow_sum = predict_velocities(trainable, stage, batch, stream_losses, choices, latents)
    align_sum = torch.zeros_like(flow_sum)
    for group in groups:
        drawings = [drawing for drawing, _ in group.samples]
        target = group.target if self_targets is None else self_targets.replace_targets(group)
        weights = choices.weights[drawings].to(target.device)
        if group.early is not None:
            assert trainable.align is not None and stream_losses.vision_features is not None
            vision_features = resize_features(
                stream_losses.vision_features[drawings],
                target.shape[-2:],
                trainable.mmdit_detokenizer.mmdit.config.patch_size,
            )
            align_sum = align_sum + (weights * align_loss(trainable.align, group.early, vision_features)).sum()
        if self_targets is not None:
            weights = weights * self_targets.weights[drawings]
        flow_sum = flow_sum + (weights * squared_error(group.velocity, target)).sum()
    losses = {"flow": flow_sum / stream_losses.loss_denominator}
    if trainable.align is not None:
        losses["align"] = align_sum / stream_losses.loss_denominator
    return losses


def prompt_states(detokenizer: MMDiTDetokenizer, stream_losses: StreamLosses) -> tuple[Tensor | None, Tensor | None]:
    """The prompt's hidden states (drawings, tokens, width) and their mask. The mask is empty if the stream has not run; both are
    None if the adapter takes no prompt."""
    if stream_losses.output is not None:
        return stream_losses.output.prompt, stream_losses.output.prompt_mask
    assert detokenizer.adapter is not None and stream_losses.features is not None
    width = detokenizer.adapter.config.prompt_width
    if not width:
        return None, None
    empty = stream_losses.features.new_zeros(stream_losses.features.shape[0], 1, width)
    return empty, torch.zeros(empty.shape[:2], dtype=torch.bool, device=empty.device)


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
    return losses | ({"align": torch.zeros(())} if trainable.align is not None else {})


def resize_features(features: Tensor, latent_size: torch.Size, patch: int) -> Tensor:
    """Vision features (drawings, patches, width), resized to the MM-DiT's token grid (drawings, tokens, width)."""
    side = round(features.shape[1] ** 0.5)
    size = (latent_size[0] // patch, latent_size[1] // patch)
    if size == (side, side):
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side)).float()
    return F.interpolate(grid, size, mode="bilinear").flatten(2).transpose(1, 2)
