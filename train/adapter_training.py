"""LoRA and a few whole parameters that learn inside a model, in place: a copy would double what a large model takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from ..inference import adapter_files, lora
from ..inference.adapter_files import lora_state
from ..inference.adapters import EXTRA, has_tied_embeddings
from ..inference.model import Limner


class AdapterTraining:
    """While it lasts only the adapter requires a gradient; afterwards, with `remove`, the model's modules are its own again.

    ``configs`` are peft's, by part ("llm", "mmdit"); ``extra`` names small parts that learn whole (`EXTRA`). Raises ValueError
    for a part that the model lacks.
    """

    def __init__(self, model: Limner, name: str, configs: Mapping[str, LoraConfig], extra: Sequence[str] = ()) -> None:
        self.model, self.name = model, name
        mllm = model.mllm
        modules = {"llm": mllm.llm, "mmdit": getattr(model.detokenizer, "mmdit", None)}
        for part in configs:
            if modules[part] is None:
                raise ValueError(f"this model has no {part!r} for LoRA; it has llm")
        _ = model.adapters.fingerprint  # of the model without what is put in now
        self.tuners = {part: lora.inject(modules[part], {name: config}) for part, config in configs.items()}
        if "boi" in extra and mllm.boi_delta is None:
            rows = 1 if has_tied_embeddings(mllm.llm) else 2
            mllm.boi_delta = nn.Parameter(torch.zeros(rows, mllm.width, device=mllm.device, dtype=mllm.dtype))
        self.base: dict[str, Tensor] = {}
        """What the parameters that learn whole were before"""
        for key, parameter in model.named_parameters():
            whole = any(key.startswith(EXTRA[part]) for part in extra)
            parameter.requires_grad_(whole or f".lora_A.{name}." in key or f".lora_B.{name}." in key)
            if whole:
                self.base[key] = parameter.detach().clone()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base again, at the base's cost; what learns and what does not stays as it is."""
        parameters = dict(self.model.named_parameters())
        learned = {key: parameters[key].detach().clone() for key in self.base}
        self._set(0.0, self.base)
        try:
            yield
        finally:
            self._set(1.0, learned)

    @torch.no_grad()
    def _set(self, weight: float, values: Mapping[str, Tensor]) -> None:
        for tuner in self.tuners.values():
            lora.set_scale(tuner.model, {self.name: weight})
        parameters = dict(self.model.named_parameters())
        for key, value in values.items():
            parameters[key].copy_(value)

    def save(self, folder: Path, extra: Mapping[str, Tensor], made: Mapping[str, Any]) -> None:
        """``extra`` are the values that the parameters which learned whole have in the end, by name."""
        weights = {part: (t.peft_config[self.name], lora_state(t, self.name)) for part, t in self.tuners.items()}
        differences = {key: extra[key].float() - base.float() for key, base in self.base.items()}
        owner = self.model.adapters
        adapter_files.save(folder, weights, differences, (self.model.name, owner.fingerprint), made)

    def remove(self) -> None:
        """The model's modules are its own again, and its parameters what they were."""
        for tuner in self.tuners.values():
            lora.remove(tuner)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, value in self.base.items():
                parameters[key].copy_(value)
        if EXTRA["boi"] in self.base:
            self.model.mllm.boi_delta = None

    def __enter__(self) -> AdapterTraining:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
