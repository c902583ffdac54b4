"""Tasks of stories in pictures: as many as were asked for, and the same character in them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import sampling
from ..world.grammar import with_article
from ..world.pen import COLORS
from ..world.scene import Thing, render
from ..world.stories import tell
from .judge import Judge, Verdict
from .series import detect_each
from .tasks import ASKING, Grades, Task, deciding

TRUE_STORIES = 50
"""At most so many of the world's own stories are looked at, to measure the judge"""


def story_task(count: int, steps: int | None = None) -> Task:
    """Stories in four pictures: right if there are four and the character is in each."""
    rng = random.Random("stories")
    heroes = [sampling.allowed_scene(lambda: sampling.single(rng, ASKING.names)).things[0] for _ in range(count)]
    prompts = [f"tell me a story about {with_article(f'{h.color} {h.name}')} in four pictures" for h in heroes]

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        there = [
            [any((d.name, d.color) == (hero.name, hero.color) for d in verdict.detections) for verdict in verdicts]
            for hero, verdicts in zip(heroes, (judge.detect(reply.images[:4]) for reply in replies), strict=True)
        ]
        good = [len(reply.images) == 4 == sum(seen) for reply, seen in zip(replies, there, strict=True)]
        return good, {"pictures_with_the_character": sum(map(sum, there)) / (4 * count)}

    # one picture more than requested, to see whether it stops
    return Task("story", prompts, deciding(5, steps), grade)


def counted_story_task(pictures: int, count: int, steps: int | None = None) -> Task:
    """Stories in so many pictures: right if there are as many and the character is kept (`keeps_character`). Beside it stand
    both alone, the share of the pictures asked for that show the character, and what of the world's own stories of that length
    the judge finds kept: a story may show another thing alone for a while."""
    rng = random.Random(f"stories/{pictures}")
    heroes, prompts = [], []
    for _ in range(count):
        hero, other = sampling.allowed_scene(lambda: sampling.pair(rng, names=ASKING.names)).things
        words = [with_article(f"{thing.color} {thing.name}") for thing in (hero, other)]
        form = "stories.pair" if rng.random() < 0.3 else "stories.ask"
        told = ASKING.say(rng, form, hero=words[0], other=words[1]).rstrip("?")
        heroes.append(hero)
        prompts.append(ASKING.say(rng, "stories.long", x=told, n=ASKING.numbers[pictures][0]))

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        found = detect_each(judge, [reply.images for reply in replies])
        seen = [character_seen(h, reply.parts, v) for h, reply, v in zip(heroes, replies, found, strict=True)]
        kept = [keeps_character(h, r.parts, s) for h, r, s in zip(heroes, replies, seen, strict=True)]
        numbers = [len(reply.images) == pictures for reply in replies]
        good = [number and same for number, same in zip(numbers, kept, strict=True)]
        return good, {
            "right_number": sum(numbers) / count,
            "character_kept": sum(kept) / count,
            "pictures_with_the_character": sum(sum(own[:pictures]) for own in seen) / (pictures * count),
            "kept_in_true_stories": true_stories(judge, pictures, min(count, TRUE_STORIES)),
        }

    # one picture more than requested, to see whether it stops
    return Task(f"story/{pictures}", prompts, deciding(pictures + 1, steps), grade)


def character_seen(hero: Thing, parts: Sequence[str | Image.Image], verdicts: Sequence[Verdict]) -> list[bool]:
    """In which pictures of a reply the character is: by its name, in its colour or in one that the words before have named."""
    seen, said, remaining = [], "", iter(verdicts)
    for part in parts:
        if isinstance(part, str):
            said += f" {part.lower()}"
            continue
        colors = {hero.color, *(color for color in COLORS if re.search(rf"\b{color}\b", said))}
        seen.append(any(d.name == hero.name and d.color in colors for d in next(remaining).detections))
    return seen


def keeps_character(hero: Thing, parts: Sequence[str | Image.Image], seen: Sequence[bool]) -> bool:
    """Whether the character is in every picture whose own sentence names it, and in half of all."""
    named, sentence = [], ""
    for part in parts:
        if isinstance(part, str):
            sentence += f" {part.lower()}"
        else:
            named.append(bool(re.search(rf"\b({hero.name}|{ASKING.grammar.plural(hero.name)})\b", sentence)))
            sentence = ""
    return bool(seen) and 2 * sum(seen) >= len(seen) and all(s for s, n in zip(seen, named, strict=True) if n)


def true_stories(judge: Judge, pictures: int, count: int) -> float:
    """The share of ``count`` of the world's own stories in which the judge finds the character kept: in some it hides, or is said
    to have gone home."""
    rng, kept = random.Random(f"true stories/{pictures}"), 0
    for _ in range(count):
        told = tell(rng, ASKING, pictures)
        images = [render(scene) for scene in told.scenes]
        parts: list[Any] = [part for pair in zip(told.sentences, images, strict=True) for part in pair]
        hero = Thing(*told.kinds[1], "large", 0.5, 0.5)
        kept += keeps_character(hero, parts, character_seen(hero, parts, judge.detect(images)))
    return kept / count
