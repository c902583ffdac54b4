"""Logging of metrics to TensorBoard or any other of accelerate's trackers."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType


def check_tracker(kind: str) -> None:
    """Raises ValueError for a name that accelerate does not know, or whose package is not installed."""
    if kind not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"tracker is {kind!r}; accelerate has {', '.join(LOGGER_TYPE_TO_CLASS)}")
    installed = [str(one) for one in get_available_trackers()]
    if kind in LoggerType.list() and kind not in installed:
        raise ValueError(
            f"tracker {kind}: its package is not installed; installed are {', '.join(installed) or 'none'}"
        )


def start_tracker(kind: str, folder: Path) -> GeneralTracker:
    """A started tracker, its files (where it keeps some) in ``folder / kind``; `log` takes figures, `finish` ends it.

    One registered by `accelerate.tracking.register_tracker_class` serves as well. Raises ValueError as `check_tracker` does.
    """
    check_tracker(kind)
    PartialState()  # accelerate's trackers ask it which process is the first
    made = LOGGER_TYPE_TO_CLASS[kind]
    tracker = made("limner", **({"logging_dir": folder / kind} if made.requires_logging_directory else {}))
    tracker.start()
    return tracker
