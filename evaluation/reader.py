"""The reader: a small network that spells what stands on a sign of the world (the judge's counterpart for letters)."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..inference.isolation import isolated
from .evaluation_model import EvaluationModel

LETTERS = string.ascii_uppercase + string.digits
"""Class 0 is no letter, then these."""


@dataclass
class ReaderConfig:
    """Sizes of the reader, as its ``config.json`` holds them."""

    width: int = 64
    depth: int = 3
    """Rounds of halving the rows"""


class Reader(EvaluationModel):
    """Pixels (batch, 3, height, width) in [-1, 1] to logits (batch, width / 2, 1 + letters), a column each. It is taught where
    each letter stands: left to find that out (CTC, Graves et al. 2006) it had learned nothing after 700 steps."""

    stage = "reader"
    config_class = ReaderConfig

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        w = config.width
        self.stem = nn.Conv2d(12, w, 3, padding=1)
        self.rounds = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, w),
                nn.SiLU(),
                nn.Conv2d(w, w, 3, padding=1),
                nn.GroupNorm(8, w),
                nn.SiLU(),
                nn.Conv2d(w, w, 3, stride=(2, 1), padding=1),
            )
            for _ in range(config.depth)
        )
        self.attention = nn.Conv2d(w, 1, 1)
        self.along = nn.Sequential(
            nn.Conv1d(w, w, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(w, w, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(w, 1 + len(LETTERS), 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(pixels, 2))
        for step in self.rounds:
            x = F.avg_pool2d(x, (2, 1)) + step(x)
        rows = self.attention(x).float().softmax(2).to(x)  # where in each column the letters stand
        return self.along((x * rows).sum(2)).transpose(1, 2)

    @isolated
    @torch.inference_mode()
    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """What stands in each picture: a letter for every run of columns that have one."""
        found = []
        for image in images:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
            probabilities = self(pixels.to(self.stem.weight))[0].softmax(-1)
            lettered = (probabilities[:, 0] < 0.5).tolist()
            runs = [
                list(run) for some, run in itertools.groupby(range(len(probabilities)), lettered.__getitem__) if some
            ]
            found.append("".join(LETTERS[int(probabilities[run, 1:].sum(0).argmax())] for run in runs))
        return found
