"""Conversations about the world in every language: which kinds there are, and how often."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from . import strangers, strangers_edits
from .composing import compose, control, fill, shaped
from .dialogue import LONGEST, dialogue
from .drawing import draw, refuse, small_talk
from .editing import edit, follow_up
from .held_out import handwritten_requests, normalized
from .language import Language
from .languages import CHINESE, ENGLISH, KOREAN
from .messages import Example
from .reading import answer, describe
from .scenes import many
from .several import several
from .signs import sign
from .stories import story
from .strangers import Stranger

MIXTURE: dict[Callable[[random.Random, Language], Example], int] = {
    draw: 36,
    describe: 16,
    answer: 10,
    edit: 26,
    several: 6,
    story: 5,
    sign: 8,
    many: 8,
    compose: 5,
    control: 4,
    fill: 3,
    shaped: 2,
    follow_up: 12,
    dialogue: 5,
    small_talk: 6,
    refuse: 6,
}
"""Kinds of conversations, each made in any language, with their weights"""
STRANGERS: dict[str, Callable[[Stranger], Example]] = {
    "draw": strangers.draw,
    "several": strangers.several,
    "story": strangers.story,
    "sign": strangers.sign,
    "small_talk": strangers.small_talk,
    "edit": strangers_edits.edit,
    "follow_up": strangers_edits.follow_up,
    "answer": strangers_edits.answer,
    "describe": strangers_edits.describe,
}
"""Kinds that strangers have phrasings for"""
STRANGERS_SHARES = {"small_talk": 2.0, "describe": 0.3}
"""Where they have more to say than we can think of, or less"""
PHRASINGS_SHARE = 0.35
"""Share of the conversations of such kinds that are told in strangers' words, where nobody says another"""
FORMER_NAMES = {"two_pictures": "several"}
"""Kinds that recipes of before call otherwise"""
EARLIER_MIXTURE: dict[Callable[[random.Random, Language], Example], int] = {
    small_talk: 4,
    draw: 3,
    refuse: 2,
    describe: 1,
}
EARLIER_SHARE = 0.4
LANGUAGE_WEIGHTS: dict[Language, float] = {ENGLISH: 0.64, CHINESE: 0.18, KOREAN: 0.18}
"""Languages that training tells, with their shares"""


def kinds(names: str) -> tuple[str, ...]:
    """Of "describe+answer". Raises ValueError for one that the mixture has not."""
    known = [make.__name__ for make in MIXTURE]
    chosen = tuple(FORMER_NAMES.get(name, name) for name in names.split("+")) if names else ()
    for name in chosen:
        if name not in known:
            raise ValueError(f"the world has no conversations of the kind {name!r}; there are {', '.join(known)}")
    return chosen


def conversation(
    rng: random.Random, only: tuple[str, ...] = (), phrasings: float = PHRASINGS_SHARE, validation: bool = False
) -> Example:
    """One training conversation, by the mixture's weights (or those of some kinds); often after an exchange about
    something else, so that neither an earlier refusal nor an earlier picture decides what comes next. ``phrasings`` is the share
    that strangers' words have where there are some; with ``validation`` they are those kept for validation."""
    example = _allowed_example(rng, _mixture_of(only), phrasings, validation)
    if rng.random() < EARLIER_SHARE:  # in any language: people mix them
        before = _allowed_example(rng, EARLIER_MIXTURE, phrasings, validation)
        if len(before.messages) + len(example.messages) <= 2 * LONGEST:
            return Example(example.kind, [*before.messages, *example.messages])
    return example


@functools.cache
def _mixture_of(only: tuple[str, ...]) -> dict[Callable[[random.Random, Language], Example], int]:
    """The mixture of some kinds, or of all."""
    return {make: weight for make, weight in MIXTURE.items() if not only or make.__name__ in only}


def _allowed_example(
    rng: random.Random,
    mixture: dict[Callable[[random.Random, Language], Example], int],
    phrasings: float,
    validation: bool,
) -> Example:
    """A conversation without a text of the hand-written requests, which are for evaluation only."""
    while True:
        make = rng.choices(tuple(mixture), tuple(mixture.values()))[0]
        language = rng.choices(tuple(LANGUAGE_WEIGHTS), tuple(LANGUAGE_WEIGHTS.values()))[0]
        share = 1.0 if validation else phrasings * STRANGERS_SHARES.get(make.__name__, 1)
        written = make.__name__ in STRANGERS and strangers.lines(language.code, False)
        if written and rng.random() < share:
            example = STRANGERS[make.__name__](Stranger(rng, language, validation))
        else:
            example = make(rng, language)
        said = (part.get("text") for message in example.messages for part in message["content"])
        if not any(normalized(words) in handwritten_requests() for words in said if words):
            return example
