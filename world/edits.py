"""Edits: a scene, an instruction and the scene after it. Whatever is not named stays where it was.

`KINDS` has a row for each kind: scenes that it can be made on and how a scene changes. What is said of it is in the languages'
files (`edits.*` and `plans.*`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from . import sampling
from .held_out import is_held_out
from .language import Detail, Language, canonical_order
from .languages import ENGLISH
from .pen import STYLES
from .scene import SIZES, Scene, Thing

Names = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """What an edit is about: an object, or all of a scene that holds several of one kind."""

    scene: Scene
    thing: Thing
    others: tuple[Thing, ...]
    alone: bool
    """Whether the scene holds nothing else"""
    many: bool
    """Whether it is several objects"""
    names: Names
    """Of objects that may come in"""

    def changed(self, **changes: Any) -> Scene:
        """The scene with other fields of the object, or of all of them."""
        things = (replace(t, **changes) if self.many or t is self.thing else t for t in self.scene.things)
        return replace(self.scene, things=tuple(things))


@dataclass(frozen=True)
class Change:
    """What an edit makes of a scene, and what has to be said of it."""

    after: Scene
    form: str
    """Purpose of its templates"""
    color: str = ""
    new: Thing | None = None
    """What comes in"""
    named_with_color: bool = False
    """Whether an instruction has to name the colour of what comes in"""
    ground: str = ""
    side: str = ""
    style: str = ""
    only: bool = False
    """Whether the instruction does not name the thing: "in blue" """


@dataclass(frozen=True)
class Edit:
    """A scene before and after a change, and the words around it."""

    kind: str
    instruction: str
    before: Scene
    after: Scene
    plan: str
    """What nano says before it draws: what changes, and what there will be. "The cat in blue: a blue cat on grass:" """
    reply: str
    """What may follow the picture"""


def _recolour(rng: random.Random, target: Target) -> Change:
    color = rng.choice([c for c in sampling.COLOR_NAMES if c != target.thing.color])
    short = target.alone and rng.random() < 0.35
    return Change(target.changed(color=color), "recolour", color=color, only=short)


def _replace(rng: random.Random, target: Target) -> Change:
    present = {t.name for t in target.scene.things}
    name = rng.choice([n for n in target.names if n not in present])
    return Change(target.changed(name=name), "replace", new=replace(target.thing, name=name))


def _background(rng: random.Random, target: Target) -> Change:
    ground = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != target.scene.background])
    return Change(replace(target.scene, background=ground), "background", ground=ground)


def _move(rng: random.Random, target: Target) -> Change:
    thing, scene = target.thing, target.scene
    sides: dict[str, tuple[float, float]] = {}
    if scene.height <= scene.width:
        sides |= {"left": (0.26, thing.y), "right": (0.74, thing.y)}
    if scene.width <= scene.height:
        sides |= {"top": (thing.x, 0.26), "bottom": (thing.x, 0.74)}
    far = [(side, x, y) for side, (x, y) in sorted(sides.items()) if abs(x - thing.x + y - thing.y) > 0.15]
    side, x, y = rng.choice(far)
    return Change(scene.with_changed(thing, x=x, y=y), "move", side=side)


def _add(rng: random.Random, target: Target) -> Change:
    name = rng.choice([n for n in target.names if n != target.thing.name])
    color = sampling.USUAL_COLORS[name] if rng.random() < 0.4 else rng.choice(sampling.COLOR_NAMES)
    new = Thing(name, color, "medium", 0.5, 0.5)
    after = add_beside(target.scene, target.thing, new, rng)
    usual = color == sampling.USUAL_COLORS[name] and rng.random() < 0.7
    return Change(after, "add", new=new, named_with_color=not usual)


def _remove(rng: random.Random, target: Target) -> Change:
    return Change(replace(target.scene, things=target.others), "remove")


def _resize(rng: random.Random, target: Target) -> Change:
    sizes = list(SIZES)
    at = sizes.index(target.thing.size)
    form, size = rng.choice([("bigger", s) for s in sizes[at + 1 :]] + [("smaller", s) for s in sizes[:at]])
    return Change(target.changed(size=size), form)


def _swap(rng: random.Random, target: Target) -> Change:
    a, b = target.scene.things
    return Change(replace(target.scene, things=(replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y))), "swap")


def _count(rng: random.Random, target: Target) -> Change:
    count, scene = len(target.scene.things), target.scene
    form, number = rng.choice([f for f in (("more", count + 1), ("less", count - 1)) if 2 <= f[1] <= 4])
    spots = sampling.several(rng, number, (scene.height, scene.width), target.names).things
    things = tuple(replace(target.thing, x=spot.x, y=spot.y) for spot in spots)
    return Change(replace(scene, things=things), form)


def _style(rng: random.Random, target: Target) -> Change:
    style = rng.choice([s for s in STYLES if s != target.scene.style])
    return Change(replace(target.scene, style=style), "flat" if style == "flat" else "style", style=style)


def _any_base(rng: random.Random, names: Names) -> Scene:
    make = rng.choices((sampling.single, sampling.pair, sampling.several), (5, 4, 1))[0]
    return make(rng, names=names)


def _one_aside(rng: random.Random, names: Names, movable: bool = False) -> Scene:
    """One thing on one side, with room for another."""
    height, width = sampling.shape(rng)
    name, color = rng.choice(names), rng.choice(sampling.COLOR_NAMES)
    x, y = rng.choice((0.26, 0.74)), 0.5
    if height > width or (movable and rng.random() < 0.4 and height == width):
        x, y = y, x
    thing = Thing(name, color, "medium", sampling.jitter(rng, x, 0.03), sampling.jitter(rng, y, 0.03))
    return Scene((thing,), sampling.background(rng), height, width)


def _movable(rng: random.Random, names: Names) -> Scene:
    return _one_aside(rng, names, movable=True)


def _single(rng: random.Random, names: Names) -> Scene:
    return sampling.single(rng, names)


def _pair(rng: random.Random, names: Names) -> Scene:
    return sampling.pair(rng, names=names)


def _several(rng: random.Random, names: Names) -> Scene:
    return sampling.several(rng, names=names)


def _has_no_words(scene: Scene) -> bool:
    return all(not thing.words for thing in scene.things)


def _is_single(scene: Scene) -> bool:
    return len(scene.things) == 1 and _has_no_words(scene)


def _is_movable(scene: Scene) -> bool:
    return _is_single(scene) and scene.things[0].size != "large"


def _is_pair(scene: Scene) -> bool:
    return len(scene.things) == 2 and len({t.name for t in scene.things}) == 2


def _is_several(scene: Scene) -> bool:
    return 2 <= len(scene.things) <= 4 and len({(t.name, t.color) for t in scene.things}) == 1


def _any_scene(scene: Scene) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    base: Callable[[random.Random, Names], Scene]
    """Makes a scene that the edit can be made on"""
    fits: Callable[[Scene], bool]
    """Whether it can be made on a scene"""
    change: Callable[[random.Random, Target], Change]


KINDS: dict[str, Kind] = {
    "recolour": Kind(_any_base, _any_scene, _recolour),
    "replace": Kind(_any_base, _has_no_words, _replace),
    "background": Kind(_any_base, _any_scene, _background),
    "move": Kind(_movable, _is_movable, _move),
    "add": Kind(_one_aside, _is_single, _add),
    "remove": Kind(_pair, _is_pair, _remove),
    "resize": Kind(_single, _is_single, _resize),
    "swap": Kind(_pair, _is_pair, _swap),
    "count": Kind(_several, _is_several, _count),
    "style": Kind(_any_base, _any_scene, _style),
}


def make_edit(scene: Scene, kind: str, rng: random.Random, pronoun: bool = False, language: Language = ENGLISH) -> Edit:
    """One edit of this kind; ``pronoun`` says "it" where the scene holds one thing. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"no edit {kind!r}; there are {', '.join(KINDS)}")
    thing = rng.choice(scene.things)
    target = target_of(scene, thing, language.names)
    short = language.plural_pronouns if target.many else language.pronouns
    it = rng.choice(short) if target.alone and (pronoun or rng.random() < 0.25) else ""
    change = KINDS[kind].change(rng, target)
    said = edit_slots(rng, language, target, change, it)
    forms = language.forms[f"edits.{change.form}{'_only' if change.only else ''}"]
    # the plainest words as often as all the others together
    words = language.fill(rng.choice(forms[:6] if rng.random() < 0.4 else forms), **said)
    return told_edit(language, kind, words, target, change)


def target_of(scene: Scene, thing: Thing, names: Names) -> Target:
    """What an edit of one of a scene's things is about."""
    alone = len({(t.name, t.color) for t in scene.things}) == 1
    others = tuple(t for t in scene.things if t is not thing)
    return Target(scene, thing, others, alone, alone and len(scene.things) > 1, names)


def told_edit(language: Language, kind: str, instruction: str, target: Target, change: Change) -> Edit:
    """An edit with the words of its reply."""
    after = canonical_order(change.after)
    plan = language.plan(after, language.put(f"plans.{change.form}", **plan_slots(language, target, change)))
    reply = language.put("replies.done", x=language.phrase(after, Detail(background=False)))
    return Edit(kind, instruction, target.scene, change.after, plan, reply)


def the(language: Language, name: str, many: bool = False) -> str:
    """ "the cat", "the cats"."""
    return language.put("caption.those" if many else "caption.the", name=name, names=language.grammar.plural(name))


def edit_slots(rng: random.Random, language: Language, target: Target, change: Change, it: str) -> dict[str, str]:
    """What the templates of an instruction can name, in the varied words of a request."""
    name = language.call(rng, target.thing.name)
    said = {"it": it or the(language, name, target.many), "the": the(language, name, target.many), "name": name,
            "old": language.color_names[target.thing.color][0],
            "other": the(language, language.call(rng, target.others[0].name)) if target.others else ""}  # fmt: skip
    said["whole"] = said["it"] if target.alone else language.everything
    if change.color:
        said["color"] = language.color_names[change.color][0]
    if change.new and change.form == "replace":
        said["new"] = _newcomer(language, change.new.name, target.many)
    elif change.new:
        said["new"] = language.thing(change.new) if change.named_with_color else language.named(change.new.name)
    if change.ground:
        phrases = language.grounds[change.ground]
        said["where"] = rng.choice(phrases) if rng.random() < 0.6 else phrases[0]
        said["ground"] = language.ground_names[change.ground][0]
    if change.side:
        said["side"] = language.forms[f"sides.{change.side}"][0]
        said["way"] = rng.choice(language.forms[f"ways.{change.side}"])
    if change.style:
        said["manner"] = rng.choice(language.styles[change.style])
    return said


def plan_slots(language: Language, target: Target, change: Change) -> dict[str, str]:
    """What the template of a plan can name, in the usual words."""
    name = language.things[target.thing.name][0]
    said = language.fields(target.thing.name, count=len(change.after.things)) | {
        "the": the(language, name, target.many)
    }
    if change.color:
        said["color"] = language.color_names[change.color][0]
    if change.new and change.form == "replace":
        said["new"] = _newcomer(language, change.new.name, target.many)
    elif change.new:
        said["new"] = language.thing(change.new)
    if change.ground:
        said["where"] = language.grounds[change.ground][0]
    if change.side:
        said |= {key: language.forms[f"{key}s.{change.side}"][0] for key in ("side", "place")}
    if change.style:
        said["manner"] = language.styles[change.style][0]
    return said


def _newcomer(language: Language, name: str, many: bool) -> str:
    return language.put("caption.many", **language.fields(name)) if many else language.named(name)


def add_beside(scene: Scene, target: Thing, new: Thing, rng: random.Random) -> Scene:
    """The new thing on the free side; a thing in the middle first steps aside."""
    along_x = scene.width > scene.height or (scene.width == scene.height and abs(target.x - 0.5) >= abs(target.y - 0.5))
    place = target.x if along_x else target.y
    if abs(place - 0.5) < 0.17:
        place = rng.choice((0.26, 0.74))
        target = replace(target, size="medium", x=place) if along_x else replace(target, size="medium", y=place)
    x, y = (1 - place, target.y) if along_x else (target.x, 1 - place)
    return replace(scene, things=(target, replace(new, x=x, y=y)))


def side_moved(old: Thing, new: Thing) -> str:
    """The side that a thing went to."""
    if abs(new.x - old.x) > abs(new.y - old.y):
        return "left" if new.x < old.x else "right"
    return "top" if new.y < old.y else "bottom"


def seen_edit(
    rng: random.Random,
    kind: str | None = None,
    before: Scene | None = None,
    pronoun: bool = False,
    kinds: tuple[str, ...] = tuple(KINDS),
    language: Language = ENGLISH,
) -> Edit:
    """An edit whose both scenes training may see, of one kind or of any of ``kinds``: of a given scene one kind may have
    none, as where two that change places would stand as GenEval asks."""
    fixed = kind
    for _ in range(10_000):
        kind = fixed or rng.choice(kinds)
        scene = before or KINDS[kind].base(rng, language.names)
        if is_held_out(scene) or not KINDS[kind].fits(scene):
            assert before is None or not is_held_out(before)
            if before is not None and fixed is not None:
                raise ValueError(f"a scene that {kind!r} does not fit")
            continue
        edit = make_edit(scene, kind, rng, pronoun, language)
        if not is_held_out(edit.after):
            return edit
    raise AssertionError("no allowed edit in 10,000 draws")
