"""Conversations in words that strangers wrote: people who had not seen the world's own templates (``phrasings/``).

One in ten of their lines, by a hash of its text, is for validation alone. What a line's slots mean is in ``phrasings/README.md``.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import sampling
from .casual import casual_typing, wrapped
from .drawing import drawing_reply
from .held_out import is_held_out
from .language import Language
from .messages import Example, assistant, image, user
from .scene import Scene, Thing
from .several import alone, in_colors, pictures_reply
from .signs import MAX_LETTERS, plan_with_text, random_word
from .slots import fill_slots, names_color, numbers_in, place
from .stories import BESIDE, PHRASINGS, is_for_validation, story_reply, tell

Line = dict[str, Any]
OTHER_NAME_SHARE, OTHER_COLOR_SHARE = 0.15, 0.1
RIDDLE_SHARE = 0.25
"""Share of the requests for one thing that describe it instead of naming it"""
TYPOS_SHARE = 0.35
"""Share of the lines that are typed casually; many were written so"""


@functools.cache
def lines(code: str, validation: bool) -> dict[str, tuple[Line, ...]]:
    """The lines of a language by kind, of training or of validation."""
    found: dict[str, list[Line]] = {}
    for path in sorted(PHRASINGS.glob("*.jsonl")):
        for row in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(row)
            if line["lang"] == code and "kind" in line and is_for_validation(line["text"]) == validation:
                found.setdefault(line["kind"], []).append(line)
    return {kind: tuple(rows) for kind, rows in found.items()}


@functools.cache
def lexicon(code: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Other names and riddles of the world's things and colours."""
    rows = map(json.loads, (PHRASINGS / "lexicon.jsonl").read_text(encoding="utf-8").splitlines())
    return {
        row.get("of") or row["color"]: (tuple(row["say"]), tuple(row.get("riddle", ())))
        for row in rows
        if row["lang"] == code
    }


@functools.cache
def replies(code: str) -> dict[str, tuple[str, ...]]:
    """What is answered to messages that want no picture, by what they are about."""
    found: dict[str, list[str]] = {}
    for row in (PHRASINGS / "replies.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(row)
        if line["lang"] == code:
            found.setdefault(line["about"], []).append(line["text"])
    return {about: tuple(texts) for about, texts in found.items()}


class Stranger:
    """One who speaks a language in phrasings of training or of validation."""

    def __init__(self, rng: random.Random, language: Language, validation: bool = False) -> None:
        self.rng, self.language = rng, language
        self.lines = lines(language.code, validation)
        self.validation = validation

    def line(self, kind: str, bare: str = "", **wanted: Any) -> Line:
        """A random line of a kind, with these values, and with a slot ``bare`` and no colour of that thing; where validation has
        none, one of training."""
        for rows in (self.lines[kind], lines(self.language.code, False)[kind]):
            fitting: Sequence[Line] = rows
            if wanted:
                fitting = [row for row in fitting if all(row.get(key) == value for key, value in wanted.items())]
            if bare:
                fitting = [r for r in fitting if f"{{{bare}" in r["text"] and not names_color(r["text"], int(bare[-1]))]
            if fitting:
                return self.rng.choice(fitting)
        raise AssertionError(f"no {kind} with {wanted} in {self.language.code}")

    def fields(self, name: str, color: str = "", count: int = 1) -> dict[str, str]:
        """What slots say of a thing, mostly by its usual name and that of its colour."""
        fields = self.language.fields(name, color, count=count)
        others = lexicon(self.language.code)
        if self.rng.random() < OTHER_NAME_SHARE and name in others:
            word = self.rng.choice(others[name][0])
            fields |= {"name": word, "names": self.language.grammar.plural(word)}
        if color and self.rng.random() < OTHER_COLOR_SHARE and color in others:
            word, usual = self.rng.choice(others[color][0]), fields["colorname"]
            link = fields["color"].removeprefix(usual) if fields["color"].startswith(usual) else ""  # 红色, 红色的
            fields |= {"color": word + link, "colorname": word}
        return fields

    def say(self, line: Line, things: dict[int, dict[str, str]], **said: str) -> str:
        """A line with its slots filled, typed casually sometimes, or after a sentence about something else."""
        words = fill_slots(self.language, line["text"], things, said)
        return self.typed(words)

    def typed(self, words: str, keep: bool = False) -> str:
        """Words as people type them; ``keep`` leaves the letters as they are."""
        if self.rng.random() < 0.05:
            words = wrapped(self.rng, self.language, words)
        if keep or self.rng.random() >= TYPOS_SHARE:
            return words
        return casual_typing(self.rng, self.language, words)

    def riddle(self, name: str) -> str:
        """A description of a thing, of those for training or for validation; empty if there is none."""
        riddles = lexicon(self.language.code).get(name, ((), ()))[1]
        own = [riddle for riddle in riddles if is_for_validation(riddle) == self.validation]
        return self.rng.choice(own) if own else ""

    def name(self) -> str:
        return self.rng.choice(self.language.names)

    def color_for(self, name: str, line: Line, number: int) -> str:
        """Any colour where a line says it, else the usual one."""
        if names_color(line["text"], number):
            return self.rng.choice(sampling.COLOR_NAMES)
        return sampling.USUAL_COLORS[name]

    def things(self, line: Line) -> dict[int, tuple[str, str]]:
        """Different things for the numbers that a line has, with their colours."""
        numbers = sorted(numbers_in(line["text"]) | {1})
        names = self.rng.sample(self.language.names, len(numbers))
        return {n: (name, self.color_for(name, line, n)) for n, name in zip(numbers, names, strict=True)}


def background(person: Stranger, line: Line) -> str:
    """Some background where a line says one, else the plain one."""
    return person.rng.choice(sampling.BACKGROUND_NAMES[1:]) if "{bg}" in line["text"] else "plain"


@dataclass(frozen=True)
class Wish:
    """A request for one picture, and what it means."""

    words: str
    scene: Scene
    colored: tuple[bool, ...]
    """Of each thing of the scene, whether the words say its colour"""
    placed: bool = False
    """Whether they say where one thing stands to the other"""


def wish(person: Stranger) -> Wish:
    """One thing, several of a kind, or two in one picture, that training may show."""
    make = person.rng.choices((_one, _count, _two), (5, 2, 4))[0]
    for _ in range(10_000):
        made = make(person)
        if not is_held_out(made.scene):
            return made
    raise AssertionError("no allowed scene in 10,000 draws")


def draw(person: Stranger) -> Example:
    """A wish and its drawing."""
    made = wish(person)
    return Example("draw", [user(made.words), drawing_reply(person.rng, person.language, made.scene)])


def _one(person: Stranger) -> Wish:
    slot = "at1" if "slots.at" in person.language.forms else "t1"  # of the thing without its colour
    with_riddle = person.rng.random() < RIDDLE_SHARE
    line = person.line("draw_one", bare=slot) if with_riddle else person.line("draw_one")
    (name, color) = person.things(line)[1]
    ground = background(person, line)
    said = {"bg": place(person.rng, person.language, ground)}
    if with_riddle and (riddle := person.riddle(name)):
        said[slot] = riddle
    words = person.say(line, {1: person.fields(name, color)}, **said)
    x, y = (sampling.jitter(person.rng, 0.5, 0.06) for _ in range(2))
    scene = Scene((Thing(name, color, "large", x, y),), ground)
    return Wish(words, scene, (names_color(line["text"], 1),))


def _count(person: Stranger) -> Wish:
    line = person.line("count")
    (name, color) = person.things(line)[1]
    count = person.rng.randint(2, 4)
    ground = background(person, line)
    words = person.say(line, {1: person.fields(name, color, count)}, bg=place(person.rng, person.language, ground))
    scene = Scene(tuple(Thing(name, color, "medium", *spot) for spot in sampling.SPOTS[count]), ground)
    return Wish(words, scene, (names_color(line["text"], 1),) * count)


def pair_scene(kinds: dict[int, tuple[str, str]], relation: str, background: str = "plain") -> Scene:
    """Thing 1 standing so to thing 2."""
    spots = BESIDE[relation]
    return Scene(tuple(Thing(*kinds[n], "medium", *spot) for n, spot in zip((1, 2), spots, strict=True)), background)


def _two(person: Stranger) -> Wish:
    line = person.line("draw_two")
    kinds = person.things(line)
    ground = background(person, line)
    words = person.say(
        line, {n: person.fields(*kind) for n, kind in kinds.items()}, bg=place(person.rng, person.language, ground)
    )
    scene = pair_scene(kinds, line["relation"] or "left", ground)
    return Wish(words, scene, tuple(names_color(line["text"], n) for n in (1, 2)), placed=bool(line["relation"]))


def several(person: Stranger) -> Example:
    """Two to four pictures in one reply."""
    rng, language = person.rng, person.language
    line = person.line("several")
    count = line["k"]
    if line.get("colours"):
        scenes = in_colors(rng, language.names, count)
        fields = {n: language.fields(s.things[0].name, s.things[0].color) for n, s in enumerate(scenes, 1)}
    elif line.get("same"):
        scenes = _same(person, line, count)
        fields = {1: person.fields(scenes[0].things[0].name, scenes[0].things[0].color)}
    else:
        scenes = []
        while len(scenes) < count:
            name = person.name()
            scene = alone(name, person.color_for(name, line, len(scenes) + 1))
            if not is_held_out(scene) and all(scene.things[0].name != s.things[0].name for s in scenes):
                scenes.append(scene)
        fields = {n: person.fields(s.things[0].name, s.things[0].color) for n, s in enumerate(scenes, 1)}
    number = {"m": language.numbers[count][0], "md": str(count)}
    return Example("several", [user(person.say(line, fields, **number)), pictures_reply(language, scenes)])


def _same(person: Stranger, line: Line, count: int) -> list[Scene]:
    """One thing again and again, each time in another place."""
    while True:
        name = person.name()
        scene = alone(name, person.color_for(name, line, 1))
        if not is_held_out(scene):
            return [replace(scene, background=ground) for ground in person.rng.sample(sampling.BACKGROUND_NAMES, count)]


def story(person: Stranger) -> Example:
    """A story of as many pictures as the request says, about the things that it names."""
    rng, language = person.rng, person.language
    line = person.line("story")
    count = rng.choices((2, 3, 4, 5, 6), (2, 3, 4, 3, 2))[0]
    unsaid = {n for n in (1, 2) if not names_color(line["text"], n)}
    while True:
        told = tell(rng, language, count, bool(line.get("second")), person.validation, unsaid)
        grounds = [scene.background for scene in told.scenes if scene.background != "plain"]
        if grounds or "{bg}" not in line["text"]:
            break
    fields = {n: person.fields(*kind) for n, kind in told.kinds.items()}
    for n in (
        numbers_in(line["text"]) - fields.keys()
    ):  # of validation's few tales of a length none may have a second thing
        name = person.name()
        fields[n] = person.fields(name, sampling.allowed_color(rng, name))
    where = place(rng, language, grounds[0]) if grounds else ""
    words = person.say(line, fields, m=language.numbers[count][0], md=str(count), bg=where)
    return Example("story", [user(words), story_reply(rng, language, told)])


def sign(person: Stranger) -> Example:
    """Something with a word on it."""
    rng, language = person.rng, person.language
    line = person.line("sign")
    name = next(
        (thing for thing, marks in CARRIERS.items() if any(mark in line["text"].lower() for mark in marks)), "sign"
    )
    color = rng.choice(sampling.COLOR_NAMES) if names_color(line["text"], 1) else "white"
    word = random_word(rng, MAX_LETTERS[name])
    ground = background(person, line)
    scene = Scene((Thing(name, color, "large", 0.5, 0.5, word),), ground)
    words = person.typed(
        fill_slots(
            language,
            line["text"],
            {1: language.fields(name, color)},
            {"word": word, "bg": place(rng, language, ground)},
        ),
        keep=True,
    )
    return Example("sign", [user(words), assistant(plan_with_text(language, words, scene), image(scene))])


CARRIERS = {
    "banner": ("banner", "横幅", "条幅", "现수막", "현수막", "플래카드"),
    "t-shirt": ("t-shirt", "tshirt", "tee ", "shirt", "T恤", "t恤", "衣服", "티셔츠"),
}
"""Words by which a phrasing asks for something else than a sign"""


def small_talk(person: Stranger) -> Example:
    """An everyday message, and a short answer in kind without a picture."""
    line = person.line("talk")
    return Example(
        "small_talk",
        [user(person.typed(line["text"])), assistant(person.rng.choice(replies(person.language.code)[line["about"]]))],
    )
