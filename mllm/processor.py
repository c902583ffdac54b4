"""Image tokens in a plain ``generate()`` of transformers."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .picture_grammar import PictureGrammar, PictureRules

PLAIN_RULES = PictureRules()
WORDS, CODES, END = 0, 1, 2
"""States: a word or what announces a picture may come next, a visual token, the end of a picture"""


class ImageTokenLogitsProcessor(LogitsProcessor):
    """Keeps to the grammar of pictures: what may not come next has a score of -inf, and what alone may come one of 0.

    The last token and, within a picture, the place of what began it say what may come: so it works with sampling, beams and
    batches without a state, without a loop over the batch and without waiting for the device. ``vocab_size`` is the width of the
    scores.

    ``images`` "force" begins with an image and "never" has none; "force" needs a prompt that is given as ``inputs_embeds``,
    so that the ids of the first step are empty. ``rules`` say how the images are drawn.
    """

    def __init__(
        self, grammar: PictureGrammar, vocab_size: int, images: str = "auto", rules: PictureRules = PLAIN_RULES
    ) -> None:
        vocabulary, self.num_queries = grammar.vocabulary, grammar.config.num_queries
        first = [] if images == "never" else grammar.first(rules)
        leads = [*vocabulary.shapes, *vocabulary.lengths]
        self.allowed = torch.zeros(END + 1 + len(leads), vocab_size, dtype=torch.bool)
        """(states, vocabulary)"""
        self.allowed[WORDS] = True
        self.allowed[WORDS, sorted(vocabulary.control)] = False
        self.allowed[WORDS, first] = True
        self.allowed[CODES, list(vocabulary.codes)] = True
        self.allowed[END, vocabulary.eoi] = True
        self.state = torch.full((vocab_size,), WORDS)
        """Of what follows each token"""
        self.state[list(vocabulary.codes)] = CODES
        if vocabulary.vis is not None:
            self.state[vocabulary.vis] = CODES
        for state, token in enumerate(leads, END + 1):
            self.state[token] = state
            self.allowed[state, grammar.following(token, rules)] = True
        self.allowed_first = self.allowed[WORDS].clone()
        if images == "force":
            self.allowed_first[:] = False
            self.allowed_first[first] = True
        self.vis = -1 if vocabulary.vis is None else vocabulary.vis
        self.length = torch.zeros(vocab_size, dtype=torch.long)
        """What each token announces; 0 for one that announces nothing"""
        self.length[list(grammar.length_of)] = torch.tensor(list(grammar.length_of.values()), dtype=torch.long)
        self.block = torch.tensor([vocabulary.boi, *vocabulary.slots[: self.num_queries], vocabulary.eoi])
        self.place = torch.full((vocab_size,), -1)
        """Of the tokens of a block of queries: its begin has 0"""
        self.place[self.block[:-1]] = torch.arange(self.num_queries + 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids (rows, tokens) and scores (rows, vocabulary) to scores; there are no ids yet after ``inputs_embeds``."""
        if input_ids.shape[1] == 0:
            return scores.masked_fill(~self.allowed_first.to(scores.device), float("-inf"))
        self._to(scores.device)
        last, length = input_ids[:, -1], input_ids.shape[1]
        places = torch.arange(length, device=input_ids.device)
        query = self.place[last]
        begin = torch.where(query >= 0, length - 1 - query, torch.where(input_ids == self.vis, places, 0).amax(1))
        announced = self.length[input_ids.gather(1, (begin - 1).clamp(min=0)[:, None])[:, 0]]
        whole = length - 1 - begin >= torch.where(announced > 0, announced, self.num_queries)
        allowed = self.allowed[torch.where((self.state[last] == CODES) & whole, END, self.state[last])]
        following = self.block[torch.where(whole, self.num_queries + 1, query + 1)]
        forced = torch.zeros_like(allowed).scatter_(1, following[:, None], True)
        allowed = torch.where((query >= 0)[:, None], forced, allowed)
        scores = torch.where(allowed.sum(1, keepdim=True) == 1, 0.0, scores)
        return scores.masked_fill(~allowed, float("-inf"))

    def _to(self, device: torch.device) -> None:
        for name in ("allowed", "state", "length", "block", "place"):
            setattr(self, name, getattr(self, name).to(device))
