"""Word dropout (Bowman et al. 2016, arXiv:1511.06349): a word is learned from the picture, not from the words before it."""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch

from ..mllm.encoding import IGNORE_INDEX
from ..mllm.stream import StreamBatch
from ..mllm.vocabulary import Vocabulary


def apply_word_dropout(batch: StreamBatch, vocabulary: Vocabulary, rate: float, step: int) -> StreamBatch:
    """A share of the assistant's input tokens, in conversations without a drawing, is replaced by other tokens of the assistant.
    The labels stay."""
    ids = batch.input_ids.clone()
    control = vocabulary.control.union(vocabulary.end_of_turn)
    is_text = (batch.labels != IGNORE_INDEX) & ~torch.isin(ids, torch.tensor(sorted(control)))
    text_ids = ids[is_text]
    drawing_rows = set(batch.drawing_row.tolist())
    for row in range(len(ids)):
        if row in drawing_rows or not len(text_ids):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(f"{step}/{ids[row].tolist()}".encode()))
        dropped = is_text[row] & (torch.rand(ids.shape[1], generator=generator) < rate)
        others = text_ids[torch.randint(len(text_ids), (ids.shape[1],), generator=generator)]
        ids[row] = torch.where(dropped, others, ids[row])
    return replace(batch, input_ids=ids)
