"""The few-step student of the model that a recipe has made, as its last stage (`distill`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from ...inference import adapter_files
from ...inference.model import STUDENT, Limner
from .. import parallel
from ..distill import DistillConfig, distill


def run_student(config: DistillConfig, made: Path, folder: Path, device: torch.device, prompts: Sequence[str]) -> None:
    """Distil the model in ``made``; the student, trained in ``folder``, becomes a part of it.

    Raises ValueError where ``folder`` holds a finished student of another model.
    """
    model = Limner.from_pretrained(made).to(device)
    if not (folder / adapter_files.CARD).exists():
        distill(model, folder, config, prompts)
    if adapter_files.read_card(folder)["base_fingerprint"] != model.adapters.fingerprint:
        raise ValueError(f"{folder} holds a student of another model than {made}; take it away to train a new one")
    if parallel.rank() == 0:
        shutil.copytree(folder, made / STUDENT, ignore=shutil.ignore_patterns("run", ".*"), dirs_exist_ok=True)
    parallel.barrier()
