"""The glyph encoder: text that is to be written in an image, byte by byte, as a context source.

Seedream 2.0 (arXiv:2503.07703) uses ByT5's features (Xue et al. 2021, arXiv:2105.13626), because a byte model knows the
spelling that subword tokens hide. The encoder is transformers' `T5EncoderModel`, so a released ByT5 can be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from ..resamplers.positions import sincos_1d
from .files import load_strict, resolve_folder

PAD, EOS, BYTE_OFFSET = 0, 1, 3
"""ByT5's ids of padding and of a string's end, and the offset of bytes"""
VOCAB_SIZE = 384
MAX_BYTES = 128
"""Bytes and ends for one image; what is beyond is cut off."""


@dataclass
class GlyphConfig:
    """Sizes of a new encoder; ``width`` 0 stands for none. Raises ValueError for a width that is no multiple of the heads and of
    4 (two 1-D positions)."""

    width: int = 0
    layers: int = 2
    heads: int = 4
    mlp_width: int = 256
    layout_width: int = 0
    """Of the head that says where in a picture the words stand, so that they are set there in plain type as well
    (`glyph_images`); 0 for none"""
    capitals: bool = False
    """Whether they are set there in capitals, however they are asked for"""
    font: str = ""
    """The font file that they are set in, TrueType or OpenType, which the model's folder then holds; Pillow's own, which has
    Latin letters and digits alone, if empty"""

    def __post_init__(self) -> None:
        if self.layout_width < 0:
            raise ValueError(f"layout_width is {self.layout_width}; it must not be negative")
        if self.width < 0 or min(self.layers, self.heads, self.mlp_width) < 1:
            raise ValueError(f"{self}: width must not be negative, the others must be at least 1")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width is {self.width}; it must be a multiple of 4 and of its {self.heads} heads")


class GlyphEncoder(nn.Module):
    """A T5 encoder of bytes, with positions from both ends of each string."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    def from_config(cls, config: GlyphConfig) -> GlyphEncoder:
        """A new encoder."""
        made = T5Config(
            vocab_size=VOCAB_SIZE,
            d_model=config.width,
            d_kv=config.width // config.heads,
            d_ff=config.mlp_width,
            num_layers=config.layers,
            num_heads=config.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
        return cls(T5EncoderModel(made))

    @classmethod
    def from_pretrained(cls, folder: Path, variant: str | None = None) -> GlyphEncoder:
        """Raises ValueError for a folder that holds no T5 encoder with ByT5's vocabulary."""
        encoder = load_strict(T5EncoderModel, resolve_folder(folder, variant), variant, dtype="auto")
        if encoder.config.vocab_size != VOCAB_SIZE:
            raise ValueError(
                f"{folder}: a vocabulary of {encoder.config.vocab_size}; glyphs are bytes, ByT5's {VOCAB_SIZE}"
            )
        return cls(encoder)

    @property
    def width(self) -> int:
        return self.encoder.config.d_model

    def forward(self, glyph_text: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """The strings of each image to features (batch, bytes, width) and their mask (batch, bytes); a batch without any
        string gives one masked token.

        T5 encodes only relative positions. An image has to place every letter, so positions in the string are added.
        """
        ids = byte_ids(glyph_text).to(self.encoder.device, non_blocking=True)
        mask = ids != PAD
        # a row of padding alone must attend to something
        attended = mask | (torch.arange(ids.shape[1], device=ids.device) == 0)
        # as it is added to the scores: at one of ones and zeros transformers would look, and the host wait for the device
        dtype = self.encoder.dtype
        added = torch.zeros_like(attended, dtype=dtype).masked_fill(~attended, torch.finfo(dtype).min)[:, None, None]
        features = self.encoder(input_ids=ids, attention_mask=added).last_hidden_state
        half = self.width // 2
        table = torch.cat(
            [sincos_1d(half, side).unflatten(0, ids.shape) for side in byte_positions(glyph_text, ids.shape[1])], dim=-1
        )
        return features + table.to(features, non_blocking=True), mask


def byte_positions(glyph_text: Sequence[Sequence[str]], length: int) -> tuple[Tensor, Tensor]:
    """For each byte, how many bytes of its string are before it and how many from it to the end; two tensors (batch,
    length), 0 at padding."""
    table = torch.zeros(2, len(glyph_text), length, dtype=torch.float32)
    for row, row_text in enumerate(glyph_text):
        counts = [len(word.encode("utf-8", "replace")) for word in row_text]
        pairs = [(at, count - at) for count in counts for at in range(count + 1)][:length]
        if pairs:
            table[:, row, : len(pairs)] = torch.tensor(pairs, dtype=torch.float32).T
    return table[0], table[1]


def byte_ids(glyph_text: Sequence[Sequence[str]]) -> Tensor:
    """Strings of each row to ByT5's ids (batch, bytes), with an end after each string."""
    rows = [
        [b + BYTE_OFFSET for word in row for b in (*word.encode("utf-8", "replace"), EOS - BYTE_OFFSET)][:MAX_BYTES]
        for row in glyph_text
    ]
    ids = torch.full((len(rows), max(1, *map(len, rows))), PAD)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids
