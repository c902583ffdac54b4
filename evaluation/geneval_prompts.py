"""GenEval's 553 prompts (Ghosh et al. 2023, arXiv:2310.11513): what each asks for, and whether a model draws it unasked."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..inference.model import Limner
from ..inference.reply import Reply
from ..world import held_out, sampling
from ..world.scene import Scene
from .geneval_cases import CATEGORIES
from .judge import Judge, Verdict
from .scores import share
from .tasks import Grades, Task, deciding_in_one_step


@dataclass(frozen=True)
class Prompt:
    number: int
    metadata: dict[str, Any]
    """GenEval's own: tag, include, exclude, prompt"""

    @property
    def in_world(self) -> bool:
        """Whether the world, and so its judge, knows all objects of the prompt."""
        return all(thing["class"] in sampling.NAMES for thing in self.metadata["include"])

    def matches(self, verdict: Verdict) -> bool:
        """GenEval's rules: enough of each, of that colour, in that place; nothing of what is excluded; the rest is free."""
        include, exclude = self.metadata["include"], self.metadata.get("exclude", ())
        found = [
            [d for d in verdict.detections if d.name == thing["class"] and thing.get("color") in (None, d.color)]
            for thing in include
        ]
        seen = Counter(d.name for d in verdict.detections)
        enough = all(len(matching) >= thing["count"] for matching, thing in zip(found, include, strict=True))
        if not enough or any(seen[thing["class"]] >= thing["count"] for thing in exclude):
            return False
        placed = [(i, thing["position"]) for i, thing in enumerate(include) if "position" in thing]
        return all(
            any(held_out.relation(a.thing(), b.thing()) == place for a in found[i] for b in found[other])
            for i, (place, other) in placed
        )

    def scene(self, rng: random.Random) -> Scene:
        """A scene that fulfils the prompt."""
        include = self.metadata["include"]
        if len(include) == 1:
            count = include[0]["count"]
            made, wanted = sampling.single(rng) if count == 1 else sampling.several(rng, count), include * count
        else:
            # the second stands in the relation to the first, which is the sampler's "first" turned about
            relation = include[1]["position"][0] if "position" in include[1] else None
            made, wanted = sampling.pair(rng, held_out.MIRROR[relation] if relation else None), include
        things = tuple(
            replace(own, name=thing["class"], color=thing.get("color", own.color))
            for own, thing in zip(made.things, wanted, strict=True)
        )
        return Scene(things, made.background)


def load_prompts(limit: int = 0) -> list[Prompt]:
    """All 553, or the first ``limit`` of each category."""
    lines = (Path(held_out.__file__).parent / "geneval_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    chosen, counts = [], dict.fromkeys(CATEGORIES, 0)
    for number, line in enumerate(lines):
        about = json.loads(line)
        counts[about["tag"]] += 1
        if not limit or counts[about["tag"]] <= limit:
            chosen.append(Prompt(number, about))
    return chosen


def deciding_task(count: int) -> Task:
    """``count`` of the prompts, spread over all, where the model decides whether it draws, as in a chat: right if it does. The
    suite itself demands a picture, which is judged even where the words before it say that nothing can be drawn."""
    prompts = load_prompts()
    count = min(count, len(prompts))
    chosen = [prompts[index * len(prompts) // count] for index in range(count)]

    def grade(_: Limner, __: Judge, replies: Sequence[Reply]) -> Grades:
        good = [bool(reply.images) for reply in replies]
        tags = [prompt.metadata["tag"] for prompt in chosen]
        each = {tag: share([g for g, own in zip(good, tags, strict=True) if own == tag]) for tag in dict.fromkeys(tags)}
        return good, each

    return Task("decide/geneval", [prompt.metadata["prompt"] for prompt in chosen], deciding_in_one_step(), grade)
