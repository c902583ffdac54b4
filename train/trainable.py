"""The module that a stage trains, which of its parameters learn, and how its blocks are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from ..mllm.stream import StreamModel
from .drawing_calls import CallShapes
from .frozen_encoders import FrozenEncoders

MAX_CALL_ROWS = 512
"""Rows of a call of the MM-DiT of fixed shape: more fill no chip better."""


class TrainableModel(nn.Module):
    """The stream and the de-tokenizer as one module for an optimizer; the vision tower, the visual tokenizer
    and the autoencoder are frozen.

    ``align`` adds the head of the alignment loss (REPA). Raises ValueError for a de-tokenizer that cannot be trained.
    """

    def __init__(self, stream: StreamModel, detokenizer: Detokenizer | None, align: bool = False) -> None:
        super().__init__()
        self.stream, self.detokenizer, self.align = stream, detokenizer, None
        stream.vision_tower.requires_grad_(False)
        if stream.visual_tokenizer is not None:
            stream.visual_tokenizer.requires_grad_(False)
        if stream.config.seen_images == "tokens":  # neither queries nor features are anywhere
            for part in (stream.queries, stream.input_resampler, stream.output_resampler):
                part.requires_grad_(False)
        autoencoder = None
        if detokenizer is not None:
            if not isinstance(detokenizer, MMDiTDetokenizer):
                raise ValueError(
                    "this model paints with SDXL's UNet, which no stage trains; its backbone learns in the language stage"
                )
            autoencoder = detokenizer.autoencoder.requires_grad_(False)
            if align:
                width = detokenizer.mmdit.config.width
                head = (nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, stream.vision_tower.width))
                self.align = nn.Sequential(*head)
        self.frozen_encoders = FrozenEncoders(stream.vision_tower, autoencoder)
        self.call_shapes = CallShapes()
        """What calls of the MM-DiT are padded to"""

    @property
    def mmdit_detokenizer(self) -> MMDiTDetokenizer:
        """The de-tokenizer, where something is drawn."""
        assert isinstance(self.detokenizer, MMDiTDetokenizer)
        return self.detokenizer


def freeze_parameters(trainable: TrainableModel, train: tuple[str, ...]) -> str:
    """Let only parameters learn whose names begin with one of ``train``; returns a table of what learns and what is frozen.

    The names are those of `Limner` (``mllm.queries``). Raises ValueError for a prefix that no parameter has.
    """
    named = [
        (limner_parameter_name(name), p) for name, p in trainable.named_parameters() if not name.startswith("align.")
    ]
    learns: Counter[str] = Counter()
    rests: Counter[str] = Counter()
    for prefix in train:
        if not any(has_prefix(name, prefix) for name, _ in named):
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in named})
            raise ValueError(f"train: no parameter's name begins with {prefix!r}; parts are {', '.join(parts)}")
    for name, parameter in named:
        parameter.requires_grad_(parameter.requires_grad and any(has_prefix(name, prefix) for prefix in train))
        (learns if parameter.requires_grad else rests)[".".join(name.split(".")[:2])] += parameter.numel()

    def format_counts(counts: Counter[str]) -> str:
        return ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items()) or "nothing"

    return f"learns  {format_counts(learns)}\nfrozen  {format_counts(rests)}"


def has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def limner_parameter_name(name: str) -> str:
    """The name that a parameter of a `TrainableModel` has in `Limner`."""
    return "mllm." + name.removeprefix("stream.") if name.startswith("stream.") else name


@contextmanager
def gradient_checkpointing(trainable: TrainableModel, enabled: bool = True) -> Iterator[None]:
    """Within it the MM-DiT's blocks and the backbone's layers are computed again in the backward pass, if ``enabled``."""
    mmdit, llm = trainable.mmdit_detokenizer.mmdit, trainable.stream.llm
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


def compile_blocks(trainable: TrainableModel, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the backbone's layers, and the MM-DiT's blocks where there is one, one graph for all of a kind, and their calls'
    shapes with them.

    The MM-DiT's shapes are those of `CallShapes`: fixed ones, or any. Those of the backbone are any: the lengths of conversations
    differ too much.
    """
    # they share one forward a class, the last block's streams differ, and validation has no gradient; beyond the usual limit of
    # 8 variants the rest would run uncompiled
    torch._dynamo.config.recompile_limit = 64
    # sizes that are the same the first time need not be so the next time
    torch.fx.experimental._config.use_duck_shape = False
    # it splits graphs at DDP's buckets, which hold more than a block; with sizes of any kind the pieces do not compile
    torch._dynamo.config.optimize_ddp = False
    if trainable.detokenizer is not None:
        for block in trainable.mmdit_detokenizer.mmdit.blocks:
            block.compile(dynamic=not trainable.call_shapes.fixed, fullgraph=True, backend=backend)
    for layer in trainable.stream.llm.get_decoder().layers:
        layer.compile(dynamic=True, fullgraph=True, backend=backend)


def fix_call_shapes(trainable: TrainableModel, drawings: int) -> None:
    """Let every call of the MM-DiT have one of few shapes, as a GPU wants them.

    ``drawings`` are about those of a batch, each as often as it has noises. An eighth of them make a call, so that little is
    padding.
    """
    multiple = trainable.mmdit_detokenizer.size_multiple
    rows = 2 ** max(0, min(MAX_CALL_ROWS, drawings // 8).bit_length() - 1)
    pictures = tuple((h // multiple) * (w // multiple) for h, w in trainable.stream.config.shapes)
    trainable.call_shapes = CallShapes(rows, pictures)
