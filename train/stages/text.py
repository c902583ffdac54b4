"""The backbone alone on text alone: requests, plans and talk. Nothing is rendered, seen or painted."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...evaluation.validation import planning_task
from ...inference.adapters import digest
from ...inference.model import Limner
from ...world.languages import LANGUAGES
from ...world.talk import PHRASINGS_SHARE
from .. import parallel
from ..datasets.mixture import load_sources
from ..loop import LoopConfig, append_line, fit
from ..option_checks import check_numbers, check_shares
from ..resume import check_same_run, default_settings, run_settings
from ..text_batches import ROW_TOKENS, TextBatch, TextBatches
from ..text_objective import TextObjective
from ..trainable import TrainableModel, compile_blocks, freeze_parameters
from .joint_options import check_data

VALIDATION_CONVERSATIONS = 256
"""Of each set of the validation loss"""


@dataclass(frozen=True)
class TextStage:
    data: tuple[str, ...] = ("world",)
    """Data sets, each with an optional weight; conversations in which a user shows a picture are passed over"""
    draw_share: float = 1.0
    """How often a captioned picture is drawn from its caption; its descriptions are no text alone"""
    phrasings: float = PHRASINGS_SHARE
    """Share of the world's conversations that are in words which strangers wrote, where there are some for their kind"""
    validation: tuple[str, ...] = ("world", "world-validation/draw+several+story+sign+small_talk+follow_up")
    """Data sets of the validation loss, which is measured of each at every sample"""
    plans: int = 0
    """Requests in each language whose plans are read at every sample (`plans`)"""
    row_tokens: int = ROW_TOKENS
    """Tokens of a row, which holds several conversations"""
    compile: bool | Literal["auto"] = False
    """Compile the layers of the backbone; "auto" is where torch has a compiler and the stage is long enough"""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_data(self.data)
        check_numbers(self, "row_tokens", least=1)
        check_numbers(self, "plans", least=0)
        check_shares(self, "draw_share", "phrasings")


def run_text(
    stage: TextStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Train the backbone of ``model`` in place.

    Every ``sample_every`` steps the loss of fixed conversations of each validation set is measured, and the share of plans that
    say the right scene (``plans.jsonl``). Raises ValueError for a run of other data, from another base or by other settings in
    ``folder``.
    """
    torch.manual_seed(seed)
    longest = model.mllm.max_position_embeddings

    def batches(data: tuple[str, ...], phrasings: float, batch_size: int, first: int) -> TextBatches:
        sources = load_sources(data, model.encoder, longest, stage.draw_share, phrasings)
        return TextBatches(sources, model.encoder, batch_size, first, stage.row_tokens)

    training = batches(stage.data, stage.phrasings, stage.loop.batch_size, seed + 1)

    @cache
    def validation() -> dict[str, TextBatch]:
        size = VALIDATION_CONVERSATIONS
        return {name: batches((name,), stage.phrasings, size, seed + 2)(0) for name in stage.validation}

    if parallel.rank() == 0:
        settings = {"stage": run_settings(stage), "seed": seed, "base": digest(model), "data": training.fingerprints}
        check_same_run(folder, settings, default_settings(stage))
    parallel.barrier()
    trainable = TrainableModel(model.mllm.to(device, dtype).requires_grad_(True), None)
    print(freeze_parameters(trainable, ("mllm.llm",)), flush=True)
    if stage.compile:
        compile_blocks(trainable)
    objective = TextObjective(trainable)

    def measure() -> dict[str, Tensor]:
        return validation_losses(objective, validation())

    def sample(step: int) -> None:
        append_line(folder / "plans.jsonl", {"step": step, **plans(model, stage.plans)})

    fit(
        "text",
        trainable,
        training,
        objective,
        stage.loop,
        folder,
        validation=measure if stage.validation else None,
        sample=sample if stage.plans else None,
    )


def plans(model: Limner, count: int) -> dict[str, float]:
    """By language, the share of ``count`` requests in strangers' words, kept for validation, whose plan says the right scene."""
    with torch.compiler.set_stance("force_eager"):  # a cache that grows would be compiled again at every length
        scores = [planning_task(language, count).run(model, None) for language in LANGUAGES]  # type: ignore[arg-type]  # words need no judge
    return {language.name: score.correct / score.total for language, score in zip(LANGUAGES, scores, strict=True)}


def validation_losses(objective: TextObjective, sets: dict[str, TextBatch]) -> dict[str, Tensor]:
    """The loss of each set by its name, and their mean as ``"loss"``."""
    losses = {name: objective(batch, 0)["loss"] for name, batch in sets.items()}
    return {"loss": torch.stack(list(losses.values())).mean(), **losses}
