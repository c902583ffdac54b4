"""The flow loss of a batch's drawings, from conditions to velocities, whichever process has them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detokenizer import flow
from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.mmdit import MMDiT
from . import parallel
from .data import JointBatch
from .losses import align_loss, squared_error

if TYPE_CHECKING:
    from .kept import Kept
    from .stages.joint import JointStage, Told, Trainee


@dataclass
class Group:
    """Drawings of one shape, all with or all without references, so that nothing is padded."""

    rows: list[int]
    latents: Tensor
    references: list[list[Tensor]]


def grouped(batch: JointBatch, latents: list[Tensor], dropped: set[int], only: set[int] | None = None) -> list[Group]:
    """The batch's drawings, or ``only`` some of them; those ``dropped`` lose their references."""
    groups: dict[tuple, list[int]] = {}
    for row, (shape, _) in enumerate(batch.target):
        if only is not None and row not in only:
            continue
        references = () if row in dropped else tuple(s for s, _ in batch.references[row])
        groups.setdefault((shape, references), []).append(row)
    return [
        Group(
            rows,
            torch.stack([latents[s][i] for s, i in (batch.target[r] for r in rows)]),
            [[latents[s][i] for s, i in batch.references[r]] if references else [] for r in rows],
        )
        for (_, references), rows in groups.items()
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
    """(repeats, drawings)"""
    seeds: list[int]

    def noise(self, rows: list[int], repeats: int, shape: torch.Size) -> Tensor:
        """(repeats · rows, …) standard normal."""
        own = [torch.randn(repeats, *shape, generator=torch.Generator().manual_seed(self.seeds[r])) for r in rows]
        return torch.stack(own, dim=1).flatten(0, 1)


def draws(stage: JointStage, numbers: list[int], seed: int, step: int) -> Draws:
    seeds, chances, times = [], [], []
    for number in numbers:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{step}/{number}".encode()))
        seeds.append(int(torch.randint(2**31, (1,), generator=generator)))
        chances.append(torch.rand(3, generator=generator))
        times.append(
            flow.sample_timesteps(
                stage.flow_samples, stage.density, stage.density_mean, stage.density_std, generator
            )
        )  # fmt: skip
    chance = torch.stack(chances)
    limits = torch.tensor([stage.context_dropout, stage.reference_dropout, stage.prompt_dropout])
    bare, blind, wordless = (chance < limits).unbind(1)
    return Draws(bare, blind, wordless, torch.stack(times, 1), seeds)


@dataclass
class Painted:
    """What the MM-DiT makes of drawings of one shape."""

    drawings: list[int]
    velocity: Tensor
    """(repeats · drawings, channels, h, w)"""
    target: Tensor
    early: Tensor | None
    """Image tokens of an early block, where they are to be aligned"""


@torch.no_grad()
def encoded(trainee: Trainee, batch: JointBatch) -> list[Tensor]:
    """The latents of all the batch's pictures, a tensor a shape."""
    names = batch.picture_keys or [()] * len(batch.pictures)
    return [trainee.frozen.latents(p, k) for p, k in zip(batch.pictures, names, strict=True)]


def painted(
    trainee: Trainee, stage: JointStage, batch: JointBatch, told: Told, chance: Draws, latents: list[Tensor],
    only: Tensor | None = None,
) -> tuple[list[Painted], Tensor]:  # fmt: skip
    """Velocities of all drawings (or ``only`` those of a mask (drawings,)), each at its times and noises; and a zero that
    stands for the runs of other processes. ``latents`` are `encoded`."""
    detokenizer = trainee.detokenizer
    mmdit = detokenizer.mmdit
    device = mmdit.proj_out.weight.device
    repeats = stage.flow_samples
    prompt, prompt_mask = prompt_of(detokenizer, told)
    if prompt_mask is not None:
        prompt_mask = prompt_mask & ~chance.wordless.to(device)[:, None]
    condition = detokenizer.condition(told.features, prompt, prompt_mask, batch.words)
    condition = condition.without_context(chance.bare.to(device))
    chosen = None if only is None else set(only.nonzero().flatten().tolist())
    groups = grouped(batch, latents, set(chance.blind.nonzero().flatten().tolist()), chosen)
    idle_runs = int(parallel.most(len(groups))) - len(groups)  # asked first: the others wait in their blocks' gathers
    made, nothing = [], torch.zeros((), device=device)
    for group in groups:
        x0 = group.latents.repeat(repeats, 1, 1, 1)
        noise = chance.noise(group.rows, repeats, x0.shape[1:]).to(x0)
        t = chance.times[:, group.rows].flatten().to(device)
        own = condition.rows(group.rows * repeats)
        references = mmdit.pack_references(group.references * repeats)
        early: list[Tensor] | None = [] if trainee.align is not None else None
        velocity = mmdit(
            flow.interpolate(x0, noise, t), t, own.context, own.pooled, context_mask=own.context_mask,
            references=references, early=early, early_block=stage.align_block,
        )  # fmt: skip
        made.append(Painted(group.rows, velocity, flow.velocity_target(x0, noise), early[0] if early else None))
    for _ in range(idle_runs):
        nothing = nothing + idle(mmdit)
    return made, nothing


def flow_losses(
    trainee: Trainee, stage: JointStage, batch: JointBatch, told: Told, chance: Draws, kept: Kept | None = None
) -> dict[str, Tensor]:
    """Flow loss, and alignment where configured, averaged over all drawings, times and noises; where something is
    ``kept``, its velocities are the target."""
    mmdit, repeats = trainee.detokenizer.mmdit, stage.flow_samples
    latents = encoded(trainee, batch) if kept is None else kept.latents
    groups, flow_sum = painted(trainee, stage, batch, told, chance, latents)
    align_sum = torch.zeros_like(flow_sum)
    for group in groups:
        target = group.target if kept is None else kept.target(group, repeats)
        errors = squared_error(group.velocity, target)
        if kept is not None:
            errors = errors * kept.weights[group.drawings].repeat(repeats)
        flow_sum = flow_sum + errors.sum()
        if group.early is not None:
            seen = eye_on_grid(told.eye_features[group.drawings], target.shape[-2:], mmdit.config.patch_size)
            align_sum = align_sum + align_loss(trainee.align, group.early, seen.repeat(repeats, 1, 1)).sum()
    counted = max(1, told.drawings) * repeats
    losses = {"flow": flow_sum / counted}
    if trainee.align is not None:
        losses["align"] = align_sum / counted
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


def eye_on_grid(features: Tensor, latent_size: torch.Size, patch: int) -> Tensor:
    """Eye features (drawings, patches, width) on the MM-DiT's token grid."""
    side = round(features.shape[1] ** 0.5)
    size = (latent_size[0] // patch, latent_size[1] // patch)
    if size == (side, side):
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side)).float()
    return F.interpolate(grid, size, mode="bilinear").flatten(2).transpose(1, 2)
