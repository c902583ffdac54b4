"""A measured rate with its interval, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    name: str
    correct: int
    total: int
    extra: dict[str, Any]
    """Further figures by name; None if one does not apply"""
    seeds: int = 1
    """How many replies each prompt has"""

    def row(self) -> dict[str, Any]:
        # replies to one prompt are not independent: the interval is over prompts
        low, high = wilson(round(self.correct / self.seeds), self.total // self.seeds)
        rate = self.correct / self.total if self.total else float("nan")
        return {"name": self.name, "rate": rate, "low": low, "high": high, "n": self.total, **self.extra}


def share(right: Sequence[bool]) -> float | None:
    """The share that is right; None of nothing."""
    return sum(right) / len(right) if right else None


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): that of scipy.stats.binomtest, which is 143 MB and half a second to import."""
    if not total:
        return float("nan"), float("nan")
    p = right / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def format_row(row: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in row.items() if k not in ("name", "rate", "low", "high", "n") and v is not None}
    beside = "  ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in rest.items())
    interval = f"{row['low']:.3f} - {row['high']:.3f}"
    return f"{row['name']:32} {row['rate']:6.3f}  {interval:15} {row['n']:5}  {beside}"


def format_table(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    lines = [f"{'what':32} {'rate':>6}  {'95 % interval':15} {'n':>5}  beside it", *map(format_row, rows)]
    lines += [f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}" for key, value in about.items()]
    return "\n".join(lines) + "\n"
