"""Tasks of replies with several pictures: a list of unlike things, one thing in several places or colours, a set of a kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import sampling, several
from ..world.language import Detail
from ..world.scene import Scene, render
from .geneval_cases import Expected
from .judge import Judge, Verdict
from .tasks import ASKING, Grades, Task, deciding

PICTURE_COUNTS = (2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Series:
    """A request for several pictures in one reply."""

    prompt: str
    scenes: tuple[Scene, ...]
    """One right answer"""
    expected: tuple[tuple[Expected, ...], ...]
    """For each picture in order what it may show"""
    all_different: bool = False
    """Whether no picture may show what another one shows"""

    def right_pictures(self, verdicts: Sequence[Verdict]) -> list[bool]:
        """Which of the pictures in order show what they should; those beyond the number that was asked for are left out."""
        good: list[bool] = []
        seen: list[frozenset[tuple[str, str]]] = []
        for options, verdict in zip(self.expected, verdicts, strict=False):
            shown = frozenset((d.name, d.color) for d in verdict.detections)
            repeated = self.all_different and shown in seen
            good.append(not repeated and any(option.matches(verdict) for option in options))
            seen.append(shown)
        return good


def listed(rng: random.Random, count: int) -> Series:
    """ "three pictures: a red cat, two dogs and a bus"; colours that the request leaves open are free."""
    scenes = several.unlike(rng, ASKING, count)
    detail = Detail(color=rng.random() < 0.7, background=False)
    said = ASKING.listed([ASKING.phrase(scene, detail) for scene in scenes])
    prompt = ASKING.say(rng, "requests.several", n=ASKING.numbers[count][0], list=said)
    return Series(prompt, tuple(scenes), tuple((Expected.of(s, colored=detail.color),) for s in scenes))


def repeated(rng: random.Random, count: int) -> Series:
    """ "four pictures of a red cat"."""
    (scene,) = several.unlike(rng, ASKING, 1)
    said = ASKING.phrase(scene, Detail(background=False))
    prompt = ASKING.say(rng, "requests.same", n=ASKING.numbers[count][0], x=said)
    grounds = rng.sample(sampling.BACKGROUND_NAMES, count)
    return Series(prompt, tuple(replace(scene, background=g) for g in grounds), ((Expected.of(scene),),) * count)


def recoloured(rng: random.Random, count: int) -> Series:
    """ "a cat in red, blue and white, one picture each", or "in three colours", which are then free but different."""
    scenes = several.in_colors(rng, ASKING.names, count)
    said_colors = rng.random() < 0.7
    colors = ASKING.listed([ASKING.color_names[scene.things[0].color][0] for scene in scenes])
    slots = {"n": ASKING.numbers[count][0], "colors": colors} | ASKING.fields(scenes[0].things[0].name)
    prompt = ASKING.say(rng, "requests.in_colors" if said_colors else "requests.any_colors", **slots)
    expected = tuple((Expected.of(scene, colored=said_colors),) for scene in scenes)
    return Series(prompt, tuple(scenes), expected, all_different=True)


def of_a_kind(rng: random.Random, count: int) -> Series:
    """ "three different animals, one picture each": which ones and in which colours is free."""
    kinds = {kind: [name for name in names if name in ASKING.names] for kind, names in several.SETS.items()}
    kind = rng.choice([kind for kind, names in kinds.items() if len(names) >= count])
    said = rng.choice(ASKING.forms[f"kinds.{kind}"])
    prompt = ASKING.say(rng, "requests.set", n=ASKING.numbers[count][0], kind=said)
    names = rng.sample(kinds[kind], count)
    scenes = tuple(several.alone(name, sampling.USUAL_COLORS[name]) for name in names)
    options = tuple(Expected(((name, None),)) for name in kinds[kind])
    return Series(prompt, scenes, (options,) * count, all_different=True)


FORMS: dict[Callable[[random.Random, int], Series], int] = {listed: 5, repeated: 1, recoloured: 3, of_a_kind: 1}
"""Forms of requests with their weights"""


def series_requests(pictures: int, count: int) -> list[Series]:
    """``count`` requests for so many pictures, the same ones at every call."""
    rng = random.Random(f"several/{pictures}")
    chosen = rng.choices(tuple(FORMS), tuple(FORMS.values()), k=count)
    return [form(rng, pictures) for form in chosen]


def series_task(pictures: int, count: int, steps: int | None = None) -> Task:
    """Replies of so many pictures: right if there are as many, each as it should be and in the order of the request."""
    chosen = series_requests(pictures, count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        seen = [
            s.right_pictures(v) for s, v in zip(chosen, detect_each(judge, [r.images for r in replies]), strict=True)
        ]
        numbers = [len(reply.images) == pictures for reply in replies]
        true = detect_each(judge, [[render(scene) for scene in series.scenes] for series in chosen])
        accurate = [all(series.right_pictures(verdicts)) for series, verdicts in zip(chosen, true, strict=True)]
        good = [number and all(pictures_right) for number, pictures_right in zip(numbers, seen, strict=True)]
        return good, {
            "right_number": sum(numbers) / count,
            "right_pictures": sum(map(sum, seen)) / (pictures * count),
            "judge_accuracy": sum(accurate) / count,
        }

    # one picture more than requested, to see whether it stops
    prompts = [series.prompt for series in chosen]
    return Task(f"draw/several/{pictures}", prompts, deciding(pictures + 1, steps), grade)


def detect_each(judge: Judge, groups: Sequence[Sequence[Image.Image]]) -> list[list[Verdict]]:
    """What the judge sees in the pictures of each group, all of them looked at together."""
    verdicts = iter(judge.detect([image for images in groups for image in images]))
    return [[next(verdicts) for _ in images] for images in groups]
