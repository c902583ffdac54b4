"""``limner compare BEFORE AFTER``: two models' replies to the same prompts, compared prompt by prompt.

The paired comparison shows small changes by an adapter, fewer steps or more training that two rates, each with its own
interval, hide.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import saved_replies


def compare(before: Path, after: Path) -> list[dict[str, Any]]:
    """A row a task that both folders of `limner eval` hold, and one of all questions; prints them as a table.

    Raises ValueError for folders without a task in common, other questions, or another judge.
    """
    first, second = load_answers(before), load_answers(after)
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(
            f"{before} and {after} have no task in common; both must be folders of limner eval, of one suite"
        )
    rows, differences = [], []
    for name in common:
        one, other = first[name], second[name]
        if one.prompts != other.prompts or one.seeds != other.seeds:
            raise ValueError(
                f"{name}: {before} and {after} were asked other questions; give both the same --limit and --seeds"
            )
        if one.judge != other.judge:
            raise ValueError(f"{name}: {before} and {after} were judged by two judges; run limner eval on both again")
        by_question = [b - a for a, b in zip(one.shares(), other.shares(), strict=True)]
        rows.append(paired_interval(name, by_question))
        differences += by_question
    rows.append(paired_interval("all", differences))
    print(f"{'what':28} {'change':>7}  {'95 % interval':17} {'lost':>5} {'won':>5} {'of':>6}")
    for r in rows:
        interval = f"{r['low']:+.3f} to {r['high']:+.3f}"
        print(f"{r['name']:28} {r['change']:+7.3f}  {interval:17} {r['lost']:5} {r['won']:5} {r['n']:6}")
    if left := sorted(first.keys() ^ second.keys()):
        print(f"in one of them only: {', '.join(left)}")
    return rows


@dataclass
class TaskAnswers:
    """The answers to a task's questions, all of them with the first seed, then with the second, …"""

    prompts: list[Any]
    correct: list[bool]
    seeds: int
    judge: str

    def shares(self) -> list[float]:
        """The share of right replies of each prompt."""
        count = len(self.correct) // self.seeds
        return [sum(self.correct[question::count]) / self.seeds for question in range(count)]


def load_answers(folder: Path) -> dict[str, TaskAnswers]:
    """What a folder of `limner eval world` or `limner eval geneval` holds, by task."""
    found = {}
    for path in sorted(folder.glob("*/score.json")):
        score = json.loads(path.read_text(encoding="utf-8"))
        prompts = [line["asked"] for line in saved_replies.load_replies(path.parent)]
        found[path.parent.name] = TaskAnswers(prompts, score["right"], score.get("seeds", 1), score["judge"])
    results = folder / "results.json"
    scored = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    by_tag: dict[str, list[str]] = {}
    for number in scored.get("right", ()):  # GenEval's prompts
        tag = json.loads((folder / f"{int(number):05d}" / "metadata.jsonl").read_text(encoding="utf-8"))["tag"]
        by_tag.setdefault(tag, []).append(number)
    for tag, numbers in by_tag.items():
        seeds = zip(*(scored["right"][number] for number in numbers), strict=True)
        correct = [is_correct for seed in seeds for is_correct in seed]
        found[tag] = TaskAnswers(numbers, correct, len(correct) // len(numbers), scored["judge"])
    return found


def paired_interval(name: str, differences: Sequence[float]) -> dict[str, Any]:
    """Of each question's difference of shares right: their mean, questions lost and won, a 95 % interval.

    The interval is Wald's after half a question more in each of the four cells of a paired table (Agresti and Min 2005,
    Statistics in Medicine 24:729), which adds 0 to the sum of differences and 1 to that of their squares.
    """
    count, lost, won = len(differences), sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    total, squares = sum(differences), sum(d * d for d in differences) + 1
    middle = total / (count + 2)
    half = 1.96 * math.sqrt(squares - total * total / (count + 2)) / (count + 2)
    return {
        "name": name,
        "change": total / count,
        "low": middle - half,
        "high": middle + half,
        "lost": lost,
        "won": won,
        "n": count,
    }
