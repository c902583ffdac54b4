"""What the tab key offers in `limner chat`. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from .options import CHATTING
from .paths import expanded

COMMANDS = {
    **dict.fromkeys(("image", "mask", "save", "load", "adapter"), "path"),
    **dict.fromkeys(("candidates", "choose", "seed", "size", "steps", "guidance"), "value"),
    "set": "option",
    **dict.fromkeys(("undo", "clear", "retry", "help", "quit"), ""),
}
"""Of a chat, and what each of them takes"""
OPTIONS = ("seed", "size", "steps", "guidance", *CHATTING)
"""Names that /set takes"""


def completions(line: str, adapters: Callable[[], Sequence[str]] = list) -> list[str]:
    """What the line may become: commands, paths, names of options and of the ``adapters`` that are loaded."""
    if not line.startswith("/"):
        return []
    name, blank, typed = line[1:].partition(" ")
    if not blank:
        return [f"/{own} " if kind else f"/{own}" for own, kind in COMMANDS.items() if own.startswith(name)]
    offered: list[str] = []
    if COMMANDS.get(name) == "path":
        known = {"adapter": ["off", *adapters()], "mask": ["off"], "save": ["--overwrite "]}.get(name, [])
        offered = [
            *(word for word in known if word.startswith(typed)),
            *paths(typed, (".jsonl", ".zip") if name == "load" else None),
        ]
    elif COMMANDS.get(name) == "option" and " " not in typed:
        offered = [f"{own} " for own in OPTIONS if own.startswith(typed.lstrip("-").replace("-", "_"))]
    return [f"/{name} {word}" for word in offered]


def paths(typed: str, suffixes: tuple[str, ...] | None) -> Iterator[str]:
    """Paths that begin so: folders, which end in a slash, and files, of these suffixes alone where there are some."""
    folder, slash, start = typed.rpartition("/")
    try:
        entries = sorted(os.scandir(expanded(folder + slash) if slash else "."), key=lambda entry: entry.name)
    except OSError:  # no such folder
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not start.startswith(".")
        if entry.name.startswith(start) and entry.name.isprintable() and not hidden:
            if entry.is_dir():
                yield f"{folder}{slash}{entry.name}/"
            elif suffixes is None or entry.name.endswith(suffixes):
                yield f"{folder}{slash}{entry.name}"
