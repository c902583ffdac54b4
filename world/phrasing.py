"""Requests in many words, orders and spellings, as people put them. Replies have one form (`words`)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from . import sampling
from .held_out import relation
from .scene import Scene, Thing
from .words import BACKGROUND_PHRASES, PAIRED, PLURALS, Detail, mentions_size, noun_phrase, plural, with_article

BACKGROUND_VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": ("on a plain background", "on a simple background", "without a background", "on grey", "on a blank page"),
    "sky": ("in the sky", "in the air", "up in the sky", "in front of a blue sky", "in the clouds", "high up in the sky"),
    "grass": ("on grass", "on the grass", "on a meadow", "in a field", "on a lawn", "standing on grass", "in the garden"),
    "sand": ("on sand", "on the sand", "on the beach", "at the beach", "in the desert", "at the seaside"),
    "night": ("at night", "in the dark", "by night", "in the night", "under a night sky", "in the evening", "after dark"),
    "room": ("in a room", "in the room", "indoors", "at home", "in the living room", "inside a house", "on the floor"),
}  # fmt: skip
"""Phrases for backgrounds; the first is that of captions."""

STYLE_VARIANTS = {
    "outline": (
        "in outline",
        "as a line drawing",
        "as an outline",
        "in lines only",
        "outlined",
        "in outline style",
        "with a fine pen",
    ),
    "chalk": ("in chalk", "as a chalk drawing", "with chalk", "on a blackboard", "in chalk style", "on a chalkboard"),
    "pastel": (
        "in pastel",
        "in pastel colours",
        "in soft colours",
        "in pastel style",
        "with pastels",
        "in light colours",
    ),
}
"""Phrases for styles."""

COUNTS = {2: ("two", "2", "a pair of", "a couple of", "exactly two", "two"),
          3: ("three", "3", "exactly three", "three", "a group of three"),
          4: ("four", "4", "exactly four", "four", "a set of four")}  # fmt: skip

PLACED = {
    "left of": (
        "{a} left of {b}", "{a} to the left of {b}", "{a} on the left of {b}", "{a} on the left and {b} on the right",
        "{b} right of {a}", "{b} to the right of {a}", "{b} on the right of {a}", "{b} with {a} on its left",
        "{a} with {b} on its right", "left: {a}, right: {b}", "{a} on the left side of {b}", "{a} at the left, {b} at the right",
    ),
    "above": (
        "{a} above {b}", "{a} over {b}", "{a} on top of {b}", "{b} below {a}", "{b} under {a}", "{b} underneath {a}",
        "{b} beneath {a}", "{b} with {a} above it", "{a} with {b} under it", "{a} at the top and {b} at the bottom",
        "{a} higher than {b}", "top: {a}, bottom: {b}", "{a} up and {b} down",
    ),
}  # fmt: skip
TOGETHER = (
    "{a} and {b}", "{a} and {b}", "{a} and {b}", "{a} with {b}", "{a} next to {b}", "{a} beside {b}", "{a} plus {b}", "{a}, {b}",
    "{a} together with {b}", "{a} and then {b}", "{a} along with {b}", "{a} & {b}", "{a} as well as {b}", "{a} near {b}",
    "{a} by {b}",
)  # fmt: skip
TRAILING_COLORS = ("{thing} in {color}", "{thing} that is {color}", "{thing}, {color}", "{thing} which is {color}",
              "{thing} ({color})",
              "{thing} coloured {color}", "{thing} with {color} colour", "{thing} painted {color}")  # fmt: skip
"""Templates with the colour after the object."""

ASKS = (
    "draw {}", "draw {}", "draw me {}", "paint {}", "paint me {}", "sketch {}", "make {}", "make me {}", "create {}",
    "generate {}",
    "show {}", "show me {}", "give me {}", "gimme {}", "render {}", "illustrate {}", "doodle {}", "produce {}", "do {}",
    "design {}",
    "get me {}", "try {}", "try to draw {}", "start with {}", "depict {}", "draw us {}", "please draw {}", "draw for me {}",
)  # fmt: skip
WANTS = (
    "i want {}", "i want to see {}", "i need {}", "i would like {}", "i'd like {}", "i'd like to have {}", "i'd love to see {}",
    "we need {}", "we want {}", "my son wants {}", "my daughter would like {}", "let me see {}", "let's have {}", "let's draw {}",
    "what about {}", "i wish for {}", "i am looking for {}", "i'm after {}", "the picture should show {}", "it should be {}",
    "my friend asked for {}", "next i want {}", "i was hoping for {}", "what i need is {}", "all i want is {}",
)  # fmt: skip
CANS = (
    "can you draw {}", "could you draw {}", "could you paint {}", "would you draw {}", "will you sketch {}", "can you make {}",
    "can you please make {}", "can i have {}", "could i have {}", "may i have {}", "can i see {}", "are you able to draw {}",
    "would you mind drawing {}", "is it possible to draw {}", "can you show me {}", "could you create {}", "can you give me {}",
    "do you think you could draw {}", "could we have {}", "can you do me {}",
)  # fmt: skip
PICTURES = (
    "a picture of {}", "a picture of {}", "an image of {}", "a photo of {}", "a photo of {}", "a drawing of {}", "picture of {}",
    "image with {}", "a picture with {}", "a sketch of {}", "an illustration of {}", "photo of {}", "one picture with {}",
    "a painting of {}", "a scene with {}", "an image that shows {}", "drawing of {}", "a photograph of {}", "pic of {}",
    "a nice picture of {}", "a simple drawing of {}", "a picture showing {}",
)  # fmt: skip
PREFIXES = ("please ", "please, ", "hey, ", "hi, ", "ok, ", "ok ", "now ", "so ", "hello, ", "well, ", "next, ", "and now ",
            "um, ", "pls ", "good, ", "thanks, now ", "hey limner, ", "great, ", "next: ", "then ", "quick: ")  # fmt: skip
SUFFIXES = (" please", ", please", " pls", " for me", " now", ", thanks", ", thank you", "!", "!!", ".", "?", " if you can",
            " thx", " for my friend", " quickly", " ok?", " :)", ", can you?", " for a card", " and nothing else", " if possible",
          " right away", "...", " for my son", " today")  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """Choices of wording that stay the same throughout one phrase."""

    articles: bool
    digits: bool
    color_after: str | None
    pair: str
    """How one of what comes in pairs is called: "red skis", "a pair of red skis", "a red skis" """

    @classmethod
    def random(cls, rng: random.Random) -> Voice:
        return cls(
            rng.random() < 0.75,
            rng.random() < 0.3,
            rng.choice(TRAILING_COLORS) if rng.random() < 0.15 else None,
            rng.choice(("", "", "a ", "a pair of ")),
        )

    def one(self, thing: Thing, detail: Detail, alone: bool) -> str:
        size = [thing.size] if mentions_size(thing, detail, alone) else []
        color = [thing.color] if detail.color else []
        words = " ".join([*size, *([] if self.color_after else color), thing.name])
        if thing.name in PAIRED:
            words = self.pair + words
        words = with_article(words) if self.articles else words
        return self.color_after.format(thing=words, color=thing.color) if self.color_after and color else words


def phrase(rng: random.Random, scene: Scene, detail: Detail) -> str:
    """A random phrase with the meaning of `noun_phrase`."""
    voice, things = Voice.random(rng), scene.things
    if len(things) == 1:
        words = voice.one(things[0], detail, alone=True)
    elif len({(t.name, t.color) for t in things}) == 1:
        words = _several(rng, voice, things, detail)
    elif len(things) == 2:
        forms, a, b = pair_templates(things, detail, PLACED, TOGETHER)
        words = rng.choice(forms).format(a=voice.one(a, detail, False), b=voice.one(b, detail, False))
    else:
        return noun_phrase(scene, detail)
    words = f"{words} {rng.choice(BACKGROUND_VARIANTS[scene.background])}" if detail.background else words
    return words if scene.style == "flat" else f"{words} {rng.choice(STYLE_VARIANTS[scene.style])}"


def pair_templates(
    things: tuple[Thing, ...], detail: Detail, placed: dict[str, tuple[str, ...]], together: tuple[str, ...]
) -> tuple[tuple[str, ...], Thing, Thing]:
    """Templates for two objects, and which object is {a} and which is {b}; for any language."""
    where = relation(*things)
    if where and detail.relation:
        a, b = things if where in ("left of", "above") else things[::-1]
        return placed["left of" if where in ("left of", "right of") else "above"], a, b
    a, b = things  # where nobody says the place the order tells it, so it stays
    return together, a, b


def _several(rng: random.Random, voice: Voice, things: tuple[Thing, ...], detail: Detail) -> str:
    count = str(len(things)) if voice.digits else rng.choice(COUNTS[len(things)])
    size = f"{things[0].size} " if mentions_size(things[0], detail, alone=False) else ""
    name, color = plural(things[0].name), things[0].color
    if things[0].name in PLURALS and rng.random() < 0.2:  # GenEval asks for "four knifes"
        name = things[0].name + "s"
    if not detail.color:
        return f"{count} {size}{name}"
    if voice.color_after:
        return f"{count} {size}{name}{rng.choice((', all of them {}', ' in {}', ', {}', ' that are {}')).format(color)}"
    return f"{count} {size}{color} {name}"


def random_detail(rng: random.Random, scene: Scene) -> Detail:
    """What a request says and what it leaves to the artist, who then draws the usual thing: people name what is out of
    the ordinary. Unsaid are mostly a plain background, a large object alone, a medium one among others, usual colours,
    and, of "a cat and a dog", that the cat is on the left."""
    placed = len(scene.things) == 2 and relation(*scene.things) != "left of"
    usual_size = len(scene.things) == 1 and scene.things[0].size == "large"
    usual_color = all(t.color == sampling.USUAL_COLORS[t.name] for t in scene.things)
    return Detail(
        color=rng.random() < (0.4 if usual_color else 0.97),
        size=rng.random() < (0.15 if usual_size else 0.92),
        relation=placed or rng.random() < 0.35,
        background=rng.random() < (0.2 if scene.background == "plain" else 0.96),
    )


def draw_request(rng: random.Random, thing: str) -> str:
    """A request to draw ``thing``."""
    frame = rng.choice(rng.choices((ASKS, WANTS, CANS, PICTURES, ("{}",)), (5, 3, 3, 4, 3))[0])
    if frame in PICTURES and rng.random() < 0.35:
        ask = rng.choice(rng.choice((ASKS, WANTS, CANS)))
        frame = ask.format(frame if frame.startswith(("a ", "an ", "one ")) else with_article(frame))
    return frame.format(thing)


def add_fillers(
    rng: random.Random, words: str, before: tuple[str, ...] = PREFIXES, behind: tuple[str, ...] = SUFFIXES
) -> str:
    """``words`` with filler words before or after them, or without."""
    if rng.random() < 0.25:
        words = rng.choice(before) + words
    if rng.random() < 0.4:
        words = words.rstrip(".?!。？！") + rng.choice(behind)
    return words


def casual_typing(rng: random.Random, words: str) -> str:
    """``words`` with missing articles, typing errors, or other upper and lower case."""
    if rng.random() < 0.12:
        words = re.sub(r"\b(a|an|the) ", "", words)
    if rng.random() < 0.12:
        for _ in range(rng.choice((1, 1, 2))):
            words = add_typo(rng, words)
    manner = rng.random()
    if manner < 0.3:
        return words[0].upper() + words[1:]
    return words.upper() if manner < 0.38 else words


def add_typo(rng: random.Random, words: str) -> str:
    """One typing error in a longer word: two letters swapped, one missing, doubled or replaced."""
    places = [m.span() for m in re.finditer(r"[A-Za-z]{4,}", words)]
    if not places:
        return words
    start, end = rng.choice(places)
    at = rng.randrange(start + 1, end - 1)
    slip = rng.choice(("swap", "drop", "double", "other"))
    if slip == "swap":
        return words[:at] + words[at + 1] + words[at] + words[at + 2 :]
    if slip == "drop":
        return words[:at] + words[at + 1 :]
    return words[:at] + (words[at] * 2 if slip == "double" else rng.choice("aeiounrst")) + words[at + 1 :]


def background_phrase(rng: random.Random, background: str) -> str:
    return rng.choice(BACKGROUND_VARIANTS[background]) if rng.random() < 0.6 else BACKGROUND_PHRASES[background]
