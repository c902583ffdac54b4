"""Stories in two to six pictures, from skeletons (``phrasings/stories.jsonl``): before each picture what it shows."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import sampling
from .casual import casual_typing
from .held_out import is_held_out
from .language import Language
from .languages import ENGLISH
from .messages import Example, Message, assistant, image, user
from .scene import Scene, Thing
from .slots import fill_slots, numbers_in, place

LENGTHS = (2, 3, 4, 5, 6)
USUAL_LENGTH = 4
"""Pictures of a story whose request says no number"""
VALIDATION_SHARE = 0.1
PLACES = ("grass", "room", "sand", "sky", "night")
"""Backgrounds that a story can name"""
PHRASINGS = Path(__file__).parent / "phrasings"
BESIDE = {"left": ((0.26, 0.5), (0.74, 0.5)), "right": ((0.74, 0.5), (0.26, 0.5)),
          "above": ((0.5, 0.26), (0.5, 0.74)), "below": ((0.5, 0.74), (0.5, 0.26))}  # fmt: skip
_GROUP = re.compile(r"([1-4])(?::c([1-4]))?(?:x([2-4]))?")


def is_for_validation(text: str) -> bool:
    """Whether a phrasing is kept for validation: one in ten, by a hash of its text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") < VALIDATION_SHARE * 2**32


@dataclass(frozen=True)
class Tale:
    """A skeleton: the frames' texts, what their pictures show, and where."""

    title: str
    frames: tuple[dict[str, Any], ...]

    @functools.cached_property
    def numbers(self) -> tuple[int, ...]:
        """Of its things and colours."""
        shown = {int(n) for f in self.frames for found in _GROUP.findall(f["scene"]) for n in found[:2] if n}
        return tuple(sorted(shown | {n for f in self.frames for n in numbers_in(f["text"])} - {0}))

    @functools.cached_property
    def is_told_plainly(self) -> bool:
        """Whether one thing is in half of its pictures and more, and each thing and colour is named by the time it is drawn."""
        named: set[int] = set()
        seen: Counter[str] = Counter()
        for frame in self.frames:
            named |= numbers_in(frame["text"])
            groups = _GROUP.findall(frame["scene"])
            if any(int(n) not in named for found in groups for n in found[:2] if n):
                return False
            seen.update({number for number, _, _ in groups})
        return 2 * max(seen.values()) >= len(self.frames)

    @functools.cached_property
    def things(self) -> frozenset[int]:
        """Numbers of the things that its pictures show."""
        return frozenset(int(n) for f in self.frames for n, _, _ in _GROUP.findall(f["scene"]))


@functools.cache
def tales(language: Language, validation: bool = False) -> dict[int, tuple[Tale, ...]]:
    """The skeletons of a language by their length; of validation, or of training."""
    lines = map(json.loads, (PHRASINGS / "stories.jsonl").read_text(encoding="utf-8").splitlines())
    made = [
        Tale(line["title"], tuple(line["frames"]))
        for line in (*lines, *language.tales)
        if line.get("lang", language.code) == language.code
    ]
    made = [tale for tale in made if tale.is_told_plainly]
    kept = [t for t in made if is_for_validation(t.frames[0]["text"]) == validation] or made  # a language may have few
    return {length: tuple(t for t in kept if len(t.frames) == length) for length in LENGTHS}


def frame_scene(kinds: dict[int, tuple[str, str]], shown: str, background: str) -> Scene:
    """The scene of a frame, "1 left 2:c3", of (name, colour) by number; every frame has one layout."""
    parts = shown.split()
    groups = [_GROUP.fullmatch(part) for part in parts[::2]]
    looks = []
    for group in groups:
        assert group is not None, shown
        name, color = kinds[int(group[1])]
        looks.append((name, kinds[int(group[2])][1] if group[2] else color))
    if len(looks) == 2:
        spots: Sequence[tuple[float, float]] = BESIDE[parts[1]]
        things = [Thing(*look, "medium", *spot) for look, spot in zip(looks, spots, strict=True)]
    elif groups[0] and groups[0][3]:
        things = [Thing(*looks[0], "medium", *spot) for spot in sampling.SPOTS[int(groups[0][3])]]
    else:
        things = [Thing(*looks[0], "large", 0.5, 0.5)]
    return Scene(tuple(things), background)


@dataclass(frozen=True)
class Told:
    kinds: dict[int, tuple[str, str]]
    """Name and colour of each thing; 1 is the hero"""
    scenes: tuple[Scene, ...]
    sentences: tuple[str, ...]


def tell(
    rng: random.Random,
    language: Language,
    length: int,
    second: bool = False,
    validation: bool = False,
    usual: Collection[int] = (),
) -> Told:
    """A story of so many pictures that training may show; ``second`` if thing 2 comes in as well. The things whose numbers are in
    ``usual`` have their usual colours, as nobody named another."""
    known = tales(language, validation)[length] or tales(language)[length]
    fitting = [tale for tale in known if {1} | ({2} if second else set()) <= tale.things]
    while True:
        tale = rng.choice(fitting or known)
        names = rng.sample(language.names, len(tale.numbers))
        colors = _story_colors(rng, tale, names, usual)
        kinds = dict(zip(tale.numbers, zip(names, colors, strict=True), strict=True))
        grounds = dict(zip(("bg1", "bg2"), rng.sample(PLACES, 2), strict=True))
        background, scenes = "plain", []
        for frame in tale.frames:
            background = grounds.get(frame.get("bg", ""), background)
            scenes.append(frame_scene(kinds, frame["scene"], background))
        if len(set(colors)) == len(colors) and not any(map(is_held_out, scenes)):
            break
    fields = {n: language.fields(*kind) for n, kind in kinds.items()}
    places = {slot: place(rng, language, ground, plainly=True) for slot, ground in grounds.items()}
    sentences = tuple(spoken(fill_slots(language, frame["text"], fields, places)) for frame in tale.frames)
    return Told(kinds, tuple(scenes), sentences)


def _story_colors(rng: random.Random, tale: Tale, names: list[str], usual: Collection[int]) -> list[str]:
    """A colour for each of a tale's numbers, no two alike if possible."""
    fixed = {n: sampling.USUAL_COLORS[name] for n, name in zip(tale.numbers, names, strict=True) if n in usual}
    others = [color for color in sampling.COLOR_NAMES if color not in fixed.values()]
    free = iter(rng.sample(others, len(tale.numbers) - len(fixed)))
    return [fixed[n] if n in fixed else next(free) for n in tale.numbers]


def spoken(sentence: str) -> str:
    """A sentence in which speech has single quotation marks: what stands in double ones before a picture is written in it."""
    return re.sub(r'"([^"]*)"', "‘\\1’", re.sub(r"[“「『]([^”」』]*)[”」』]", "‘\\1’", sentence))


def story_reply(rng: random.Random, language: Language, told: Told) -> Message:
    """The sentences, each before its picture."""
    parts: list[Any] = [
        part for said, scene in zip(told.sentences, told.scenes, strict=True) for part in (said, image(scene))
    ]
    return assistant(*parts, *([language.say(rng, "stories.end")] if rng.random() < 0.4 else []))


def story(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A request for a story, mostly of so many pictures, and the story."""
    lengths = [length for length in LENGTHS if tales(language)[length]]
    length = rng.choice(lengths)
    second = rng.random() < 0.35
    told = tell(rng, language, length, second)
    hero, other = (hero_words(language, *told.kinds.get(n, told.kinds[1])) for n in (1, 2))
    if second and 2 in told.kinds:
        words = language.say(rng, "stories.pair", hero=hero, other=other)
    elif rng.random() < 0.85:
        words = language.say(rng, "stories.ask", hero=hero)
    else:
        words = language.say(rng, "stories.free")
    if length != USUAL_LENGTH or rng.random() < 0.5:  # four pictures unless another number is said
        number = language.numbers[length][0] if rng.random() < 0.7 else str(length)
        words = language.say(rng, "stories.long", x=words.rstrip("?.？。"), n=number)
    return Example("story", [user(casual_typing(rng, language, words)), story_reply(rng, language, told)])


def hero_words(language: Language, name: str, color: str) -> str:
    """How a request names a character."""
    said = color if color != sampling.USUAL_COLORS[name] else ""
    return language.put("caption.hero", **language.fields(name, said))
