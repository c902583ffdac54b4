"""How a row tries its cases: hypothesis makes them from a seed, and every one that fails is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


@dataclass
class Outcome:
    """How many cases were tried, and a text for each that failed."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)


def try_cases(strategy: SearchStrategy[T], check: Callable[[T], None], cases: int, number: int) -> Outcome:
    """`check` on `cases` examples of `strategy`, made from the seed `number`; it fails by raising.

    All are tried: a failure does not end the row, so none is shrunk. hypothesis stops early where a strategy has
    fewer examples than were asked for: `tried` counts what was.
    """
    outcome = Outcome()

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def attempt(case: T) -> None:
        outcome.tried += 1
        try:
            check(case)
        except Exception as error:  # noqa: BLE001 - whatever a case brings about is what is counted
            outcome.failures.append(f"{case!r:.400}: {type(error).__name__}: {error!s:.400}")

    attempt()
    return outcome
