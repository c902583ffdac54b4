"""Several processes give what one gives: losses, gradient norms, weights; and checkpoints go from any number to any other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from helpers import make_limner
from limner.train import parallel

HERE = Path(__file__).parent


def launch(processes: int, script: str, *arguments: object) -> None:
    command = [str(HERE / script), *map(str, arguments)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [*launcher, *command]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]


def run(folder: Path, kind: str = "ddp", processes: int = 1, steps: int = 20, optimizer: str = "adamw", *more: str):
    folder.mkdir(exist_ok=True)
    launch(processes, "distributed_worker.py", folder, kind, steps, optimizer, *more)
    # a process that ends while its group is up may be aborted by one of the group's threads
    assert [(folder / f"joined-{rank}").read_text() for rank in range(processes)] == ["False"] * processes
    return json.loads((folder / f"losses-{processes}-{kind}.json").read_text())


def apart(a, b):
    """The largest relative difference of a loss; gradient norms, which are no averages, are held to ten times that."""
    pairs = [(x[k], y[k]) for x, y in zip(a["losses"], b["losses"], strict=True) for k in y if k != "loss"]
    gap = max(abs(x - y) / (abs(y) or 1.0) for x, y in pairs)  # 0 for what no drawing of a step has
    norms = max(abs(x - y) / abs(y) for x, y in zip(a["norms"], b["norms"], strict=True))
    return max(gap, norms / 10)


def check_evaluation(several, one, draws):
    """Validation losses and the best checkpoint; and what was sharded is whole again: it gives the same losses, and trains on."""
    assert len(one["validation"]) == 10 and [line["step"] for line in one["validation"]] == list(range(2, 21, 2))
    for ours, theirs in zip(several["validation"], one["validation"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=2e-5)  # they are rounded
    assert several["progress"] == pytest.approx(one["progress"], rel=1e-5)
    assert several["progress"]["best"] == pytest.approx(min(line["flow"] for line in one["validation"]), rel=1e-4)
    assert several["whole"] == pytest.approx(one["whole"], rel=1e-5)
    assert several["whole"]["flow"] == pytest.approx(several["validation"][-1]["flow"], abs=2e-5)
    for ours, theirs in zip(several["again"], one["again"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert several["sampled"] == (one["sampled"] if draws else []) and several["kinds"] == ["Parameter"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one") / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes"), [("ddp", 2), ("fsdp", 2), ("ddp", 4), ("fsdp", 4), ("hsdp", 4)])
def test_losses_are_those_of_one_process(one, tmp_path, kind, processes):
    """Over 20 steps; in most of them some process has no picture, in some none has."""
    several = run(tmp_path / "run", kind, processes)
    assert apart(several, one) <= 1e-5
    check_evaluation(several, one, draws=kind == "ddp")


@pytest.mark.slow
def test_a_checkpoint_of_four_goes_on_with_one_and_with_two(one, tmp_path):
    run(tmp_path / "four", "fsdp", 4, steps=10)
    late = {"losses": one["losses"][10:], "norms": one["norms"][10:]}
    for kind, processes in (("ddp", 1), ("fsdp", 2)):
        shutil.copytree(tmp_path / "four", tmp_path / str(processes))
        assert apart(run(tmp_path / str(processes), kind, processes), late) <= 1e-5


@pytest.mark.slow
def test_what_is_kept_is_kept_on_all_processes(one, tmp_path):
    """Also where one has nothing to keep, or no picture; and it changes the losses."""
    whole = run(tmp_path / "one", "ddp", 1, 6, "adamw", "keeps")
    assert apart(run(tmp_path / "two", "fsdp", 2, 6, "adamw", "keeps"), whole) <= 1e-5
    assert whole["losses"][0]["language"] < one["losses"][0]["language"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_pictures_of_visual_tokens_on_two_processes(tmp_path, kind):
    """Some steps have pictures of both kinds, some of one, on both processes, on one or on none."""
    whole = run(tmp_path / "one", "ddp", 1, 10, "adamw", "tokens")
    assert apart(run(tmp_path / "two", kind, 2, 10, "adamw", "tokens"), whole) <= 1e-5
    assert sum(losses.get("codes", 0) > 0 for losses in whole["losses"]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_muon_on_two_processes(tmp_path, kind):
    whole = run(tmp_path / "one", steps=4, optimizer="muon")
    assert apart(run(tmp_path / "two", kind, 2, steps=4, optimizer="muon"), whole) <= 1e-3  # its steps may be bf16's


@pytest.mark.parametrize(("world", "count"), [(1, 3), (2, 5), (3, 5), (3, 6), (4, 3)])
def test_work_is_shared_out(monkeypatch, world, count):
    items, computed, sent = torch.randn(count, 2, 3), [], {}

    def compute(own):
        computed.append(len(own))
        return own * 2

    def gather(all_of_them, own):
        sent[parallel.rank()] = own
        for number, place in enumerate(all_of_them.chunk(world)):
            place.copy_(sent.get(number, own))

    monkeypatch.setattr(parallel, "world_size", lambda: world)
    monkeypatch.setattr("torch.distributed.all_gather_into_tensor", gather)
    for number in [*range(world), *range(world)]:  # the second time all have sent theirs
        monkeypatch.setattr(parallel, "rank", lambda number=number: number)
        whole = parallel.shared(compute, items)
    assert torch.equal(whole, items * 2)
    expected = [count] * world if count < world or world == 1 else [len(range(k, count, world)) for k in range(world)]
    assert computed == expected * 2


@pytest.mark.slow
def test_a_sharded_recipe_goes_from_stage_to_stage_and_a_sharded_adapter_draws(tmp_path, data):
    """Two processes train as one does, also where a process without a picture has only frozen layers to run."""
    base = make_limner(prompt_tokens=4, shapes=((128, 128), (96, 160), (160, 96)))
    base.detokenizer.mmdit.config.position_table = 32
    base.save_pretrained(tmp_path / "base")

    def train(processes):
        folder = tmp_path / str(processes)
        folder.mkdir()
        shutil.copytree(tmp_path / "base", folder / "base")  # which gets a student
        launch(processes, "sharded_worker.py", folder, folder / "base", data)
        assert (folder / "base/student/mmdit/adapter_model.safetensors").exists()
        assert json.loads((folder / "made.json").read_text()) == {"as_before": True, "drawn": 1}
        assert (folder / "adapter/samples/after.png").exists()
        assert (folder / "recipe/joint/samples").exists() == (processes == 1)
        stages = [folder / "recipe" / stage for stage in ("language", "align", "joint")]
        files = [path / "log.jsonl" for path in (*stages, folder / "adapter/run")]
        files += [path / "validation.jsonl" for path in stages[1:]]
        lines = [line for file in files for line in file.read_text().splitlines()]
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    alone = train(1)
    assert len(alone) == 11
    for several, one in zip(train(2), alone, strict=True):
        assert several == pytest.approx(one, rel=1e-4)


def test_shares_are_disjoint_and_about_equal(monkeypatch):
    costs = [float(k % 13 + 1) for k in range(64)]
    monkeypatch.setenv("WORLD_SIZE", "4")
    shares = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(parallel.balanced_indices(costs))
    assert sorted(i for own in shares for i in own) == list(range(64))
    loads = [sum(costs[i] for i in own) for own in shares]
    assert max(loads) / min(loads) < 1.02
    with pytest.raises(ValueError, match="batch_size must be at least 4"):
        parallel.balanced_indices(costs[:3])
    with parallel.single_process():
        assert parallel.balanced_indices(costs[:3]) == [0, 1, 2] and parallel.world_size() == 1


def test_kinds():
    with pytest.raises(ValueError, match="parallel is 'tpu'; it can be ddp, fsdp, hsdp"):
        parallel.shard(None, "tpu")


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_was_sharded_runs_as_before_and_is_sharded_again(process_group):
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    module, x = nn.Sequential(*layers, nn.Linear(4, 4)), torch.ones(1, 4)
    before, attributes = module(x), [set(unit.__dict__) for unit in module.modules()]
    for _ in range(2):
        fully_shard(list(layers), mesh=init_device_mesh("cpu", (1,)))
        whole = fully_shard(parallel.LossForward(module), mesh=init_device_mesh("cpu", (1,)))
        whole.hooks.append(layers[0].register_forward_pre_hook(lambda *_: None))
        assert torch.equal(whole(module, x), before)
        parallel.unshard(whole)
        assert torch.equal(module(x), before) and [type(unit) for unit in layers] == [nn.Linear] * 2
        assert [set(unit.__dict__) for unit in module.modules()] == attributes
        assert not any(unit._forward_hooks or unit._forward_pre_hooks for unit in module.modules())
        assert all(type(p) is nn.Parameter for p in module.parameters())


def test_what_no_process_uses_has_no_gradient(process_group, monkeypatch):
    """With a gradient of zeros AdamW's moments would move it on, as they do not with one process."""
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    monkeypatch.setenv("WORLD_SIZE", "2")  # the group is of one: the other process would do the same
    losses = parallel.LossForward(module)(lambda: {"loss": module["used"](torch.ones(2)).sum()})
    losses["loss"].backward()
    assert module["used"].weight.grad.tolist() == [[2, 2]] and module["unused"].weight.grad is None
    module.zero_grad()
    parallel.LossForward(module)(lambda: {"loss": torch.zeros(())})["loss"].backward()
    assert not any(p.grad.any() for p in module.parameters()), "DDP waits for some gradient"


def test_values_written_to_shards_are_those_of_the_next_forward(process_group):
    whole = fully_shard(parallel.LossForward(nn.Linear(4, 4)), mesh=init_device_mesh("cpu", (1,)))
    shards = list(whole.parameters())  # what an optimizer holds
    with torch.no_grad():
        whole(whole.module, torch.ones(1, 4))
        parallel.reshard(whole)
        for p in shards:
            p.zero_()
        assert not whole(whole.module, torch.ones(1, 4)).any()


def test_tied_parameters_are_tied_when_they_are_gathered(process_group):
    module = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    before = module["embedding"].weight.detach().clone()
    shard = nn.Parameter(distribute_tensor(before, init_device_mesh("cpu", (1,)), [Shard(0)]))
    module["embedding"].weight = module["head"].weight = shard
    parallel.unshard(module)
    assert type(module["head"].weight) is nn.Parameter and module["head"].weight is module["embedding"].weight
    assert torch.equal(module["head"].weight, before)
