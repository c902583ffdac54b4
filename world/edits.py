"""Edits: an instruction and the scene after it. Whatever is not named stays where it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import sampling
from .held_out import is_held_out
from .pen import STYLES
from .phrasing import STYLE_VARIANTS, background_phrase
from .scene import SIZES, Scene, Thing
from .words import (
    BACKGROUND_PHRASES,
    STYLE_PHRASES,
    Detail,
    canonical_order,
    caption,
    lower_first,
    noun_phrase,
    plural,
    sentence,
    with_article,
    with_colon,
)


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


def base_scene(rng: random.Random, kind: str) -> Scene:
    """A scene that the edit can be made on."""
    if kind in ("remove", "swap"):
        return sampling.pair(rng)
    if kind == "count":
        return sampling.several(rng)
    if kind == "resize":
        return sampling.single(rng)
    if kind in ("add", "move"):
        height, width = sampling.shape(rng)
        name, color = rng.choice(sampling.NAMES), rng.choice(sampling.COLOR_NAMES)
        x, y = rng.choice((0.26, 0.74)), 0.5
        if height > width or (kind == "move" and rng.random() < 0.4 and height == width):
            x, y = y, x
        thing = Thing(name, color, "medium", sampling.jitter(rng, x, 0.03), sampling.jitter(rng, y, 0.03))
        return Scene((thing,), sampling.background(rng), height, width)
    return rng.choices((sampling.single, sampling.pair, sampling.several), (5, 4, 1))[0](rng)


INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "recolour": (
        "make {it} {color}", "paint {it} {color}", "change the colour of {it} to {color}", "now make {it} {color}",
        "turn {it} {color}", "i want {it} {color}", "can you make {it} {color}", "{it} should be {color}",
        "color {it} {color}", "colour {it} in {color}", "change {it} to {color}", "give {it} a {color} colour",
        "could {it} be {color}", "make {it} {color} instead of {old}", "{it} in {color} please", "repaint {it} in {color}",
        "recolour {it} {color}", "i want {it} in {color}", "i would like {it} {color}", "let {it} be {color}",
        "dye {it} {color}", "{it} {color}", "not {old}, make {it} {color}", "{color} for {it}",
        "set the color of {it} to {color}",
        "i prefer {it} in {color}", "please {color} instead of {old}", "would you turn {it} {color}",
    ),
    "recolour the only": (
        "in {color}", "the same in {color}", "{color} please", "{color} instead", "try {color}", "{color}", "actually {color}",
        "what about {color}", "not {old} but {color}", "now {color}", "can i have that in {color}", "again but {color}",
        "change the color to {color}", "use {color}", "i like {color} better", "{color} is better", "a {color} one",
        "rather {color}", "colour: {color}", "{color} this time", "the color should be {color}", "how would {color} look",
    ),
    "replace": (
        "replace {it} with {new}", "turn {it} into {new}", "swap {it} for {new}", "make {it} {new}", "{new} instead of {it}",
        "change {it} into {new}", "put {new} in place of {it}", "i want {new} instead of {it}", "use {new} instead of {it}",
        "substitute {new} for {it}", "trade {it} for {new}", "let {it} become {new}", "{it} should be {new}",
        "can you change {it} to {new}", "not {it} but {new}", "draw {new} instead of {it}", "switch {it} with {new}",
        "i would rather have {new} than {it}", "{new} rather than {it}", "put {new} where {it} is",
    ),
    "background": (
        "put {whole} {where}", "change the background to {ground}", "now {where}", "make the background {ground}",
        "the same {where}", "{where}", "{where} please", "set {whole} {where}", "place {whole} {where}", "i want {whole} {where}",
        "use {ground} as the background", "background: {ground}", "can {whole} be {where}", "another background: {ground}",
        "the background should be {ground}", "let {whole} be {where}", "change the scene to {ground}", "show {whole} {where}",
        "how does {whole} look {where}", "move {whole} to a place {where}", "{ground} background", "{ground} behind {whole}",
        "a {ground} background please", "same picture but {where}",
    ),
    "move": (
        "move {it} to the {side}", "put {it} at the {side}", "shift {it} to the {side}", "put {it} on the {side}",
        "move {it} {way}", "{it} should be at the {side}", "push {it} to the {side}", "{it} to the {side}",
        "i want {it} at the {side}",
        "can {it} be on the {side}", "place {it} at the {side}", "slide {it} {way}", "bring {it} to the {side}",
        "move {it} over to the {side}", "a bit more to the {side}", "let {it} go {way}", "{it} further {way}",
    ),
    "add": (
        "put {new} next to {it}", "add {new}", "add {new} next to {it}", "now also draw {new}", "also draw {new}", "and {new}",
        "{new} too", "i also want {new}", "can you add {new}", "place {new} beside {it}", "add {new} to the picture",
        "plus {new}", "one more thing: {new}", "with {new} next to {it}", "put {new} in the picture", "{new} next to {it}",
        "let {new} stand beside {it}", "draw {new} beside {it}", "i need {new} there too", "{it} needs {new} beside it",
        "and now {new} next to {it}", "insert {new}", "give me {new} in there too", "together with {new}",
    ),
    "remove": (
        "remove {the}", "take away {the}", "erase {the}", "delete {the}", "take {the} out", "without {the}", "no {name}",
        "drop {the}", "i don't want {the}", "leave out {the}", "lose {the}", "{the} should disappear", "make {the} vanish",
        "only {other}", "keep just {other}", "cut {the}", "hide {the}", "the same without {the}", "{the} must leave",
        "can you remove {the}", "leave only {other}", "just {other} please", "throw {the} out", "i only want {other}",
        "{the} is not needed", "kick out {the}", "wipe {the} away", "please no {name}",
    ),
    "bigger": (
        "make {it} bigger", "make {it} larger", "bigger", "larger please", "{it} should be bigger", "i want {it} bigger",
        "a bigger {name}", "enlarge {it}", "{it} is too small", "can {it} be larger", "let {it} grow", "scale {it} up",
        "a larger {name} please", "draw {it} bigger", "grow {it}", "increase the size of {it}",
    ),
    "smaller": (
        "make {it} smaller", "smaller", "smaller please", "{it} should be smaller", "i want {it} smaller", "a smaller {name}",
        "shrink {it}", "{it} is too big", "{it} is too large", "can {it} be smaller", "let {it} shrink", "scale {it} down",
        "a smaller {name} please", "draw {it} smaller", "decrease the size of {it}", "not so big",
    ),
    "swap": (
        "the other way round", "swap them", "swap the two", "let them change places", "the same but the other way round",
        "exchange {the} and {other}", "swap {the} with {other}", "switch their places", "turn it around", "reverse the order",
        "change the sides", "{the} and {other} should change places", "put each where the other is", "vice versa",
        "can they swap places", "other way around please",
    ),
    "style": (
        "draw {whole} {manner}", "{manner}", "{manner} please", "make {whole} {manner}", "the same {manner}", "now {manner}",
        "i want {whole} {manner}", "change the style: {manner}", "can you do {whole} {manner}", "again {manner}",
        "show {whole} {manner}", "how does {whole} look {manner}", "redraw {whole} {manner}",
    ),
    "flat": (
        "in the usual style", "back to the normal style", "draw {whole} as usual", "normal please", "in plain colours",
        "the usual way", "as you normally draw", "the ordinary style please", "in full colours",
    ),
    "more": (
        "one more", "one more {name}", "add one more", "another {name}", "and another one", "one more of them", "i want one more",
        "add another {name}", "one extra {name}", "draw one more {name}", "can i have one more", "increase the number by one",
    ),
    "less": (
        "one less", "one {name} less", "take one away", "remove one", "remove one {name}", "one fewer", "there is one too many",
        "one {name} too many", "without one of them", "delete one of {the}", "take away one {name}", "decrease the number by one",
    ),
}  # fmt: skip
WAYS = {"left": ("left", "to the left"), "right": ("right", "to the right"), "top": ("up", "upwards", "higher"),
        "bottom": ("down", "downwards", "lower")}  # fmt: skip
SIDES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


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
    the: str
    """Its name, as "the cat" """

    def changed(self, **changes: Any) -> Scene:
        """The scene with other fields of the object, or of all of them."""
        things = (replace(t, **changes) if self.many or t is self.thing else t for t in self.scene.things)
        return replace(self.scene, things=tuple(things))


@dataclass(frozen=True)
class Change:
    """What an edit makes of a scene: the scene after it, the plan's first words, and what its instructions name."""

    after: Scene
    plan: str
    said: dict[str, str] = field(default_factory=dict)
    form: str | None = None
    """The key of `INSTRUCTIONS` where that is not the edit's kind"""


def _recolour(rng: random.Random, target: Target) -> Change:
    color = rng.choice([c for c in sampling.COLOR_NAMES if c != target.thing.color])
    form = "recolour the only" if target.alone and rng.random() < 0.35 else None
    return Change(target.changed(color=color), f"{target.the} in {color}", {"color": color}, form)


def _replace(rng: random.Random, target: Target) -> Change:
    present = {t.name for t in target.scene.things}
    name = rng.choice([n for n in sampling.NAMES if n not in present])
    new = plural(name) if target.many else with_article(name)
    return Change(target.changed(name=name), f"{new} instead of {target.the}", {"new": new})


def _background(rng: random.Random, target: Target) -> Change:
    ground = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != target.scene.background])
    said = {"where": background_phrase(rng, ground), "ground": ground}
    return Change(replace(target.scene, background=ground), BACKGROUND_PHRASES[ground], said)


def _move(rng: random.Random, target: Target) -> Change:
    thing, scene = target.thing, target.scene
    sides: dict[str, tuple[float, float]] = {}
    if scene.height <= scene.width:
        sides |= {"left": (0.26, thing.y), "right": (0.74, thing.y)}
    if scene.width <= scene.height:
        sides |= {"top": (thing.x, 0.26), "bottom": (thing.x, 0.74)}
    far = [(side, x, y) for side, (x, y) in sorted(sides.items()) if abs(x - thing.x + y - thing.y) > 0.15]
    side, x, y = rng.choice(far)
    said = {"side": side, "way": rng.choice(WAYS[side])}
    return Change(scene.with_changed(thing, x=x, y=y), f"{target.the} {SIDES[side]}", said)


def _add(rng: random.Random, target: Target) -> Change:
    name = rng.choice([n for n in sampling.NAMES if n != target.thing.name])
    color = sampling.USUAL_COLORS[name] if rng.random() < 0.4 else rng.choice(sampling.COLOR_NAMES)
    after = _add_beside(target.scene, target.thing, Thing(name, color, "medium", 0.5, 0.5), rng)
    usual = color == sampling.USUAL_COLORS[name] and rng.random() < 0.7
    new = with_article(f"{color} {name}")
    return Change(after, f"{new} next to {target.the}", {"new": with_article(name) if usual else new})


def _remove(rng: random.Random, target: Target) -> Change:
    return Change(replace(target.scene, things=target.others), f"without {target.the}")


def _resize(rng: random.Random, target: Target) -> Change:
    sizes = list(SIZES)
    at = sizes.index(target.thing.size)
    form, size = rng.choice([("bigger", s) for s in sizes[at + 1 :]] + [("smaller", s) for s in sizes[:at]])
    return Change(target.changed(size=size), f"{target.the} {form}", form=form)


def _swap(rng: random.Random, target: Target) -> Change:
    a, b = target.scene.things
    after = replace(target.scene, things=(replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y)))
    return Change(after, "the other way round")


def _style(rng: random.Random, target: Target) -> Change:
    style = rng.choice([s for s in STYLES if s != target.scene.style])
    said = {"manner": rng.choice(STYLE_VARIANTS.get(style, ("",)))}
    plan = STYLE_PHRASES[style].strip() or "as usual"
    return Change(replace(target.scene, style=style), plan, said, "flat" if style == "flat" else "style")


def _count(rng: random.Random, target: Target) -> Change:
    count, scene = len(target.scene.things), target.scene
    form, number = rng.choice([f for f in (("more", count + 1), ("less", count - 1)) if 2 <= f[1] <= 4])
    spots = sampling.several(rng, number, (scene.height, scene.width)).things
    things = tuple(replace(target.thing, x=spot.x, y=spot.y) for spot in spots)
    return Change(replace(scene, things=things), f"one {form}", form=form)


CHANGES: dict[str, Callable[[random.Random, Target], Change]] = {
    "recolour": _recolour,
    "replace": _replace,
    "background": _background,
    "move": _move,
    "add": _add,
    "remove": _remove,
    "resize": _resize,
    "swap": _swap,
    "count": _count,
    "style": _style,
}
KINDS = tuple(CHANGES)


def make_edit(scene: Scene, kind: str, rng: random.Random, pronoun: bool = False) -> Edit:
    """One edit of this kind; ``pronoun`` says "it" where the scene holds one thing."""
    if kind not in CHANGES:
        raise ValueError(f"no edit {kind!r}; there are {', '.join(KINDS)}")
    alone = len({(t.name, t.color) for t in scene.things}) == 1
    many = alone and len(scene.things) > 1
    thing = rng.choice(scene.things)
    others = tuple(t for t in scene.things if t is not thing)
    the = "the " + (plural(thing.name) if many else thing.name)
    short = ("them", "these") if many else ("it", "that", "this", "it")
    it = rng.choice(short) if alone and (pronoun or rng.random() < 0.25) else the
    change = CHANGES[kind](rng, Target(scene, thing, others, alone, many, the))
    said = {"it": it, "the": the, "name": thing.name, "old": thing.color, "whole": it if alone else "everything"}
    said["other"] = f"the {others[0].name}" if others else ""
    forms = INSTRUCTIONS[change.form or kind]
    # the plainest words as often as all the others together
    words = rng.choice(forms[:6] if rng.random() < 0.4 else forms).format(**said, **change.said)
    plan = with_colon(sentence(f"{change.plan}: {lower_first(caption(change.after))}"))
    reply = f"Done: {noun_phrase(canonical_order(change.after), Detail(background=False))}."
    return Edit(kind, words, scene, change.after, plan, reply)


def _add_beside(scene: Scene, target: Thing, new: Thing, rng: random.Random) -> Scene:
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
    kinds: tuple[str, ...] = KINDS,
) -> Edit:
    """An edit whose both scenes training may see, of one kind or of any of ``kinds``: of a given scene one kind may have
    none, as where two that change places would stand as GenEval asks."""
    fixed = kind
    for _ in range(10_000):
        kind = fixed or rng.choice(kinds)
        scene = before or base_scene(rng, kind)
        if is_held_out(scene) or not is_possible(scene, kind):
            assert before is None or not is_held_out(before)
            if before is not None and fixed is not None:
                raise ValueError(f"a scene that {kind!r} does not fit")
            continue
        edit = make_edit(scene, kind, rng, pronoun)
        if not is_held_out(edit.after):
            return edit
    raise AssertionError("no allowed edit in 10,000 draws")


def is_possible(scene: Scene, kind: str) -> bool:
    alone, names = len(scene.things) == 1, {thing.name for thing in scene.things}
    if kind in ("add", "resize"):
        return alone
    if kind == "move":
        return alone and scene.things[0].size != "large"
    if kind == "count":
        return not alone and len(names) == 1
    return kind not in ("remove", "swap") or len(names) > 1
