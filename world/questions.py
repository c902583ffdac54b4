"""Questions about a picture, each with its one answer."""

from __future__ import annotations

import random

from . import sampling
from .held_out import relation
from .scene import Scene
from .words import NUMBERS, plural, sentence, with_article

HOW_MANY = ("How many {} are there?", "how many {} do you see?", "how many {}?", "count the {}", "what is the number of {}?",
            "How many {} are in the picture?", "tell me how many {} there are", "{}: how many?", "the number of {} please",
            "how many {} does it show?", "of {}, how many are here?", "can you count the {}?", "how many {} in total?",
            "i count the {}, what do i get?", "how many {} has the image?")  # fmt: skip
COLOUR = ("What colour {is} {the}?", "what color {is} {the}?", "which colour {does} {the} have?", "{the}: which color?",
          "tell me the colour of {the}", "what is the colour of {the}?", "in what color {is} {the}?", "name the color of {the}",
          "{the} {is} of which colour?", "what colour {does} {the} have", "the color of {the} please",
          "how {is} {the} coloured?", "do you know the colour of {the}?", "i can't see colours: what about {the}?")  # fmt: skip
PRESENT = ("Is there {}?", "do you see {}?", "is there {} in the picture?", "can you see {}?", "does it show {}?",
           "any {bare} here?", "is {} in this image?", "do you find {} there?", "is {} shown?", "does it have {} in it?",
           "is {} part of it?", "can i find {} here?", "have you seen {}?", "would you see {} if you looked?", "{}?",
           "is {} somewhere?", "do they show {}?", "i am looking for {}, is it here?")  # fmt: skip
BEHIND = ("What is the background?", "what is in the background?", "where is this?", "what is the background like?",
          "which background is it?", "what's behind?", "tell me the background", "what kind of place is it?",
          "what is it all on?", "name the background", "what is the scenery?", "where does it take place?",
          "and the background?")  # fmt: skip
BESIDE = ("What is {where} the {b}?", "what is {where} the {b}?", "which thing is {where} the {b}?",
          "what do you see {where} the {b}?",
          "{where} the {b} is what?", "what lies {where} the {b}?")  # fmt: skip
PLACE = ("Where is the {a}?", "where do you see the {a}?", "on which side is the {a}?", "where can i find the {a}?",
         "where does the {a} stand?", "in which half is the {a}?", "the {a} is where?", "locate the {a}",
         "show me where the {a} is",
         "{one} or {other}: where is the {a}?", "is the {a} {one} or {other}?")  # fmt: skip
SIDE = ("what is {side}?", "what do you see {side}?", "which thing is {side}?", "name the thing {side}", "what stands {side}?",
        "{side} there is what?", "tell me what is {side}", "what have we got {side}?", "who is {side}?")  # fmt: skip
OPPOSITE = {"on the left": "on the right", "on the right": "on the left", "at the top": "at the bottom",
            "at the bottom": "at the top"}  # fmt: skip
EITHER = ("is {the} {x} or {y}?", "{x} or {y}: what colour {is} {the}?", "{the}, {x} or {y}?", "would you call {the} {x} or {y}?",
          "{is} {the} more {x} or more {y}?")  # fmt: skip
"""Colours to choose from"""
AS_MANY = ("are there {n} {many}?", "do you see {n} {many}?", "{n} {many}, right?", "is it {n} {many}?",
           "i see {n} {many}, do you?",
           "does it show {n} {many}?", "have i counted {n} {many} correctly?")  # fmt: skip
OR_AS_MANY = (
    "{n} {many} or {m}?",
    "are there {n} or {m} {many}?",
    "{many}: {n} or {m}?",
    "is the number of {many} {n} or {m}?",
)
IS_THIS = ("is this {}?", "is that {}?", "would you say this is {}?", "it is {}, isn't it?", "this is {}, right?",
           "could that be {}?",
           "am i looking at {}?", "so it is {}?")  # fmt: skip
"""Of one thing alone"""
WHICH_GROUND = ("is this {x} or {y}?", "{x} or {y}, which background is it?", "what do you see behind: {x} or {y}?",
                "is the background {x} or {y}?", "would you say {x} or rather {y}?")  # fmt: skip
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
    pairs = [
        (put(HOW_MANY).format(plural(thing.name)), sentence(NUMBERS[count])),
        (put(COLOUR).format(the=f"the {name}", **verbs), sentence(thing.color)),
        (put(PRESENT).format(with_article(thing.name), bare=thing.name), "Yes."),
        (put(PRESENT).format(with_article(absent), bare=absent), "No."),
        (put(BEHIND), sentence(scene.background)),
    ]
    if count == 1 and rng.random() < 0.4:
        color = rng.choice((thing.color, rng.choice(sampling.COLOR_NAMES)))
        truth = "Yes." if color == thing.color else sentence(f"no, it is {thing.color}")
        pairs.append((rng.choice(IS_IT).format(name=thing.name, color=color), truth))
    if len({t.color for t in scene.things if t.name == thing.name}) == 1:
        x, y = rng.sample((thing.color, rng.choice([c for c in sampling.COLOR_NAMES if c != thing.color])), 2)
        pairs.append((rng.choice(EITHER).format(the=f"the {name}", x=x, y=y, **verbs), sentence(thing.color)))
    if rng.random() < 0.5:
        wrong = rng.choice([n for n in NUMBERS if n != count])
        said = rng.choice((count, wrong))
        many = thing.name if said == 1 else plural(thing.name)
        truth = "Yes." if said == count else sentence(f"no, {NUMBERS[count]}")
        if said > 1:
            pairs.append((rng.choice(AS_MANY).format(n=NUMBERS[said], many=many), truth))
        n, m = (NUMBERS[number] for number in sorted((count, wrong)))
        choice = rng.choice(OR_AS_MANY).format(n=n, m=m, many=plural(thing.name))
        pairs.append((choice, sentence(NUMBERS[count])))
    if len(scene.things) == 1:
        true, false = (rng.choice(IS_THIS).format(with_article(name)) for name in (thing.name, absent))
        pairs += [(true, "Yes."), (false, sentence(f"no, it is {with_article(thing.name)}"))]
    if rng.random() < 0.5:
        other = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != scene.background])
        x, y = rng.sample((scene.background, other), 2)
        pairs.append((rng.choice(WHICH_GROUND).format(x=x, y=y), sentence(scene.background)))
    if len(scene.things) == 2 and count == 1:
        a, b = scene.things if scene.things[0] is thing else scene.things[::-1]
        if where := relation(a, b):
            answer, side = sentence(with_article(f"{a.color} {a.name}")), SIDES[where]
            phrase = rng.choice((where, f"to the {where}")) if where not in ("above", "below") else where
            pairs += [
                (put(BESIDE).format(where=phrase, b=b.name), answer),
                (put(PLACE).format(a=a.name, one=side, other=OPPOSITE[side]), sentence(side)),
                (put(SIDE).format(side=side), answer),
            ]
    return rng.choice(pairs)
