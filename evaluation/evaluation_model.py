"""Base class of the evaluation's own networks, judge and reader: loading and saving."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class EvaluationModel(nn.Module):
    """A network that scores drawings; no part of a Limner model."""

    stage: ClassVar[str]
    """Name of the training stage"""
    config_class: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config)) + "\n")
        state = {k: v.to(torch.bfloat16).contiguous() for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The network in fp32, in evaluation mode. Raises ValueError for a folder that holds none."""
        if not (folder / "config.json").exists():
            raise ValueError(f"no {cls.stage} in {folder}; train one with `limner train nano --stages {cls.stage}`")
        made = cls(cls.config_class(**json.loads((folder / "config.json").read_text())))
        made.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
        return made.eval()
