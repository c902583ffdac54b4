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

    @property
    def not_sampled(self) -> list[int]:
        """Ids that a reply never chooses; BOI is one where it follows its shape token."""
        return [*self.slots, self.eoi, self.patch, self.end_patch, *([self.boi] if self.shapes else [])]

    @property
    def control(self) -> frozenset[int]:
        """All ids that plain text never has."""
        return frozenset((self.boi, self.eoi, self.patch, self.end_patch, *self.slots, *self.shapes))


def shape_name(shape: tuple[int, int]) -> str:
    """The token before BOI that announces a picture of ``shape``, its height and width in pixels."""
    return f"<shape_{shape[0]}x{shape[1]}>"


def control_tokens(config: LimnerConfig) -> list[str]:
    """Names of all control tokens that a model of ``config`` needs."""
    slots = [f"<img_{i:05d}>" for i in range(max(config.num_queries, config.image_tokens))]
    return ["<img>", "</img>", "<patch>", "</patch>", *slots, *(shape_name(s) for s in config.shapes)]


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

    Raises ValueError when the tokenizer lacks a control token or an end of turn.
    """
    known = tokenizer.get_added_vocab()
    if missing := [t for t in control_tokens(config) if t not in known]:
        raise ValueError(f"the tokenizer lacks control tokens: {', '.join(missing[:5])} ({len(missing)} in all)")
    ends = end_of_turn or (() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))
    if not ends:
        raise ValueError("the tokenizer has no end-of-sequence token, so no reply would ever end")
    # a tokenizer may have more slots than the model uses (SEED-X has 100); none of them is ever text
    slots = itertools.takewhile(known.__contains__, (f"<img_{i:05d}>" for i in itertools.count()))
    return Vocabulary(
        boi=known["<img>"],
        eoi=known["</img>"],
        patch=known["<patch>"],
        end_patch=known["</patch>"],
        slots=tuple(known[name] for name in slots),
        shapes=tuple(known[shape_name(s)] for s in config.shapes),
        end_of_turn=tuple(ends),
        pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    )
