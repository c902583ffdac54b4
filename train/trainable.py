"""What a stage trains, which of it learns, and how its blocks are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..detokenizer.detokenizer import Detokenizer
from ..mllm.stream import StreamModel, StreamOutput
from .frozen_encoders import FrozenEncoders


class TrainableModel(nn.Module):
    """What a stage trains, under one roof; the eye and the autoencoder are frozen."""

    def __init__(self, stream: StreamModel, detokenizer: Detokenizer | None, align: bool = False) -> None:
        super().__init__()
        self.stream, self.detokenizer = stream, detokenizer
        if detokenizer is not None and not isinstance(detokenizer, Detokenizer):
            raise ValueError(
                "this model paints with SDXL's UNet, which no stage trains; its backbone learns in the language stage"
            )
        stream.eye.requires_grad_(False)
        if detokenizer is not None:
            detokenizer.autoencoder.requires_grad_(False)
        width = detokenizer.mmdit.config.width if detokenizer is not None else 0
        self.align = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, stream.eye.width))
            if align
            else None
        )
        self.frozen_encoders = FrozenEncoders(stream.eye, None if detokenizer is None else detokenizer.autoencoder)


@dataclass
class StreamLosses:
    """What one forward of the stream gives: its losses and, where something is drawn, features true and predicted."""

    losses: dict[str, Tensor]
    output: StreamOutput | None
    features: Tensor | None = None
    """(drawings, feature_tokens, eye width)"""
    eye_features: Tensor | None = None
    """(drawings, patches, eye width)"""
    drawings: int = 0
    """In this batch, in all processes"""
    loss_denominator: int = 1
    """Drawings that the losses are averaged over: those of all the batches of a step"""


def freeze_parameters(trainable: TrainableModel, train: tuple[str, ...]) -> str:
    """Only parameters whose names begin with one of ``train`` keep a gradient; a table of what learns and what rests.

    Names are `Limner`'s (``mllm.queries``). Raises ValueError for a beginning that no parameter has.
    """
    named = [
        (limner_parameter_name(name), p) for name, p in trainable.named_parameters() if not name.startswith("align.")
    ]
    learns, rests = Counter(), Counter()
    for prefix in train:
        if not any(has_prefix(name, prefix) for name, _ in named):
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in named})
            raise ValueError(f"train: no parameter's name begins with {prefix!r}; parts are {', '.join(parts)}")
    for name, parameter in named:
        parameter.requires_grad_(parameter.requires_grad and any(has_prefix(name, prefix) for prefix in train))
        (learns if parameter.requires_grad else rests)[".".join(name.split(".")[:2])] += parameter.numel()

    def format_counts(counts: Counter) -> str:
        return ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items()) or "nothing"

    return f"learns  {format_counts(learns)}\nfrozen  {format_counts(rests)}"


def has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def limner_parameter_name(name: str) -> str:
    """A trainee's parameter name as `Limner` has it."""
    return "mllm." + name.removeprefix("stream.") if name.startswith("stream.") else name


@contextmanager
def gradient_checkpointing(trainable: TrainableModel, enabled: bool = True) -> Iterator[None]:
    """The MM-DiT's blocks and the backbone's layers are computed ``enabled`` in the backward pass."""
    mmdit, llm = trainable.detokenizer.mmdit, trainable.stream.llm
    if not enabled:
        yield
        return
    mmdit.gradient_checkpointing = True
    llm.activation_checkpointing_enable({"use_reentrant": False})
    llm.train()  # transformers checkpoints only then
    try:
        yield
    finally:
        mmdit.gradient_checkpointing = False
        llm.activation_checkpointing_disable()
        llm.eval()


def compile_blocks(trainable: TrainableModel) -> None:
    """The MM-DiT's blocks and the backbone's layers, each for itself."""
    # they share one forward a class, the last block's streams differ, and kernels are made for small and large batches:
    # beyond the usual limit of 8 variants the rest would run uncompiled
    torch._dynamo.config.recompile_limit = 64
    for block in [*trainable.detokenizer.mmdit.blocks, *trainable.stream.llm.get_decoder().layers]:
        block.compile(dynamic=True)
