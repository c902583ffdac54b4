"""LoRA added to the weights for as long as something is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MAX_FUSED_BYTES = 2**30
"""Bytes of weights up to which they are folded: in a small model LoRA's own calls take as long as its linear layers', in a
large one they are a few hundredths and a copy of the weights is dear."""


class LoraFusion:
    """Of one model. What its weights were comes back bit for bit: they are not changed, others take their place."""

    def __init__(self) -> None:
        self.lock, self.drawings = threading.Lock(), 0
        self.originals: list[tuple[Any, nn.Parameter, Tensor]] = []
        """Layers that are folded, with what their weights are without it"""

    @contextmanager
    def fused(self, module: nn.Module, active: Sequence[str]) -> Iterator[None]:
        """``W + Σ s · B A`` of the LoRA called ``active`` stand for the weights of ``module``'s linear layers, up to
        `MAX_FUSED_BYTES`.

        Drawings that overlap, of two threads, share what the first one folded. LoRA of other kinds (a bias, DoRA) is computed
        beside the weights as before.
        """
        try:
            with self.lock:
                self.drawings += 1
                if self.drawings == 1:
                    self._fuse(module, active)
            yield
        finally:
            with self.lock:
                self.drawings -= 1
                if not self.drawings:
                    self._restore()

    @torch.no_grad()
    def _fuse(self, module: nn.Module, active: Sequence[str]) -> None:
        from peft.tuners.lora import LoraLayer

        layers = {m: [n for n in active if n in m.scaling] for m in module.modules() if isinstance(m, LoraLayer)}
        layers = {layer: names for layer, names in layers.items() if names}
        size = sum(layer.get_base_layer().weight.nbytes for layer in layers)
        if size > MAX_FUSED_BYTES or not all(map(is_plain_lora, layers)):
            return
        for layer, names in layers.items():
            weight = layer.get_base_layer().weight
            self.originals.append((layer, weight, weight.data))
            for name in names:  # peft's own merge reads and writes the weights four times as often
                lora_a, lora_b = layer.lora_A[name].weight, layer.lora_B[name].weight
                weight.data = torch.addmm(weight.data, lora_b, lora_a, alpha=layer.scaling[name])
            layer.merged_adapters = names

    def _restore(self) -> None:
        for layer, weight, data in self.originals:
            weight.data = data
            layer.merged_adapters = []
        self.originals = []


def is_plain_lora(layer: Any) -> bool:
    """LoRA as its paper has it (Hu et al. 2021, arXiv:2106.09685)."""
    return (
        isinstance(layer.get_base_layer(), nn.Linear) and not layer.lora_variant and not any(layer.lora_bias.values())
    )
