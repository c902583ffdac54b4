"""Data sets too large to list: shards whose examples are read when needed, in an order that needs no replay.

Only the number of examples of each shard is in memory. An epoch goes through the shards in a random order, a few at a time,
and through the examples of those few in a random order: where the ``place``-th example lies is a function of (seed, place).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ...detokenizer.files import printable
from ...inference.output import write_text
from ...mllm.messages import Message
from ...world.sampling import rng_for
from . import readers
from .example import Example, Problem, chat_message, shuffled
from .folders import files_of
from .notes import Notes

INDEX_FILE = "limner-index.json"
INDEX_FORMAT = 2
"""Of the readers' counts: 1 took members of a tar whose names are equal up to a dot for one example."""
SUFFIXES = (".tar", ".jsonl", ".parquet")
HASHED_BYTES = 2**16
"""Bytes at each end of a shard that its fingerprint hashes."""


@dataclass(frozen=True)
class BrokenPicture:
    """Stands for an example that could not be read; opening it raises ValueError, so that training skips and counts it."""

    problem: Problem

    def open(self) -> Image.Image:
        raise ValueError(self.problem.why)


@lru_cache(maxsize=16)
def examples_of(shard: Path, folder: Path) -> tuple[Example | Problem, ...]:
    return tuple(readers.file(shard, root=folder))


class ShardSource:
    """A source of a `Mixture` over the shards of a folder.

    ``shards_at_once`` shards are mixed at a time. Raises ValueError for a folder without shards or without examples.
    """

    kept = False

    def __init__(self, folder: str | Path, draw_share: float = 0.8, shards_at_once: int = 4) -> None:
        self.folder, self.draw_share, self.together = Path(folder), draw_share, shards_at_once
        self.paths = [p for p in files_of(self.folder) if p.suffix.lower() in SUFFIXES]
        if not self.paths:
            raise ValueError(f"{folder} holds no shards ({', '.join(SUFFIXES)})")
        self.counts = shard_counts(self.folder, self.paths)
        self.total = sum(self.counts)
        if not self.total:
            raise ValueError(f"{folder}: no examples in {len(self.paths)} shards")

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' names, sizes, first and last bytes: whole shards would take too long to read."""
        found = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            size = path.stat().st_size
            found.update(f"{path.relative_to(self.folder)} {size} ".encode())
            with path.open("rb") as file:
                found.update(file.read(HASHED_BYTES))
                file.seek(max(0, size - HASHED_BYTES))
                found.update(file.read(HASHED_BYTES))
        return f"{self.total} examples, {found.hexdigest()}"

    def find(self, seed: int, place: int) -> tuple[Path, int]:
        """The shard of the ``place``-th example, and the index in it."""
        epoch, index = divmod(place, self.total)
        order = shuffled(len(self.paths), seed, 0, f"shards/{epoch}")
        groups = [order[i : i + self.together] for i in range(0, len(order), self.together)]
        sizes = [sum(self.counts[shard] for shard in group) for group in groups]
        which, index = locate(sizes, index)
        index = shuffled(sizes[which], seed, 0, f"group/{epoch}/{which}")[index]
        shard, index = locate([self.counts[shard] for shard in groups[which]], index)
        return self.paths[groups[which][shard]], index

    def example(self, seed: int, place: int) -> Example | Problem:
        path, index = self.find(seed, place)
        found = examples_of(path, self.folder)
        if index >= len(found):
            return Problem(str(path), f"only {len(found)} examples where the index has more; remove {INDEX_FILE}")
        return found[index]

    def sample(self, seed: int, place: int) -> list[Message]:
        example = self.example(seed, place)
        if isinstance(example, Problem):
            return [chat_message("user", {"type": "image", "image": BrokenPicture(example)})]
        return example.sample(rng_for(seed, place, "told"), self.draw_share)

    def name(self, seed: int, place: int) -> str:
        return self.example(seed, place).where


def locate(sizes: Sequence[int], index: int) -> tuple[int, int]:
    """Where the ``index``-th item lies in parts of these sizes, one after another: which part, and the index in it."""
    ends = list(accumulate(sizes))
    part = bisect_right(ends, index)
    return part, index - (ends[part - 1] if part else 0)


def shard_counts(folder: Path, paths: Sequence[Path]) -> list[int]:
    """Examples of each shard, from the folder's index where its sizes still hold; else counted, and the index written."""
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in paths}
    index = folder / INDEX_FILE
    saved = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    if saved.get("sizes") != sizes or saved.get("format") != INDEX_FORMAT:
        notes = Notes()
        told = tqdm(paths, desc=f"counting {folder}", disable=None)
        counts = [sum(1 for _ in readers.file(p, notes, folder)) for p in told]
        saved = {"format": INDEX_FORMAT, "sizes": sizes, "counts": counts}
        write_text(index, json.dumps(saved) + "\n")
        for line in notes.lines():
            print(printable(line), flush=True)
    return saved["counts"]
