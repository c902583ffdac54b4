"""Which tokens of a byte-level vocabulary may come next, so that a reply's bytes are always UTF-8."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

WHOLE = 0
"""The state between two characters"""
BROKEN = 8
"""The state after bytes that begin no UTF-8"""
_CONTINUATION = ((0x80, 0xBF),)
_STATES: tuple[dict[int, tuple[tuple[int, int], ...]], ...] = (
    # by the state that follows, the ranges of bytes that lead there (RFC 3629, section 4)
    {
        0: ((0x00, 0x7F),),
        1: ((0xC2, 0xDF),),
        2: ((0xE1, 0xEC), (0xEE, 0xEF)),
        3: ((0xF1, 0xF3),),
        4: ((0xE0, 0xE0),),
        5: ((0xED, 0xED),),
        6: ((0xF0, 0xF0),),
        7: ((0xF4, 0xF4),),
    },
    {0: _CONTINUATION},  # one byte is missing
    {1: _CONTINUATION},  # two
    {2: _CONTINUATION},  # three
    {1: ((0xA0, 0xBF),)},  # two, no overlong form of a shorter character
    {1: ((0x80, 0x9F),)},  # two, no surrogate
    {2: ((0x90, 0xBF),)},  # three, no overlong form
    {2: ((0x80, 0x8F),)},  # three, no character beyond U+10FFFF
    {},
)


def _byte_transitions() -> np.ndarray:
    table = np.full((len(_STATES), 256), BROKEN, dtype=np.uint8)
    for state, following in enumerate(_STATES):
        for after, ranges in following.items():
            for first, last in ranges:
                table[state, first : last + 1] = after
    return table


BYTE_TRANSITIONS = _byte_transitions()
"""(states, 256): the state after a byte"""


@dataclass(frozen=True, eq=False)
class Utf8Table:
    """The states of a reply's bytes between its tokens."""

    following: np.ndarray
    """(states, vocabulary): the state after a token; `BROKEN` where it makes no UTF-8"""

    def forbidden(self, width: int) -> np.ndarray:
        """(states without `BROKEN`, ``width``), True for tokens that may not come next. ``width`` is that of the scores, which
        may have columns for no token: within a character they may not come either."""
        wide = np.zeros((BROKEN, width), dtype=bool)
        wide[1:] = True
        wide[:, : self.following.shape[1]] = self.following[:BROKEN] == BROKEN
        return wide


def utf8_table(tokenizer: PreTrainedTokenizerBase) -> Utf8Table | None:
    """The table of a tokenizer's vocabulary; None where its tokens are no bytes, or where some character could not be ended.

    Added tokens are no bytes: they stand between characters.
    """
    if not is_byte_level(tokenizer):
        return None
    following = np.full((BROKEN + 1, len(tokenizer)), BROKEN, dtype=np.uint8)
    following[WHOLE] = WHOLE
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    added = set(tokenizer.added_tokens_decoder)
    spelled: dict[int, bytes] = {}
    for token, number in tokenizer.get_vocab().items():
        if (
            number not in added and not token.isascii()
        ):  # plain ASCII keeps a character whole, and cannot come within one
            spelled[number] = bytes(byte_of[character] for character in token if character in byte_of)
    if spelled:
        numbers = np.fromiter(spelled, dtype=np.int64)
        following[:, numbers] = states_after(spelled.values())
    endable = (following[:BROKEN] != BROKEN).any(1).all()
    return Utf8Table(following) if endable else None


def states_after(tokens: Iterable[bytes]) -> np.ndarray:
    """(states, tokens): the state after the bytes of each token, from every state before it."""
    held = list(tokens)
    lengths = np.array([len(token) for token in held])
    padded = np.zeros((len(held), lengths.max()), dtype=np.uint8)
    for row, token in zip(padded, held, strict=True):
        row[: len(token)] = np.frombuffer(token, dtype=np.uint8)
    state = np.repeat(np.arange(BROKEN + 1, dtype=np.uint8)[:, None], len(held), axis=1)
    for place in range(padded.shape[1]):
        longer = lengths > place
        state[:, longer] = BYTE_TRANSITIONS[state[:, longer], padded[longer, place]]
    return state


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its tokens are bytes, as those of GPT-2, Llama 3 and Qwen are."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    kinds = [decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", []))]
    return "ByteLevel" in kinds
