"""The stages of the backbone: `LanguageStage` leaves the MM-DiT out, `JointStage` trains what `train` names of stream and
de-tokenizer; `objective` has their losses."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...detokenizer.detokenizer import NotFiniteError
from ...evaluation.judge import Judge
from ...evaluation.sheet import save_sheet
from ...evaluation.sources import queries_and_both
from ...inference.adapters import digest
from ...inference.model import Limner
from .. import parallel
from ..data import JointBatch
from ..datasets.mixture import Mixture, load_sources
from ..frozen_encoders import EncoderCache, encoders_fingerprint
from ..loop import append_line, backward, fit
from ..objective import DetokenizerObjective, JointObjective, LanguageObjective
from ..resume import check_same_run, default_settings, run_settings
from ..text_batches import MixedBatches, TextBatches
from ..text_objective import MixedObjective
from ..trainable import TrainableModel, compile_blocks, fix_call_shapes, freeze_parameters, gradient_checkpointing
from .joint_options import JointStage, LanguageStage

JUDGED_STEPS = 8
"""Of a drawing that is only counted right or wrong"""


def make_mixture(model: Limner, stage: LanguageStage | JointStage, seed: int) -> Mixture:
    longest = model.mllm.max_position_embeddings
    sources = load_sources(stage.data, model.encoder, longest, stage.draw_share, stage.phrasings)
    return Mixture(sources, model.encoder, stage.loop.batch_size, seed, shares=stage)


def with_text(model: Limner, stage: LanguageStage | JointStage, seed: int, batches: Mixture) -> Mixture | MixedBatches:
    """``batches``, with the stage's text alone beside them where it has some."""
    if not stage.text_batch_size:
        return batches
    longest = model.mllm.max_position_embeddings
    sources = load_sources(stage.text_data, model.encoder, longest, 1.0, stage.phrasings)
    return MixedBatches(batches, TextBatches(sources, model.encoder, stage.text_batch_size, seed, shares=stage))


def check_run(
    folder: Path, stage: LanguageStage | JointStage, seed: int, model: Limner, batches: Mixture | MixedBatches
) -> None:
    """Raises ValueError where a run of other data, from another base or by other settings has begun in ``folder``."""
    if parallel.rank() == 0:
        settings = {"stage": run_settings(stage), "seed": seed, "base": digest(model), "data": batches.fingerprints}
        check_same_run(folder, settings, default_settings(stage))
    parallel.barrier()


def validation_batch(model: Limner, stage: LanguageStage | JointStage, batches: Mixture, seed: int) -> JointBatch:
    """A batch at least twice as large as in training, with examples of every source, however small its weight.

    Raises ValueError for data sets that cannot be used.
    """
    sources = list(zip(batches.sources, batches.weights, strict=True))
    if stage.validation:
        sources = load_sources(stage.validation, model.encoder, model.mllm.max_position_embeddings, stage.draw_share)
    size = max(2 * stage.loop.batch_size, 4 * len(sources))
    total = sum(weight for _, weight in sources)
    raised = [(source, max(weight / total, 4 / size)) for source, weight in sources if weight]
    return Mixture(raised, model.encoder, size, seed, pool=1, shares=stage)(0)


def run_language(
    stage: LanguageStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Train ``model.mllm`` in place, without the MM-DiT. Every ``sample_every`` steps the losses of a fixed batch are measured.
    Raises ValueError as `check_run` does."""
    torch.manual_seed(seed)
    mixture = make_mixture(model, stage, seed + 1)
    batches = with_text(model, stage, seed + 5, mixture)
    check_run(folder, stage, seed, model, batches)
    trainable = TrainableModel(model.mllm.to(device, dtype).requires_grad_(True), None)
    if stage.compile:
        compile_blocks(trainable)
    measured = LanguageObjective(trainable, replace(stage, word_dropout=0.0))
    validation = partial(measured, validation_batch(model, stage, mixture, seed + 2), 0)
    objective = LanguageObjective(trainable, stage)
    losses = MixedObjective(objective, 1.0) if stage.text_batch_size else objective
    fit("language", trainable, batches, losses, stage.loop, folder, validation=validation)


def warm_up(trainable: TrainableModel, objective: JointObjective, validation: partial[dict[str, Tensor]]) -> None:
    """Compile every graph of a run, with a gradient and without one, by the batch of validation, which has conversations of all
    kinds. Nothing is learned."""
    with torch.no_grad():
        validation()
    backward(objective(validation.args[0], 0)["loss"])
    for parameter in trainable.parameters():
        parameter.grad = None


def run_joint(
    stage: JointStage,
    model: Limner,
    seed: int,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "joint",
) -> None:
    """Train the stream and the de-tokenizer of ``model`` in place.

    Every ``sample_every`` steps the losses of a fixed batch, at fixed timesteps and noises, are measured and the sample prompts
    drawn; those of a judge are counted from both sources of context and from the queries alone. Raises ValueError as `check_run`
    does, and for a judge that is none.
    """
    torch.manual_seed(seed)
    mixture = make_mixture(model, stage, seed + 3)
    batches = with_text(model, stage, seed + 4, mixture)
    check_run(folder, stage, seed, model, batches)
    judge = Judge.from_pretrained(Path(stage.judge)) if stage.judge else None
    model.to(device, dtype).requires_grad_(True)  # also what an earlier stage froze
    trainable = TrainableModel(model.mllm, model.detokenizer, align=stage.align_weight > 0).to(device, dtype)
    print(freeze_parameters(trainable, stage.train), flush=True)
    if stage.compile:
        if device.type == "cuda":
            fix_call_shapes(trainable, stage.loop.batch_size * stage.flow_samples)
        compile_blocks(trainable)
    if stage.precomputed:
        mixture.keys = True
        trainable.frozen_encoders.cache = EncoderCache(stage.precomputed, encoders_fingerprint(model))
    form = DetokenizerObjective if name == "detokenizer" else JointObjective

    def sample(step: int) -> None:
        try:
            with torch.compiler.set_stance("force_eager"):  # a cache that grows would be compiled again at every length
                replies = model.draw(list(stage.sample_prompts), max_new_tokens=32, num_inference_steps=16)
        except NotFiniteError as error:
            warnings.warn(f"no samples at step {step}: {error}", stacklevel=2)
            return
        save_sheet([reply.images[0] for reply in replies], 8, folder / f"samples/{step:06d}.png")
        if judge is not None:
            with torch.compiler.set_stance("force_eager"):
                queries, both = queries_and_both(model, judge, stage.judged_drawings, JUDGED_STEPS)
            append_line(folder / "sources.jsonl", {"step": step, "queries": queries, "both": both})

    objective = form(trainable, stage, seed)
    validation = partial(form(trainable, stage, 0), validation_batch(model, stage, mixture, seed + 2), 0)
    losses = MixedObjective(objective, stage.language_weight) if stage.text_batch_size else objective
    with gradient_checkpointing(trainable, stage.gradient_checkpointing):
        if trainable.call_shapes.fixed and parallel.world_size() == 1:
            warm_up(trainable, objective, validation)
        fit(name, trainable, batches, losses, stage.loop, folder, validation=validation, sample=sample)
    trainable.frozen_encoders.report_misses()
