"""What a terminal is sent, and what it is asked. Nothing here imports torch or numpy."""

from __future__ import annotations

import os
import re
import select
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 but tab and line feed, the overrides of a line's direction, and surrogates, which no encoding has"""
CURSOR_UP = re.compile("(\x1b\\[A)+")
"""What tqdm writes, alone, to go back to the line of its bar"""


def printable(text: str) -> str:
    """The text with its control characters written as in Python, ``\\x1b``: raw, those of a model's words or of a downloaded file
    would set titles and clipboards, clear the screen, or show other words than there are."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


class PrintableStream:
    """A text stream to which only what is `printable`, and what its encoding holds, is written."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream
        """For escape sequences of our own"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        if not CURSOR_UP.fullmatch(text):
            # a carriage return is a progress bar's
            text = "\r".join(map(printable, text.split("\r"))) if "\r" in text else printable(text)
            encoding = self.raw.encoding or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        return self.raw.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)


def raw_output() -> TextIO:
    """Standard output for escape sequences of our own."""
    return sys.stdout.raw if isinstance(sys.stdout, PrintableStream) else sys.stdout


@contextmanager
def printable_streams() -> Iterator[None]:
    """Standard output and error are `PrintableStream`s, to nowhere where they were closed (``>&-``), and our warnings are a line.

    What waits in their buffers is written at the end, so that a full disk or a reader that went away is noticed here.
    """
    before = sys.stdin, sys.stdout, sys.stderr, warnings.formatwarning
    with open(os.devnull, "r+", encoding="utf-8") as nowhere:
        sys.stdin = sys.stdin or nowhere
        sys.stdout = cast(TextIO, PrintableStream(sys.stdout or nowhere))
        sys.stderr = cast(TextIO, PrintableStream(sys.stderr or nowhere))
        warnings.formatwarning = format_warning
        try:
            yield
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            sys.stdin, sys.stdout, sys.stderr, warnings.formatwarning = before


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of Limner in one line, as mistakes are; another one with its place."""
    own = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    return f"limner: {message}\n" if filename.startswith(own) else f"{filename}: {category.__name__}: {message}\n"


def graphics(environment: Mapping[str, str], is_terminal: bool) -> str:
    """ "kitty", "iterm2", "sixel", "blocks", or "none" where nobody would see it."""
    kind = environment.get("TERM", "" if os.name == "posix" else "windows")
    if not is_terminal or kind == "dumb":
        return "none"
    inside = bool(environment.get("TMUX")) or kind.startswith(("screen", "tmux"))  # it passes on no protocol but sixel
    if not inside and (environment.get("KITTY_WINDOW_ID") or kind in ("xterm-kitty", "xterm-ghostty")):
        return "kitty"
    if not inside and environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return "iterm2"
    if answers_sixel():
        return "sixel"
    # half blocks are made of colours
    return "blocks" if kind and not environment.get("NO_COLOR") and has_half_blocks(sys.stdout) else "none"


def has_half_blocks(stream: Any) -> bool:
    """Whether the stream's encoding holds them."""
    try:
        "▀".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


typed_ahead = bytearray()
"""What was typed while a question was answered: the first of the next line"""


def answers_sixel(timeout: float = 0.5) -> bool:
    """Asks the terminal for its attributes (DA1): 4 among them means sixel.

    Only while nothing is read from it: else its answer would be read as typed. What is typed meanwhile goes to `typed_ahead`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return False
    handle, pattern, end = sys.stdin.fileno(), re.compile(rb"\x1b\[\?([\d;]*)c"), time.monotonic() + timeout
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle, termios.TCSADRAIN)  # its default throws away what has been typed
        raw_output().write("\x1b[c")
        sys.stdout.flush()
        while (left := end - time.monotonic()) > 0 and not pattern.search(typed_ahead):
            if select.select([handle], [], [], left)[0]:
                typed_ahead.extend(os.read(handle, 1024))
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
    if not (found := pattern.search(bytes(typed_ahead))):
        return False
    del typed_ahead[slice(*found.span())]
    return b"4" in found[1].split(b";")
