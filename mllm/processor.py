"""Image tokens in a plain ``generate()`` of transformers."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .vocabulary import Vocabulary


class ImageTokenLogitsProcessor(LogitsProcessor):
    """Forces BOI → ``<img_00000>`` → … → ``</img>`` and shape → BOI; elsewhere slots and ends have a score of -inf.

    It depends on the last token alone, so it works with sampling, beams and batches without a state, without a loop over
    the batch and without waiting for the device. ``num_queries`` is the number of slots of an image.
    """

    def __init__(self, vocabulary: Vocabulary, num_queries: int, vocab_size: int) -> None:
        slots = vocabulary.slots[:num_queries]
        forced = torch.full((vocab_size,), -1)
        chain = [vocabulary.boi, *slots, vocabulary.eoi]
        for token, following in itertools.pairwise(chain):
            forced[token] = following
        for shape in vocabulary.shapes:
            forced[shape] = vocabulary.boi
        self.forced = forced
        banned = torch.zeros(vocab_size, dtype=torch.bool)
        banned[[*vocabulary.slots, vocabulary.eoi, vocabulary.patch, vocabulary.end_patch]] = True
        if vocabulary.shapes:
            banned[vocabulary.boi] = True
        self.banned = banned

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.forced, self.banned = self.forced.to(scores.device), self.banned.to(scores.device)
        following = self.forced[input_ids[:, -1]]
        scores = scores.masked_fill(self.banned, float("-inf"))
        only = torch.full_like(scores, float("-inf")).scatter_(1, following.clamp(min=0)[:, None], 0.0)
        return torch.where((following >= 0)[:, None], only, scores)
