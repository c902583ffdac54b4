"""The half of a model that rests waits in host memory, so that the device holds one half at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .model import Limner


class Resting:
    """From now on what paints rests, but `while_drawing`, when what writes does."""

    def __init__(self, model: Limner) -> None:
        self.model = model
        self.writing_on = model.mllm.device
        self.painting_on: torch.device = next(model.detokenizer.parameters()).device
        model.detokenizer.to("cpu")

    @contextmanager
    def while_drawing(self) -> Iterator[None]:
        """The conversation's cache stays where it is: it is what the reply goes on from."""
        mllm, detokenizer = self.model.mllm, self.model.detokenizer
        mllm.to("cpu")
        detokenizer.to(self.painting_on)
        try:
            yield
        finally:
            detokenizer.to("cpu")
            mllm.to(self.writing_on)
