"""The judge: a small detector (not nano's vision tower) that says what stands where in a picture of the world."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..inference.isolation import isolated
from ..world import sampling
from ..world.scene import Thing
from .evaluation_model import EvaluationModel

THRESHOLD = 0.7
"""Of the centre map: lower takes more halves of objects for whole ones, higher misses faint ones."""
CELL_SIZE = 8
"""Pixels a cell, a side."""
BATCH_SIZE = 16
"""Pictures of one size that the judge looks at in one forward"""


@dataclass
class JudgeConfig:
    """Sizes of the judge, as its ``config.json`` holds them."""

    width: int = 96
    depth: int = 4
    objects: int = len(sampling.NAMES)
    colors: int = len(sampling.COLOR_NAMES)
    backgrounds: int = len(sampling.BACKGROUND_NAMES)


@dataclass(frozen=True)
class Detection:
    name: str
    color: str
    x: float
    """Centre, as a fraction of the width."""
    y: float
    score: float

    def thing(self) -> Thing:
        return Thing(self.name, self.color, "medium", self.x, self.y)


@dataclass(frozen=True)
class Verdict:
    detections: tuple[Detection, ...]
    background: str


class Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Judge(EvaluationModel):
    """Pixels (batch, 3, height, width) in [-1, 1] to a map (batch, 1 + objects + colors, height / 8, width / 8)
    of centre, object and colour logits, and background logits (batch, backgrounds)."""

    stage = "judge"
    config_class = JudgeConfig

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__(config)
        w = config.width
        self.stem = nn.Conv2d(48, w // 2, 3, padding=1)
        self.early = Residual(w // 2, 1)
        self.down = nn.Conv2d(w // 2, w, 3, stride=2, padding=1)
        self.body = nn.Sequential(*(Residual(w, (1, 2, 4)[i % 3]) for i in range(config.depth)))
        self.norm = nn.GroupNorm(8, w)
        self.cells = nn.Conv2d(w, 1 + config.objects + config.colors, 1)
        self.ground = nn.Linear(w, config.backgrounds)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down(self.early(self.stem(F.pixel_unshuffle(pixels, 4))))
        x = F.silu(self.norm(self.body(x)))
        return self.cells(x), self.ground(x.mean((2, 3)))

    def with_classes(self, objects: int, backgrounds: int) -> Judge:
        """One that knows more objects and backgrounds; the new ones come after those it has. Raises ValueError for fewer."""
        old = self.config
        if objects < old.objects or backgrounds < old.backgrounds:
            raise ValueError(
                f"{objects} objects, {backgrounds} backgrounds: this judge has {old.objects}, {old.backgrounds}"
            )
        made = Judge(replace(old, objects=objects, backgrounds=backgrounds))
        kept, fresh = self.state_dict(), made.state_dict()
        for name in ("cells.weight", "cells.bias"):
            at = 1 + old.objects
            kept[name] = torch.cat([kept[name][:at], fresh[name][at : 1 + objects], kept[name][at:]])
        for name in ("ground.weight", "ground.bias"):
            kept[name] = torch.cat([kept[name], fresh[name][old.backgrounds :]])
        made.load_state_dict(kept)
        return made

    @isolated
    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], threshold: float = THRESHOLD) -> list[Verdict]:
        """What stands in each picture: peaks of the centre map. Raises ValueError for sizes 8 does not divide."""
        verdicts: list[Verdict] = []
        for (width, height), group in itertools.groupby(images, key=lambda image: image.size):
            if width % CELL_SIZE or height % CELL_SIZE:
                raise ValueError(f"the judge reads sizes that {CELL_SIZE} divides, not {width} x {height}")
            alike = list(group)
            for start in range(0, len(alike), BATCH_SIZE):
                chunk = alike[start : start + BATCH_SIZE]
                pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in chunk]))
                cells, ground = self((pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self.ground.weight))
                verdicts += [
                    Verdict(self._peaks(cell.float(), threshold), _name(sampling.BACKGROUND_NAMES, logits))
                    for cell, logits in zip(cells, ground, strict=True)
                ]
        return verdicts

    def _peaks(self, cells: Tensor, threshold: float) -> tuple[Detection, ...]:
        objects = self.config.objects
        heat = cells[0].sigmoid()
        peak = (heat == F.max_pool2d(heat[None, None], 5, 1, 2)[0, 0]) & (heat > threshold)
        rows, columns = heat.shape
        return tuple(
            Detection(
                _name(sampling.NAMES, cells[1 : 1 + objects, row, column]),
                _name(sampling.COLOR_NAMES, cells[1 + objects :, row, column]),
                (column + 0.5) / columns,
                (row + 0.5) / rows,
                float(heat[row, column]),
            )
            for row, column in peak.nonzero().tolist()
        )


def _name(names: Sequence[str], logits: Tensor) -> str:
    return names[int(logits.argmax())]
