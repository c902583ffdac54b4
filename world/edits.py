"""Edits: an instruction and the scene after it. Whatever is not named stays where it was."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

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

KINDS = ("recolour", "replace", "background", "move", "add", "remove", "resize", "swap", "count", "style")


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


def make_edit(scene: Scene, kind: str, rng: random.Random, pronoun: bool = False) -> Edit:
    """One edit of this kind; ``pronoun`` says "it" where the scene holds one thing."""
    same = len({(t.name, t.color) for t in scene.things}) == 1
    many = same and len(scene.things) > 1
    target = rng.choice(scene.things)
    others = [t for t in scene.things if t is not target]
    the = "the " + (plural(target.name) if many else target.name)
    short = ("them", "these") if many else ("it", "that", "this", "it")
    it = rng.choice(short) if same and (pronoun or rng.random() < 0.25) else the
    said: dict[str, str] = {"it": it, "the": the, "name": target.name, "old": target.color}
    forms = INSTRUCTIONS.get(kind, ())

    if kind == "recolour":
        color = rng.choice([c for c in sampling.COLOR_NAMES if c != target.color])
        things = [replace(t, color=color) if many or t is target else t for t in scene.things]
        after = replace(scene, things=tuple(things))
        said["color"] = color
        if same and rng.random() < 0.35:
            forms = INSTRUCTIONS["recolour the only"]
        plan = f"{the} in {color}"
    elif kind == "replace":
        present = {t.name for t in scene.things}
        name = rng.choice([n for n in sampling.NAMES if n not in present])
        things = [replace(t, name=name) if many or t is target else t for t in scene.things]
        after = replace(scene, things=tuple(things))
        said["new"] = plural(name) if many else with_article(name)
        plan = f"{said['new']} instead of {the}"
    elif kind == "background":
        background = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != scene.background])
        after = replace(scene, background=background)
        said |= {
            "where": background_phrase(rng, background),
            "ground": background,
            "whole": it if same else "everything",
        }
        plan = BACKGROUND_PHRASES[background]
    elif kind == "move":
        sides = {"left": (0.26, None), "right": (0.74, None), "top": (None, 0.26), "bottom": (None, 0.74)}
        if scene.height > scene.width:
            del sides["left"], sides["right"]
        if scene.width > scene.height:
            del sides["top"], sides["bottom"]
        far = {
            s: (x, y)
            for s, (x, y) in sides.items()
            if abs((x or target.x) - target.x + (y or target.y) - target.y) > 0.15
        }
        side, (x, y) = rng.choice(sorted(far.items()))
        moved = replace(target, x=target.x if x is None else x, y=target.y if y is None else y)
        after = replace(scene, things=tuple(moved if t is target else t for t in scene.things))
        said |= {"side": side, "way": rng.choice(WAYS[side])}
        plan = f"{the} {SIDES[side]}"
    elif kind == "add":
        name = rng.choice([n for n in sampling.NAMES if n != target.name])
        color = sampling.USUAL_COLORS[name] if rng.random() < 0.4 else rng.choice(sampling.COLOR_NAMES)
        after = _add_beside(scene, target, Thing(name, color, "medium", 0.5, 0.5), rng)
        usual = color == sampling.USUAL_COLORS[name] and rng.random() < 0.7
        said["new"] = with_article(name if usual else f"{color} {name}")
        plan = f"{with_article(f'{color} {name}')} next to {the}"
    elif kind == "remove":
        after = replace(scene, things=tuple(others))
        said["other"] = f"the {others[0].name}"
        plan = f"without {the}"
    elif kind == "resize":
        sizes = list(SIZES)
        at = sizes.index(target.size)
        forms_of = [("bigger", s) for s in sizes[at + 1 :]] + [("smaller", s) for s in sizes[:at]]
        form, size = rng.choice(forms_of)
        forms = INSTRUCTIONS[form]
        after = replace(scene, things=(replace(target, size=size),))
        plan = f"{the} {form}"
    elif kind == "swap":
        (other,) = others
        places = {target: other, other: target}
        after = replace(scene, things=tuple(replace(t, x=places[t].x, y=places[t].y) for t in scene.things))
        said["other"] = f"the {other.name}"
        plan = "the other way round"
    elif kind == "style":
        style = rng.choice([s for s in STYLES if s != scene.style])
        after = replace(scene, style=style)
        forms = INSTRUCTIONS["flat"] if style == "flat" else INSTRUCTIONS["style"]
        said |= {"manner": rng.choice(STYLE_VARIANTS.get(style, ("",))), "whole": it if same else "everything"}
        plan = STYLE_PHRASES[style].strip() or "as usual"
    elif kind == "count":
        count = len(scene.things)
        form, number = rng.choice([f for f in (("more", count + 1), ("less", count - 1)) if 2 <= f[1] <= 4])
        forms = INSTRUCTIONS[form]
        spots = sampling.several(rng, number, (scene.height, scene.width)).things
        after = replace(scene, things=tuple(replace(target, x=spot.x, y=spot.y) for spot in spots))
        plan = f"one {form}"
    else:
        raise ValueError(f"no edit {kind!r}; there are {', '.join(KINDS)}")
    reply = f"Done: {noun_phrase(canonical_order(after), Detail(background=False))}."
    # the plainest words as often as all the others together
    words = rng.choice(forms[:6] if rng.random() < 0.4 else forms).format(**said)
    plan = with_colon(sentence(f"{plan}: {lower_first(caption(after))}"))
    return Edit(kind, words, scene, after, plan, reply)


def _add_beside(scene: Scene, target: Thing, new: Thing, rng: random.Random) -> Scene:
    """The new thing on the free side; a thing in the middle first steps aside."""
    along_x = scene.width > scene.height or (scene.width == scene.height and abs(target.x - 0.5) >= abs(target.y - 0.5))
    place = target.x if along_x else target.y
    if abs(place - 0.5) < 0.17:
        place = rng.choice((0.26, 0.74))
        target = replace(target, size="medium", x=place) if along_x else replace(target, size="medium", y=place)
    x, y = (1 - place, target.y) if along_x else (target.x, 1 - place)
    return replace(scene, things=(target, replace(new, x=x, y=y)))


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
    if kind in ("add", "move"):
        return len(scene.things) == 1 and (kind == "add" or scene.things[0].size != "large")
    if kind == "resize":
        return len(scene.things) == 1
    if kind == "count":
        return len(scene.things) > 1 and len(set(t.name for t in scene.things)) == 1
    return kind not in ("remove", "swap") or len({t.name for t in scene.things}) > 1
