"""The flow loss of a batch's drawings, from conditions to velocities, whichever process has them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detokenizer import flow
from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.mmdit import MMDiT
from . import parallel
from .data import JointBatch
from .losses import align_loss, squared_error
from .stages.joint_options import JointStage
from .targets import Kept, Painted, Sample
from .trainee import Told, Trainee

KEPT_DRAWINGS = 2
"""Of a conversation whose drawings are kept as the base makes them, how many are compared at a step"""


@dataclass
class Group:
    """Samples of one shape, all with or all without references, so that nothing is padded."""

    samples: list[Sample]
    latents: Tensor
    """(samples, channels, h, w)"""
    references: list[list[Tensor]]

    @property
    def drawings(self) -> list[int]:
        return [drawing for drawing, _ in self.samples]


def grouped(batch: JointBatch, latents: list[Tensor], samples: Sequence[Sample], dropped: set[int]) -> list[Group]:
    """``samples`` of the batch's drawings by shape and by their references' shapes; drawings ``dropped`` lose theirs."""
    groups: dict[tuple, list[Sample]] = {}
    for drawing, number in samples:
        references = () if drawing in dropped else tuple(s for s, _ in batch.references[drawing])
        groups.setdefault((batch.target[drawing][0], references), []).append((drawing, number))
    return [
        Group(
            members,
            torch.stack([latents[s][i] for s, i in (batch.target[d] for d, _ in members)]),
            [[latents[s][i] for s, i in batch.references[d]] if references else [] for d, _ in members],
        )
        for (_, references), members in groups.items()
    ]


@dataclass
class Draws:
    """What chance decides about the drawings of a batch, from (seed, step, drawing) whatever process has them."""

    bare: Tensor
    """(drawings,) drawn without context, so that guidance can be had"""
    blind: Tensor
    """(drawings,) drawn without references"""
    wordless: Tensor
    """(drawings,) drawn from the queries' features alone, without the prompt's hidden states"""
    times: Tensor
    """(flow_samples, drawings)"""
    seeds: list[int]
    weights: Tensor
    """(drawings,) what each of its samples counts; 0 where it has none. They add up to the number of drawings."""
    counts: list[int]
    """Samples of each drawing"""

    @property
    def samples(self) -> list[Sample]:
        return [(drawing, number) for drawing, count in enumerate(self.counts) for number in range(count)]

    def noise(self, samples: Sequence[Sample], shape: torch.Size) -> Tensor:
        """(samples, …) standard normal."""
        repeats = len(self.times)
        made = {
            d: torch.randn(repeats, *shape, generator=torch.Generator().manual_seed(self.seeds[d]))
            for d in {d for d, _ in samples}
        }
        return torch.stack([made[d][number] for d, number in samples])


def draws(stage: JointStage, batch: JointBatch, seed: int, step: int, kept: Tensor | None = None) -> Draws:
    """Chance for the drawings of a batch. Those that are ``kept`` (drawings,) take one time and noise each, and at most
    `KEPT_DRAWINGS` of a conversation: a story of six is most of a step's work and teaches no more than another story does."""
    seeds, chances, times = [], [], []
    numbers = batch.numbers
    for number in numbers:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{step}/{number}".encode()))
        seeds.append(int(torch.randint(2**31, (1,), generator=generator)))
        chances.append(torch.rand(3, generator=generator))
        times.append(
            flow.sample_timesteps(stage.flow_samples, stage.density, stage.density_mean, stage.density_std, generator)
        )
    chance = torch.stack(chances)
    limits = torch.tensor([stage.context_dropout, stage.reference_dropout, stage.prompt_dropout])
    bare, blind, wordless = (chance < limits).unbind(1)
    counts, shares = [stage.flow_samples] * len(numbers), [1 / stage.flow_samples] * len(numbers)
    by_row: dict[int, list[int]] = {}
    kept_drawings = [] if kept is None else kept.nonzero().flatten().tolist()
    rows = batch.stream.drawing_row.tolist()
    for drawing in kept_drawings:
        by_row.setdefault(rows[drawing], []).append(drawing)
    for drawings in by_row.values():
        chosen = sorted(drawings, key=lambda d: seeds[d])[:KEPT_DRAWINGS]
        for drawing in drawings:
            counts[drawing] = int(drawing in chosen)
            shares[drawing] = counts[drawing] * len(drawings) / len(chosen)
    return Draws(bare, blind, wordless, torch.stack(times, 1), seeds, torch.tensor(shares), counts)


@torch.no_grad()
def encoded(trainee: Trainee, batch: JointBatch) -> list[Tensor]:
    """The latents of all the batch's pictures, a tensor a shape."""
    names = batch.picture_keys or [()] * len(batch.pictures)
    return [trainee.frozen.latents(p, k) for p, k in zip(batch.pictures, names, strict=True)]


def painted(
    trainee: Trainee,
    stage: JointStage,
    batch: JointBatch,
    told: Told,
    chance: Draws,
    latents: list[Tensor],
    only: Tensor | None = None,
) -> tuple[list[Painted], Tensor]:
    """Velocities of all samples (or ``only`` those of the drawings of a mask (drawings,)); and a zero that stands for the
    runs of other processes. ``latents`` are `encoded`."""
    detokenizer = trainee.detokenizer
    mmdit = detokenizer.mmdit
    device = mmdit.proj_out.weight.device
    prompt, prompt_mask = prompt_of(detokenizer, told)
    if prompt_mask is not None:
        prompt_mask = prompt_mask & ~chance.wordless.to(device)[:, None]
    condition = detokenizer.condition(told.features, prompt, prompt_mask, batch.glyph_text)
    condition = condition.without_context(chance.bare.to(device))
    chosen = None if only is None else set(only.nonzero().flatten().tolist())
    samples = [sample for sample in chance.samples if chosen is None or sample[0] in chosen]
    groups = grouped(batch, latents, samples, set(chance.blind.nonzero().flatten().tolist()))
    idle_runs = int(parallel.most(len(groups))) - len(groups)  # asked first: the others wait in their blocks' gathers
    made, nothing = [], torch.zeros((), device=device)
    for group in groups:
        x0 = group.latents
        noise = chance.noise(group.samples, x0.shape[1:]).to(x0)
        t = torch.stack([chance.times[number, drawing] for drawing, number in group.samples]).to(device)
        own = condition.rows(group.drawings)
        references = mmdit.pack_references(group.references)
        early: list[Tensor] | None = [] if trainee.align is not None else None
        velocity = mmdit(
            flow.interpolate(x0, noise, t),
            t,
            own.context,
            own.pooled,
            context_mask=own.context_mask,
            references=references,
            early=early,
            early_block=stage.align_block,
        )
        made.append(Painted(group.samples, velocity, flow.velocity_target(x0, noise), early[0] if early else None))
    for _ in range(idle_runs):
        nothing = nothing + idle(mmdit)
    return made, nothing


def flow_losses(
    trainee: Trainee, stage: JointStage, batch: JointBatch, told: Told, chance: Draws, kept: Kept | None = None
) -> dict[str, Tensor]:
    """Flow loss, and alignment where configured, averaged over all drawings, times and noises; where something is
    ``kept``, its velocities are the target."""
    mmdit = trainee.detokenizer.mmdit
    latents = encoded(trainee, batch) if kept is None else kept.latents
    groups, flow_sum = painted(trainee, stage, batch, told, chance, latents)
    align_sum = torch.zeros_like(flow_sum)
    for group in groups:
        drawings = [drawing for drawing, _ in group.samples]
        target = group.target if kept is None else kept.target(group)
        weights = chance.weights[drawings].to(target.device)
        if group.early is not None:
            seen = resize_features(told.vision_features[drawings], target.shape[-2:], mmdit.config.patch_size)
            align_sum = align_sum + (weights * align_loss(trainee.align, group.early, seen)).sum()
        if kept is not None:
            weights = weights * kept.weights[drawings]
        flow_sum = flow_sum + (weights * squared_error(group.velocity, target)).sum()
    losses = {"flow": flow_sum / told.counted}
    if trainee.align is not None:
        losses["align"] = align_sum / told.counted
    return losses


def prompt_of(detokenizer: Detokenizer, told: Told) -> tuple[Tensor | None, Tensor | None]:
    """The prompt's hidden states and mask; none to attend to where no stream has run."""
    if told.output is not None:
        return told.output.prompt, told.output.prompt_mask
    width = detokenizer.adapter.config.prompt_width
    if not width:
        return None, None
    empty = told.features.new_zeros(told.features.shape[0], 1, width)
    return empty, torch.zeros(empty.shape[:2], dtype=torch.bool, device=empty.device)


def idle(mmdit: MMDiT) -> Tensor:
    """A forward of weight zero: a sharded block that runs on one process has to run on all."""
    config, like = mmdit.config, mmdit.proj_out.weight
    latents = like.new_zeros(1, config.latent_channels, config.patch_size, config.patch_size)
    context, pooled = like.new_zeros(1, 1, config.context_width), like.new_zeros(1, config.pooled_width)
    return mmdit(latents, like.new_zeros(1), context, pooled).float().sum() * 0


def idle_losses(trainee: Trainee) -> dict[str, Tensor]:
    """The losses of a process without a picture while others have some."""
    runs = int(parallel.most(0))
    losses = {"flow": sum((idle(trainee.detokenizer.mmdit) for _ in range(runs)), torch.zeros(()))}
    return losses | ({"align": torch.zeros(())} if trainee.align is not None else {})


def resize_features(features: Tensor, latent_size: torch.Size, patch: int) -> Tensor:
    """Vision features (drawings, patches, width) on the MM-DiT's token grid."""
    side = round(features.shape[1] ** 0.5)
    size = (latent_size[0] // patch, latent_size[1] // patch)
    if size == (side, side):
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side)).float()
    return F.interpolate(grid, size, mode="bilinear").flatten(2).transpose(1, 2)
