"""Language and drawing together: ``lm + λ_features · features + λ_flow · flow + λ_align · align``.

`LanguageStage` leaves the MM-DiT out: the backbone learns the world's talk while its queries regress the
eye's features of the picture to be drawn. `JointStage` adds the flow, whose gradient reaches the queries.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...detokenizer.detokenizer import Detokenizer
from ...evaluation.sheet import sheet
from ...inference.adapters import digest
from ...inference.model import Limner
from ...mllm.encoding import IGNORED
from ...mllm.eye import pool_features
from ...mllm.stream import StreamBatch, StreamModel, StreamOutput
from ...mllm.vocabulary import Vocabulary
from .. import parallel
from ..data import JointBatch
from ..datasets.mixture import Mixture, sources_of
from ..flow_loss import draws, flow_losses, idle_losses
from ..frozen import Frozen, Store, encoders
from ..loop import LoopConfig, fit
from ..losses import feature_loss, language_loss, weighted
from ..resume import same_run, settled

if TYPE_CHECKING:
    from ..kept import Kept


@dataclass
class LanguageStage:
    feature_weight: float = 1.0
    slips: float = 0.0
    """Share of the assistant's words about a picture that are others when read back, so that the next word comes from the
    picture and not from the words before (word dropout; Bowman et al. 2016, arXiv:1511.06349)"""
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
    validation: tuple[str, ...] = ()
    """Data sets whose losses are measured at every sample; without any they are those of ``data``, told and drawn another
    time"""
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
    prompt_dropout: float = 0.0
    """Share of the drawings that learn from the queries' features alone: where the prompt's hidden states are a second
    source, the MM-DiT may else never learn to use the first."""
    precomputed: str = ""
    """A folder of `limner precompute`: what the eye and the autoencoder make of the data's pictures"""
    compile: bool = False
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time."""
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
        if detokenizer is not None and not isinstance(detokenizer, Detokenizer):
            raise ValueError(
                "this model paints with SDXL's UNet, which no stage trains; its backbone learns in the language stage"
            )
        stream.eye.requires_grad_(False)
        if detokenizer is not None:
            detokenizer.autoencoder.requires_grad_(False)
        width = detokenizer.mmdit.config.width if detokenizer is not None else 0
        self.align = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, stream.eye.width))
            if align
            else None
        )
        self.frozen = Frozen(stream.eye, None if detokenizer is None else detokenizer.autoencoder)


@dataclass
class Told:
    """What one forward of the stream gives: its losses and, where something is drawn, features true and predicted."""

    losses: dict[str, Tensor]
    output: StreamOutput | None
    features: Tensor | None = None
    """(drawings, feature_tokens, eye width)"""
    eye_features: Tensor | None = None
    """(drawings, patches, eye width)"""
    drawings: int = 0
    """In this batch, in all processes"""
    counted: int = 1
    """Drawings that the losses are averaged over: those of all the batches of a step"""


def tell(trainee: Trainee, batch: JointBatch, kept: Kept | None = None, seen: Tensor | None = None) -> Told:
    """``seen`` (views, patches, eye width) saves running the eye."""
    stream, frozen = trainee.stream, trainee.frozen
    features = seen if kept is None else kept.seen
    if features is None:
        with torch.no_grad():
            features = frozen.features(batch.views(), batch.view_keys)
    output = stream(batch.stream, features[: len(batch.stream.pixel_values)])
    decisions, drawings = batch.counts() if batch.totals is None else batch.totals
    told = Told({"language": language_loss(stream, output, batch.stream, decisions, kept)}, output)
    if len(batch.target):
        told.eye_features = features[batch.target_views]
        told.features = stream.output_resampler(output.query_states)
        target = pool_features(told.eye_features, stream.config.feature_tokens, stream.config.feature_pool)
        if kept is not None and kept.features is not None:
            target = torch.where(kept.drawings[:, None, None], kept.features, target)
        errors = feature_loss(told.features, target)
        told.losses["features"] = (errors if kept is None else errors * kept.weights).sum()
    told.drawings, told.counted = parallel.sums(len(batch.target), drawings)
    if told.drawings:  # the same losses on every process, zero where one has no picture
        told.losses["features"] = told.losses.get("features", output.hidden.new_zeros(())) / told.counted
    return told


def language_losses(trainee: Trainee, stage: LanguageStage, batch: JointBatch, step: int) -> dict[str, Tensor]:
    if stage.slips:
        batch = replace(batch, stream=slipped(batch.stream, trainee.stream.vocabulary, stage.slips, step))
    told = tell(trainee, batch.to(trainee.stream.device))
    return weighted(told.losses, {"language": 1.0, "features": stage.feature_weight})


def slipped(batch: StreamBatch, vocabulary: Vocabulary, share: float, step: int) -> StreamBatch:
    """With some of what the assistant says, where nothing is drawn, replaced by other words of its; labels stay."""
    ids = batch.input_ids.clone()
    control = vocabulary.control.union(vocabulary.end_of_turn)
    spoken = (batch.labels != IGNORED) & ~torch.isin(ids, torch.tensor(sorted(control)))
    said = ids[spoken]
    drawn = set(batch.drawing_row.tolist())
    for row in range(len(ids)):
        if row in drawn or not len(said):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(f"{step}/{ids[row].tolist()}".encode()))
        slips = spoken[row] & (torch.rand(ids.shape[1], generator=generator) < share)
        others = said[torch.randint(len(said), (ids.shape[1],), generator=generator)]
        ids[row] = torch.where(slips, others, ids[row])
    return replace(batch, input_ids=ids)


def detokenizer_losses(
    trainee: Trainee, stage: JointStage, seed: int, batch: JointBatch, step: int
) -> dict[str, Tensor]:
    """Features to pixels, without the stream: SEED-X's first stage. The features are the eye's of the picture itself."""
    stream = trainee.stream
    batch = batch.to(stream.device)
    _, counted = batch.counts() if batch.totals is None else batch.totals
    told = Told({}, None)
    told.drawings, told.counted = parallel.sums(len(batch.target), counted)
    losses: dict[str, Tensor] = {}
    if len(batch.target):
        with torch.no_grad():
            names = [batch.view_keys[i] for i in batch.target_views] if batch.view_keys else []
            told.eye_features = trainee.frozen.features(batch.views()[batch.target_views], names)
        told.features = pool_features(told.eye_features, stream.config.feature_tokens, stream.config.feature_pool)
        losses = flow_losses(trainee, stage, batch, told, draws(stage, batch, seed, step))
    elif told.drawings:
        losses = idle_losses(trainee)
    return weighted(losses, {"flow": stage.flow_weight, "align": stage.align_weight})


def joint_losses(
    trainee: Trainee, stage: JointStage, seed: int, batch: JointBatch, step: int, kept: Kept | None = None
) -> dict[str, Tensor]:
    """``kept`` is in place of the truth where it has something (`keep`)."""
    batch = batch.to(trainee.stream.device)
    told = tell(trainee, batch, kept)
    losses = told.losses
    if told.features is not None:
        chance = draws(stage, batch, seed, step, None if kept is None else kept.drawings)
        if kept is not None:  # what is drawn without words is the base's: guidance would enlarge any difference
            chance.bare &= kept.drawings.to(chance.bare.device)
        losses |= flow_losses(trainee, stage, batch, told, chance, kept)
    elif told.drawings:  # other processes have some
        losses |= idle_losses(trainee)
    weights = {
        "language": stage.language_weight,
        "features": stage.feature_weight,
        "flow": stage.flow_weight,
        "align": stage.align_weight,
    }
    return weighted(losses, weights)


def mixture(model: Limner, stage: LanguageStage | JointStage, seed: int) -> Mixture:
    sources = sources_of(stage.data, model.encoder, model.mllm.longest, stage.draw_share)
    return Mixture(sources, model.encoder, stage.loop.batch_size, seed)


def begin(folder: Path, stage: LanguageStage | JointStage, seed: int, model: Limner, batches: Mixture) -> None:
    """Raises ValueError where a run of other data, from another base or by other settings has begun in ``folder``."""
    if parallel.rank() == 0:
        same_run(folder, {"stage": settled(stage), "seed": seed, "base": digest(model), "data": batches.fingerprints})
    parallel.wait()


def validation_batch(model: Limner, stage: JointStage, batches: Mixture, seed: int) -> JointBatch:
    """Twice as large as those of training, or larger: it has some of every source, however small its weight.

    Raises ValueError for data sets that cannot be used.
    """
    sources = list(zip(batches.sources, batches.weights, strict=True))
    if stage.validation:
        sources = sources_of(stage.validation, model.encoder, model.mllm.longest, stage.draw_share)
    size = max(2 * stage.loop.batch_size, 4 * len(sources))
    whole = sum(weight for _, weight in sources)
    lifted = [(source, max(weight / whole, 4 / size)) for source, weight in sources if weight]
    return Mixture(lifted, model.encoder, size, seed, pool=1)(0)


@torch.no_grad()
def validate(
    losses: Callable[[JointBatch, int], dict[str, Tensor]], batch: JointBatch
) -> tuple[float, dict[str, float]]:
    """What to keep the best checkpoint by, and all losses, of a fixed batch with fixed times and noises: the flow's, which
    tracks quality (SD3, section 5.3), or all of it where nothing is drawn."""
    values = {name: float(value) for name, value in losses(batch, 0).items()}
    return values.get("flow", values["loss"]), values


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


@contextmanager
def recomputing(trainee: Trainee, again: bool = True) -> Iterator[None]:
    """The MM-DiT's blocks and the backbone's layers are computed ``again`` in the backward pass."""
    mmdit, llm = trainee.detokenizer.mmdit, trainee.stream.llm
    if not again:
        yield
        return
    mmdit.gradient_checkpointing = True
    llm.activation_checkpointing_enable({"use_reentrant": False})
    llm.train()  # transformers checkpoints only then
    try:
        yield
    finally:
        mmdit.gradient_checkpointing = False
        llm.activation_checkpointing_disable()
        llm.eval()


def compile_blocks(trainee: Trainee) -> None:
    """The MM-DiT's blocks and the backbone's layers, each for itself."""
    # they share one forward a class, the last block's streams differ, and kernels are made for small and large batches:
    # beyond the usual limit of 8 variants the rest would run uncompiled
    torch._dynamo.config.recompile_limit = 64
    for block in [*trainee.detokenizer.mmdit.blocks, *trainee.stream.llm.get_decoder().layers]:
        block.compile(dynamic=True)


def run_language(
    stage: LanguageStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Trains ``model.mllm`` in place."""
    torch.manual_seed(seed)
    batches = mixture(model, stage, seed + 1)
    begin(folder, stage, seed, model, batches)
    trainee = Trainee(model.mllm.to(device, dtype), None)
    fit("language", trainee, batches, partial(language_losses, trainee, stage), stage.loop, folder)


def run_joint(
    stage: JointStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype,
    name: str = "joint",
) -> None:  # fmt: skip
    """Trains the stream and the de-tokenizer of ``model`` in place, with a sheet of drawings at every sample."""
    torch.manual_seed(seed)
    batches = mixture(model, stage, seed + 3)
    begin(folder, stage, seed, model, batches)
    model.to(device, dtype)
    trainee = Trainee(model.mllm, model.detokenizer, align=stage.align_weight > 0).to(device, dtype)
    print(freeze(trainee, stage.train), flush=True)
    if stage.compile:
        compile_blocks(trainee)
    if stage.precomputed:
        batches.keys, trainee.frozen.store = True, Store(stage.precomputed, encoders(model))
    fixed = validation_batch(model, stage, batches, seed + 2)
    form = detokenizer_losses if name == "detokenizer" else joint_losses

    def sample(step: int) -> float:
        training = model.mllm.llm.training
        model.mllm.llm.eval()  # a backbone that checkpoints its layers keeps no cache while it trains
        loss, values = validate(partial(form, trainee, stage, 0), fixed)
        with (folder / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": step} | {key: round(value, 5) for key, value in values.items()}) + "\n")
        with torch.compiler.set_stance("force_eager"):  # a cache that grows would be compiled again at every length
            replies = model.draw(list(stage.sample_prompts), max_new_tokens=32, num_inference_steps=16)
        sheet([reply.images[0] for reply in replies], 8, folder / f"samples/{step:06d}.png")
        model.mllm.llm.train(training)
        return loss

    with recomputing(trainee, stage.gradient_checkpointing):
        fit(name, trainee, batches, partial(form, trainee, stage, seed), stage.loop, folder, sample)
