"""Half of a model waits in host memory, so that the device holds one half at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import torch
from torch import nn

from ..mllm.events import Event


class ModelOffload:
    """Of one model, whose requests take turns: each advances by one event under a lock, with the half it needs on the device.

    The cache of a conversation stays on the device: it is what the reply goes on from.
    """

    def __init__(self, mllm: nn.Module, detokenizer: nn.Module) -> None:
        self.halves = {"mllm": mllm, "detokenizer": detokenizer}
        self.devices = {name: next(half.parameters()).device for name, half in self.halves.items()}
        self.lock = threading.RLock()
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

    def take_turns(self, events: Generator[Event, None, Any]) -> Generator[Event, None, Any]:
        """The same events, each computed with the half on the device that this request was using."""
        half = "mllm"
        while True:
            with self.lock:
                self.bring(half)
                try:
                    event = next(events)
                except StopIteration as stopped:
                    return stopped.value
                half = self.resident
            yield event

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())
