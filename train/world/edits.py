"""Edits: an instruction and the scene after it. Whatever is not named stays where it was."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from . import sampling
from .held_out import is_held_out
from .scene import Scene, Thing
from .words import BACKGROUND_PHRASES, Detail, in_order, noun_phrase, plural, with_article

KINDS = ("recolour", "replace", "background", "move", "add", "remove")


@dataclass(frozen=True)
class Edit:
    kind: str
    instruction: str
    before: Scene
    after: Scene
    reply: str


def base_scene(rng: random.Random, kind: str) -> Scene:
    """A scene that the edit can be made on."""
    if kind == "remove":
        return sampling.pair(rng)
    if kind in ("add", "move"):
        height, width = sampling.shape(rng)
        name, color = rng.choice(sampling.NAMES), rng.choice(sampling.COLOR_NAMES)
        x, y = rng.choice((0.26, 0.74)), 0.5
        if height > width or (kind == "move" and rng.random() < 0.4 and height == width):
            x, y = y, x
        thing = Thing(name, color, "medium", sampling.jitter(rng, x, 0.03), sampling.jitter(rng, y, 0.03))
        return Scene((thing,), sampling.background(rng), height, width)
    return rng.choices((sampling.single, sampling.pair, sampling.counted), (5, 4, 1))[0](rng)


def make_edit(scene: Scene, kind: str, rng: random.Random, pronoun: bool = False) -> Edit:
    """One edit of this kind; ``pronoun`` says "it" where the scene holds one thing."""
    same = len({(t.name, t.color) for t in scene.things}) == 1
    many = same and len(scene.things) > 1
    target = rng.choice(scene.things)
    others = [t for t in scene.things if t is not target]
    the = "the " + (plural(target.name) if many else target.name)
    it = ("them" if many else "it") if same and (pronoun or rng.random() < 0.2) else the

    if kind == "recolour":
        color = rng.choice([c for c in sampling.COLOR_NAMES if c != target.color])
        things = [replace(t, color=color) if many or t is target else t for t in scene.things]
        after = replace(scene, things=tuple(things))
        words = (f"make {it} {color}", f"paint {it} {color}", f"change the colour of {it} to {color}",
                 f"now make {it} {color}", f"turn {it} {color}", f"I want {it} {color}")  # fmt: skip
    elif kind == "replace":
        present = {t.name for t in scene.things}
        name = rng.choice([n for n in sampling.NAMES if n not in present])
        things = [replace(t, name=name) if many or t is target else t for t in scene.things]
        after = replace(scene, things=tuple(things))
        new = plural(name) if many else with_article(name)
        words = (f"replace {it} with {new}", f"turn {it} into {new}", f"swap {it} for {new}", f"make {it} {new}")
    elif kind == "background":
        background = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != scene.background])
        after = replace(scene, background=background)
        where = BACKGROUND_PHRASES[background]
        whole = it if same else "everything"
        words = (f"put {whole} {where}", f"change the background to {background}", f"now {where}",
                 f"make the background {background}", f"the same {where}")  # fmt: skip
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
        words = (f"move {it} to the {side}", f"put {it} at the {side}", f"shift {it} to the {side}")
    elif kind == "add":
        name = rng.choice([n for n in sampling.NAMES if n != target.name])
        color = rng.choice(sampling.COLOR_NAMES)
        after = _beside(scene, target, Thing(name, color, "medium", 0.5, 0.5), rng)
        new = with_article(f"{color} {name}" if rng.random() < 0.6 else name)
        words = (f"put {new} next to {it}", f"add {new}", f"add {new} next to {it}", f"now also draw {new}")
    elif kind == "remove":
        after = replace(scene, things=tuple(others))
        words = (f"remove {the}", f"take away {the}", f"erase {the}", f"delete {the}", f"take {the} out")
    else:
        raise ValueError(f"no edit {kind!r}; there are {', '.join(KINDS)}")
    reply = f"Done: {noun_phrase(in_order(after), Detail(background=False))}."
    return Edit(kind, rng.choice(words), scene, after, reply)


def _beside(scene: Scene, target: Thing, new: Thing, rng: random.Random) -> Scene:
    """The new thing on the free side; a thing in the middle first steps aside."""
    along_x = scene.width > scene.height or (scene.width == scene.height and abs(target.x - 0.5) >= abs(target.y - 0.5))
    place = target.x if along_x else target.y
    if abs(place - 0.5) < 0.17:
        place = rng.choice((0.26, 0.74))
        target = replace(target, size="medium", **{"x" if along_x else "y": place})
    spot = {"x": 1 - place, "y": target.y} if along_x else {"x": target.x, "y": 1 - place}
    return replace(scene, things=(target, replace(new, **spot)))


def seen_edit(rng: random.Random, kind: str | None = None, before: Scene | None = None, pronoun: bool = False) -> Edit:
    """An edit whose both scenes training may see."""
    fixed = kind
    for _ in range(10_000):
        kind = fixed or rng.choice(KINDS)
        scene = before or base_scene(rng, kind)
        if is_held_out(scene) or not possible(scene, kind):
            assert before is None or not is_held_out(before)
            if before is not None and fixed is not None:
                raise ValueError(f"a scene that {kind!r} does not fit")
            continue
        edit = make_edit(scene, kind, rng, pronoun)
        if not is_held_out(edit.after):
            return edit
    raise AssertionError("no allowed edit in 10,000 draws")


def possible(scene: Scene, kind: str) -> bool:
    if kind in ("add", "move"):
        return len(scene.things) == 1 and (kind == "add" or scene.things[0].size != "large")
    return kind != "remove" or len({t.name for t in scene.things}) > 1
