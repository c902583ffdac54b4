"""Conversations that draw from shown pictures: two pictures combined, a control picture (edges, silhouette, sketch, depth), a
masked part filled in."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from . import sampling
from .held_out import relation
from .messages import Example, assistant, image, user
from .pen import CONTROLS
from .phrasing import background_phrase, casual_typing
from .scene import SIZES, Scene, Thing
from .words import Detail, caption, lower_first, noun_phrase, with_article, with_colon

TOGETHER = (
    "put the {a} of the first picture and the {b} of the second {where}", "the {a} and the {b} together {where}",
    "combine both pictures {where}", "both of them {where}", "draw the {a} and the {b} {where}", "put them together {where}",
    "one picture with both {where}", "take the {a} and the {b} and put them {where}", "merge the two {where}",
    "the {a} from the first and the {b} from the second {where}", "join the {a} and the {b} {where}",
    "all in one picture {where}",
)  # fmt: skip
PLACED = (
    "put the {a} {relation} the {b} {where}", "the {a} {relation} the {b} {where}", "draw the {a} {relation} the {b} {where}",
    "one picture: the {a} {relation} the {b} {where}", "combine them, the {a} {relation} the {b} {where}",
)  # fmt: skip


def separate_scenes(rng: random.Random, scene: Scene) -> list[Scene]:
    """Each thing of a pair on its own picture, somewhere."""
    alone = []
    for thing in scene.things:
        size = rng.choices(("medium", "large"), (1, 2))[0]
        place: dict[str, Any] = {"x": sampling.jitter(rng, 0.5, 0.05), "y": sampling.jitter(rng, 0.5, 0.05)}
        alone.append(Scene((replace(thing, size=size, **place),), sampling.background(rng)))
    return alone


def pair(rng: random.Random) -> Scene:
    """The scene that combines both pictures."""
    return sampling.allowed_scene(lambda: replace(sampling.pair(rng), height=128, width=128))


def compose(rng: random.Random) -> Example:
    scene = pair(rng)
    a, b = scene.things
    placed = relation(a, b) != "left of" or rng.random() < 0.3
    where = background_phrase(rng, scene.background) if scene.background != "plain" or rng.random() < 0.2 else ""
    form = rng.choice(PLACED if placed else TOGETHER)
    words = form.format(a=a.name, b=b.name, relation=relation(a, b), where=where).strip()
    plan = with_colon(f"The {a.name} and the {b.name}: {lower_first(caption(scene))}")
    pictures = [image(s) for s in separate_scenes(rng, scene)]
    return Example("compose", [user(*pictures, casual_typing(rng, words)), assistant(plan, image(scene))])


ALONG = (
    "{} like this", "{} along these lines", "colour this in: {}", "follow this sketch: {}", "{}, exactly here",
    "use this shape for {}", "draw {} from this", "{} in this place", "turn this into {}", "this should become {}",
    "fill this in as {}", "with this layout: {}", "make {} out of this", "here is the sketch of {}", "finish this: {}",
    "this is the outline of {}, draw it",
)  # fmt: skip


SAME_SHAPE = (
    "{}, in the same shape", "{} in the format of this picture", "{}, same format", "{} as a picture of this shape",
    "{}, like the picture i gave you in shape", "{} with the same proportions", "{}, same size as mine", "{} in this format",
    "{}, shaped like this picture", "{} on a canvas like this one", "same aspect ratio: {}", "{}, as wide and high as this",
)  # fmt: skip


def shaped(rng: random.Random) -> Example:
    """A drawing that takes of the picture shown its shape alone."""
    height, width = rng.choice(sampling.SHAPES)

    def made() -> Scene:
        while (scene := sampling.any_scene(rng)) and (scene.height, scene.width) != (height, width):
            continue
        return scene

    other, scene = made(), made()
    words = rng.choice(SAME_SHAPE).format(noun_phrase(scene, Detail(background=scene.background != "plain")))
    if rng.random() < 0.5:
        words = f"draw {words}" if not words.startswith("same") else words
    return Example(
        "shaped", [user(image(other), casual_typing(rng, words)), assistant(with_colon(caption(scene)), image(scene))]
    )


FILL = (
    "fill the grey part with {}", "fill in the missing part: {}", "put {} into the grey box", "{} in the grey area",
    "what is covered is {}, draw it", "complete this with {}", "inpaint {}", "fill the hole with {}",
    "replace the grey box by {}",
    "there should be {} where it is grey", "the masked part is {}", "finish the picture: {} is missing",
    "restore this, {} is hidden", "paint {} over the grey",
)  # fmt: skip


def mask_thing(rng: random.Random, scene: Scene) -> Scene:
    """One of its things, wholly covered by a grey box."""
    thing = rng.choice(scene.things)
    left, top, right, bottom = scene.box(thing)
    width, height, more = scene.width, scene.height, SIZES["small"] * 128 / 4
    ways = [rng.uniform(0, more) for _ in range(4)]
    hole = (left - ways[0], top - ways[1], right + ways[2], bottom + ways[3])
    left, top, right, bottom = (min(1.0, max(0.0, v / s)) for v, s in zip(hole, (width, height) * 2, strict=True))
    return replace(scene, hole=(left, top, right, bottom))


def fill(rng: random.Random) -> Example:
    """A picture with a masked part and what is to be there."""
    scene = sampling.any_scene(rng)
    shape = mask_thing(rng, scene)
    thing = masked_thing(shape)
    usual = thing.color == sampling.USUAL_COLORS[thing.name] and rng.random() < 0.6
    said = with_article(thing.name if usual else f"{thing.color} {thing.name}")
    plan = with_colon(f"{said[0].upper()}{said[1:]} in the grey part: {lower_first(caption(scene))}")
    return Example(
        "fill", [user(image(shape), casual_typing(rng, rng.choice(FILL).format(said))), assistant(plan, image(scene))]
    )


def masked_thing(scene: Scene) -> Thing:
    """The object under the mask: the one nearest to its centre."""
    assert scene.hole is not None
    left, top, right, bottom = scene.hole
    return min(scene.things, key=lambda t: abs(t.x - (left + right) / 2) + abs(t.y - (top + bottom) / 2))


def control(rng: random.Random) -> Example:
    """A picture from its edges, silhouette, a sketch or depths and what they are."""
    scene = sampling.any_scene(rng)
    shape = replace(scene, style=rng.choice(CONTROLS))
    words = rng.choice(ALONG).format(noun_phrase(scene, Detail(background=scene.background != "plain")))
    content = [image(shape), casual_typing(rng, words)]
    return Example(
        "control", [user(*content[:: rng.choice((1, 1, -1))]), assistant(with_colon(caption(scene)), image(scene))]
    )
