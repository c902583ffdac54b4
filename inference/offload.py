"""Offload: the idle half of a model is in host memory, so that the device holds one half at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..detokenizer.detokenizer import Detokenizer
    from ..integrations.sdxl.detokenizer import SDXLDetokenizer
    from ..mllm.stream import StreamModel


class ModelOffload:
    """Moves the de-tokenizer to host memory; `while_drawing` puts it on its device and the stream model into host memory."""

    def __init__(self, mllm: StreamModel, detokenizer: Detokenizer | SDXLDetokenizer) -> None:
        self.mllm, self.detokenizer = mllm, detokenizer
        self.mllm_device = mllm.device
        self.detokenizer_device: torch.device = next(detokenizer.parameters()).device
        detokenizer.to("cpu")

    @contextmanager
    def while_drawing(self) -> Iterator[None]:
        """The key-value cache stays on the device: the reply continues from it."""
        self.mllm.to("cpu")
        self.detokenizer.to(self.detokenizer_device)
        try:
            yield
        finally:
            self.detokenizer.to("cpu")
            self.mllm.to(self.mllm_device)
