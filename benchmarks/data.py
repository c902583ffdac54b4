"""Conversations a second that are made ready for training: told, tokenized, rendered, batched, with the vision tower's views.

    python benchmarks/data.py --before main=FOLDER old=FOLDER

FOLDER holds another version, in a folder called limner. Versions are measured in turn, each in a process of its own; printed is
the median of the rounds. Seconds are the processor's, of one thread, so that other programs count little. ``--of N`` measures
one of N workers, with its share of telling a pool; ``--workers N`` how fast N worker processes are, by the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PARTS = ("telling", "tokenizing", "rendering", "views", "stacking")


class Clock:
    """Adds up the processor's seconds by the part that runs; a part within another one stops the outer."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.running = ["stacking"]  # what is none of the others
        self.since = time.process_time()

    def switch(self) -> None:
        now = time.process_time()
        self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def count(self, holder: Any, name: str, part: str) -> None:
        """Count what ``holder.name`` takes as ``part``; nothing where this version has no such function."""
        function = getattr(holder, name, None)
        if function is None:
            return

        @functools.wraps(function)
        def counted(*given: Any, **named: Any) -> Any:
            self.switch()
            self.running.append(part)
            try:
                return function(*given, **named)
            finally:
                self.switch()
                self.running.pop()

        setattr(holder, name, counted)


def count_parts(clock: Clock) -> None:
    """Count the functions of this version, or of one before it, as parts."""
    from limner.mllm import views
    from limner.mllm.encoding import StreamEncoder
    from limner.train import data
    from limner.train.datasets import mixture

    clock.count(mixture.WorldSource, "sample", "telling")
    clock.count(mixture, "conversation_size", "tokenizing")
    clock.count(StreamEncoder, "encode", "tokenizing")
    clock.count(mixture, "render", "rendering")
    clock.count(data, "normalise", "views")
    clock.count(views, "normalise", "views")
    clock.count(data.JointBatch, "views", "views")
    if hasattr(views, "Views"):
        clock.count(views.Views, "pixel_values", "views")


def ready(batch: Any) -> Any:
    """A batch's views, as the vision tower takes them."""
    views = batch.views()
    return views.pixel_values() if hasattr(views, "pixel_values") else views


def measure_one(batch_size: int, batches: int, of: int, timed: bool) -> dict[str, float]:
    """Processor's milliseconds a conversation, in all and by part, of one of ``of`` workers. Each makes ``batches`` of a pool."""
    import torch

    import limner
    from limner.train.datasets.mixture import Mixture, WorldSource

    torch.set_num_threads(1)
    encoder = limner.load("nano", device="cpu").encoder
    made = Mixture([(WorldSource(), 1.0)], encoder, batch_size, 3, pool=batches * of)
    own = range(0, made.pool, of)
    work(made, 0, own)  # reads data files, fills caches
    clock = Clock()
    if timed:
        count_parts(clock)
    clock.switch()
    seconds = sum(work(made, pool, own) for pool in (1, 2))
    count = 2 * batches * batch_size
    parts = {part: 1e3 * spent / count for part, spent in clock.seconds.items()} if timed else {}
    return {"all": 1e3 * seconds / count} | parts


def work(made: Any, pool: int, own: range) -> float:
    """The processor's seconds for a worker's ``own`` batches of a pool."""
    if not hasattr(made, "tell"):  # a version in which every worker tells all of a pool
        begun = time.process_time()
        for index in own:
            ready(made(pool * made.pool + index))
        return time.process_time() - begun
    others = [told for part in range(made.pool) if part not in own for told in made.tell(pool, part)]
    begun = time.process_time()
    told = [told for part in own for told in made.tell(pool, part)]
    dealt = made.deal(pool, [*others, *told])
    for index in own:
        ready(made.make(pool * made.pool + index, dealt[index]))
    return time.process_time() - begun


def measure_workers(batch_size: int, batches: int, workers: int) -> dict[str, float]:
    """Milliseconds a conversation, of the clock on the wall, from the second pool on."""
    import torch

    import limner
    from limner.train.datasets.mixture import Mixture, WorldSource

    torch.set_num_threads(1)
    encoder = limner.load("nano", device="cpu").encoder
    made = Mixture([(WorldSource(), 1.0)], encoder, batch_size, 3, pool=batches)
    try:
        from limner.train.loading import batch_loader
    except ImportError:  # before it was
        from torch.utils.data import DataLoader

        loader = DataLoader(
            range(4 * batches), batch_size=None, collate_fn=made, num_workers=workers, prefetch_factor=4
        )
    else:
        loader = batch_loader(made, range(4 * batches), workers)
    begun = time.perf_counter()
    for step, batch in enumerate(loader):
        ready(batch)
        if step == 0:
            first = time.perf_counter() - begun
        if step == batches - 1:
            begun = time.perf_counter()
    return {"all": 1e3 * (time.perf_counter() - begun) / (3 * batches * batch_size), "seconds to the first": first}


def measured(folder: Path | None, options: argparse.Namespace, timed: bool) -> dict[str, float]:
    """What this script measures in a process of its own, of the version in ``folder``, or of this one."""
    home = folder or Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    given = [
        f"--batch={options.batch}",
        f"--batches={options.batches}",
        f"--workers={options.workers}",
        f"--of={options.of}",
    ]
    command = [sys.executable, str(Path(__file__).resolve()), "--one", *given, *(["--parts"] if timed else [])]
    done = subprocess.run(command, env=environment, cwd=home, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", nargs="*", default=[], help="NAME=FOLDER that holds another version, called limner")
    parser.add_argument("--batch", type=int, default=32, help="conversations a batch")
    parser.add_argument(
        "--batches", type=int, default=8, help="batches of a pool that a worker makes; two pools are timed"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--of", type=int, default=1, help="workers that share a pool")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches; 0: this one")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parts", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with contextlib.redirect_stdout(sys.stderr):
            if options.workers:
                found = measure_workers(options.batch, options.batches, options.workers)
            else:
                found = measure_one(options.batch, options.batches, options.of, options.parts)
        print(json.dumps(found))
        return
    versions: dict[str, Path | None] = {
        name: Path(folder) for name, _, folder in (b.partition("=") for b in options.before)
    }
    versions["this"] = None
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    for _ in range(options.rounds):
        for name, folder in versions.items():
            rounds[name].append(measured(folder, options, False))
    parts = {
        name: {} if options.workers or options.of > 1 else measured(folder, options, True)
        for name, folder in versions.items()
    }
    for name, found in rounds.items():
        middle = statistics.median(one["all"] for one in found)
        spread = ", ".join(f"{one['all']:.2f}" for one in found)
        print(f"{name:8} {middle:6.3f} ms a conversation, {1e3 / middle:6.0f} a second ({spread})")
        if options.workers:
            print(f"         first batch after {statistics.median(one['seconds to the first'] for one in found):.2f} s")
        elif parts[name]:
            print("        " + ", ".join(f" {part} {parts[name][part]:.3f}" for part in PARTS))
    for name in list(versions)[:-1]:
        ratios = [a["all"] / b["all"] for a, b in zip(rounds[name], rounds["this"], strict=True)]
        print(f"{name} / this: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
