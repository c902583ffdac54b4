"""Stories in three to six pictures: one character throughout, and in every picture something else happens."""

from __future__ import annotations

import random
from dataclasses import replace

from . import sampling
from .edits import SIDES, Edit, is_possible, seen_edit, side_moved
from .held_out import is_held_out
from .messages import Example, assistant, image, text, user
from .phrasing import casual_typing
from .scene import Scene, Thing
from .words import BACKGROUND_PHRASES, NUMBERS, caption, lower_first, with_article, with_colon

LENGTHS = {**NUMBERS, 5: "five", 6: "six"}
ASKS = (
    "tell me a story about {}", "a story about {}", "tell a story of {}", "can you tell a story with {}?",
    "make up a story about {}", "I want a story about {}", "a picture story about {}", "draw a story about {}",
    "write a short story with {}",
    "please tell me a tale of {}", "once upon a time there was {}", "a bedtime story about {}",
)  # fmt: skip
FREE = (
    "tell me a story", "a story please", "can you tell a story?", "I want to hear a story", "story time", "draw me a story",
)  # fmt: skip
LONG = ("{} in {} pictures", "{}, {} pictures", "{} with {} pictures", "{} in {} parts")
THE_END = ("The end.", "That is all.", "And that was the story.")
HAPPENS = {
    "background": ("Then {it} went away, {where}", "Later, {where}", "The next day {it} was {where}"),
    "add": ("{It} met {new}", "Then {new} came", "{It} saw {new}"),
    "remove": ("{The} went home", "{The} left", "Then {the} was gone"),
    "move": ("{It} walked over, {side}", "{It} went and stood {side}"),
}
KINDS = tuple(HAPPENS)


def story(rng: random.Random) -> Example:
    length = rng.choices((3, 4, 5, 6), (2, 4, 1, 1))[0]
    hero, scenes, sentences = _story_scenes(rng, length)
    named = with_article(hero.name if hero.color == sampling.USUAL_COLORS[hero.name] else f"{hero.color} {hero.name}")
    words = rng.choice(ASKS).format(named) if rng.random() < 0.85 else rng.choice(FREE)
    if length != 4 or rng.random() < 0.5:  # four pictures unless another number is said
        words = rng.choice(LONG).format(words.rstrip("?."), LENGTHS[length] if rng.random() < 0.7 else length)
    parts = [part for said, scene in zip(sentences, scenes, strict=True) for part in (text(said), image(scene))]
    return Example("story", [user(casual_typing(rng, words)), assistant(*parts, rng.choice(THE_END))])


def _story_scenes(rng: random.Random, length: int) -> tuple[Thing, list[Scene], list[str]]:
    """The character, the scenes and what is said before each."""
    scene = _first_scene(rng)
    hero = scene.things[0]
    scenes, sentences = [scene], [with_colon(f"Once there was {lower_first(caption(scene))}")]
    before = ""
    while len(scenes) < length:
        kinds = [kind for kind in KINDS if is_possible(scene, kind) and kind != before]
        change = seen_edit(rng, rng.choice(kinds), before=scene)
        if not any((t.name, t.color) == (hero.name, hero.color) for t in change.after.things):
            continue  # the character has to stay
        scenes.append(change.after)
        sentences.append(with_colon(f"{_event_sentence(rng, change)}: {lower_first(caption(change.after))}"))
        scene, before = change.after, change.kind
    return hero, scenes, sentences


def _first_scene(rng: random.Random) -> Scene:
    while True:
        scene = replace(sampling.single(rng), height=128, width=128)
        scene = replace(scene, things=(replace(scene.things[0], size="medium", x=rng.choice((0.26, 0.74)), y=0.5),))
        if not is_held_out(scene):
            return scene


def _event_sentence(rng: random.Random, change: Edit) -> str:
    said = {"it": "it", "It": "It"}
    gone = [t for t in change.before.things if t not in change.after.things]
    come = [t for t in change.after.things if t not in change.before.things]
    if change.kind == "background":
        said["where"] = BACKGROUND_PHRASES[change.after.background]
    elif change.kind == "add":
        said["new"] = with_article(f"{come[-1].color} {come[-1].name}")
    elif change.kind == "remove":
        said |= {"the": f"the {gone[0].name}", "The": f"The {gone[0].name}"}
    else:
        said["side"] = SIDES[side_moved(gone[0], come[0])]
    return rng.choice(HAPPENS[change.kind]).format(**said)
