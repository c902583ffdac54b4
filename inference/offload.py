"""Half of a model waits in host memory, so that the device holds one half at a time."""

from __future__ import annotations

import torch
from torch import nn


class ModelOffload:
    """Of one model. The engine brings a half before it uses it, and changes halves as seldom as it can.

    The caches of conversations stay on the device: they are what the replies go on from.
    """

    def __init__(self, mllm: nn.Module, detokenizer: nn.Module) -> None:
        self.halves = {"mllm": mllm, "detokenizer": detokenizer}
        self.devices = {name: next(half.parameters()).device for name, half in self.halves.items()}
        self.resident = "mllm"
        detokenizer.to("cpu")

    def bring(self, half: str) -> None:
        """``half``, "mllm" or "detokenizer", onto its device, the other one to host memory."""
        if half == self.resident:
            return
        with torch.inference_mode(False):  # what is moved inside it could never again be trained
            self.halves[self.resident].to("cpu")
            self.halves[half].to(self.devices[half])
        self.resident = half
