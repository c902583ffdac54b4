"""`load`: a model by name, folder or hub id, on its device and in its precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..detokenizer.files import from_hub
from . import precision
from .devices import check_device
from .isolation import isolated
from .model import STUDENT, Limner
from .model_folders import find_model
from .offload import ModelOffload


@isolated
def load(
    model: str | Path = "nano",
    device: str | Mapping[str, str] = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    revision: str | None = None,
    bits: int | None = None,
    offload: bool = False,
) -> Limner:
    """Load a model: an embedded name, a folder or a hub id, of which ``revision`` names a branch, a tag or a commit.

    ``device`` "auto" takes cuda, then mps, then cpu; ``{"mllm": "cuda:0", "detokenizer": "cuda:1"}`` gives each half its
    own. ``dtype`` "auto" is bfloat16 where the machine computes it faster than float32 (`precision`), but on a CPU float32 for
    weights that are stored in it. ``bits`` 8 or 4 quantises the linear layers
    (`limner[quantized]`); they take no LoRA, so the few-step student of a model is not loaded. ``offload`` keeps the idle half
    in host memory: the stream model while an image is drawn, the de-tokenizer otherwise (`ModelOffload`). Raises ValueError
    for a model that cannot be found or read, and options that make no sense.
    """
    if offload and bits is not None:
        raise ValueError(
            "offload moves parts between devices, which quantised weights do not support: choose one of the two"
        )
    precision.check_dtype(dtype)
    for target in (device,) if isinstance(device, str) else device.values():
        if target != "auto":
            check_device(target)
    local = find_model(model)
    if local is not None and revision is not None:
        raise ValueError(f"revision {revision!r} of {str(model)!r}: only models of the hub (owner/name) have revisions")
    folder = local or from_hub(str(model), revision)
    try:
        loaded = Limner.from_pretrained(folder)
    except ValueError as error:
        if local:
            raise
        raise ValueError(f"{str(model)!r}, as the hub gave it: {error}") from error
    if local is None:
        loaded.name = str(model)  # the folder is called after the commit
    if bits is None and (folder / STUDENT).exists():
        loaded.adapters.load(folder / STUDENT, bundled=True)
    place_model(loaded, device, dtype)
    if bits is not None:
        from .quantize import quantize

        quantize(loaded, bits)
    if offload:
        loaded.offload = ModelOffload(loaded.mllm, loaded.detokenizer)
    return loaded


def place_model(model: nn.Module, device: str | Mapping[str, str] = "auto", dtype: str | torch.dtype = "auto") -> Any:
    """Moves the model to the device and precision that `load` would choose. Raises ValueError for unknown ones."""
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    places = {"": device} if isinstance(device, str) else dict(device)
    halves = [name for name, _ in model.named_children()]
    unknown = sorted(set(places) - {"", *halves})
    if unknown or not places:
        raise ValueError(f"a device for {unknown[0] if unknown else 'nothing'!r}; name {' and '.join(halves)}")
    if "" not in places and len(places) < len(halves):
        raise ValueError(f"no device for {', '.join(name for name in halves if name not in places)}")
    places = {name: best if target == "auto" else target for name, target in places.items()}
    kinds = {check_device(target).type for target in places.values()}
    kind = "cuda" if "cuda" in kinds else min(kinds)
    if dtype == "auto" and kind != "cuda" and getattr(model, "stored_dtype", None) == torch.float32:
        dtype = torch.float32
    dtype = precision.choose_dtype(kind, dtype)
    for name, target in places.items():
        model.get_submodule(name).to(target, dtype)
    for part in model.modules():
        # SDXL's autoencoder overflows in half precision; its config says so
        if dtype == torch.float16 and getattr(getattr(part, "config", None), "force_upcast", False):
            part.float()
    return model
