"""The next token from scores: the likeliest one, or one by its probability, with a generator for each row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

Way = tuple[float, int, float]
"""How a row is sampled: temperature, top-k and top-p. Temperature 0 takes the likeliest token, 0 is no top-k, 1 no top-p."""


def choose_tokens(scores: Tensor, ways: Sequence[Way], generators: Sequence[torch.Generator]) -> list[int | None]:
    """A token for every row from scores (rows, vocabulary), by one copy from the device; None for a row that holds NaN.

    Scores of -inf are never chosen. ``generators`` are on the CPU and one for each row, so that a sample is the same alone and in
    any batch; after an exception all of them are as before.
    """
    if all(temperature == 0 for temperature, _, _ in ways):
        best = scores.max(-1)  # NaN is the greatest of all
        return [token if token >= 0 else None for token in best.indices.masked_fill(best.values.isnan(), -1).tolist()]
    scores = scores - scores.amax(-1, keepdim=True)  # so that no temperature makes them infinite
    for way in {way for way in ways if way[0] > 0}:
        members = torch.tensor([i for i, own in enumerate(ways) if own == way], device=scores.device)
        scores[members] = warpers(*way)(None, scores[members])
    states = [generator.get_state() for generator in generators]
    try:
        return [
            None if own.isnan().any() else pick(own, temperature, generator)
            for own, (temperature, _, _), generator in zip(scores.cpu(), ways, generators, strict=True)
        ]
    except BaseException:  # an interrupt too: the same tokens can be chosen again
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        raise


@lru_cache(maxsize=64)
def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """What changes the scores of a row that is sampled, in transformers' order."""
    made = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        made.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        made.append(TopPLogitsWarper(top_p))
    return made


def pick(scores: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The best token or, at a temperature, one by its probability, from scores (vocabulary,)."""
    return sample(scores, generator) if temperature > 0 else int(scores.argmax())


def sample(scores: Tensor, generator: torch.Generator) -> int:
    """A token by its probability, from scores (vocabulary,)."""
    return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))


def guide_logits(logits: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """Logits moved away from those of an empty request (classifier-free guidance; Ho and Salimans 2022, arXiv:2207.12598)."""
    return unconditional + scale * (logits - unconditional)
