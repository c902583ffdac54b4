"""Control tokens of the stream, with SEED-X's names."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from transformers import AddedToken, PreTrainedTokenizerBase

from .config import LimnerConfig


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the control tokens."""

    boi: int
    eoi: int
    patch: int
    end_patch: int
    slots: tuple[int, ...]
    """``<img_00000>`` …: placeholders for features and queries; their embedding rows are never read."""
    shapes: tuple[int, ...]
    """One for each shape of the config; it stands just before BOI."""
    end_of_turn: tuple[int, ...]
    pad: int
    lengths: tuple[int, ...] = ()
    """One for each of the config's `lengths`; it stands before the token that begins a picture of so many tokens or queries."""
    vis: int | None = None
    """Begins a picture of visual tokens; None in a model without them."""
    codes: range = range(0)
    """``<vis_00000>`` …: the visual tokens, that of code 0 first; their rows are learned, as those of words are."""

    @property
    def begins(self) -> dict[str, int]:
        """The token that begins a picture, by the mode in which it is drawn."""
        return {"queries": self.boi} | ({} if self.vis is None else {"tokens": self.vis})

    @property
    def control(self) -> frozenset[int]:
        """All ids that plain text never has."""
        marks = (*self.begins.values(), self.eoi, self.patch, self.end_patch)
        return frozenset((*marks, *self.slots, *self.shapes, *self.lengths, *self.codes))


def shape_name(shape: tuple[int, int]) -> str:
    """The token before BOI that announces a picture of ``shape``, its height and width in pixels."""
    return f"<shape_{shape[0]}x{shape[1]}>"


def length_name(length: int) -> str:
    """The token that announces a picture of so many tokens or queries."""
    return f"<length_{length}>"


def code_name(code: int) -> str:
    """The visual token of a code."""
    return f"<vis_{code:05d}>"


def control_tokens(config: LimnerConfig) -> list[str]:
    """Names of all control tokens that a model of ``config`` needs."""
    slots = [f"<img_{i:05d}>" for i in range(max(config.num_queries, config.image_tokens, config.view_tokens))]
    names = ["<img>", "</img>", "<patch>", "</patch>", *slots, *map(shape_name, config.shapes)]
    names += map(length_name, config.lengths)
    return names + (["<vis>", *map(code_name, range(config.visual_codes))] if config.visual_codes else [])


def add_control_tokens(tokenizer: PreTrainedTokenizerBase, config: LimnerConfig) -> Vocabulary:
    """Adds missing control tokens and returns the ids. When the tokenizer grew, call the backbone's
    ``resize_token_embeddings``."""
    tokens = [AddedToken(t, special=True, normalized=False) for t in control_tokens(config)]
    tokenizer.add_tokens(tokens, special_tokens=True)
    return vocabulary_from_tokenizer(tokenizer, config)


def vocabulary_from_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: LimnerConfig, end_of_turn: tuple[int, ...] = ()
) -> Vocabulary:
    """Ids of the control tokens; ``end_of_turn`` defaults to the tokenizer's end of sequence.

    Raises ValueError when the tokenizer lacks a control token or an end of turn, and where the visual tokens' ids do not follow
    each other.
    """
    known = tokenizer.get_added_vocab()
    if missing := [t for t in control_tokens(config) if t not in known]:
        raise ValueError(f"the tokenizer lacks control tokens: {', '.join(missing[:5])} ({len(missing)} in all)")
    ends = end_of_turn or (() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))
    if not ends:
        raise ValueError("the tokenizer has no end-of-sequence token, so no reply would ever end")
    # a tokenizer may have more slots than the model uses (SEED-X has 100); none of them is ever text
    slots = itertools.takewhile(known.__contains__, (f"<img_{i:05d}>" for i in itertools.count()))
    codes = range(first := known[code_name(0)], first + config.visual_codes) if config.visual_codes else range(0)
    if [known[code_name(code)] for code in range(config.visual_codes)] != list(codes):
        raise ValueError("the ids of the visual tokens <vis_00000> … do not follow each other in the tokenizer")
    return Vocabulary(
        boi=known["<img>"],
        eoi=known["</img>"],
        patch=known["<patch>"],
        end_patch=known["</patch>"],
        slots=tuple(known[name] for name in slots),
        shapes=tuple(known[shape_name(s)] for s in config.shapes),
        end_of_turn=tuple(ends),
        pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
        lengths=tuple(known[length_name(length)] for length in config.lengths),
        vis=known["<vis>"] if config.visual_codes else None,
        codes=codes,
    )
