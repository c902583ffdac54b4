"""Outputs of the frozen vision tower and autoencoder: computed when needed, or precomputed and read (`limner precompute`)."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..detokenizer.autoencoder import Autoencoder, to_pixels
from ..detokenizer.files import read_json
from ..inference.adapters import digest
from ..inference.model import Limner
from ..inference.output import atomic_file, check_folder, os_errors, write_text
from ..inference.resizing import resize_to_shape
from ..mllm.vision_tower import VisionTower
from .data import JointBatch, joint_batch
from .datasets.example import Example, open_pictures
from .resume import only_run

INDEX = "index.json"
UNFINISHED = "unfinished.json"
"""What a folder holds instead of the index as long as it is not whole: the encoders that are run"""
TENSORS_PER_FILE = 512
"""How many tensors one file of a cache holds."""
MEMORY_BYTES = 2**28
"""How many bytes of encoded pictures stay in memory."""


class EncoderCache:
    """A folder of precomputed encoder outputs, found by the `data.tensor_key` of their inputs.

    Raises ValueError for a folder without an index, one that other encoders wrote, and a file that is not whole.
    """

    def __init__(self, folder: str | Path, encoders: str) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX
        if (self.folder / UNFINISHED).exists():
            raise ValueError(f"{folder} is not whole: limner precompute was stopped; the same command goes on with it")
        if not index.exists():
            raise ValueError(f"{folder} holds nothing precomputed (no {INDEX})")
        saved = read_json(index)
        self.places: dict[str, str] = saved.get("places", {})
        if saved.get("encoders") != encoders:
            raise ValueError(f"{folder} was precomputed by another vision tower or autoencoder than this model's")
        # memory-mapped: only the tensors that are used are read
        self.open = {file: open_tensors(self.folder / file) for file in sorted(set(self.places.values()))}

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Tensor:
        return self.open[self.places[name]].get_tensor(name)


def open_tensors(path: Path) -> safe_open:
    """Raises ValueError for a file that is missing or was cut short."""
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; precompute into a new folder") from error


@dataclass
class FrozenEncoders:
    """The vision tower and the autoencoder behind a cache in memory and, if there is one, a folder of precomputed outputs."""

    vision_tower: VisionTower
    autoencoder: Autoencoder | None
    cache: EncoderCache | None = None
    misses: int = 0
    """How many inputs were not in the folder so far."""
    memory: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    """The latest outputs, up to `MEMORY_BYTES`: a small data set is seen many times."""

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> Tensor:
        """(views, 3, size, size) to (views, patches, vision width)."""
        return self._cached(self.vision_tower, pixel_values, names)

    def latents(self, pictures: Tensor, names: Sequence[str]) -> Tensor:
        """8-bit pixels (count, height, width, 3) to latents (count, channels, h, w)."""
        return self._cached(self._encode, pictures, names)

    def _encode(self, pictures: Tensor) -> Tensor:
        assert self.autoencoder is not None
        dtype = next(self.autoencoder.parameters()).dtype
        return self.autoencoder.encode(to_pixels(pictures).to(dtype).contiguous(memory_format=torch.channels_last))

    def report_misses(self) -> None:
        """Say how many inputs were computed because the folder of precomputed outputs did not have them."""
        if self.cache is not None and self.misses:
            print(
                f"{self.misses} pictures or views were not in {self.cache.folder}, and were encoded as they came",
                flush=True,
            )

    def _cached(self, encode: Callable[[Tensor], Tensor], inputs: Tensor, names: Sequence[str]) -> Tensor:
        """``encode(inputs)``; inputs that have ``names`` are encoded only when they are in neither cache."""
        if not names:
            return encode(inputs)
        dtype = next(self.vision_tower.parameters()).dtype
        found: dict[str, Tensor] = {}
        for name in names:
            if name in self.memory:
                self.memory.move_to_end(name)
                found[name] = self.memory[name]
            elif self.cache is not None and name in self.cache:
                found[name] = self.cache[name].to(inputs.device, dtype)
        missing = {name: i for i, name in enumerate(names) if name not in found}
        if self.cache is not None:
            self.misses += len(missing)
        if missing:
            found |= zip(missing, encode(inputs[list(missing.values())]), strict=True)
        self.memory.update(found)
        while sum(value.nbytes for value in self.memory.values()) > MEMORY_BYTES:
            self.memory.popitem(last=False)
        return torch.stack([found[name] for name in names])


def encoders_fingerprint(model: Limner) -> str:
    """A hash of the frozen encoders' weights, by which a cache is recognised."""
    return digest(model.mllm.vision_tower, model.detokenizer.autoencoder)


def check_precomputed(folder: Path) -> None:
    """Raises ValueError, before long work, for a folder that can be neither begun nor gone on with."""
    check_folder(folder, UNFINISHED)


@torch.no_grad()
def precompute(model: Limner, examples: Sequence[Example], folder: Path, batch_size: int = 16) -> int:
    """Run the encoders over every picture of ``examples``, as training will see it, and write the outputs to ``folder``.

    One that was stopped goes on with what it had not written. Returns the number of tensors. Raises ValueError for a folder that
    holds anything else, or what other encoders wrote.
    """
    check_precomputed(folder)
    with only_run(folder):
        encoders = encoders_fingerprint(model)
        places: dict[str, str] = {}
        if (folder / UNFINISHED).exists() and read_json(folder / UNFINISHED).get("encoders") != encoders:
            raise ValueError(f"{folder} was begun with another vision tower or autoencoder; choose a new folder")
        write_text(folder / UNFINISHED, json.dumps({"encoders": encoders}) + "\n")
        for path in folder.glob(".*.new.safetensors"):  # what a kill left
            path.unlink()
        for path in sorted(folder.glob("*.safetensors")):
            places |= dict.fromkeys(open_tensors(path).keys(), path.name)
        outputs = encoder_outputs(model, examples, batch_size, set(places))
        files = map("{:05d}.safetensors".format, count(len(set(places.values()))))
        while tensors := dict(islice(outputs, TENSORS_PER_FILE)):
            file = next(files)
            with os_errors(folder / file, "; the same command goes on"), atomic_file(folder / file) as fresh:
                save_file(tensors, fresh)
            places |= dict.fromkeys(tensors, file)
        write_text(folder / INDEX, json.dumps({"encoders": encoders, "places": places}) + "\n")
        (folder / UNFINISHED).unlink()
    return len(places)


def encoder_outputs(
    model: Limner, examples: Sequence[Example], batch_size: int, done: set[str]
) -> Iterator[tuple[str, Tensor]]:
    """The encoders' output for every picture of ``examples``, once, by the `data.tensor_key` of its input; none for what is
    ``done``."""
    frozen = FrozenEncoders(model.mllm.vision_tower, model.detokenizer.autoencoder)
    for start in tqdm(range(0, len(examples), batch_size), desc="precompute", disable=None):
        for batch in encoder_batches(model, examples[start : start + batch_size]):
            inputs = batch.to(model.mllm.device)
            given: list[tuple[Any, Tensor, list[str]]] = [(frozen.features, inputs.views(), batch.view_keys)]
            given += [(frozen.latents, p, k) for p, k in zip(inputs.pictures, batch.picture_keys, strict=True)]
            for encode, tensors, names in given:
                fresh = {name: index for index, name in enumerate(names) if name not in done}
                if fresh:
                    made = encode(tensors[list(fresh.values())], ())
                    made = made.to("cpu", model.stored_dtype)  # computed in the precision that the machine is fast in
                    done.update(fresh)
                    yield from ((name, value.contiguous()) for name, value in zip(fresh, made, strict=True))


def encoder_batches(model: Limner, examples: Sequence[Example]) -> Iterator[JointBatch]:
    """One batch in which captioned pictures are drawn, and one in which they are described: training may do either."""
    fit = partial(resize_to_shape, config=model.config)
    for draw_share in (1.0, 0.0):
        conversations = [open_pictures(example.sample(Random(0), draw_share), fit) for example in examples]
        yield joint_batch(conversations, model.encoder, keys=True)
