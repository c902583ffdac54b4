"""Base class of the evaluation's own networks, judge and reader: loading and saving."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from ..detokenizer.files import load_module, save_module


class EvaluationModel(nn.Module):
    """A network that scores drawings; no part of a Limner model."""

    stage: ClassVar[str]
    """Name of the training stage"""
    config_class: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: Path) -> None:
        save_module(copy.deepcopy(self).to(torch.bfloat16), folder)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The network in fp32, in evaluation mode. Raises ValueError for a folder that holds none."""
        if not (folder / "config.json").exists():
            raise ValueError(f"no {cls.stage} in {folder}; train one with `limner train nano --stages {cls.stage}`")
        return load_module(cls, cls.config_class, folder).float().eval()
