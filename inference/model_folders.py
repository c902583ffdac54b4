"""Folders of models. This file does not import torch, so that the command line can check a name quickly."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def embedded(name: str) -> Path:
    """The folder of a model that is part of the package. Raises ValueError when there is none of this name."""
    folder = WEIGHTS / name
    if not (folder / "config.json").exists():
        raise ValueError(
            f"unknown model {name!r}: not an embedded model (nano), not a folder, not a hub id (owner/name)"
        )
    return folder


def find_model(model: str | Path) -> Path | None:
    """The folder of a model by name or path; None for a hub id. Raises ValueError for anything else."""
    path, name = Path(model).expanduser(), str(model)
    if path.is_dir():
        return path
    if "/" not in name and "\\" not in name:
        return embedded(name)
    if isinstance(model, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    raise ValueError(f"no such model folder: {model}")
