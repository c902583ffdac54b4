"""SEED-X's agent (Ge et al. 2024, arXiv:2404.14396) to the parts of a `StreamModel`: names of the released weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .stream import StreamModel

_PARTS = ("input_resampler", "output_resampler")


def weights_from_seed_x(theirs: Mapping[str, Tensor], slots: Sequence[int]) -> dict[str, Tensor]:
    """A state dict for everything of a `StreamModel` but its eye.

    The rows of the query slots move from the vocabulary's embeddings into ``queries``; the resamplers' position tables are
    fixed and computed here. Raises ValueError naming every key that has no place.
    """
    left = dict(theirs)
    ours: dict[str, Tensor] = {"tile_embed": left.pop("patch_pos_embed")}
    for name in list(left):
        part = name.split(".")[0]
        if name in (f"{p}.pos_embed" for p in _PARTS):
            left.pop(name)
        elif part == "llm" or part in _PARTS:
            ours[name] = left.pop(name)
    if left:
        raise ValueError(f"weights with no place in the stream: {', '.join(sorted(left))}")
    ours["queries.weight"] = ours["llm.model.embed_tokens.weight"][list(slots)].clone()
    return ours


def load_seed_x(model: StreamModel, theirs: Mapping[str, Tensor]) -> None:
    """Fill ``model``, made with SEED-X's sizes, tiles and ``drawn_images="queries"``. Raises ValueError for weights that are
    missing, without a place or of another shape, naming them."""
    weights = weights_from_seed_x(theirs, model.vocabulary.slots[: model.config.num_queries])
    expected = {k: v for k, v in model.state_dict().items() if not k.startswith("eye.")}
    wrong = sorted(
        name for name in expected.keys() | weights.keys()
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape
    )  # fmt: skip
    if wrong:
        has, needs = (tuple(d[wrong[0]].shape) if wrong[0] in d else "missing" for d in (weights, expected))
        raise ValueError(f"SEED-X weights do not fit: {wrong[0]} is {has}, expected {needs} ({len(wrong)} in all)")
    model.load_state_dict(weights, strict=False)
