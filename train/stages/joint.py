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

from ...evaluation.sheet import save_sheet
from ...inference.adapters import digest
from ...inference.model import Limner
from ...mllm.encoding import IGNORE_INDEX
from ...mllm.stream import StreamBatch
from ...mllm.vision_tower import pool_features
from ...mllm.vocabulary import Vocabulary
from .. import parallel
from ..data import JointBatch
from ..datasets.mixture import Mixture, load_sources
from ..flow_loss import dummy_losses, flow_losses, random_choices
from ..frozen_encoders import EncoderCache, encoders_fingerprint
from ..loop import fit
from ..losses import SelfDistillationTargets, add_weighted_sum, feature_loss, language_loss
from ..resume import check_same_run, run_settings
from ..trainable import StreamLosses, TrainableModel, compile_blocks, freeze_parameters, gradient_checkpointing
from .joint_options import JointStage, LanguageStage


def forward_losses(
    trainable: TrainableModel,
    batch: JointBatch,
    self_targets: SelfDistillationTargets | None = None,
    vision_features: Tensor | None = None,
) -> StreamLosses:
    """One forward of the stream over ``batch``, with its language and feature losses.

    ``vision_features`` (views, patches, vision width) of the batch's views save a forward of the vision tower.
    """
    stream, frozen = trainable.stream, trainable.frozen_encoders
    features = vision_features if self_targets is None else self_targets.vision_features
    if features is None:
        with torch.no_grad():
            features = frozen.features(batch.views(), batch.view_keys)
    output = stream(batch.stream, features[: len(batch.stream.pixel_values)])
    decisions, drawings = batch.counts()
    stream_losses = StreamLosses(
        {"language": language_loss(stream, output, batch.stream, decisions, self_targets)}, output
    )
    if len(batch.target):
        stream_losses.vision_features = features[batch.target_views]
        stream_losses.features = stream.output_resampler(output.query_states)
        target = pool_features(stream_losses.vision_features, stream.config.feature_tokens, stream.config.feature_pool)
        if self_targets is not None and self_targets.features is not None:
            target = torch.where(self_targets.drawings[:, None, None], self_targets.features, target)
        errors = feature_loss(stream_losses.features, target)
        stream_losses.losses["features"] = (errors if self_targets is None else errors * self_targets.weights).sum()
    stream_losses.drawings, stream_losses.loss_denominator = parallel.sum_counts(len(batch.target), drawings)
    if stream_losses.drawings:  # the same losses on every process, zero where one has no picture
        stream_losses.losses["features"] = (
            stream_losses.losses.get("features", output.hidden.new_zeros(())) / stream_losses.loss_denominator
        )
    return stream_losses


def language_losses(trainable: TrainableModel, stage: LanguageStage, batch: JointBatch, step: int) -> dict[str, Tensor]:
    if stage.word_dropout:
        batch = replace(
            batch, stream=apply_word_dropout(batch.stream, trainable.stream.vocabulary, stage.word_dropout, step)
        )
    stream_losses = forward_losses(trainable, batch.to(trainable.stream.device))
    return add_weighted_sum(stream_losses.losses, {"language": 1.0, "features": stage.feature_weight})


def apply_word_dropout(batch: StreamBatch, vocabulary: Vocabulary, rate: float, step: int) -> StreamBatch:
    """Word dropout (Bowman et al. 2016): a share of the assistant's input tokens, in conversations without a drawing, is replaced
    by other tokens of the assistant. The labels stay."""
    ids = batch.input_ids.clone()
    control = vocabulary.control.union(vocabulary.end_of_turn)
    is_text = (batch.labels != IGNORE_INDEX) & ~torch.isin(ids, torch.tensor(sorted(control)))
    text_ids = ids[is_text]
    drawing_rows = set(batch.drawing_row.tolist())
    for row in range(len(ids)):
        if row in drawing_rows or not len(text_ids):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(f"{step}/{ids[row].tolist()}".encode()))
        dropped = is_text[row] & (torch.rand(ids.shape[1], generator=generator) < rate)
        others = text_ids[torch.randint(len(text_ids), (ids.shape[1],), generator=generator)]
        ids[row] = torch.where(dropped, others, ids[row])
    return replace(batch, input_ids=ids)


def detokenizer_losses(
    trainable: TrainableModel, stage: JointStage, seed: int, batch: JointBatch, step: int
) -> dict[str, Tensor]:
    """SEED-X's first stage: the de-tokenizer learns to draw a picture from its vision features; the stream does not run."""
    stream = trainable.stream
    batch = batch.to(stream.device)
    _, counted = batch.counts()
    stream_losses = StreamLosses({}, None)
    stream_losses.drawings, stream_losses.loss_denominator = parallel.sum_counts(len(batch.target), counted)
    losses: dict[str, Tensor] = {}
    if len(batch.target):
        with torch.no_grad():
            names = [batch.view_keys[i] for i in batch.target_views] if batch.view_keys else []
            stream_losses.vision_features = trainable.frozen_encoders.features(batch.views()[batch.target_views], names)
        stream_losses.features = pool_features(
            stream_losses.vision_features, stream.config.feature_tokens, stream.config.feature_pool
        )
        losses = flow_losses(trainable, stage, batch, stream_losses, random_choices(stage, batch, seed, step))
    elif stream_losses.drawings:
        losses = dummy_losses(trainable)
    return add_weighted_sum(losses, {"flow": stage.flow_weight, "align": stage.align_weight})


def joint_losses(
    trainable: TrainableModel,
    stage: JointStage,
    seed: int,
    batch: JointBatch,
    step: int,
    self_targets: SelfDistillationTargets | None = None,
) -> dict[str, Tensor]:
    """The weighted sum of all losses of a batch as ``"loss"``, and each of them.

    ``self_targets`` (`self_distillation_targets`) replace the true targets of replayed conversations.
    """
    batch = batch.to(trainable.stream.device)
    stream_losses = forward_losses(trainable, batch, self_targets)
    losses = stream_losses.losses
    if stream_losses.features is not None:
        choices = random_choices(stage, batch, seed, step, None if self_targets is None else self_targets.drawings)
        if self_targets is not None:  # without context only the base is learned: guidance would enlarge a difference
            choices.drop_context &= self_targets.drawings.to(choices.drop_context.device)
        losses |= flow_losses(trainable, stage, batch, stream_losses, choices, self_targets)
    elif stream_losses.drawings:  # other processes have some
        losses |= dummy_losses(trainable)
    weights = {
        "language": stage.language_weight,
        "features": stage.feature_weight,
        "flow": stage.flow_weight,
        "align": stage.align_weight,
    }
    return add_weighted_sum(losses, weights)


def make_mixture(model: Limner, stage: LanguageStage | JointStage, seed: int) -> Mixture:
    sources = load_sources(stage.data, model.encoder, model.mllm.max_position_embeddings, stage.draw_share)
    return Mixture(sources, model.encoder, stage.loop.batch_size, seed)


def check_run(folder: Path, stage: LanguageStage | JointStage, seed: int, model: Limner, batches: Mixture) -> None:
    """Raises ValueError where a run of other data, from another base or by other settings has begun in ``folder``."""
    if parallel.rank() == 0:
        check_same_run(
            folder, {"stage": run_settings(stage), "seed": seed, "base": digest(model), "data": batches.fingerprints}
        )
    parallel.barrier()


def validation_batch(model: Limner, stage: JointStage, batches: Mixture, seed: int) -> JointBatch:
    """A batch at least twice as large as in training, with examples of every source, however small its weight.

    Raises ValueError for data sets that cannot be used.
    """
    sources = list(zip(batches.sources, batches.weights, strict=True))
    if stage.validation:
        sources = load_sources(stage.validation, model.encoder, model.mllm.max_position_embeddings, stage.draw_share)
    size = max(2 * stage.loop.batch_size, 4 * len(sources))
    total = sum(weight for _, weight in sources)
    raised = [(source, max(weight / total, 4 / size)) for source, weight in sources if weight]
    return Mixture(raised, model.encoder, size, seed, pool=1)(0)


@torch.no_grad()
def validate(
    losses: Callable[[JointBatch, int], dict[str, Tensor]], batch: JointBatch
) -> tuple[float, dict[str, float]]:
    """The validation loss and all losses of a fixed batch with fixed timesteps and noises. The first, by which the best
    checkpoint is chosen, is the flow loss, which tracks quality (SD3, section 5.3), or the sum if nothing is drawn."""
    values = {name: float(value) for name, value in losses(batch, 0).items()}
    return values.get("flow", values["loss"]), values


def run_language(
    stage: LanguageStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Train ``model.mllm`` in place, without the MM-DiT. Raises ValueError as `check_run` does."""
    torch.manual_seed(seed)
    batches = make_mixture(model, stage, seed + 1)
    check_run(folder, stage, seed, model, batches)
    trainable = TrainableModel(model.mllm.to(device, dtype), None)
    fit("language", trainable, batches, partial(language_losses, trainable, stage), stage.loop, folder)


def run_joint(
    stage: JointStage,
    model: Limner,
    seed: int,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "joint",
) -> None:
    """Train the stream and the de-tokenizer of ``model`` in place; every ``sample_every`` steps the sample prompts are drawn.

    Raises ValueError as `check_run` does.
    """
    torch.manual_seed(seed)
    batches = make_mixture(model, stage, seed + 3)
    check_run(folder, stage, seed, model, batches)
    model.to(device, dtype)
    trainable = TrainableModel(model.mllm, model.detokenizer, align=stage.align_weight > 0).to(device, dtype)
    print(freeze_parameters(trainable, stage.train), flush=True)
    if stage.compile:
        compile_blocks(trainable)
    if stage.precomputed:
        batches.keys = True
        trainable.frozen_encoders.cache = EncoderCache(stage.precomputed, encoders_fingerprint(model))
    fixed = validation_batch(model, stage, batches, seed + 2)
    form = detokenizer_losses if name == "detokenizer" else joint_losses

    def sample(step: int) -> float:
        training = model.mllm.llm.training
        model.mllm.llm.eval()  # a backbone that checkpoints its layers keeps no cache while it trains
        loss, values = validate(partial(form, trainable, stage, 0), fixed)
        with (folder / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": step} | {key: round(value, 5) for key, value in values.items()}) + "\n")
        with torch.compiler.set_stance("force_eager"):  # a cache that grows would be compiled again at every length
            replies = model.draw(list(stage.sample_prompts), max_new_tokens=32, num_inference_steps=16)
        save_sheet([reply.images[0] for reply in replies], 8, folder / f"samples/{step:06d}.png")
        model.mllm.llm.train(training)
        return loss

    with gradient_checkpointing(trainable, stage.gradient_checkpointing):
        fit(name, trainable, batches, partial(form, trainable, stage, seed), stage.loop, folder, sample)
