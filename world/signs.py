"""Signs, banners and T-shirts with a word on them: the word is in the request, in quotes, and goes to the glyphs."""

from __future__ import annotations

import hashlib
import random
import re
import string
from dataclasses import replace

from . import sampling
from .casual import casual_typing
from .edits import seen_edit, the
from .language import Language
from .languages import ENGLISH
from .messages import Example, assistant, image, user
from .objects.signs import SIGNS
from .scene import Scene, Thing

COMMON = tuple(
    """OPEN CLOSED CAFE SHOP HELLO STOP EXIT SALE BAKERY SCHOOL WELCOME HOTEL BUS TAXI PARK ZOO BANK FOOD PIZZA TEA BAR GYM MAP
    NEWS LOVE HOME HAPPY PARTY YES NO GO UP ON OFF HOT ICE FREE NEW BIG SUN STAR MOON CAT DOG FISH BOOKS MUSIC DANCE ART LAB
    WIFI INFO HELP SLOW QUIET PULL PUSH TOYS BEACH POOL LAKE FARM MILK EGGS BREAD FRUIT 2026 100 24 7 50 NO1 A1 B2""".split()
)
MAX_LETTERS = {"sign": 8, "banner": 8, "t-shirt": 4}
"""Letters"""
HELD_OUT_SHARE = 0.1


def is_held_out_word(words: str) -> bool:
    """Whether a text is for evaluation only: one in ten of all possible texts."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") < HELD_OUT_SHARE * 2**32


def random_word(rng: random.Random, max_letters: int, held_out: bool = False) -> str:
    """A text of 1 to ``max_letters`` letters or digits, a common word or random; short ones are more frequent."""
    while True:
        length = min(max_letters, rng.choices(range(1, 9), (2, 3, 4, 4, 3, 2, 1, 1))[0])
        letters = "".join(
            rng.choice(string.ascii_uppercase if rng.random() < 0.85 else string.digits) for _ in range(length)
        )
        made = rng.choice(COMMON) if rng.random() < 0.4 else letters
        if len(made) <= max_letters and is_held_out_word(made) == held_out:
            return made


def sign_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """A sign, banner or T-shirt with a word on it; ``held_out`` takes a word that training never shows."""
    name = rng.choice(tuple(SIGNS))
    x, y = (sampling.jitter(rng, 0.5, 0.05) for _ in range(2))
    words = random_word(rng, MAX_LETTERS[name], held_out)
    size = "medium" if len(words) <= 3 and rng.random() < 0.2 else "large"  # more letters would be a few pixels each
    thing = Thing(name, rng.choice(sampling.COLOR_NAMES), size, x, y, words)
    return Scene((thing,), sampling.background(rng), *sampling.shape(rng))


def with_quoted_text(rng: random.Random, language: Language, form: str, words: str) -> str:
    """Typed loosely but for what is to be written, which may be in small letters, or a common word without the quotes:
    then the plan has them."""
    typed = casual_typing(rng, language, form)
    if words in COMMON and rng.random() < 0.25:
        return re.sub('["“]#["”]', words, typed)
    return typed.replace("#", words.lower() if rng.random() < 0.2 else words)


def plan_with_text(language: Language, request: str, scene: Scene, change: str = "") -> str:
    """The plan; it quotes the text to be written if the request does not."""
    if re.search('["“]', request):
        return language.plan(scene, change)
    change = f"{language.colon}{language.space}".join(filter(None, (f'"{scene.things[0].words}"', change)))
    return language.plan(scene, change)


def sign(rng: random.Random, language: Language = ENGLISH) -> Example:
    """A sign drawn, or one shown that is to say something else or to change otherwise."""
    scene = sign_scene(rng)
    thing = scene.things[0]
    if rng.random() < 0.7:
        size = thing.size if thing.size != "large" or rng.random() < 0.1 else ""
        said = language.put("caption.one", **language.fields(thing.name, thing.color, size))
        said = language.say(rng, "signs.say", thing=said)
        if scene.background != "plain" or rng.random() < 0.2:
            said = language.on_ground(said, scene.background)
        frame = rng.choice((*language.forms["requests.ask"], "{x}", "{x}"))
        request = with_quoted_text(rng, language, language.fill(frame, x=said), thing.words)
        return Example("sign", [user(request), assistant(plan_with_text(language, request, scene), image(scene))])
    if rng.random() < 0.6:
        after = replace(scene, things=(replace(thing, words=random_word(rng, MAX_LETTERS[thing.name])),))
        request = with_quoted_text(rng, language, language.say(rng, "edits.written"), after.things[0].words)
        name = language.things[thing.name][0]
        change = language.put("plans.written", name=name, the=the(language, name))
        plan = plan_with_text(language, request, after, change)
    else:
        edit = seen_edit(rng, rng.choice(("recolour", "background")), before=scene, pronoun=True, language=language)
        request, after, plan = casual_typing(rng, language, edit.instruction), edit.after, edit.plan
    return Example("sign", [user(image(scene), request), assistant(plan, image(after))])
