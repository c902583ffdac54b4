"""Batches by worker processes: the same for any number of them, each conversation told once."""

import os
import pickle
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from helpers import make_limner
from limner.train import loading
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.loading import PoolWorker, batch_loader, choose_workers
from limner.train.loop import LoopConfig, fit


class Logged(Mixture):
    """Writes a line for everything that a process tells or makes."""

    log: Path

    def tell(self, pool, part):
        self._write(f"tell {pool} {part}")
        return super().tell(pool, part)

    def make(self, step, batch):
        self._write(f"make {step}")
        return super().make(step, batch)

    def _write(self, what):
        with self.log.open("a") as file:
            file.write(f"{what} {os.getpid()}\n")


def mixture(pool=3, form=Mixture):
    model = make_limner(shapes=((32, 32), (16, 32)))
    return form([(WorldSource(), 1.0)], model.encoder, 4, 5, pool)


def same(one, other):
    return pickle.dumps(comparable(one)) == pickle.dumps(comparable(other))


def comparable(batch):
    return [
        batch.stream.input_ids.tolist(),
        batch.stream.labels.tolist(),
        batch.view_index.tolist(),
        [p.numpy().tobytes() for p in batch.pictures],
        batch.target,
        batch.drawing_ids,
        batch.sources,
    ]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_any_number_of_workers_makes_the_same_batches_of_conversations_told_once(workers, tmp_path):
    made = mixture(form=Logged)
    made.log = tmp_path / "log"
    steps = range(4, 12)  # from the middle of a pool, as after resuming, to the end of one
    found = list(batch_loader(made, steps, workers))
    assert len(found) == len(steps)
    alone = mixture()
    assert all(same(batch, alone(step)) for step, batch in zip(steps, found, strict=True))
    lines = [line.rsplit(" ", 1) for line in made.log.read_text().splitlines()]
    counts = Counter(what for what, _ in lines)
    assert set(counts.values()) == {1}, "each part is told once, each batch made once"
    assert sum(what.startswith("tell") for what in counts) == 9
    processes = {process for _, process in lines}
    assert len(processes) == max(1, workers) and (str(os.getpid()) in processes) == (not workers)
    if workers:
        ahead = [what for what, _ in lines if what in ("tell 2 2", "make 5", "make 8")]
        assert ahead.index("tell 2 2") < ahead.index("make 8"), (
            "the next pool is told while this one's batches are made"
        )


def test_the_last_pool_may_be_cut_and_only_one_pool_is_told_ahead(monkeypatch):
    made = mixture()
    told, most = set(), 0
    tell = Mixture.tell

    def counted(self, pool, part):
        told.add(pool)
        return tell(self, pool, part)

    monkeypatch.setattr(Mixture, "tell", counted)
    # in this process: what the loader asks of its workers, one after another
    monkeypatch.setattr(loading, "DataLoader", lambda dataset, sampler, **_: (dataset[task] for task in sampler))
    for step, batch in enumerate(batch_loader(made, range(7), 1)):
        most = max(most, max(told) - step // 3)
        assert same(batch, mixture()(step))
    assert step == 6 and told == {0, 1, 2} and most == 1


def test_a_run_may_go_on_at_any_step_of_a_pool(monkeypatch):
    """The next pool is then told in few steps, or after all of this one's."""
    alone = mixture()
    expected = [alone(step) for step in range(7)]
    monkeypatch.setattr(loading, "DataLoader", lambda dataset, sampler, **_: (dataset[t] for t in islice(sampler, 50)))
    for begin in range(7):
        found = list(batch_loader(mixture(), range(begin, 7), 1))
        assert len(found) == 7 - begin and all(map(same, found, expected[begin:])), begin


def test_what_a_worker_gets_to_make_a_batch_is_small():
    made = mixture()
    (batch, *_) = made.deal(0, [t for part in range(3) for t in made.tell(0, part)])
    assert len(pickle.dumps(batch)) < 4 * 6000
    held = PoolWorker(made)[0, batch]
    assert all(p.dtype == torch.uint8 for p in (*held.pictures, held.tiles))
    pixels = sum(p.numel() for p in held.pictures)
    assert len(pickle.dumps(held.stream.pixel_values)) < 1000 and pixels > 0


def test_the_number_of_workers_is_chosen_by_the_machine(monkeypatch):
    for cores, processes, gpu, cpu in ((2, 1, 1, 0), (16, 1, 15, 1), (64, 1, 16, 1), (64, 8, 7, 1), (8, 8, 1, 0)):
        monkeypatch.setattr(loading, "usable_cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert (choose_workers(None, True), choose_workers(None, False)) == (gpu, cpu), cores
    assert choose_workers(3, True) == choose_workers(3, False) == 3 and choose_workers(0, True) == 0


def test_a_run_says_how_many_processes_make_its_batches(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loading, "usable_cores", lambda: 2)
    module = torch.nn.Linear(1, 1)

    def losses(batch, step):
        return {"loss": module(batch).square().mean()}

    def run(name, **options):
        config = LoopConfig(steps=1, warmup_steps=0, sample_every=0, **options)
        fit(name, module, lambda step: torch.ones(2, 1), losses, config, tmp_path / name)
        return capsys.readouterr().out

    assert "first: no worker processes make batches (num_workers)" in run("first")
    assert "worker processes" not in run("second", num_workers=0)
