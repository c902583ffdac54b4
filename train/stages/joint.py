"""Language and drawing together: ``lm + λ_features · features + λ_flow · flow + λ_align · align``.

`LanguageStage` leaves the MM-DiT out: the backbone learns the world's talk while its queries regress the
eye's features of the picture to be drawn. `JointStage` adds the flow, whose gradient reaches the queries.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...detokenizer import flow
from ...detokenizer.autoencoder import to_pixels
from ...detokenizer.detokenizer import Detokenizer
from ...detokenizer.mmdit import MMDiT
from ...inference.model import Limner
from ...mllm.eye import pool_features
from ...mllm.stream import StreamModel, StreamOutput
from .. import parallel, pictures
from ..data import JointBatch
from ..datasets.mixture import Mixture, World, sources_of
from ..loop import LoopConfig, fit
from ..losses import align_loss, feature_loss, language_loss, squared_error, weighted


@dataclass
class LanguageStage:
    feature_weight: float = 1.0
    data: tuple[str, ...] = ("world",)
    """Data sets, each with an optional weight: ("world:0.5", "pictures/:0.5")"""
    draw_share: float = 0.8
    """How often a captioned picture is drawn from its caption; else it is described."""
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass
class JointStage:
    data: tuple[str, ...] = ("world",)
    """Data sets, each with an optional weight: ("world:0.5", "pictures/:0.5")"""
    draw_share: float = 0.8
    """How often a captioned picture is drawn from its caption; else it is described."""
    train: tuple[str, ...] = ("mllm", "detokenizer")
    """What learns: beginnings of parameter names; the eye and the autoencoder never do."""
    language_weight: float = 1.0
    feature_weight: float = 0.5
    flow_weight: float = 1.0
    align_weight: float = 0.0
    align_block: int = 2
    """MM-DiT block after which the image tokens are aligned with the eye's features."""
    flow_samples: int = 2
    """Times and noises drawn for every picture of a batch: they share the backbone's forward."""
    density: str = "logit_normal"
    density_mean: float = 0.0
    density_std: float = 1.0
    context_dropout: float = 0.1
    reference_dropout: float = 0.1
    compile: bool = False
    sample_prompts: tuple[str, ...] = (
        "a photo of a red apple", "draw a blue cat on grass", "draw three yellow cars", "a photo of a green clock",
        "draw a dog left of a chair", "a photo of a pink bus and a black kite", "draw a white sheep at night",
        "a photo of two purple cups", "draw an orange boat on sand", "a photo of a bicycle", "draw four elephants",
        "a photo of a brown teddy bear above a tv", "draw a umbrella", "a photo of a red banana and a blue cake",
        "draw a small black bird in the sky", "draw a yellow train, wide",
    )  # fmt: skip
    loop: LoopConfig = field(default_factory=LoopConfig)


class Trainee(nn.Module):
    """What a stage trains, under one roof; the eye and the autoencoder are frozen."""

    def __init__(self, stream: StreamModel, detokenizer: Detokenizer | None, align: bool = False) -> None:
        super().__init__()
        self.stream, self.detokenizer = stream, detokenizer
        stream.eye.requires_grad_(False)
        if detokenizer is not None:
            detokenizer.autoencoder.requires_grad_(False)
        width = detokenizer.mmdit.config.width if detokenizer is not None else 0
        self.align = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, stream.eye.width))
            if align
            else None
        )


@dataclass
class Told:
    """What one forward of the stream gives: its losses and, where something is drawn, features true and predicted."""

    losses: dict[str, Tensor]
    output: StreamOutput
    features: Tensor | None = None
    """(drawings, feature_tokens, eye width)"""
    eye_features: Tensor | None = None
    """(drawings, patches, eye width)"""
    drawings: int = 0
    """In the batches of all processes"""


def tell(stream: StreamModel, batch: JointBatch) -> Told:
    output = stream(batch.stream)
    told = Told({"language": language_loss(stream, output, batch.stream)}, output)
    if len(batch.target):
        with torch.no_grad():
            told.eye_features = stream.eye(batch.target_views)
        told.features = stream.output_resampler(output.query_states)
        target = pool_features(told.eye_features, stream.config.feature_tokens)
        told.losses["features"] = feature_loss(told.features, target).sum()
    told.drawings = int(parallel.total(len(batch.target)))
    if told.drawings:  # the same losses on every process, zero where one has no picture
        told.losses["features"] = told.losses.get("features", output.hidden.new_zeros(())) / told.drawings
    return told


def language_losses(trainee: Trainee, stage: LanguageStage, batch: JointBatch, step: int) -> dict[str, Tensor]:
    told = tell(trainee.stream, batch.to(trainee.stream.device))
    return weighted(told.losses, {"language": 1.0, "features": stage.feature_weight})


@dataclass
class Group:
    """Drawings of one shape, all with or all without references, so that nothing is padded."""

    rows: list[int]
    latents: Tensor
    references: list[list[Tensor]]


def grouped(batch: JointBatch, latents: list[Tensor], dropped: set[int]) -> list[Group]:
    groups: dict[tuple, list[int]] = {}
    for row, (shape, _) in enumerate(batch.target):
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
        chances.append(torch.rand(2, generator=generator))
        times.append(
            flow.sample_timesteps(
                stage.flow_samples, stage.density, stage.density_mean, stage.density_std, generator
            )
        )  # fmt: skip
    chance = torch.stack(chances)
    return Draws(
        chance[:, 0] < stage.context_dropout, chance[:, 1] < stage.reference_dropout, torch.stack(times, 1), seeds
    )


def flow_losses(trainee: Trainee, stage: JointStage, batch: JointBatch, told: Told, chance: Draws) -> dict[str, Tensor]:
    """Flow loss, and alignment where configured, averaged over all drawings, times and noises."""
    detokenizer = trainee.detokenizer
    mmdit, vae = detokenizer.mmdit, detokenizer.autoencoder
    dtype, device = mmdit.proj_out.weight.dtype, mmdit.proj_out.weight.device
    repeats = stage.flow_samples
    with torch.no_grad():
        latents = [
            vae.encode(to_pixels(p).to(dtype).contiguous(memory_format=torch.channels_last)) for p in batch.pictures
        ]
    condition = detokenizer.adapter(told.features, told.output.prompt, told.output.prompt_mask)
    condition = condition.without_context(chance.bare.to(device))
    groups = grouped(batch, latents, set(chance.blind.nonzero().flatten().tolist()))
    runs = int(parallel.most(len(groups)))
    flow_sum, align_sum = torch.zeros((), device=device), torch.zeros((), device=device)
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
        flow_sum = flow_sum + squared_error(velocity, flow.velocity_target(x0, noise)).sum()
        if early:
            target = eye_on_grid(told.eye_features[group.rows], velocity.shape[-2:], mmdit.config.patch_size)
            align_sum = align_sum + align_loss(trainee.align, early[0], target.repeat(repeats, 1, 1)).sum()
    for _ in range(runs - len(groups)):
        flow_sum = flow_sum + idle(mmdit)
    counted = max(1, told.drawings) * repeats
    losses = {"flow": flow_sum / counted}
    if trainee.align is not None:
        losses["align"] = align_sum / counted
    return losses


def idle(mmdit: MMDiT) -> Tensor:
    """A forward of weight zero: a sharded block that runs on one process has to run on all."""
    config, like = mmdit.config, mmdit.proj_out.weight
    latents = like.new_zeros(1, config.latent_channels, config.patch_size, config.patch_size)
    context, pooled = like.new_zeros(1, 1, config.context_width), like.new_zeros(1, config.pooled_width)
    return mmdit(latents, like.new_zeros(1), context, pooled).float().sum() * 0


def eye_on_grid(features: Tensor, latent_size: torch.Size, patch: int) -> Tensor:
    """Eye features (drawings, patches, width) on the MM-DiT's token grid."""
    side = round(features.shape[1] ** 0.5)
    size = (latent_size[0] // patch, latent_size[1] // patch)
    if size == (side, side):
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side)).float()
    return F.interpolate(grid, size, mode="bilinear").flatten(2).transpose(1, 2)


def joint_losses(trainee: Trainee, stage: JointStage, seed: int, batch: JointBatch, step: int) -> dict[str, Tensor]:
    batch = batch.to(trainee.stream.device)
    told = tell(trainee.stream, batch)
    losses = told.losses
    if told.features is not None:
        chance = draws(stage, batch.numbers, seed, step)
        losses |= flow_losses(trainee, stage, batch, told, chance)
    elif told.drawings:  # other processes have some
        runs = int(parallel.most(0))
        losses["flow"] = sum((idle(trainee.detokenizer.mmdit) for _ in range(runs)), torch.zeros(()))
        if trainee.align is not None:
            losses["align"] = torch.zeros(())
    weights = {
        "language": stage.language_weight,
        "features": stage.feature_weight,
        "flow": stage.flow_weight,
        "align": stage.align_weight,
    }
    return weighted(losses, weights)


@torch.no_grad()
def validation_flow(trainee: Trainee, stage: JointStage, encode_batch: JointBatch) -> float:
    """Flow loss on a fixed batch with fixed times and noises: it tracks quality (SD3, section 5.3)."""
    values = joint_losses(trainee, stage, 0, encode_batch, 0)
    return float(values["flow"])


def mixture(model: Limner, stage: LanguageStage | JointStage, seed: int) -> Mixture:
    longest = getattr(model.mllm.llm.config, "max_position_embeddings", None) or 10**9
    sources = sources_of(stage.data, model.encoder, longest, stage.draw_share)
    return Mixture(sources, model.encoder, stage.loop.batch_size, seed)


def freeze(trainee: Trainee, train: tuple[str, ...]) -> str:
    """Only parameters whose names begin with one of ``train`` keep a gradient; a table of what learns and what rests.

    Names are `Limner`'s (``mllm.queries``). Raises ValueError for a beginning that no parameter has.
    """
    named = [(in_model(name), p) for name, p in trainee.named_parameters() if not name.startswith("align.")]
    learns, rests = Counter(), Counter()
    for prefix in train:
        if not any(begins(name, prefix) for name, _ in named):
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in named})
            raise ValueError(f"train: no parameter's name begins with {prefix!r}; parts are {', '.join(parts)}")
    for name, parameter in named:
        parameter.requires_grad_(parameter.requires_grad and any(begins(name, prefix) for prefix in train))
        (learns if parameter.requires_grad else rests)[".".join(name.split(".")[:2])] += parameter.numel()

    def told(counts: Counter) -> str:
        return ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items()) or "nothing"

    return f"learns  {told(learns)}\nfrozen  {told(rests)}"


def begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def in_model(name: str) -> str:
    """A trainee's parameter name as `Limner` has it."""
    return "mllm." + name.removeprefix("stream.") if name.startswith("stream.") else name


def run_language(
    stage: LanguageStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Trains ``model.mllm`` in place."""
    torch.manual_seed(seed)
    trainee = Trainee(model.mllm.to(device, dtype), None)
    fit(
        "language", trainee, mixture(model, stage, seed + 1),
        partial(language_losses, trainee, stage), stage.loop, folder,
    )  # fmt: skip


def run_joint(
    stage: JointStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype,
    name: str = "joint",
) -> None:  # fmt: skip
    """Trains the stream and the de-tokenizer of ``model`` in place, with a sheet of drawings at every sample."""
    torch.manual_seed(seed)
    model.to(device, dtype)
    trainee = Trainee(model.mllm, model.detokenizer, align=stage.align_weight > 0).to(device, dtype)
    print(freeze(trainee, stage.train), flush=True)
    if stage.compile:
        for block in model.detokenizer.mmdit.blocks:
            block.compile(dynamic=True)
    fixed = Mixture([(World(), 1.0)], model.encoder, 2 * stage.loop.batch_size, seed + 2, pool=1)(0)

    def sample(step: int) -> float:
        loss = validation_flow(trainee, stage, fixed)
        (folder / "validation.jsonl").open("a").write(f'{{"step": {step}, "flow": {loss:.5f}}}\n')
        replies = model.generate(
            list(stage.sample_prompts), images="force", max_images=1, max_new_tokens=24, num_inference_steps=16
        )
        drawn = [reply.images[0] if reply.images else Image.new("RGB", (16, 16)) for reply in replies]
        pictures.sheet(drawn, 8, folder / f"samples/{step:06d}.png")
        return loss

    fit(
        name, trainee, mixture(model, stage, seed + 3),
        partial(joint_losses, trainee, stage, seed), stage.loop, folder, sample,
    )  # fmt: skip
