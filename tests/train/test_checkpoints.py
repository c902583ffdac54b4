"""Checkpoints: nothing half-written is ever taken, the last good one stays, another configuration's is refused."""

import json
from functools import partial

import pytest
import torch
from torch import nn

from limner.train import checkpoints
from limner.train.checkpoints import RunState
from limner.train.loop import LoopConfig, fit
from limner.train.optimizer import MasterOptimizer


def optimizer(width: int = 4, kind: str = "adamw") -> MasterOptimizer:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(width, 4)]), "head": nn.Linear(4, 2)})
    made = MasterOptimizer(model.named_parameters(), 1e-2, ema_decay=0.9, kind=kind)
    for _, p in made.named:
        p.grad = torch.randn_like(p)
    made.step(1.0, 1.0)
    return made


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_everything_comes_back_bit_for_bit(tmp_path, kind):
    made = optimizer(kind=kind)
    checkpoints.save(tmp_path, made, RunState(7, 1, 2, 0.5, 3))
    again = MasterOptimizer(
        [(n, nn.Parameter(torch.zeros_like(p))) for n, p in made.named], 1e-2, ema_decay=0.9, kind=kind
    )
    assert checkpoints.load(tmp_path, again) == RunState(7, 1, 2, 0.5, 3)
    before, after = made.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(made.named, again.named, strict=True))
    suffixes = {p.suffix for p in tmp_path.rglob("*") if p.is_file()}
    assert suffixes <= {".safetensors", ".json"}, "no pickle"


def test_the_newest_few_and_the_best_are_kept(tmp_path):
    made = optimizer()
    for step in range(1, 7):
        checkpoints.save(tmp_path, made, RunState(step, best=0.1, best_step=2), keep=2)
    assert [p.name for p in checkpoints.saved_checkpoints(tmp_path)] == ["00000002", "00000005", "00000006"]


def test_half_a_checkpoint_is_no_checkpoint(tmp_path):
    made = optimizer()
    checkpoints.save(tmp_path, made, RunState(4))
    (tmp_path / "00000008.new").mkdir()
    (tmp_path / "00000008.new/progress.json").write_text(json.dumps({"step": 8}))
    assert checkpoints.load(tmp_path, optimizer()).step == 4
    checkpoints.save(tmp_path, made, RunState(5))
    assert [p.name for p in tmp_path.iterdir()] == ["00000005"], "what was left of a cut write is cleared away"


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    made = optimizer()
    checkpoints.save(tmp_path, made, RunState(4))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    # torch's writer wraps it in an error that is no Exception
    for place, name in ((checkpoints.dcp, "save"), (checkpoints.dcp.HuggingFaceStorageWriter, "write_data")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, full)
            with pytest.raises(
                OSError, match=r"to .*: \[Errno 28\] No space left on device; the last good one is .*00000004$"
            ):
                checkpoints.save(tmp_path, made, RunState(5))
    assert [p.name for p in tmp_path.iterdir()] == ["00000004"]
    assert checkpoints.load(tmp_path, optimizer()).step == 4


def test_what_cannot_be_read_or_does_not_fit_is_refused(tmp_path):
    checkpoints.save(tmp_path, optimizer(), RunState(4))
    with pytest.raises(ValueError, match=r"of other parameters: layers\.0\.weight is \(4, 4\) there and \(4, 8\) here"):
        checkpoints.load(tmp_path, optimizer(8))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"cannot be read .* take it away"):
        checkpoints.load(tmp_path, optimizer())


def test_the_best_checkpoint_is_kept_by_validation_loss(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    values = [3.0, 1.0, 2.0]
    left = iter(values)
    config = LoopConfig(steps=6, save_every=1, sample_every=2, num_workers=0)
    fit(
        "best",
        model,
        lambda step: torch.ones(1, 2),
        partial(lambda x, step: {"loss": model(x).sum()}),
        config,
        tmp_path,
        validation=lambda: {"loss": torch.tensor(9.0), "flow": torch.tensor(next(left))},
    )
    assert [int(p.name) for p in checkpoints.saved_checkpoints(tmp_path / "checkpoints")] == [4, 6]
    written = [json.loads(line) for line in (tmp_path / "validation.jsonl").open()]
    assert written == [{"step": 2 * k + 2, "loss": 9.0, "flow": value} for k, value in enumerate(values)]


def test_validation_is_of_the_averaged_weights_and_changes_nothing(tmp_path):
    def trained(folder, **evaluation):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        config = LoopConfig(steps=5, learning_rate=0.1, sample_every=2, num_workers=0, ema_decay=0.9)
        given = (
            model,
            lambda step: torch.ones(1, 2),
            lambda x, step: {"loss": model(x).square().sum()},
            config,
            folder,
        )
        return model, fit("v", *given, **{name: partial(call, model) for name, call in evaluation.items()})

    seen, modes = [], []

    def validation(model):
        seen.append(model.weight.clone())
        return {"loss": model.weight.sum()}

    def sample(model, step):
        assert torch.equal(model.weight, seen[-1])
        modes.append((step, model.training, torch.is_grad_enabled()))

    model, optimizer = trained(tmp_path / "measured", validation=validation, sample=sample)
    alone, _ = trained(tmp_path / "alone")
    assert torch.equal(model.weight, alone.weight) and model.training
    assert torch.equal(seen[-1], optimizer.ema["weight"]), "what is saved in the end"
    assert len(seen) == 3 and modes == [(2, False, False), (4, False, False), (5, False, False)]
