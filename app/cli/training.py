"""What the commands that train have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def training() -> Iterator[None]:
    """Around a command's work: raises KeyboardInterrupt, which says how to go on, where the run was stopped."""
    from ...train.interrupts import Interrupted

    try:
        yield
    except Interrupted as stopped:
        raise KeyboardInterrupt(stopped) from None
