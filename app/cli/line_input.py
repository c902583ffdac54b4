"""The chat's lines, the first of which is asked for while the model still loads: nothing here imports torch."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

from .terminal import typed_ahead

PROMPT = "> "

readline: Any = None
"""The module, once it is known that lines are typed: imported, it gives input() line editing and history, and may write to the
standard output"""


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


def greet(name: str, completions: Callable[[str], list[str]] | None = None) -> None:
    """Says hello and makes ready for typed lines; the tab key offers what ``completions`` make of a line."""
    global readline
    with contextlib.suppress(ImportError):  # Windows, and a Python built without it, still read lines
        import readline

        if "libedit" not in (readline.__doc__ or ""):
            # the answer of a slow terminal to what it was asked is no text
            readline.parse_and_bind(r'"\e[": skip-csi-sequence')
            for setting in ("input-meta on", "output-meta on", "convert-meta off"):  # bytes of UTF-8 are no commands
                readline.parse_and_bind(f"set {setting}")
        if completions is not None:
            readline.set_completer(Completer(completions))
            readline.set_completer_delims(" /")
            readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    with contextlib.suppress(AttributeError):  # in place of an error at a byte that is no character
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    print(f"limner {name}: type a message, /help for commands, Ctrl-D to leave", flush=True)


class Completer:
    """What readline asks for completions one by one, from a function that gives whole lines."""

    def __init__(self, completions: Callable[[str], list[str]]) -> None:
        self.completions = completions
        self.found: list[str] = []

    def __call__(self, text: str, state: int) -> str | None:
        """The completion of this number of the last word, None after the last one."""
        if state == 0:
            begin, end = readline.get_begidx(), readline.get_endidx()
            self.found = [line[begin:] for line in self.completions(readline.get_line_buffer()[:end])]
        return self.found[state] if state < len(self.found) else None


def read() -> str | None:
    """The next line, None at the end. Bytes that are not UTF-8 become replacement characters."""
    if sys.stdin.isatty():
        try:
            return typed_line()
        except (EOFError, KeyboardInterrupt) as pressed:
            print()
            return None if isinstance(pressed, EOFError) else ""
    raw = sys.stdin.buffer.readline()
    return raw.decode("utf-8", "replace") if raw else None


def typed_line() -> str:
    """A line of the terminal, which begins with what was typed before it was asked for. Raises EOFError at the end."""
    whole, end, rest = typed_ahead.decode("utf-8", "replace").replace("\r", "\n").partition("\n")
    while (edited := re.sub("[^\x7f\b][\x7f\b]|^[\x7f\b]", "", whole)) != whole:  # backspaces
        whole = edited
    typed_ahead[:] = rest.encode()
    if end:
        print(PROMPT + whole)
        return whole
    if whole.endswith("\x04"):
        raise EOFError
    if readline is None or not whole:
        return whole + decoded(input(PROMPT + whole))
    readline.set_startup_hook(lambda: readline.insert_text(whole))
    try:
        return decoded(input(PROMPT))
    finally:
        readline.set_startup_hook()


def decoded(text: str) -> str:
    """Text as UTF-8 where the locale's encoding could not say what it is (``LC_ALL=C``). What is none either is replaced."""
    if text.isascii() or not re.search("[\udc80-\udcff]", text):
        return text
    encoding = getattr(sys.stdin, "encoding", None) or "utf-8"
    return text.encode(encoding, "surrogateescape").decode("utf-8", "replace")
