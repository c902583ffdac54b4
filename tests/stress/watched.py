"""What a row that reads foreign files watches: nothing is started, written or sent, nothing is printed, memory has a cap."""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STARTED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
SENT = ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto", "urllib.Request")
CHANGED = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_watched: list[str] | None = None
"""Events of the case that runs now, or None between cases: an audit hook cannot be taken off"""


def _hook(event: str, args: tuple) -> None:
    if _watched is None:
        return
    if event in STARTED or event in SENT or event in CHANGED:
        _watched.append(f"{event}{args!r:.200}")
    elif event == "open" and isinstance(args[2], int) and args[2] & WRITING and args[0] != os.devnull:
        _watched.append(f"opened for writing: {args[0]!r:.200}")


@contextmanager
def nothing_happens(warnings_too: bool = True) -> Iterator[None]:
    """Raises AssertionError where the body starts a program, opens a connection, writes or removes a file, or warns."""
    global _watched
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        _watched = []
        try:
            yield
        finally:
            happened, _watched = _watched, None
    assert not happened, f"{happened[:3]}"
    assert not (warned and warnings_too), f"warned: {warned[0].category.__name__}: {warned[0].message}"


def watch() -> None:
    """Install the hook, once."""
    sys.addaudithook(_hook)


@contextmanager
def memory_cap(more: int) -> Iterator[None]:
    """This process may take ``more`` bytes of address space than it has; MemoryError beyond."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def standard_error() -> Iterator[Path]:
    """A file that holds what is written to the standard error meanwhile, by C libraries too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.NamedTemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield Path(file.name)
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def in_child(body: Callable[[], None], seconds: int) -> None:
    """``body`` in a forked process, so that a crash, a lack of memory or a loop without end is the failure of one case.

    Raises AssertionError with what it raised, or with where it stood after ``seconds``.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as stack:
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(seconds, file=stack)
            try:
                body()
                said = "ok"
            except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
                said = f"{type(error).__name__}: {error!s:.2000}"
            os.write(writing, said.encode("utf-8", "backslashreplace"))
            os._exit(0)
        os.close(writing)
        try:
            ready, _, _ = select.select([reading], [], [], seconds + 5)
            said = os.read(reading, 1 << 16).decode() if ready else ""
        finally:
            os.close(reading)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        stack.seek(0)
        where = stack.read(1500).decode(errors="replace")
    assert ready, f"not done after {seconds} s: {where}"
    assert said == "ok", said or f"the process ended with status {status}: {where}"
