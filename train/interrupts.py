"""SIGTERM and Ctrl-C while a run trains: it ends after a checkpoint, not in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """SIGTERM or Ctrl-C stopped the run, after a checkpoint was written."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Within it SIGTERM and Ctrl-C end nothing: their numbers go to the list. In another thread than the main one, which alone
    gets signals, nothing is changed."""
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {s: signal.signal(s, lambda number, _: stop.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave_interrupts(_: int) -> None:
    """In a process that makes batches: SIGTERM and Ctrl-C, which `timeout`, schedulers and terminals send to all processes of a
    run, belong to the main one, which asks the others to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
