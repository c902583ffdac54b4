"""A language of the world: words and templates read from one TOML file, and the captions that they make.

`languages/en.toml` shows what a language consists of. To add one, write such a file and name it in `languages/__init__.py`.
"""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .grammar import GRAMMARS, Grammar
from .held_out import relation
from .objects import OBJECTS, SIGNS
from .pen import COLORS, CONTROLS
from .scene import BACKGROUNDS, SIZES, Scene, Thing

SYNONYM_SHARE = 0.25


@dataclass(frozen=True)
class Detail:
    """Which attributes a phrase names."""

    color: bool = True
    size: bool = False
    """The size of a single object; of several, only sizes other than medium"""
    relation: bool = True
    background: bool = True


def mentions_size(thing: Thing, detail: Detail, alone: bool) -> bool:
    return detail.size and (alone or thing.size != "medium")


def canonical_order(scene: Scene) -> Scene:
    """The scene with two objects ordered from the left or from the top, so that a picture has one caption."""
    if len(scene.things) == 2 and relation(*scene.things) in ("right of", "below"):
        return replace(scene, things=scene.things[::-1])
    return scene


def groups(scene: Scene) -> list[tuple[Thing, ...]]:
    """The things of each kind and colour; of more than two, ordered from the left or, where they lie farther apart that way,
    from the top."""
    if len(scene.things) == 1:
        return [scene.things]
    kinds: dict[tuple[str, str], list[Thing]] = {}
    for thing in scene.things:
        kinds.setdefault((thing.name, thing.color), []).append(thing)
    found = [tuple(things) for things in kinds.values()]
    if len(found) == 1 or len(scene.things) == 2:
        return found
    axis = "x" if in_a_row(scene) else "y"
    return sorted(found, key=lambda g: _middle(g, axis))


def in_a_row(scene: Scene) -> bool:
    """Whether groups lie side by side rather than one below the other."""
    kinds = {(t.name, t.color) for t in scene.things}
    members = [[t for t in scene.things if (t.name, t.color) == kind] for kind in kinds]
    across, down = ([_middle(group, axis) for group in members] for axis in "xy")
    return max(across) - min(across) >= max(down) - min(down)


def _middle(things: tuple[Thing, ...] | list[Thing], axis: str) -> float:
    return sum(getattr(t, axis) for t in things) / len(things)


@dataclass(frozen=True, eq=False)
class Language:
    """The words and the templates of one language. Templates name their slots: "draw {x}"."""

    name: str
    code: str
    grammar: Grammar
    things: dict[str, tuple[str, ...]]
    """What each object is called, the usual name first; scenes are made of the objects that a language names"""
    colors: dict[str, tuple[str, ...]]
    """Colours as they stand before an object; the first is that of captions"""
    color_names: dict[str, tuple[str, ...]]
    """Colours by themselves"""
    sizes: dict[str, tuple[str, ...]]
    numbers: dict[int, tuple[str, ...]]
    grounds: dict[str, tuple[str, ...]]
    """Phrases of place for backgrounds"""
    ground_names: dict[str, tuple[str, ...]]
    """Backgrounds as answers to a question"""
    styles: dict[str, tuple[str, ...]]
    counters: dict[str, str]
    """Counting words of objects that do not take the usual one, ``counter``"""
    counter: str
    forms: dict[str, tuple[str, ...]]
    """Templates by section and purpose: "edits.recolour" """
    talk: tuple[tuple[tuple[str, ...], str], ...]
    """What people say when they want no picture, and the answer"""
    unknown: tuple[str, ...]
    """Things that cannot be drawn; the last ten are kept for evaluation"""
    tales: tuple[dict[str, Any], ...]
    """Stories beside those of ``phrasings/stories.jsonl``, in the same form"""
    pronouns: tuple[str, ...]
    plural_pronouns: tuple[str, ...]
    everything: str
    articles: tuple[str, ...]
    """Words that people leave out when they type carelessly"""
    typing: tuple[str, ...]
    """Ways of `casual` in which people type this language"""
    stop: str
    colon: str
    space: str
    """After a sentence within a line"""
    comma: str
    last_comma: str
    names: tuple[str, ...] = field(init=False)
    """Objects that the language has words for, in the world's order"""
    _named: dict[tuple[str, str, str, int], str] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(name for name in OBJECTS if name in self.things))

    def with_names(self, names: Sequence[str]) -> Language:
        """The language with words for these objects alone, and for signs: its scenes are made of them."""
        return replace(
            self, things={name: said for name, said in self.things.items() if name in names or name in SIGNS}
        )

    def fields(self, name: str, color: str = "", size: str = "", count: int = 1) -> dict[str, str]:
        """What a template can say of one object, or of ``count`` of it."""
        word = self.things[name][0]
        return {
            "name": word, "names": self.grammar.plural(word), "size": self.sizes[size][0] if size else "",
            "color": self.colors[color][0] if color else "", "colorname": self.color_names[color][0] if color else "",
            "number": self.numbers[count][0], "digit": str(count), "counter": self.counters.get(name, self.counter),
        }  # fmt: skip

    def fill(self, template: str, **slots: Any) -> str:
        """A template with its slots filled, by the rules of the grammar."""
        return self.finish(template.format(**slots))

    def finish(self, words: str) -> str:
        """A filled template without the spaces that empty slots leave, by the rules of the grammar."""
        words = re.sub(" +", " ", words) if "  " in words else words
        return self.grammar.finish(words.strip()) if "/" in words else words.strip()

    def put(self, form: str, **slots: Any) -> str:
        """The first template of a purpose, filled."""
        return self.fill(self.forms[form][0], **slots)

    def say(self, rng: random.Random, form: str, **slots: Any) -> str:
        """A random template of a purpose, filled."""
        return self.fill(rng.choice(self.forms[form]), **slots)

    def call(self, rng: random.Random, name: str) -> str:
        """An object's name, or sometimes a synonym."""
        usual, *others = self.things[name]
        return rng.choice(others) if others and rng.random() < SYNONYM_SHARE else usual

    def listed(self, parts: list[str] | tuple[str, ...]) -> str:
        """ "a cat, a dog and a bus"."""
        return self.comma.join(parts[:-1]) + self.last_comma + parts[-1] if len(parts) > 1 else parts[0]

    def named(self, name: str, color: str = "", size: str = "", count: int = 1) -> str:
        """ "a cat", "a small red cat", "three cats"; each is put together once."""
        key = (name, color, size, count)
        if key not in self._named:
            form = "caption.one" if count == 1 else "caption.several"
            self._named[key] = self.put(form, **self.fields(name, color, size, count))
        return self._named[key]

    def thing(self, thing: Thing, detail: Detail = Detail(), alone: bool = False) -> str:
        """ "a small red cat"."""
        size = thing.size if mentions_size(thing, detail, alone) else ""
        return self.named(thing.name, thing.color if detail.color else "", size)

    def group(self, things: tuple[Thing, ...], detail: Detail, alone: bool) -> str:
        """One thing, or several of a kind and colour."""
        first, alone = things[0], alone and len(things) == 1
        size = first.size if mentions_size(first, detail, alone) else ""
        return self.named(first.name, first.color if detail.color else "", size, len(things))

    def phrase(self, scene: Scene, detail: Detail) -> str:
        """ "a large red cat on grass", "three small red cats", "a red cat left of a blue dog"."""
        found = groups(scene)
        if len(found) == 1:
            words = self.group(found[0], detail, True)
        elif len(scene.things) == 2:
            a, b = (self.thing(t, detail) for t in scene.things)
            where = relation(*scene.things) if detail.relation else None
            words = self.put(f"pairs.{where}" if where else "phrases.together", a=a, b=b)
        else:
            words = self.listed([self.group(things, replace(detail, size=False), False) for things in found])
            if detail.relation:
                words = self.put("caption.row" if in_a_row(scene) else "caption.column", list=words)
        if detail.background:
            words = self.on_ground(words, scene.background)
        return words if scene.style in ("flat", *CONTROLS) else self.in_style(words, scene.style)

    def on_ground(self, words: str, background: str) -> str:
        return self.put("caption.ground", x=words, g=self.grounds[background][0])

    def in_style(self, words: str, style: str) -> str:
        return self.put("caption.style", x=words, s=self.styles[style][0])

    def sentence(self, phrase: str) -> str:
        return phrase[0].upper() + phrase[1:].rstrip(self.stop) + self.stop

    def with_colon(self, words: str) -> str:
        """A sentence before a picture: "A red cat." becomes "A red cat:" """
        return words[0].upper() + words[1:].rstrip(self.stop) + self.colon

    def caption(self, scene: Scene) -> str:
        """The full description; each scene has exactly one: the caption of a picture that is shown."""
        return self.sentence(self.phrase(canonical_order(scene), Detail(size=True)))

    def plan(self, scene: Scene, change: str = "") -> str:
        """What is said before a picture: what changes, if anything, and all that there will be."""
        full = self.phrase(canonical_order(scene), Detail(size=True))
        return self.with_colon(f"{change}{self.colon}{self.space}{full}" if change else full)

    def describes(self, words: str, scene: Scene) -> bool:
        """Whether a description is right, apart from sizes and counting words."""
        kinds = sorted({(t.name, t.color) for t in scene.things})
        captions = set()
        for sizes in itertools.product(SIZES, repeat=len(kinds)):
            size = dict(zip(kinds, sizes, strict=True))
            things = tuple(replace(t, size=size[t.name, t.color]) for t in scene.things)
            captions.add(self.without_counters(self.caption(replace(scene, things=things))))
        return self.without_counters(words.strip()) in captions

    def without_counters(self, words: str) -> str:
        counters = "|".join(sorted({self.counter, *self.counters.values()}))
        numbers = "|".join(number for number, *_ in self.numbers.values())
        return re.sub(rf"({numbers}) ?({counters})", r"\1", words) if counters else words


WORDS = ("things", "colors", "color_names", "sizes", "numbers", "grounds", "ground_names", "styles")
"""Sections of a language's file with words: each has a list, the usual word first"""
TEXTS = ("name", "code", "counter", "stop", "colon", "space", "comma", "last_comma", "everything")
LISTS = ("unknown", "pronouns", "plural_pronouns", "articles", "typing")


def load_language(path: Path, like: Language | None = None) -> Language:
    """The language of a TOML file. Raises ValueError for a grammar that there is not, for a thing that the world has not, for
    colours, sizes or backgrounds that are not all the world's, and for purposes that ``like`` has templates for and the file
    has not."""
    given = tomllib.loads(path.read_text(encoding="utf-8"))
    if given["grammar"] not in GRAMMARS:
        raise ValueError(f"{path.name}: no grammar {given['grammar']!r}; there are {', '.join(GRAMMARS)}")
    words = {section: {k: tuple(v) for k, v in given.pop(section).items()} for section in WORDS}
    for section, known in (("colors", COLORS), ("color_names", COLORS), ("sizes", SIZES), ("grounds", BACKGROUNDS)):
        if words[section].keys() != known.keys():
            raise ValueError(f"{path.name}: [{section}] must hold {', '.join(known)}, each once")
    if strange := sorted(words["things"].keys() - OBJECTS.keys() - SIGNS.keys()):
        raise ValueError(f"{path.name}: [things] has {', '.join(strange)}, which the world does not draw")
    counters = {name: counter for counter, names in given.pop("counters", {}).items() for name in names}
    forms = {
        f"{section}.{purpose}": (templates,) if isinstance(templates, str) else tuple(templates)
        for section, purposes in _sections(given).items()
        for purpose, templates in purposes.items()
    }
    for new, other in (("places", "sides"), ("ways", "sides")):  # where a language has no words of its own for them
        for side in ("left", "right", "top", "bottom"):
            forms.setdefault(f"{new}.{side}", forms[f"{other}.{side}"])
    if like is not None and (missing := sorted(like.forms.keys() - forms.keys() - OPTIONAL)):
        raise ValueError(f"{path.name} has no templates for {', '.join(missing)}")
    fields: dict[str, Any] = {name: given[name] for name in TEXTS}
    fields |= {name: tuple(given.get(name, ())) for name in LISTS}
    fields |= words | {"numbers": {int(n): said for n, said in words["numbers"].items()}}
    return Language(
        grammar=GRAMMARS[given["grammar"]],
        counters=counters,
        forms=forms,
        talk=tuple((tuple(pair["say"]), pair["reply"]) for pair in given["talk"]),
        tales=tuple(given.get("tales", ())),
        **fields,
    )


OPTIONAL = {"verbs.is", "verbs.does"} | {
    f"slots.{slot}" for slot in ("a", "A", "the", "The", "cts", "at", "thet", "ts", "d")
}
"""What English alone needs"""


def _sections(given: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Tables by their dotted names."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if isinstance(value, dict):
            found[prefix + name] = {k: v for k, v in value.items() if not isinstance(v, dict)}
            found |= _sections(value, f"{prefix}{name}.")
    return found
