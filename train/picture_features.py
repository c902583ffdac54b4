"""The vision tower's features of the pictures that conversations draw, computed once and kept: batches without any picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..inference.output import atomic_file
from .data import JointBatch
from .datasets.example import shuffled
from .loading import batch_loader, choose_workers
from .objective import target_features
from .trainable import TrainableModel

PICTURES_PER_FILE = 2048
"""About as many: what is computed again of a run that was cut."""


@dataclass
class FeatureBatch:
    """Features of pictures, all that is known of them."""

    features: Tensor
    """(pictures, patches, vision width)"""

    def to(self, device: torch.device) -> FeatureBatch:
        return FeatureBatch(self.features.to(device, non_blocking=True))


class KeptFeatures:
    """Batches of kept ``features`` (pictures, patches, vision width): each picture once an epoch, in an order of that epoch.
    Batch number ``k`` is a function of ``k`` and the seed."""

    def __init__(self, features: Tensor, batch_size: int, seed: int) -> None:
        self.features, self.batch_size, self.seed = features, batch_size, seed

    def __call__(self, number: int) -> FeatureBatch:
        count = len(self.features)
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        chosen = [shuffled(count, self.seed, place // count, "features")[place % count] for place in places]
        return FeatureBatch(self.features[chosen])


@torch.no_grad()
def first_features(
    trainable: TrainableModel,
    make_batch: Callable[[int], JointBatch],
    pictures: int,
    workers: int | None = None,
    folder: Path | None = None,
) -> Tensor:
    """Features of the first ``pictures`` that batches of a data set draw (pictures, patches, vision width), on the CPU, in bf16
    as what trains on them reads them. ``workers`` are `LoopConfig.num_workers`.

    In ``folder`` they are kept as they come, and a run that was cut goes on there. Raises ValueError for data that draws less
    than a picture a batch.
    """
    device = next(trainable.frozen_encoders.vision_tower.parameters()).device
    # each is named by the batch that comes after it
    files = [] if folder is None else sorted(folder.glob("*.safetensors"))
    made = [load_file(path)["features"] for path in files]
    begin, have = int(files[-1].stem) if files else 0, sum(map(len, made))
    if have >= pictures:
        return torch.cat(made)[:pictures]
    left, unsaved = range(begin, begin + pictures - have), 0
    batches = batch_loader(make_batch, left, choose_workers(workers, device.type != "cpu"))
    with tqdm(total=pictures, initial=have, desc="features", unit="picture") as bar:
        for number, batch in zip(left, batches, strict=True):
            for line in batch.left_out:
                tqdm.write(f"features: left out {line}")
            if not batch.target:
                continue
            made.append(target_features(trainable, batch.to(device)).to("cpu", torch.bfloat16))
            have, unsaved = have + len(made[-1]), unsaved + 1
            bar.update(len(made[-1]))
            if folder is not None and (have >= pictures or sum(map(len, made[-unsaved:])) >= PICTURES_PER_FILE):
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(folder / f"{number + 1:08}.safetensors") as fresh:
                    save_file({"features": torch.cat(made[-unsaved:])}, fresh)
                unsaved = 0
            if have >= pictures:
                return torch.cat(made)[:pictures]
    raise ValueError(f"{have} pictures are drawn by the first {left.stop} batches, and {pictures} are asked for")
