"""Tasks in strangers' words that training never says: the phrasings of `world/phrasings` that are kept for validation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import strangers
from ..world.held_out import relation
from ..world.language import Language
from ..world.languages import LANGUAGES
from ..world.scene import Scene
from .geneval_cases import Expected
from .judge import Judge
from .scores import share
from .tasks import MAX_NEW_TOKENS, Grades, Task, deciding, deciding_in_one_step, each_reply


def everyday_task(count: int) -> Task:
    """Everyday messages in every language, at most ``count`` of each: right if the reply is words and no picture."""
    said: list[str] = []
    shares: dict[str, slice] = {}
    for language in LANGUAGES:
        lines = strangers.lines(language.code, validation=True)["talk"]
        shares[language.name] = slice(len(said), len(said) + min(count, len(lines)))
        said += [line["text"] for line in random.Random("everyday").sample(lines, min(count, len(lines)))]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> Grades:
        good = [bool(reply.text) and not reply.images for reply in replies]
        return good, {name: share(good[own]) for name, own in shares.items()}

    return Task("talk/everyday", said, deciding_in_one_step(), grade)


def phrasings(language: Language, count: int) -> list[strangers.Wish]:
    """``count`` requests for one picture, the same ones at every call."""
    person = strangers.Stranger(random.Random(f"phrasings/{language.code}"), language, validation=True)
    return [strangers.wish(person) for _ in range(count)]


def expected(wish: strangers.Wish) -> Expected:
    """What its picture must show: colours and the place of one thing to the other only where the words say them."""
    colors = (t.color if said else None for t, said in zip(wish.scene.things, wish.colored, strict=True))
    things = tuple(zip((t.name for t in wish.scene.things), colors, strict=True))
    return Expected(things, relation(*wish.scene.things) if wish.placed else None)


def says(language: Language, words: str, scene: Scene) -> bool:
    """Whether the words before a picture are this scene's plan, apart from sizes."""
    told = words.strip().rstrip(language.colon.strip() + ":").strip()
    return bool(told) and language.describes(language.sentence(told), scene)


def phrasings_task(language: Language, count: int, steps: int | None = None) -> Task:
    """Requests in strangers' words: right if the picture shows what was asked for; what they leave open is free. Beside it stands
    the share of the plans that say just the scene that was meant, with the usual colours where none is named."""
    asked = phrasings(language, count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        drawn = [reply.images[:1] for reply in replies]
        verdicts = iter(judge.detect([image for images in drawn for image in images]))
        good = [
            bool(images) and expected(wish).matches(next(verdicts)) for wish, images in zip(asked, drawn, strict=True)
        ]
        planned = [
            says(language, words, wish.scene) if (words := plan(reply)) else None
            for wish, reply in zip(asked, replies, strict=True)
        ]
        return good, {"plans": share([right for right in planned if right is not None])}

    return Task(f"draw/phrasings/{language.code}", [wish.words for wish in asked], deciding(1, steps), grade)


def plan(reply: Reply) -> str:
    """The words before the first picture."""
    return reply.parts[0] if reply.parts and isinstance(reply.parts[0], str) else ""


def planning_task(language: Language, count: int) -> Task:
    """The same requests, answered as far as the plan and no further, which costs no drawing: right if it says the scene."""
    asked = phrasings(language, count)
    generate = partial(Limner.generate, max_images=0, max_new_tokens=MAX_NEW_TOKENS, stop=language.colon.strip())
    grade = each_reply(lambda scene, reply: says(language, reply.text, scene), [wish.scene for wish in asked])
    return Task(f"plan/phrasings/{language.code}", [wish.words for wish in asked], generate, grade)
