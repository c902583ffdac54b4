"""What a server keeps for a while, as files in one folder: pictures behind URLs, stored responses, replies that may come back
as history. Several servers that share the folder share these."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from pathlib import Path

from ...inference.output import atomic_file, check_folder

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}(\.[a-z]{1,5})?")
MARK = ".limner-store"
"""A file in a folder that is a store, in which what is old is removed"""
MAX_FILES = 20_000
MAX_BYTES = 4 * 2**30
SWEEP_SECONDS = 60.0
"""Between two looks for what has expired, or fewer where as much as `SWEEP_BYTES` has come"""
SWEEP_BYTES = MAX_BYTES // 16


class Store:
    """Files that expire ``seconds`` after they were written or read last; the oldest go where there is too much. Raises
    ValueError for a folder that holds other things."""

    def __init__(self, seconds: float, folder: Path | None = None) -> None:
        self.own = None if folder else tempfile.TemporaryDirectory(prefix="limner-")
        self.folder = check_folder(folder or Path(self.own.name), MARK)  # type: ignore[union-attr]
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / MARK).touch()
        self.seconds, self.swept, self.unswept = seconds, time.monotonic(), 0

    def put(self, data: bytes, suffix: str, name: str | None = None) -> str:
        """Keeps ``data`` and returns its name, which nobody can guess unless it was given."""
        name = name or secrets.token_urlsafe(24)
        with atomic_file(self.folder / f"{name}{suffix}") as fresh:
            fresh.write_bytes(data)
        self.unswept += len(data)
        if time.monotonic() - self.swept > SWEEP_SECONDS or self.unswept > SWEEP_BYTES:
            self.sweep()
        return f"{name}{suffix}"

    def get(self, name: str) -> bytes | None:
        """None for a name that there is not, or not any more."""
        if not NAME.fullmatch(name):
            return None
        path = self.folder / name
        try:
            if time.time() - path.stat().st_mtime > self.seconds:
                return None
            data = path.read_bytes()
            path.touch()
            return data
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> bool:
        """Whether it was there."""
        there = self.get(name) is not None
        if there:
            (self.folder / name).unlink(missing_ok=True)
        return there

    def sweep(self) -> None:
        """Removes what has expired, and the oldest of what is too much."""
        self.swept, self.unswept, held = time.monotonic(), 0, 0
        found = []
        for path in self.folder.iterdir():
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another server was faster
                continue
        found = [own for own in found if NAME.fullmatch(own[2].name)]  # no file that is being written
        for index, (written, size, path) in enumerate(sorted(found, reverse=True)):
            held += size
            if index >= MAX_FILES or held > MAX_BYTES or time.time() - written > self.seconds:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes a folder that is this server's own."""
        if self.own is not None:
            self.own.cleanup()
