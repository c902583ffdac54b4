"""Checkpoints of a run: sharded safetensors and JSON, written beside and renamed, so that a cut leaves only whole ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ..inference import output
from . import parallel
from .optimizer import MasterOptimizer


@dataclass
class RunState:
    step: int = 0
    """Steps done"""
    bad_batches: int = 0
    """Steps whose gradient was not finite, all and those since the last that was"""
    bad_in_a_row: int = 0
    left_out: int = 0
    """Broken examples met so far"""
    best: float | None = None
    """The lowest validation loss so far, and the step it was measured at"""
    best_step: int = -1


def saved_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first. A folder still being written has a name of another form."""
    return sorted(p for p in folder.glob("[0-9]" * 8) if p.is_dir())


def check_space(folder: Path, size: int, kept: int) -> None:
    """Raises OSError where the disk of ``folder`` has no room for ``kept`` checkpoints of ``size`` bytes and one being written,
    beside those that are there already."""
    there = sum(file.stat().st_size for path in saved_checkpoints(folder) for file in path.iterdir())
    output.check_space(folder, (kept + 1) * size - there, f"{kept + 1} checkpoints of {size / 2**20:,.1f} MiB")


def save(folder: Path, optimizer: MasterOptimizer, progress: RunState, keep: int = 1) -> None:
    """Write checkpoint ``progress.step``; afterwards the newest ``keep`` and the best one are there.

    Raises OSError when it cannot be written (a full disk); those already there stay as they are.
    """
    path = folder / f"{progress.step:08d}"
    fresh = path.with_suffix(".new")
    if parallel.rank() == 0:
        for stale in folder.glob("*.new"):
            shutil.rmtree(stale)
        fresh.mkdir(parents=True)
    parallel.barrier()
    try:
        with _quiet():
            # channels-last kernels are not contiguous, safetensors are
            state = {k: v if parallel.is_sharded(v) else v.contiguous() for k, v in optimizer.state_dict().items()}
            dcp.save(
                state,
                storage_writer=dcp.HuggingFaceStorageWriter(str(fresh), save_distributed=True),
                no_dist=parallel.world_size() == 1,
            )
        if parallel.rank() == 0:
            sizes = {file.name: file.stat().st_size for file in sorted(fresh.iterdir())}
            (fresh / "progress.json").write_text(
                json.dumps(asdict(progress) | {"files": sizes}) + "\n", encoding="utf-8"
            )
            _fsync(fresh.iterdir())
    except (Exception, CheckpointException) as error:  # the writer wraps what the disk says in errors of its own
        shutil.rmtree(fresh, ignore_errors=True)
        there = saved_checkpoints(folder)
        good = f"the last good one is {there[-1]}" if there else "there is none yet"
        raise OSError(f"checkpoint {progress.step} could not be written to {folder}: {cause(error)}; {good}") from error
    parallel.barrier()
    if parallel.rank() == 0:
        if path.exists():  # the same step again, after a run that was stopped just here
            shutil.rmtree(path)
        os.replace(fresh, path)
        _fsync([folder])
        for old in saved_checkpoints(folder)[:-keep]:
            if int(old.name) != progress.best_step:
                shutil.rmtree(old)
    parallel.barrier()


def load(folder: Path, optimizer: MasterOptimizer) -> RunState:
    """Bring the optimizer to the newest checkpoint, whatever number of processes wrote it; fresh where there is none.

    Raises ValueError for one of other parameters, or one that cannot be read.
    """
    there = saved_checkpoints(folder)
    if not there:
        return RunState()
    path = there[-1]
    try:
        saved = json.loads((path / "progress.json").read_text(encoding="utf-8"))
        for name, size in saved.pop("files", {}).items():  # earlier versions did not name them
            if (held := (path / name).stat().st_size) != size:
                raise ValueError(f"{name} holds {held:,} bytes of {size:,}")
        progress = RunState(**saved)
        reader = dcp.HuggingFaceStorageReader(str(path))
        stored = reader.read_metadata().state_dict_metadata
    except (OSError, ValueError, TypeError, KeyError, struct.error, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); take it away and the run goes on from the one before"
        ) from error
    optimizer.check_shapes({name: tuple(getattr(meta, "size", ())) for name, meta in stored.items()}, path)
    state: dict[str, Tensor] = optimizer.empty_state(stored)
    try:
        with _quiet():
            dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=parallel.world_size() == 1)
    except CheckpointException as error:
        raise ValueError(
            f"{path} cannot be read ({cause(error)}); take it away and the run goes on from the one before"
        ) from error
    optimizer.load_state_dict(state)
    return progress


def cause(error: BaseException) -> BaseException:
    """What went wrong on the first process that failed: torch wraps it, in an error that is no `Exception`."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch warns that one process is alone, which is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _fsync(paths: Iterable[Path]) -> None:
    """Ask the system to write files (or a folder's names) through, so that a rename never comes before its contents."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
