"""Conversations about the world: messages whose image parts hold a `Scene` (see `rendered`)."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from . import sampling
from .edits import seen_edit
from .held_out import relation
from .scene import Scene, render
from .words import NUMBERS, Detail, caption, noun_phrase, plural, sentence, with_article

Message = dict[str, Any]

UNKNOWN = (
    "dragon", "castle", "mountain", "robot", "tree", "flower", "house", "fish", "snake", "unicorn", "rocket", "piano",
    "guitar", "shark", "ladder", "candle", "mushroom", "pencil", "crown", "bridge", "rabbit", "tiger", "lion", "frog",
    "penguin", "whale", "butterfly", "spider", "ghost", "snowman", "volcano", "river", "moon", "planet", "sword",
    "helicopter", "submarine", "tractor", "tent", "drum", "camel", "duck", "pig", "mouse", "monkey", "hat", "shoe",
    "person", "fork", "spoon", "knife", "toaster", "toilet", "sandwich", "laptop", "scissors", "zebra", "horse",
)  # fmt: skip
"""Things nano does not draw; the last ten are kept for evaluation (`UNKNOWN[-10:]`)."""

DRAW = (
    "draw {}", "Draw {}.", "please draw {}", "can you draw {}?", "a photo of {}", "a photo of {}", "{}", "paint {}",
    "I want a picture of {}", "show me {}", "make an image of {}", "create a picture of {} please", "a drawing of {}",
    "could you sketch {} for me?", "I'd like to see {}", "draw me {}", "a picture of {}", "Can I have {}?",
)  # fmt: skip
DESCRIBE = (
    "What is in this picture?", "describe this", "Describe the picture.", "What do you see?", "what is this?",
    "Tell me what is in the image.", "caption this", "What does the picture show?",
)  # fmt: skip
SMALL_TALK = (
    (("hello", "hi", "Hi there!", "good morning", "hey"), "Hello! Tell me what to draw, or show me a picture."),
    (("who are you?", "What are you?", "what is your name?"), "I am Limner nano, a small model that writes and draws."),
    (
        ("what can you do?", "What can you do for me?", "help", "how does this work?", "what are you good at?"),
        "I draw, describe and edit simple pictures: ask for a red cat, or two apples on grass.",
    ),
    (("thanks", "thank you", "Thank you!", "great, thanks"), "You are welcome!"),
    (("bye", "goodbye", "see you"), "Goodbye!"),
    (
        ("which colours do you know?", "what colors can you use?", "which colours can you draw?"),
        "I know red, orange, yellow, green, blue, purple, pink, brown, black and white.",
    ),
    (
        ("what can you draw?", "which things do you know?", "what objects do you know?"),
        "I know cats, dogs, cars, apples, clocks, chairs and about thirty more things.",
    ),
    (("how are you?", "are you well?", "how is it going?"), "I am fine. Shall I draw something?"),
)


@dataclass(frozen=True)
class Example:
    kind: str
    messages: list[Message]


def image(scene: Scene) -> dict[str, Any]:
    return {"type": "image", "image": scene}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*content: Any) -> Message:
    return {"role": "user", "content": [text(c) if isinstance(c, str) else c for c in content]}


def assistant(*content: Any) -> Message:
    return {"role": "assistant", "content": [text(c) if isinstance(c, str) else c for c in content]}


def random_detail(rng: random.Random, scene: Scene) -> Detail:
    """What a request says and what it leaves to the artist, who then draws the usual thing: people name what is out of
    the ordinary, so a plain background and a large object mostly go unsaid, and "a cat and a dog" has the cat left."""
    placed = len(scene.things) == 2 and relation(*scene.things) != "left of"
    return Detail(
        color=rng.random() < 0.75,
        size=len(scene.things) == 1 and rng.random() < (0.15 if scene.things[0].size == "large" else 0.5),
        relation=placed or rng.random() < 0.35,
        background=rng.random() < (0.15 if scene.background == "plain" else 0.75),
    )


def request(rng: random.Random, scene: Scene, detail: Detail) -> str:
    words = rng.choice(DRAW).format(noun_phrase(scene, detail))
    return words if rng.random() < 0.9 else words.lower()


def _shown(rng: random.Random, scene: Scene, detail: Detail) -> Message:
    phrase = noun_phrase(scene, replace(detail, size=False))
    if rng.random() < 0.2:
        return assistant(rng.choice(("Sure, {}:", "Drawing {}:")).format(phrase), image(scene))
    here = "Here is {}." if phrase.startswith("a") else "Here are {}."
    return assistant(image(scene), rng.choice((here, "Here you are: {}.")).format(phrase))


def shape_words(rng: random.Random, scene: Scene, words: str) -> str:
    """Names the shape where it is not the square one, so that the shape token follows from the words."""
    if scene.height == scene.width:
        return words
    wide = ("a wide picture", "landscape format", "wide") if scene.width > scene.height else (
        "a tall picture", "portrait format", "tall")  # fmt: skip
    return f"{words.rstrip('.?')}, {rng.choice(wide)}"


def draw(rng: random.Random) -> Example:
    scene = sampling.any_scene(rng)
    detail = random_detail(rng, scene)
    return Example("draw", [user(shape_words(rng, scene, request(rng, scene, detail))), _shown(rng, scene, detail)])


def describe(rng: random.Random) -> Example:
    scene = sampling.any_scene(rng)
    content = [image(scene), text(rng.choice(DESCRIBE))]
    return Example("describe", [user(*content[:: rng.choice((1, -1))]), assistant(caption(scene))])


def question(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    count = sum(t.name == thing.name for t in scene.things)
    absent = rng.choice([n for n in sampling.NAMES if all(n != t.name for t in scene.things)])
    asked = [
        (f"How many {plural(thing.name)} are there?", sentence(NUMBERS[count])),
        (f"What colour {'is' if count == 1 else 'are'} the {thing.name if count == 1 else plural(thing.name)}?",
         sentence(thing.color)),
        (f"Is there {with_article(thing.name)}?", "Yes."),
        (f"Is there {with_article(absent)}?", "No."),
        ("What is the background?", sentence(scene.background)),
    ]  # fmt: skip
    if len(scene.things) == 2 and count == 1:
        a, b = scene.things if scene.things[0] is thing else scene.things[::-1]
        where = relation(a, b)
        if where:
            asked.append((f"What is {where} the {b.name}?", sentence(with_article(f"{a.color} {a.name}"))))
            sides = {
                "left of": "on the left",
                "right of": "on the right",
                "above": "at the top",
                "below": "at the bottom",
            }
            asked.append((f"Where is the {a.name}?", sentence(sides[where])))
    return rng.choice(asked)


def answer(rng: random.Random) -> Example:
    scene = sampling.any_scene(rng)
    asked, answered = question(rng, scene)
    turns = [user(image(scene), asked), assistant(answered)]
    if rng.random() < 0.4:
        asked, answered = question(rng, scene)
        turns += [user(asked), assistant(answered)]
    return Example("answer", turns)


def edit(rng: random.Random) -> Example:
    change = seen_edit(rng)
    content = [image(change.before), text(change.instruction)]
    turns = [user(*content[:: rng.choice((1, 1, -1))]), assistant(image(change.after), change.reply)]
    return Example("edit", turns)


def two_pictures(rng: random.Random) -> Example:
    def plain() -> Scene:
        make = rng.choices((sampling.single, sampling.counted), (3, 1))[0]
        return replace(make(rng), height=128, width=128)

    scenes = [sampling.seen(plain), sampling.seen(plain)]
    detail = Detail(color=rng.random() < 0.7, background=False)
    a, b = (noun_phrase(scene, detail) for scene in scenes)
    words = (f"draw {a} and {b}, each on its own picture", f"two pictures please: {a}, then {b}",
             f"draw two pictures: first {a}, then {b}", f"first draw {a}, then {b} in a second picture")  # fmt: skip
    reply = assistant(f"First, {a}:", image(scenes[0]), f"Then, {b}:", image(scenes[1]))
    return Example("two_pictures", [user(rng.choice(words)), reply])


def follow_up(rng: random.Random) -> Example:
    first = draw(rng)
    scene = next(part["image"] for part in first.messages[1]["content"] if part["type"] == "image")
    if rng.random() < 0.2:
        asked, answered = question(rng, scene)
        return Example("follow_up", [*first.messages, user(asked), assistant(answered)])
    change = seen_edit(rng, before=scene, pronoun=True)
    return Example(
        "follow_up", [*first.messages, user(change.instruction), assistant(image(change.after), change.reply)]
    )


def small_talk(rng: random.Random) -> Example:
    asked, answered = rng.choice(SMALL_TALK)
    return Example("small_talk", [user(rng.choice(asked)), assistant(answered)])


def refuse(rng: random.Random, names: tuple[str, ...] = UNKNOWN[:-10]) -> Example:
    name, known = rng.choice(names), rng.sample(sampling.NAMES, 3)
    thing = name if rng.random() < 0.6 else f"{rng.choice(sampling.COLOR_NAMES)} {name}"
    reply = (
        f"I can't draw {with_article(name)} yet; I know {plural(known[0])}, {plural(known[1])} and {plural(known[2])}."
    )
    return Example("refuse", [user(rng.choice(DRAW).format(with_article(thing))), assistant(reply)])


MIXTURE = {draw: 46, describe: 18, answer: 10, edit: 17, two_pictures: 4, follow_up: 9, small_talk: 2, refuse: 3}


EARLIER = {small_talk: 4, draw: 3, refuse: 2, describe: 1}
EARLIER_SHARE = 0.4


def conversation(rng: random.Random) -> Example:
    """One training conversation, by the mixture's weights; often after an exchange about something else, so that
    neither an earlier refusal nor an earlier picture decides what comes next."""
    example = rng.choices(tuple(MIXTURE), tuple(MIXTURE.values()))[0](rng)
    if rng.random() < EARLIER_SHARE:
        before = rng.choices(tuple(EARLIER), tuple(EARLIER.values()))[0](rng)
        example = Example(example.kind, [*before.messages, *example.messages])
    return example


def rendered(messages: list[Message]) -> list[Message]:
    """The same messages with every scene drawn: what `limner.load(...).generate` takes."""
    return [
        {**m, "content": [image(render(p["image"])) if p["type"] == "image" else p for p in m["content"]]}
        for m in messages
    ]
