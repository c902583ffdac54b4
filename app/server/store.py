"""What a server keeps for a while, as files in one folder: pictures behind URLs, stored responses, replies that may come back
as history. Several servers that share the folder share these."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from pathlib import Path

from ...inference.output import atomic_file

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}(\.[a-z]{1,5})?")
MAX_FILES = 20_000
SWEEP = 60.0
"""Seconds between two looks for what has expired"""


class Store:
    """Files that expire ``seconds`` after they were written or read last; the oldest go where there are too many."""

    def __init__(self, seconds: float, folder: Path | None = None) -> None:
        self.own = None if folder else tempfile.TemporaryDirectory(prefix="limner-")
        self.folder = folder or Path(self.own.name)  # type: ignore[union-attr]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds, self.swept = seconds, time.monotonic()

    def put(self, data: bytes, suffix: str, name: str | None = None) -> str:
        """Keeps ``data`` and returns its name, which nobody can guess unless it was given."""
        name = name or secrets.token_urlsafe(24)
        with atomic_file(self.folder / f"{name}{suffix}") as fresh:
            fresh.write_bytes(data)
        if time.monotonic() - self.swept > SWEEP:
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
        """Removes what has expired."""
        self.swept = time.monotonic()
        found = []
        for path in self.folder.iterdir():
            try:
                found.append((path.stat().st_mtime, path))
            except FileNotFoundError:  # another server was faster
                continue
        found.sort(key=lambda item: item[0], reverse=True)
        for index, (written, path) in enumerate(found):
            if index >= MAX_FILES or time.time() - written > self.seconds:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes a folder that is this server's own."""
        if self.own is not None:
            self.own.cleanup()
