"""Released weights by name.

The only place that reads pickles, and there with ``weights_only=True``: a file that holds code is refused, not run.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...detokenizer.files import load_tensors
from ...detokenizer.weight_files import shard_files

WEIGHT_NAMES = ("model", "diffusion_pytorch_model", "pytorch_model")
"""File names, without endings, that transformers and diffusers give to weights"""


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file of weights or a folder with one or several, memory-mapped; safetensors where there are both.

    Raises ValueError for what is missing, cannot be read, holds code, or lies outside the folder.
    """
    if path.is_file():
        return load_tensors(path) if path.suffix == ".safetensors" else load_pickle(path)
    for ending in ("safetensors", "bin"):
        for name in WEIGHT_NAMES:
            single, index = path / f"{name}.{ending}", path / f"{name}.{ending}.index.json"
            if index.is_file():
                return {name: value for shard in shard_files(index) for name, value in read_weights(shard).items()}
            if single.is_file():
                return read_weights(single)
    raise ValueError(f"no weights at {path}: neither a file nor a folder with {' or '.join(WEIGHT_NAMES)} in it")


def with_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def load_pickle(path: Path) -> dict[str, Tensor]:
    """A pickle of tensors by name."""
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # the format before PyTorch 1.6 cannot be mapped
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and is not read: {str(error).splitlines()[0]}") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} does not hold tensors by name")
    return dict(found)
