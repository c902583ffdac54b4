"""A stopped run is resumed only with the data, base model and settings that it was begun with, and by one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ..inference.output import write_text
from . import parallel
from .config_parsing import current_keys

SETTINGS_FILE = "settings.json"
UNCHECKED = frozenset(
    (
        "num_workers",
        "save_total_limit",
        "save_every",
        "sample_every",
        "log_every",
        "tracker",
        "max_bad_batches",
        "parallel",
        "compile",
        "plans",
        "validation",
        "judge",
        "judged_drawings",
    )
)
"""Options of a stage and of its loop that do not change what is learned, and may differ when a run is resumed."""

LOCK_FILE = ".limner.lock"
"""In the output of a command that trains until it has gone through: it marks a folder that was empty when it was begun"""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Within it no other command trains in ``folder``: two would write over each other's checkpoints.

    The system releases the lock of a process that ends, however it does; processes that make batches do not inherit it. Raises
    ValueError where another holds it. The file goes when what was to be done has gone through.
    """
    if parallel.rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w", encoding="utf-8") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"another run is at work in {folder}; wait until it ends, or choose another output"
            ) from None
        except OSError as error:
            print(f"{folder} cannot be locked ({error}): see that no other run is at work in it", flush=True)
        yield
        (folder / LOCK_FILE).unlink()


def lock(file: IO[str]) -> None:
    """Lock an open file for this process. Raises BlockingIOError or PermissionError where another has it, OSError where files
    cannot be locked."""
    try:
        import fcntl
    except ImportError:
        raise OSError("not on Windows") from None
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_outside(output: Path, data: str | Path) -> None:
    """Raises ValueError for an output inside the folder of the data, of which it would become a part."""
    if str(data) and Path(data).is_dir() and output.resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"{output} is inside the data, {data}, and would be read as data; choose a folder beside it")


def run_settings(config: Any) -> dict[str, Any]:
    """A dataclass with a ``loop`` (a stage, say) as JSON values, without the options in `UNCHECKED`."""
    values = asdict(config)
    for part in (values, *(v for v in values.values() if isinstance(v, dict))):
        if isinstance(part.get("loop"), dict):
            part["loop"] = {key: value for key, value in part["loop"].items() if key not in UNCHECKED}
        for key in UNCHECKED.intersection(part):
            del part[key]
    return json.loads(json.dumps(values))  # as JSON has it: lists, no tuples


def default_settings(stage: Any) -> dict[str, Any]:
    """What a run of before had of the options that a stage has gained since: their defaults, by which all is as it was."""
    return {"stage": run_settings(type(stage)())}


def check_same_run(folder: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Write the settings of a new run to ``folder``, or compare them with those of the run there; what that does not name is as
    in ``defaults``.

    Raises ValueError, naming what differs, for a run of other data, another base model or other settings.
    """
    path, settings = folder / SETTINGS_FILE, json.loads(json.dumps(settings))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=1) + "\n")
        return
    try:
        before = dict(flatten(dict(defaults or {})))
        before |= dict(flatten(current_keys(json.loads(path.read_text(encoding="utf-8")))))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; take {folder} away to begin anew") from error
    now = dict(flatten(settings))
    checked = [key for key in {**before, **now} if key.rpartition(".")[2] not in UNCHECKED]
    changed = [key for key in checked if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"{folder} holds a run with other data, another base or other settings: {differences}{more}; run it as it began, "
            "choose another output, or take it away to begin anew"
        )


def flatten(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flatten(value, f"{name}.{key}".strip("."))
    else:
        yield name, values
