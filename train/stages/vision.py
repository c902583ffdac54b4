"""Trains the vision tower to predict the object and the colour (or background) of each patch, which the renderer knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from ...inference.output import atomic_folder
from ...mllm.config import LimnerConfig
from ...mllm.views import normalise
from ...mllm.vision_tower import VisionTower
from ...world import sampling
from ...world.scene import Scene, label_map, render
from ..loop import LoopConfig, fit
from ..option_checks import check_numbers

OBJECT_CLASSES = 1 + len(sampling.NAMES)
COLOR_CLASSES = len(sampling.COLOR_NAMES) + len(sampling.BACKGROUND_NAMES)


@dataclass(frozen=True)
class VisionStage:
    width: int = 192
    depth: int = 4
    heads: int = 3
    mlp_width: int = 768
    patch_size: int = 16
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "width", "depth", "heads", "mlp_width", "patch_size", least=1)
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; its {self.heads} heads do not divide it")


def patch_labels(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Object class (0: none) and colour class of each of side · side patches."""
    owner = label_map(scene, side, side).reshape(-1)
    objects = np.array([0] + [1 + sampling.NAMES.index(t.name) for t in scene.things])
    ground = len(sampling.COLOR_NAMES) + sampling.BACKGROUND_NAMES.index(scene.background)
    colors = np.array([ground] + [sampling.COLOR_NAMES.index(t.color) for t in scene.things])
    return objects[owner], colors[owner]


def make_batch(config: LimnerConfig, stage: VisionStage, patch: int, seed: int, step: int) -> dict[str, Tensor]:
    rng = sampling.rng_for(seed, step, "vision")
    scenes = [
        sampling.with_random_style(rng, sampling.any_scene(rng, sampling.READING_WEIGHTS))
        for _ in range(stage.loop.batch_size)
    ]
    labels = [patch_labels(scene, config.image_size // patch) for scene in scenes]
    return {
        "pixel_values": torch.stack([normalise(render(scene), config) for scene in scenes]),
        "objects": torch.from_numpy(np.stack([a for a, _ in labels])),
        "colors": torch.from_numpy(np.stack([b for _, b in labels])),
    }


class PatchClassifier(nn.Module):
    """The vision tower with two linear heads, which are discarded after training."""

    def __init__(self, eye: VisionTower) -> None:
        super().__init__()
        self.eye = eye
        self.objects = nn.Linear(self.eye.width, OBJECT_CLASSES)
        self.colors = nn.Linear(self.eye.width, COLOR_CLASSES)


def losses(module: PatchClassifier, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    device = module.objects.weight.device
    batch = {k: v.to(device) for k, v in batch.items()}
    features = module.eye(batch["pixel_values"])
    objects, colors = module.objects(features).float().transpose(1, 2), module.colors(features).float().transpose(1, 2)
    loss = F.cross_entropy(objects, batch["objects"]) + F.cross_entropy(colors, batch["colors"])
    right = (objects.argmax(1) == batch["objects"]) & (colors.argmax(1) == batch["colors"])
    return {"loss": loss, "accuracy": right[batch["objects"] > 0].float().mean()}


def new_eye(config: LimnerConfig, stage: VisionStage) -> VisionTower:
    return VisionTower(
        SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=stage.width,
                intermediate_size=stage.mlp_width,
                num_hidden_layers=stage.depth,
                num_attention_heads=stage.heads,
                image_size=config.image_size,
                patch_size=stage.patch_size,
                vision_use_head=False,
            )
        )
    )


def run_vision(
    stage: VisionStage,
    config: LimnerConfig,
    seed: int,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    start: VisionTower | None = None,
) -> VisionTower:
    """A fresh vision tower, or ``start`` trained on."""
    done = folder / "model"
    if (done / "config.json").exists():
        return VisionTower(SiglipVisionModel.from_pretrained(done))
    torch.manual_seed(seed)
    module = PatchClassifier(new_eye(config, stage) if start is None else start.requires_grad_(True)).to(device, dtype)
    patch = module.eye.model.config.patch_size
    fit("vision", module, partial(make_batch, config, stage, patch, seed), partial(losses, module), stage.loop, folder)
    with atomic_folder(done) as fresh:
        module.eye.model.float().cpu().save_pretrained(fresh)
    return module.eye.cpu()
