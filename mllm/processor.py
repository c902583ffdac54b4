"""Image tokens in a plain ``generate()`` of transformers."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .vocabulary import Vocabulary


class ImageTokenLogitsProcessor(LogitsProcessor):
    """Forces BOI → ``<img_00000>`` → … → ``</img>`` and shape → BOI; elsewhere slots and ends have a score of -inf.

    It depends on the last token alone, so it works with sampling, beams and batches without a state, without a loop over
    the batch and without waiting for the device. ``num_queries`` is the number of slots of an image, ``vocab_size`` the width
    of the scores.

    ``images`` "force" begins with an image and "never" has none; "force" needs a prompt that is given as ``inputs_embeds``,
    so that the ids of the first step are empty. ``shape`` is the index of the only shape that may be announced.
    """

    def __init__(
        self, vocabulary: Vocabulary, num_queries: int, vocab_size: int, images: str = "auto", shape: int | None = None
    ) -> None:
        chain = torch.tensor([vocabulary.boi, *vocabulary.slots[:num_queries], vocabulary.eoi])
        self.forced = torch.full((vocab_size,), -1)
        self.forced[chain[:-1]] = chain[1:]
        self.forced[list(vocabulary.shapes)] = vocabulary.boi
        begin = list(vocabulary.shapes) or [vocabulary.boi]
        self.banned = torch.zeros(vocab_size, dtype=torch.bool)
        self.banned[vocabulary.not_sampled] = True
        if images == "never":
            self.banned[begin] = True
        elif shape is not None:
            self.banned[[other for other in vocabulary.shapes if other != vocabulary.shapes[shape]]] = True
        self.banned_first = self.banned.clone()
        if images == "force":
            self.banned_first[:] = True
            self.banned_first[begin] = self.banned[begin]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids (rows, tokens) and scores (rows, vocabulary) to scores; there are no ids yet after ``inputs_embeds``."""
        if input_ids.shape[1] == 0:
            return scores.masked_fill(self.banned_first.to(scores.device), float("-inf"))
        self.forced, self.banned = self.forced.to(scores.device), self.banned.to(scores.device)
        following = self.forced[input_ids[:, -1]]
        scores = scores.masked_fill(self.banned, float("-inf"))
        only = torch.full_like(scores, float("-inf")).scatter_(1, following.clamp(min=0)[:, None], 0.0)
        return torch.where((following >= 0)[:, None], only, scores)
