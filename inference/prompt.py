"""The chat's first line, asked for while the model still loads: nothing here imports torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def embedded(name: str) -> Path:
    """Folder of a model that ships with the package. Raises ValueError when there is none of this name."""
    folder = WEIGHTS / name
    if not (folder / "config.json").exists():
        raise ValueError(f"no embedded model {name!r}")
    return folder


def place(model: str | Path) -> Path | None:
    """The folder of a model, None for a hub id. Raises ValueError for what can be neither."""
    path, name = Path(model), str(model)
    if path.is_dir():
        return path
    if "/" not in name and "\\" not in name:
        try:
            return embedded(name)
        except ValueError:
            raise ValueError(
                f"unknown model {name!r}: not an embedded model (nano), not a folder, not a hub id (owner/name)"
            ) from None
    if isinstance(model, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    raise ValueError(f"no such model folder: {model}")


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
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            return ""
    raw = sys.stdin.buffer.readline()
    return raw.decode("utf-8", "replace") if raw else None
