"""The words a picture is to carry, letter by letter: a byte-level encoder, a source of context of its own.

Seedream 2.0 (arXiv:2503.07703) writes by ByT5's features (Xue et al. 2021, arXiv:2105.13626): what a subword model knows by
meaning, a byte model knows by spelling. The encoder is transformers' `T5EncoderModel`, so that a released ByT5 drops in.
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
"""ByT5's ids: padding, the end of a word's bytes, and how far bytes are moved up"""
VOCAB_SIZE = 384
MAX_BYTES = 128
"""Bytes and ends of a picture's words; what is beyond is cut."""


@dataclass
class GlyphConfig:
    """A fresh encoder; ``width`` 0 is none."""

    width: int = 0
    layers: int = 2
    heads: int = 4
    mlp_width: int = 256


class GlyphEncoder(nn.Module):
    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    def from_config(cls, config: GlyphConfig) -> GlyphEncoder:
        """Raises ValueError for a width that the heads do not divide, or 4, for positions from both ends."""
        if config.width % config.heads or config.width % 4:
            raise ValueError(
                f"glyphs.width is {config.width}; it must be a multiple of 4 and of its {config.heads} heads"
            )
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
    def from_pretrained(cls, folder: Path) -> GlyphEncoder:
        """Raises ValueError for a folder that holds no T5 encoder of bytes."""
        encoder = load_strict(T5EncoderModel, resolve_folder(folder), dtype="auto")
        if encoder.config.vocab_size != VOCAB_SIZE:
            raise ValueError(
                f"{folder}: a vocabulary of {encoder.config.vocab_size}; glyphs are bytes, ByT5's {VOCAB_SIZE}"
            )
        return cls(encoder)

    @property
    def width(self) -> int:
        return self.encoder.config.d_model

    def forward(self, glyph_text: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """The words of each picture to (batch, bytes, width) and their mask; one masked token where nobody writes.

        T5 knows distances only; where a letter stands in its word is added, for the picture has to place it.
        """
        ids = byte_ids(glyph_text).to(self.encoder.device)
        mask = ids != PAD
        # a row of padding alone would attend to nothing
        attended = mask | (torch.arange(ids.shape[1], device=ids.device) == 0)
        features = self.encoder(input_ids=ids, attention_mask=attended.long()).last_hidden_state
        half = self.width // 2
        table = torch.cat(
            [sincos_1d(half, side).unflatten(0, ids.shape) for side in byte_positions(glyph_text, ids.shape[1])], dim=-1
        )
        return features + table.to(features), mask


def byte_positions(glyph_text: Sequence[Sequence[str]], length: int) -> tuple[Tensor, Tensor]:
    """Of each byte, how many are before it in its word and how many from it to the word's end, 0 where there is none; each
    (batch, length)."""
    table = torch.zeros(2, len(glyph_text), length)
    for row, row_text in enumerate(glyph_text):
        counts = [len(word.encode("utf-8", "replace")) for word in row_text]
        pairs = [(at, count - at) for count in counts for at in range(count + 1)][:length]
        if pairs:
            table[:, row, : len(pairs)] = torch.tensor(pairs, dtype=torch.float32).T
    return table[0], table[1]


def byte_ids(glyph_text: Sequence[Sequence[str]]) -> Tensor:
    """Rows of words to ByT5's ids (batch, bytes), each word closed by an end."""
    rows = [
        [b + BYTE_OFFSET for word in row for b in (*word.encode("utf-8", "replace"), EOS - BYTE_OFFSET)]
        for row in glyph_text
    ]
    ids = torch.full((len(rows), max(1, min(MAX_BYTES, max(map(len, rows))))), PAD)
    for index, row in enumerate(rows):
        row_text = row[:MAX_BYTES]
        ids[index, : len(row_text)] = torch.tensor(row_text, dtype=torch.long)
    return ids
