"""The configuration of a visual tokenizer, ``config.json`` of its folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..config import FEATURE_POOLS

ARCHITECTURES = ("transformer", "mlp")
QUANTIZERS = ("fsq", "vq")
MIN_LEVELS = 3
"""Of a dimension of FSQ: with two levels its tanh would have to be saturated, where it passes no gradient."""


@dataclass
class VisualTokenizerConfig:
    """Sizes of a `VisualTokenizer`. Raises ValueError for values that make no sense."""

    patch_width: int = 1152
    """Width of the vision tower's patch features."""
    num_patches: int = 256
    """How many of them an image has."""
    feature_tokens: int = 64
    """Image features (K) that codes are decoded to: as many as the model pools the tower's features to."""
    feature_width: int = 1152
    """Their width, which is the tower's."""
    num_tokens: int = 32
    """Visual tokens of an image, in order from coarse to fine."""
    feature_pool: str = "grid"
    """How patch features are pooled to image features (see `pool_features`), as the model does."""
    architecture: str = "transformer"
    """"transformer": causal queries over the patches, and attention back; "mlp": layers over the whole image, begun from
    principal components: with little time to train by far the better, and with weights for every feature of an image."""
    width: int = 768
    """Of encoder and decoder, or of their hidden layers."""
    encoder_depth: int = 4
    """Blocks, or hidden layers"""
    decoder_depth: int = 4
    heads: int = 12
    """transformer: heads of attention."""
    qk_norm: bool = True
    """transformer: whether attention normalises queries and keys (see `CrossAttention`)."""
    lengths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """How many of the tokens training keeps, one of these for each image (nested dropout); the last one is `num_tokens`."""
    quantizer: str = "fsq"
    """"fsq": finite scalar quantization, which has no codebook to collapse; "vq": a learned codebook."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """fsq: how many values each dimension of a code has; their product is the number of codes."""
    codebook_size: int = 8192
    """vq: the number of codes."""
    code_width: int = 32
    """vq: width of a code's vector."""
    ema_decay: float = 0.99
    """vq: of the moving averages that codes follow."""
    dead_code_threshold: float = 0.03
    """vq: a code that is used less than this share of the mean is replaced by a vector of the batch; 0 replaces none."""
    commitment_weight: float = 0.25
    """vq: weight of the loss that keeps the encoder's vectors near their codes."""
    pooled_width: int = 0
    """Width of the pooled output, for a contrastive loss with captions' embeddings; 0 for none."""

    def __post_init__(self) -> None:
        # JSON and YAML know lists only
        self.lengths, self.levels = tuple(self.lengths), tuple(self.levels)
        for name in (
            *("patch_width", "num_patches", "feature_tokens", "feature_width", "num_tokens", "width", "heads"),
            *("encoder_depth", "decoder_depth", "codebook_size", "code_width"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("pooled_width", "commitment_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a finite number that is not negative")
        for name in ("ema_decay", "dead_code_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is {self.architecture!r}; it can be {' or '.join(ARCHITECTURES)}")
        if self.architecture == "mlp" and self.feature_width != self.patch_width:
            raise ValueError(
                f"feature_width is {self.feature_width}, patch_width {self.patch_width}: layers over the whole image (mlp) take "
                "what they decode to, so make them equal"
            )
        if self.feature_pool not in FEATURE_POOLS:
            raise ValueError(f"feature_pool is {self.feature_pool!r}; it can be {' or '.join(FEATURE_POOLS)}")
        if self.architecture == "transformer" and (self.width % self.heads or self.width % 4):
            raise ValueError(f"{self.heads} heads and 4 must divide the width of {self.width}")
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer is {self.quantizer!r}; it can be {' or '.join(QUANTIZERS)}")
        if not self.levels or min(self.levels) < MIN_LEVELS:
            raise ValueError(f"levels are {self.levels}; there must be some, each of at least {MIN_LEVELS}")
        if self.lengths != tuple(sorted(set(self.lengths))) or self.lengths[:1] < (1,):
            raise ValueError(f"lengths are {self.lengths}; they must rise, from at least 1 to num_tokens")
        if self.lengths[-1] != self.num_tokens:
            raise ValueError(
                f"the last of the lengths {self.lengths} is not num_tokens, {self.num_tokens}: make them equal"
            )

    @property
    def num_codes(self) -> int:
        """How many codes a token can have."""
        return math.prod(self.levels) if self.quantizer == "fsq" else self.codebook_size

    @property
    def vector_width(self) -> int:
        """Width of the vectors that are quantized."""
        return len(self.levels) if self.quantizer == "fsq" else self.code_width

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VisualTokenizerConfig:
        """Raises ValueError for unknown keys."""
        if unknown := sorted(set(values) - set(cls.__dataclass_fields__)):
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"unknown keys of a visual tokenizer: {', '.join(unknown)}; there are {known}")
        return cls(**values)
