"""Language and drawing together: ``lm + λ_features · features + λ_flow · flow + λ_align · align``.

`LanguageStage` leaves the MM-DiT out: the backbone learns the world's talk while its queries regress the
vision tower's features of the picture to be drawn. `JointStage` adds the flow, whose gradient reaches the queries.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...evaluation.sheet import sheet
from ...inference.adapters import digest
from ...inference.model import Limner
from ...mllm.encoding import IGNORE_INDEX
from ...mllm.stream import StreamBatch
from ...mllm.vision_tower import pool_features
from ...mllm.vocabulary import Vocabulary
from .. import parallel
from ..data import JointBatch
from ..datasets.mixture import Mixture, sources_of
from ..flow_loss import draws, flow_losses, idle_losses
from ..frozen import Store, encoders
from ..loop import fit
from ..losses import feature_loss, language_loss, weighted
from ..resume import same_run, settled
from ..targets import Kept
from ..trainee import Told, Trainee, compile_blocks, freeze, recomputing
from .joint_options import JointStage, LanguageStage


def tell(trainee: Trainee, batch: JointBatch, kept: Kept | None = None, seen: Tensor | None = None) -> Told:
    """``seen`` (views, patches, vision width) saves running the vision tower."""
    stream, frozen = trainee.stream, trainee.frozen
    features = seen if kept is None else kept.seen
    if features is None:
        with torch.no_grad():
            features = frozen.features(batch.views(), batch.view_keys)
    output = stream(batch.stream, features[: len(batch.stream.pixel_values)])
    decisions, drawings = batch.counts() if batch.totals is None else batch.totals
    told = Told({"language": language_loss(stream, output, batch.stream, decisions, kept)}, output)
    if len(batch.target):
        told.vision_features = features[batch.target_views]
        told.features = stream.output_resampler(output.query_states)
        target = pool_features(told.vision_features, stream.config.feature_tokens, stream.config.feature_pool)
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
    spoken = (batch.labels != IGNORE_INDEX) & ~torch.isin(ids, torch.tensor(sorted(control)))
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
    """Features to pixels, without the stream: SEED-X's first stage. The features are the vision tower's of the picture itself."""
    stream = trainee.stream
    batch = batch.to(stream.device)
    _, counted = batch.counts() if batch.totals is None else batch.totals
    told = Told({}, None)
    told.drawings, told.counted = parallel.sums(len(batch.target), counted)
    losses: dict[str, Tensor] = {}
    if len(batch.target):
        with torch.no_grad():
            names = [batch.view_keys[i] for i in batch.target_views] if batch.view_keys else []
            told.vision_features = trainee.frozen.features(batch.views()[batch.target_views], names)
        told.features = pool_features(told.vision_features, stream.config.feature_tokens, stream.config.feature_pool)
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
    sources = sources_of(stage.data, model.encoder, model.mllm.max_position_embeddings, stage.draw_share)
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
        sources = sources_of(stage.validation, model.encoder, model.mllm.max_position_embeddings, stage.draw_share)
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
    stage: JointStage,
    model: Limner,
    seed: int,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "joint",
) -> None:
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
