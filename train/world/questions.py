"""Questions about a picture, each with its one answer."""

from __future__ import annotations

import random

from . import sampling
from .held_out import relation
from .scene import Scene
from .words import NUMBERS, plural, sentence, with_article

HOW_MANY = ("How many {} are there?", "how many {} do you see?", "how many {}?", "count the {}", "what is the number of {}?",
            "How many {} are in the picture?", "tell me how many {} there are", "{}: how many?")  # fmt: skip
COLOUR = ("What colour {is} {the}?", "what color {is} {the}?", "which colour {does} {the} have?", "{the}: which color?",
          "tell me the colour of {the}", "what is the colour of {the}?", "in what color {is} {the}?")  # fmt: skip
PRESENT = ("Is there {}?", "do you see {}?", "is there {} in the picture?", "can you see {}?", "does it show {}?",
           "any {bare} here?", "is {} in this image?", "do you find {} there?")  # fmt: skip
BEHIND = ("What is the background?", "what is in the background?", "where is this?", "what is the background like?",
          "which background is it?", "what's behind?", "tell me the background")  # fmt: skip
BESIDE = ("What is {where} the {b}?", "what is {where} the {b}?", "which thing is {where} the {b}?",
          "what do you see {where} the {b}?",
          "{where} the {b} is what?", "what lies {where} the {b}?")  # fmt: skip
PLACE = ("Where is the {a}?", "where do you see the {a}?", "on which side is the {a}?", "where can i find the {a}?")
SIDE = ("what is {side}?", "what do you see {side}?", "which thing is {side}?", "name the thing {side}")
SIDES = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}
IS_IT = ("is the {name} {color}?", "are you sure that the {name} is {color}?", "the {name} is {color}, right?")


def question(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """A question and its answer; a third of them and more in the plainest words."""

    def put(forms: tuple[str, ...]) -> str:
        return forms[0] if rng.random() < 0.3 else rng.choice(forms)

    thing = rng.choice(scene.things)
    count = sum(t.name == thing.name for t in scene.things)
    absent = rng.choice([n for n in sampling.NAMES if all(n != t.name for t in scene.things)])
    name = thing.name if count == 1 else plural(thing.name)
    verbs = {"is": "is" if count == 1 else "are", "does": "does" if count == 1 else "do"}
    asked = [
        (put(HOW_MANY).format(plural(thing.name)), sentence(NUMBERS[count])),
        (put(COLOUR).format(the=f"the {name}", **verbs), sentence(thing.color)),
        (put(PRESENT).format(with_article(thing.name), bare=thing.name), "Yes."),
        (put(PRESENT).format(with_article(absent), bare=absent), "No."),
        (put(BEHIND), sentence(scene.background)),
    ]
    if count == 1 and rng.random() < 0.4:
        color = rng.choice((thing.color, rng.choice(sampling.COLOR_NAMES)))
        truth = "Yes." if color == thing.color else sentence(f"no, it is {thing.color}")
        asked.append((rng.choice(IS_IT).format(name=thing.name, color=color), truth))
    if len(scene.things) == 2 and count == 1:
        a, b = scene.things if scene.things[0] is thing else scene.things[::-1]
        where = relation(a, b)
        if where:
            told = sentence(with_article(f"{a.color} {a.name}"))
            phrase = rng.choice((where, f"to the {where}")) if where not in ("above", "below") else where
            asked.append((put(BESIDE).format(where=phrase, b=b.name), told))
            asked.append((put(PLACE).format(a=a.name), sentence(SIDES[where])))
            asked.append((put(SIDE).format(side=SIDES[where]), told))
    return rng.choice(asked)
