"""The chat's first line, asked for while the model still loads: nothing here imports torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any


def meanwhile(work: Callable[[], Any]) -> Future:
    """``work`` in a thread of its own, which does not keep the process alive; its errors come with the result."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def greet(name: str) -> None:
    with contextlib.suppress(ImportError):  # a Python built without it still reads lines
        import readline  # noqa: F401 - importing it gives input() line editing and history
    print(f"limner {name}: type a message, /help for commands, Ctrl-D to leave", flush=True)


def read() -> str | None:
    """The next line, None at the end. Bytes that are not UTF-8 become replacement characters."""
    if sys.stdin.isatty():
        try:
            return input("> ")
        except (EOFError, KeyboardInterrupt) as pressed:
            print()
            return None if isinstance(pressed, EOFError) else ""
    raw = sys.stdin.buffer.readline()
    return raw.decode("utf-8", "replace") if raw else None
