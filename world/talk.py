"""Conversations about the world, in English and, from `language_talk`, in Chinese and Korean."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from . import language_talk, sampling
from .composing import compose, control, fill, shaped
from .edits import Edit, seen_edit
from .held_out import handwritten_requests, normalized
from .languages import LANGUAGES
from .messages import Example, Message, assistant, image, text, user
from .phrasing import add_fillers, casual_typing, draw_request, phrase, random_detail
from .questions import question
from .scene import Scene
from .signs import sign
from .stories import story
from .unknown import UNKNOWN, invented_word
from .words import NUMBERS, Detail, caption, lower_first, noun_phrase, with_article, with_colon

DRAW = (
    "draw {}", "Draw {}.", "please draw {}", "can you draw {}?", "a photo of {}", "a photo of {}", "{}", "paint {}",
    "I want a picture of {}", "show me {}", "make an image of {}", "create a picture of {} please", "a drawing of {}",
    "could you sketch {} for me?", "I'd like to see {}", "draw me {}", "a picture of {}", "Can I have {}?",
)  # fmt: skip
"""The plain ways to ask; `phrasing` has the others."""
DESCRIBE = (
    "What is in this picture?", "describe this", "Describe the picture.", "What do you see?", "what is this?",
    "Tell me what is in the image.", "caption this", "What does the picture show?", "describe it", "what's in the image?",
    "what do you see here?", "can you describe this picture?", "tell me about the picture", "what is it?", "write a caption",
    "what's on the picture?", "explain the image", "what is there to see?", "say what you see", "give me a description",
    "what does this show", "could you describe the image for me?", "which things are here?", "name what is in the photo",
    "what is going on in this picture?", "I'd like a caption for this", "what have I got here?", "who or what is that?",
    "look at this", "describe", "caption", "and what is that?", "please tell me what this picture contains", "what did I draw?",
    "what are these?", "read the picture to me", "what can you see in it?", "in a few words, what is it?",
)  # fmt: skip
SMALL_TALK = (
    (
        ("hello", "hi", "Hi there!", "good morning", "hey", "good afternoon", "hello there", "hi limner", "hey you", "greetings",
         "hi, how do you do?", "hallo", "morning!", "good day", "hello again", "anybody there?"),
        "Hello! Tell me what to draw, or show me a picture.",
    ),
    (
        ("who are you?", "What are you?", "what is your name?", "are you a human?", "who am I talking to?", "are you an AI?",
         "introduce yourself", "what should I call you?", "who built you?", "where do you come from?", "what model are you?",
         "are you real?", "how old are you?", "tell me about yourself"),
        "I am Limner nano, a small model that writes and draws.",
    ),
    (
        ("what can you do?", "What can you do for me?", "help", "how does this work?", "what are you good at?", "help me",
         "what do I do now?", "how do I use this?", "what should I say?", "what are my options?", "show me how it works",
         "what is possible here?", "I am new here", "instructions please"),
        "I draw, describe and edit simple pictures: ask for a red cat, or two apples on grass.",
    ),
    (
        ("thanks", "thank you", "Thank you!", "great, thanks", "thx", "thanks a lot", "perfect, thank you", "very good",
        "well done",
         "I like it", "that is beautiful", "wonderful", "good job", "cool", "awesome", "lovely", "great!", "much appreciated"),
        "You are welcome!",
    ),
    (
        ("bye", "goodbye", "see you", "good night", "I have to go", "that's all for today", "until next time", "farewell", "cu"),
        "Goodbye!",
    ),
    (
        ("which colours do you know?", "what colors can you use?", "which colours can you draw?", "list your colors",
         "how many colors do you have?", "what colours are there?", "name the colours you know", "colors?"),
        "I know red, orange, yellow, green, blue, purple, pink, brown, black and white.",
    ),
    (
        ("what can you draw?", "which things do you know?", "what objects do you know?", "what do you know how to draw?",
         "list the things you can draw", "which objects can I ask for?", "what is in your world?", "which animals do you know?",
         "give me some ideas", "what should I ask you to draw?"),
        "I know cats, dogs, cars, apples, clocks, chairs, eighty things in all.",
    ),
    (
        ("how are you?", "are you well?", "how is it going?", "how do you feel?", "what's up?", "everything fine?",
        "how are things?",
         "are you busy?", "all good?", "how was your day?"),
        "I am fine. Shall I draw something?",
    ),
    (
        ("what's the weather like?", "tell me a joke", "what is 2 plus 2?", "do you speak German?", "sing a song",
        "who won the game?",
         "what time is it?", "write a poem", "what is the capital of France?", "do you like music?", "are you hungry?",
         "I am bored",
         "do you have friends?", "what day is today?", "translate this into Spanish", "how much is it?", "why?", "really?",
         "I don't understand", "what do you think about dogs?", "do you dream?", "hmm", "never mind", "okay", "yes", "no",
         "maybe",
         "where do you live?", "can you hear me?", "do you know my name?", "who is the president?", "fine",
         "what does that mean?", "are cars fast?", "is this free?", "how many parameters do you have?", "excuse me", "wait"),
        "I only know about simple pictures. Tell me what to draw.",
    ),
)  # fmt: skip


def request(rng: random.Random, scene: Scene, detail: Detail) -> str:
    """A request for a drawing: frame and phrase are plain or free."""
    plain = rng.random() < 0.5
    said = noun_phrase(scene, detail) if rng.random() < (0.85 if plain else 0.4) else phrase(rng, scene, detail)
    if plain:
        return rng.choice(DRAW).format(said)
    return add_fillers(rng, draw_request(rng, said))


def _drawing_reply(rng: random.Random, scene: Scene, detail: Detail, planned: bool) -> Message:
    """The drawing after a plan: the scene's full description, which settles what the request left open."""
    if planned:
        return assistant(with_colon(caption(scene)), image(scene))
    words = noun_phrase(scene, replace(detail, size=False))
    here = "Here is {}." if words.startswith("a") else "Here are {}."
    return assistant(image(scene), rng.choice((here, "Here you are: {}.")).format(words))


def shape_words(rng: random.Random, scene: Scene, words: str) -> str:
    """Names the shape where it is not the square one, so that the shape token follows from the words."""
    if scene.height == scene.width:
        return words
    wide = ("a wide picture", "landscape format", "wide", "in landscape", "make it wide", "wide format") if (
        scene.width > scene.height) else ("a tall picture", "portrait format", "tall", "in portrait", "make it tall",
                                          "tall format")  # fmt: skip
    return f"{words.rstrip('.?')}, {rng.choice(wide)}"


def draw(rng: random.Random) -> Example:
    """A request for one picture; the reply mostly says in words what it will draw, then draws it."""
    scene = sampling.with_random_style(
        rng, sampling.any_scene(rng, (7, 2, 3))
    )  # a large thing alone has the most detail and is learned last
    if len(scene.things) > 1 and len({t.name for t in scene.things}) == 1 and rng.random() < COUNTING_SHARE:
        return _after_counting(rng, scene)
    detail = random_detail(rng, scene)
    planned = rng.random() < PLAN_SHARE
    words = shape_words(rng, scene, request(rng, scene, detail))
    if rng.random() < NO_TEXT_SHARE:
        words = f"{words.rstrip('.?!')}, {rng.choice(NO_WORDS)}"
        return Example("draw", [user(casual_typing(rng, words)), assistant(image(scene))])
    return Example("draw", [user(casual_typing(rng, words)), _drawing_reply(rng, scene, detail, planned)])


COUNT_ON = (
    "draw what comes after {}", "what comes after {}? draw it", "one more than {}", "the number after {}",
    "draw one more than {}", "count on from {}",
)  # fmt: skip


def _after_counting(rng: random.Random, scene: Scene) -> Example:
    """A request that gives the number before the count; the plan names both numbers first."""
    count, thing = len(scene.things), scene.things[0]
    fewer = replace(scene, things=scene.things[1:])
    before = noun_phrase(fewer, replace(random_detail(rng, fewer), size=thing.size == "small" and count > 2))
    words = rng.choice(COUNT_ON).format(before)
    plan = f"After {NUMBERS[count - 1]} comes {NUMBERS[count]}: {lower_first(caption(scene))}"
    return Example("draw", [user(casual_typing(rng, words)), assistant(with_colon(plan), image(scene))])


DESCRIBE_VERBS = (
    "describe {}", "tell me {}", "say {}", "name {}", "explain {}", "write down {}", "sum up {}", "give me {} in words",
    "report {}",
    "note {}", "read out {}", "talk about {}", "spell out {}", "can you tell {}", "could you say {}", "i want to know {}",
    "i wonder {}", "let me know {}", "please name {}", "would you describe {}", "help me understand {}", "go through {}",
)  # fmt: skip
DESCRIBE_OBJECTS = (
    "what is shown", "what you see", "what is in it", "the whole picture", "the scene", "the contents", "all of it",
    "what there is",
    "what this image shows", "the things in it", "what stands there", "every object and its colour", "what the painter drew",
    "what is on this photo", "the objects you find", "what i sent you", "what is depicted", "the image", "this picture",
)  # fmt: skip
DESCRIBE_MANNERS = ("", "", "", "in one line", "briefly", "in a sentence", "as a caption", "for someone who can't see it",
                    "in plain words", "with all colours", "exactly", "in detail", "for my notes",
                    "like a guide would")  # fmt: skip


def describe_request(rng: random.Random) -> str:
    words = rng.choice(DESCRIBE[:8] if rng.random() < 0.4 else DESCRIBE)
    if rng.random() < 0.35:
        words = (
            f"{rng.choice(DESCRIBE_VERBS).format(rng.choice(DESCRIBE_OBJECTS))} {rng.choice(DESCRIBE_MANNERS)}".strip()
        )
    return casual_typing(rng, add_fillers(rng, words) if rng.random() < 0.2 else words)


def describe(rng: random.Random) -> Example:
    """A picture and its caption, sometimes with a question about it afterwards."""
    scene = sampling.with_random_style(rng, sampling.any_scene(rng, sampling.READING_WEIGHTS))
    content = [image(scene), text(describe_request(rng))]
    turns = [user(*content[:: rng.choice((1, -1))]), assistant(caption(scene))]
    if rng.random() < 0.35:
        turns += _questions(rng, scene, 1)
    return Example("describe", turns)


def _questions(rng: random.Random, scene: Scene, count: int) -> list[Message]:
    turns = []
    for _ in range(count):
        question_text, answer_text = question(rng, scene)
        turns += [user(casual_typing(rng, question_text)), assistant(answer_text)]
    return turns


def answer(rng: random.Random) -> Example:
    """One to three questions about a picture."""
    scene = sampling.with_random_style(rng, sampling.any_scene(rng, sampling.READING_WEIGHTS))
    first, *rest = _questions(rng, scene, rng.choices((1, 2, 3), (3, 3, 2))[0])
    return Example("answer", [user(image(scene), *first["content"]), *rest])


def _edit_reply(rng: random.Random, change: Edit) -> Message:
    if rng.random() < PLAN_SHARE:
        done = [change.reply] if rng.random() < 0.25 else []
        return assistant(change.plan, image(change.after), *done)
    return assistant(image(change.after), change.reply)


def _edit_request(rng: random.Random, change: Edit) -> str:
    return casual_typing(rng, add_fillers(rng, change.instruction) if rng.random() < 0.4 else change.instruction)


def edit(rng: random.Random) -> Example:
    change = seen_edit(rng)
    content = [image(change.before), text(_edit_request(rng, change))]
    return Example("edit", [user(*content[:: rng.choice((1, 1, -1))]), _edit_reply(rng, change)])


def two_pictures(rng: random.Random) -> Example:
    def plain() -> Scene:
        make = rng.choices((sampling.single, sampling.several), (3, 1))[0]
        return replace(make(rng), background="plain", height=128, width=128)

    scenes = [sampling.allowed_scene(plain), sampling.allowed_scene(plain)]
    details = [replace(random_detail(rng, scene), background=False) for scene in scenes]
    a, b = (noun_phrase(scene, detail) for scene, detail in zip(scenes, details, strict=True))
    words = (f"draw {a} and {b}, each on its own picture", f"two pictures please: {a}, then {b}",
             f"draw two pictures: first {a}, then {b}", f"first draw {a}, then {b} in a second picture",
             f"one picture of {a} and one of {b}", f"{a} and {b} as two pictures", f"two images: {a}; {b}")  # fmt: skip
    said = (with_colon(caption(scene)) for scene in scenes)
    reply = assistant(
        f"First, {lower_first(next(said))}", image(scenes[0]), f"Then, {lower_first(next(said))}", image(scenes[1])
    )
    return Example("two_pictures", [user(casual_typing(rng, rng.choice(words))), reply])


def follow_up(rng: random.Random) -> Example:
    first = draw(rng)
    scene = next(part["image"] for part in first.messages[1]["content"] if part["type"] == "image")
    manner = rng.random()
    if manner < 0.15:
        return Example("follow_up", [*first.messages, *_questions(rng, scene, 1)])
    if manner < 0.27:
        return Example("follow_up", [*first.messages, user(describe_request(rng)), assistant(caption(scene))])
    turns = first.messages
    for _ in range(1 if manner < 0.8 else 2):
        change = seen_edit(rng, before=scene, pronoun=True)
        turns = [*turns, user(_edit_request(rng, change)), _edit_reply(rng, change)]
        scene = change.after
    return Example("follow_up", turns)


def small_talk(rng: random.Random) -> Example:
    """A greeting, thanks or a question about the model: no picture is drawn."""
    said, answered = rng.choice(SMALL_TALK)
    return Example("small_talk", [user(casual_typing(rng, rng.choice(said))), assistant(answered)])


def refuse(rng: random.Random, names: tuple[str, ...] = UNKNOWN[:-10], made_up: float = 0.25) -> Example:
    """A request for what the world has no drawing of: one of ``names``, or by ``made_up``'s chance an invented word."""
    name = invented_word(rng) if rng.random() < made_up else rng.choice(names)
    thing = with_article(name if rng.random() < 0.6 else f"{rng.choice(sampling.COLOR_NAMES)} {name}")
    other = with_article(rng.choice(sampling.NAMES)) if rng.random() < 0.2 else None
    both = thing if other is None else " and ".join(rng.sample((thing, other), 2))
    words = rng.choice(DRAW).format(both) if rng.random() < 0.5 else add_fillers(rng, draw_request(rng, both))
    reply = f"I can't draw {with_article(name)} yet; I know cats, cars, apples, eighty things in all."
    return Example("refuse", [user(casual_typing(rng, words)), assistant(reply)])


NO_WORDS = ("no words", "just the picture", "without a plan", "don't say anything", "only the image", "no explanation",
            "and say nothing", "no talking", "skip the plan", "nothing but the picture", "no text")  # fmt: skip
NO_TEXT_SHARE = 0.04
"""Share of the drawings that are requested without text."""
COUNTING_SHARE = 0.15
"""Share of the drawings of several objects whose count is given by the number before it."""
PLAN_SHARE = 0.85
"""Share of drawings after a plan; the others begin with the picture, as ``images="force"`` does."""
MIXTURE = {
    draw: 36,
    describe: 16,
    answer: 10,
    edit: 26,
    two_pictures: 3,
    story: 3,
    sign: 8,
    compose: 5,
    control: 4,
    fill: 3,
    shaped: 2,
    follow_up: 12,
    small_talk: 4,
    refuse: 6,
}
EARLIER_MIXTURE: dict[Callable[[random.Random], Example], int] = {small_talk: 4, draw: 3, refuse: 2, describe: 1}
EARLIER_SHARE = 0.4
OTHER_LANGUAGE_SHARE = 0.45
"""Share of the conversations in Chinese or Korean, of those kinds that exist in them."""


def kinds(names: str) -> tuple[str, ...]:
    """Of "describe+answer". Raises ValueError for one that the mixture has not."""
    known = [make.__name__ for make in MIXTURE]
    chosen = tuple(names.split("+")) if names else ()
    for name in chosen:
        if name not in known:
            raise ValueError(f"the world has no conversations of the kind {name!r}; there are {', '.join(known)}")
    return chosen


def conversation(rng: random.Random, only: tuple[str, ...] = ()) -> Example:
    """One training conversation, by the mixture's weights (or those of some kinds); often after an exchange about
    something else, so that neither an earlier refusal nor an earlier picture decides what comes next."""
    example = _allowed_example(
        rng, {make: weight for make, weight in MIXTURE.items() if not only or make.__name__ in only}
    )
    if rng.random() < EARLIER_SHARE:  # in any language: people mix them
        before = _allowed_example(rng, EARLIER_MIXTURE)
        example = Example(example.kind, [*before.messages, *example.messages])
    return example


def _allowed_example(rng: random.Random, mixture: dict[Callable[[random.Random], Example], int]) -> Example:
    """A conversation without a text of the hand-written requests, which are for evaluation only."""
    while True:
        make = rng.choices(tuple(mixture), tuple(mixture.values()))[0]
        if make.__name__ in language_talk.CONVERSATIONS and rng.random() < OTHER_LANGUAGE_SHARE:
            example = language_talk.CONVERSATIONS[make.__name__](rng, rng.choice(LANGUAGES))
        else:
            example = make(rng)
        said = (part.get("text") for message in example.messages for part in message["content"])
        if not any(normalized(words) in handwritten_requests() for words in said if words):
            return example
