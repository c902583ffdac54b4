"""`load`: a model by name, folder or hub id, on its device and in its precision."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..detokenizer.files import from_hub
from ..detokenizer.weight_files import split_name
from . import precision
from .addresses import check_hosts
from .devices import best_device, check_devices
from .generation_config import yes_or_no
from .isolation import isolated
from .model import STUDENT, Limner
from .model_folders import find_model
from .offload import ModelOffload
from .quantize import check_bits, quantize

Device = str | int | torch.device | None


@isolated
def load(
    model: str | Path = "nano",
    device: Device | Mapping[str, Device] = "auto",
    dtype: str | torch.dtype | None = "auto",
    *,
    revision: str | None = None,
    variant: str | None = None,
    bits: int | None = None,
    offload: bool = False,
    allow_urls: str | Sequence[str] | None = (),
) -> Limner:
    """Load a model: an embedded name, a folder or a hub id, of which ``revision`` names a branch, a tag or a commit.

    ``variant`` such as "fp16" takes files like ``model.fp16.safetensors`` where a part has them; without it they are read where a
    part has nothing else.
    ``device`` "auto" takes cuda, then mps, then cpu; ``{"mllm": "cuda:0", "detokenizer": "cuda:1"}`` gives each half its
    own. ``dtype`` "auto" is bfloat16 where the machine computes it faster than float32 (`precision`), but on a CPU float32 for
    weights that are stored in it. ``bits`` 8 or 4 quantises the linear layers
    (`limner[quantized]`); they take no LoRA, so the few-step student of a model is not loaded. ``offload`` keeps the idle half
    in host memory: the stream model while an image is drawn, the de-tokenizer otherwise (`ModelOffload`).
    ``allow_urls`` are the hosts from which http(s) URLs of pictures in messages are fetched, by default none
    (`addresses.check_hosts`); they hold for the model and no request changes them. Raises ValueError for a model that cannot be
    found or read, and options that make no sense.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ValueError(f"a model is an embedded name, a folder or a hub id, not {model!r:.60}")
    if yes_or_no("offload", offload) and bits is not None:
        raise ValueError(
            "offload moves parts between devices, which quantised weights do not support: choose one of the two"
        )
    if bits is not None:
        check_bits(bits)
    precision.check_dtype(dtype)
    check_devices(device, ("mllm", "detokenizer"))
    hosts = check_hosts(allow_urls)
    local = find_model(model)
    if local is not None and revision is not None:
        raise ValueError(f"revision {revision!r} of {str(model)!r}: only models of the hub (owner/name) have revisions")
    folder = local or from_hub(str(model), revision, variant)
    try:
        if variant is not None:
            check_variant(folder, variant)
        loaded = Limner.from_pretrained(folder, variant)
    except ValueError as error:
        if local:
            raise
        raise ValueError(f"{str(model)!r}, as the hub gave it: {error}") from error
    if local is None:
        loaded.name = str(model)  # the folder is called after the commit
    if bits is None and (folder / STUDENT).exists():
        loaded.adapters.load(folder / STUDENT, bundled=True)
    loaded.allow_urls = hosts
    place_model(loaded, device, dtype)
    if bits is not None:
        quantize(loaded, bits)
    if offload:
        loaded.offload = ModelOffload(loaded.mllm, loaded.detokenizer)
    return loaded


def check_variant(folder: Path, variant: str) -> None:
    """Raises ValueError where no part of a model's folder has such weights, and none is elsewhere."""
    names = [found for path in folder.rglob("*") if (found := split_name(path.name))]
    there = sorted({own for _, own, _ in names if own})
    if variant not in there and not any(folder.rglob("source.json")):
        has = f"it has {', '.join(there)}" if there else "it has none"
        raise ValueError(f"{folder} has no weights of the variant {variant!r}; {has}")


def place_model(
    model: nn.Module, device: Device | Mapping[str, Device] = "auto", dtype: str | torch.dtype | None = "auto"
) -> Any:
    """Moves the model to the device and precision that `load` would choose. Raises ValueError for unknown ones."""
    best = best_device()
    places = check_devices(device, [name for name, _ in model.named_children()])
    dtype = precision.check_dtype(dtype)
    targets = {name: torch.device(best if place == "auto" else place) for name, place in places.items()}
    kinds = {target.type for target in targets.values()}
    kind = "cuda" if "cuda" in kinds else min(kinds)
    if dtype == "auto" and kind != "cuda" and getattr(model, "stored_dtype", None) == torch.float32:
        dtype = "float32"
    chosen = precision.choose_dtype(kind, dtype)
    for name, target in targets.items():
        model.get_submodule(name).to(target, chosen)
    for part in model.modules():
        # SDXL's autoencoder overflows in half precision; its config says so
        if chosen == torch.float16 and getattr(getattr(part, "config", None), "force_upcast", False):
            part.float()
    return model
