"""A run at its edges: steps that are not finite, options of 0, nothing to learn, no room, more than one run at once."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers import make_limner
from limner.app.cli.main import main
from limner.detokenizer.autoencoder import kl_autoencoder
from limner.evaluation.judge import Judge, JudgeConfig
from limner.evaluation.reader import Reader, ReaderConfig
from limner.inference import adapters, output
from limner.inference.model import Limner
from limner.train import loop, step_cost
from limner.train.finetune import finetune, load_config
from limner.train.loop import LoopConfig, fit, with_shared_totals
from limner.train.optimizer import MasterOptimizer, learning_rate_factor
from limner.train.resume import LOCK_FILE, only_run
from limner.train.stages import judge, reader


def batch(step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def train(folder, spoil=lambda loss, step: loss, validation=None, **options):
    """A small model, trained; ``spoil`` changes the loss of a step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))

    def losses(x, step):
        return {"loss": spoil((model(x) - x.sum(1, keepdim=True)).square().mean(), step)}

    config = LoopConfig(
        **{"steps": 8, "learning_rate": 1e-2, "warmup_steps": 1, "num_workers": 0, "ema_decay": 0.9} | options
    )
    optimizer = fit("test", model, batch, losses, config, folder, validation=validation)
    return model, optimizer


def finite(optimizer):
    return all(value.isfinite().all() for value in optimizer.state_dict().values())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss: loss * float("nan"),
        lambda loss: loss * 1e30 * 1e30,
        lambda loss: loss + float("inf"),  # the gradient is finite
        lambda loss: loss * 1e25,  # whose square is not
        lambda loss: (loss - loss).sqrt() + loss,  # an infinite slope
    ],
)
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "max_grad_norm": 0}, {"optimizer": "muon"}])
def test_what_is_not_finite_reaches_no_weight(tmp_path, capsys, spoil, options):
    """Two steps that are spoilt are left out, counted and said; the others train on."""
    every = options.get("gradient_accumulation_steps", 1)
    _, optimizer = train(
        tmp_path, lambda loss, n: spoil(loss) if n // every in (3, 5) else loss, log_every=1, **options
    )
    assert finite(optimizer) and optimizer.updates == 6
    said = capsys.readouterr().out
    assert "step 5: gradient not finite, batch skipped (2 so far)" in said
    assert "test: 2 of 8 steps were skipped" in said
    assert all(abs(value) < 1e9 for line in (tmp_path / "log.jsonl").open() for value in json.loads(line).values())


def test_too_many_in_a_row_stop_the_run_and_a_resumed_one_counts_on(tmp_path):
    train(tmp_path / "apart", lambda loss, n: loss * (1.0 if n % 3 else float("nan")), max_bad_batches=1)
    with pytest.raises(FloatingPointError, match=r"test: 3 batches in a row .* lower learning_rate"):
        train(
            tmp_path / "row", lambda loss, n: loss * (1.0 if n < 3 else float("nan")), max_bad_batches=2, save_every=5
        )
    with pytest.raises(FloatingPointError, match="3 batches in a row"):
        train(tmp_path / "row", lambda loss, n: loss * (1.0 if n != 5 else float("nan")), max_bad_batches=2)


@pytest.mark.parametrize(("nothing", "why"), [(0.0, "zero"), (float("nan"), "not finite")])
def test_a_run_in_which_nothing_is_learned_does_not_end_well(tmp_path, monkeypatch, nothing, why):
    for _ in range(2):  # nor does the command that goes on with it
        with pytest.raises(ValueError, match=f"test: nothing was learned: the gradient was {why} in 8 of 8 steps"):
            train(tmp_path, lambda loss, n: loss * nothing, weight_decay=0.1)
    monkeypatch.setattr(loop, "SURE_STEPS", 5)
    with pytest.raises(ValueError, match=f"test: nothing was learned: the gradient was {why} in 5 of 5 steps"):
        train(tmp_path / "early", lambda loss, n: loss * nothing)
    with pytest.raises(ValueError, match="learning_rate is 0, by which nothing is learned"):
        train(tmp_path, learning_rate=0)


def test_a_gradient_of_zero_moves_nothing_on():
    model = nn.Linear(4, 1)
    optimizer = MasterOptimizer(model.named_parameters(), 1e-2, weight_decay=0.1, ema_decay=0.9)
    for scale in (1.0, 0.0):
        before = {key: value.clone() for key, value in optimizer.state_dict().items()}
        (model(batch(0)).sum() * scale).backward()
        assert (optimizer.step(1.0, 1.0) > 0) == bool(scale)
        now = optimizer.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in before.items())


def test_a_limit_of_zero_clips_nothing():
    def moved(clip):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = MasterOptimizer(model.named_parameters(), 1e-2)
        (model(batch(0)).sum() * 10).backward()
        norm = optimizer.step(1.0, clip)
        (adam,) = optimizer.optimizers
        return norm, torch.cat([s["exp_avg"].flatten() for s in adam.state.values()]).norm() / (1 - 0.9)

    norm, used = moved(0.0)
    torch.testing.assert_close(float(used), float(norm))
    assert norm > 10 and abs(moved(2.0)[1] - 2) < 1e-4


def test_a_checkpoint_that_was_taken_away_by_hand_is_not_missed(tmp_path):
    """The best one, or the newest: the run goes on from the one before, to the same end."""

    def measured(folder, steps=12):
        left = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
        options = {"steps": steps, "sample_every": 2, "save_every": 1, "save_total_limit": 2, "decay_ratio": 0.0}
        return train(folder, validation=lambda: {"loss": torch.tensor(next(left))}, **options)[0]

    whole = measured(tmp_path / "whole")
    measured(tmp_path / "cut", 8)
    there = tmp_path / "cut/checkpoints"
    assert sorted(path.name for path in there.iterdir()) == ["00000004", "00000007", "00000008"]
    for name in ("00000004", "00000008"):
        shutil.rmtree(there / name)
    again = measured(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))
    (there / "00000012/progress.json").write_bytes(
        b""
    )  # as after a power cut, without a file system that orders its writes
    with pytest.raises(ValueError, match=r"00000012 cannot be read .*take it away"):
        measured(tmp_path / "cut")


def test_zero_steps_between_checkpoints_or_figures_are_never(tmp_path):
    train(tmp_path, save_every=0, log_every=0, sample_every=0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000008"]
    assert [set(json.loads(line)) for line in (tmp_path / "log.jsonl").open()] == [{"step", "seconds"}]


def test_a_warm_up_leaves_half_of_the_run(tmp_path, capsys):
    for steps, asked in ((10, 30), (3, 100), (31, 30), (1, 5)):
        config = LoopConfig(steps=steps, warmup_steps=asked, decay_ratio=0.5)
        rates = [learning_rate_factor(s, steps, config.warmup, 0.5) for s in range(steps)]
        assert max(rates) == 1, f"{asked} of {steps}"
    assert LoopConfig(steps=100, warmup_steps=50).warmup_note() == ""
    train(tmp_path, warmup_steps=30)
    assert "warm-up   4 steps in place of 30: half of the run's 8" in capsys.readouterr().out


def test_a_validation_loss_that_is_not_finite_is_no_best_one(tmp_path):
    values = iter([float("nan"), 2.0, float("inf"), 3.0])
    train(
        tmp_path,
        validation=lambda: {"loss": torch.tensor(next(values))},
        sample_every=2,
        save_every=1,
        save_total_limit=1,
    )
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000004", "00000008"]
    written = [json.loads(line)["loss"] for line in (tmp_path / "validation.jsonl").open()]
    assert written == [None, 2.0, None, 3.0]


def test_a_disk_without_room_for_the_checkpoints_is_told_before_the_first_step(tmp_path, monkeypatch):
    _, optimizer = train(tmp_path / "a")
    (file,) = (tmp_path / "a/checkpoints/00000008").glob("*.safetensors")
    assert optimizer.state_bytes <= file.stat().st_size <= optimizer.state_bytes + 4096
    free = 3 * optimizer.state_bytes - 1
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=r"3 checkpoints of 0\.0 MiB take 0\.0 MiB more; 0\.0 MiB are free"):
        train(tmp_path / "b", save_total_limit=2)
    assert not (tmp_path / "b/log.jsonl").exists()
    train(tmp_path / "b", save_total_limit=1)


def test_it_trains_in_any_thread(tmp_path):
    """Signals come to the main one alone."""
    made = []
    thread = threading.Thread(target=lambda: made.append(train(tmp_path / "other")[0]))
    thread.start()
    thread.join()
    whole, _ = train(tmp_path / "main")
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), whole.parameters(), strict=True))


def test_a_checkpoint_that_lost_a_part_is_not_taken(tmp_path):
    train(tmp_path, save_total_limit=2, save_every=4)
    newest = tmp_path / "checkpoints/00000008"
    (file,) = newest.glob("*.safetensors")
    whole = file.read_bytes()
    for cut in (lambda: file.write_bytes(whole[:-100]), file.unlink):
        cut()
        with pytest.raises(
            ValueError, match=r"00000008 cannot be read \(.*; take it away and the run goes on from the one"
        ):
            train(tmp_path)
    shutil.rmtree(newest)
    assert torch.equal(train(tmp_path)[0][0].weight, train(tmp_path / "again")[0][0].weight)


def test_two_runs_do_not_share_a_folder(tmp_path):
    script = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'w') as file: fcntl.lockf(file, fcntl.LOCK_EX); print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / LOCK_FILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(ValueError, match=r"another run is at work in .*; wait until it ends"), only_run(tmp_path):
        raise AssertionError
    other.kill()  # a lock does not outlive who held it
    other.wait()
    with only_run(tmp_path):
        pass
    with only_run(tmp_path):
        pass


def test_a_system_without_locks_trains_all_the_same(tmp_path, monkeypatch, capsys):
    """Windows has neither of these modules."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "resource", None)
    with only_run(tmp_path):
        assert step_cost.peak_memory() > 10**7
    assert f"{tmp_path} cannot be locked (not on Windows): see that no other run" in capsys.readouterr().out


def test_networks_of_the_evaluation_accumulate_to_one_large_batch():
    """Batches of one shape show different numbers of things and of letters."""
    torch.manual_seed(0)
    autoencoder = kl_autoencoder((8, 16), 4, 2)
    plain = {"warp_rate": 0.0, "autoencoder_rate": 0.0, "loop": LoopConfig(batch_size=2)}
    for module, network, stage in (
        (judge, Judge(JudgeConfig(16, 1)), judge.JudgeStage(**plain)),
        (reader, Reader(ReaderConfig(16, 1)), reader.ReaderStage(**plain)),
    ):
        made = [module.make_batch(stage, 0, step) for step in range(8)]
        batches = [one for one in made if one["pixels"].shape == made[0]["pixels"].shape][:2]
        assert not torch.equal(batches[0]["counts"], batches[1]["counts"])
        joined = {key: torch.cat([made[key] for made in batches]) for key in batches[0]}
        joined["counts"] = sum(made["counts"] for made in batches)
        if module is judge:
            joined["centres"][len(batches[0]["centres"]) :, 0] += 2  # pictures of the second batch

        def gradient(given, module=module, network=network, stage=stage):
            network.zero_grad()
            for number, made, share in with_shared_totals(list(enumerate(given))):
                (module.losses(network, autoencoder, stage, 0, made, number)["loss"] * share).backward()
            return torch.cat([p.grad.flatten() for p in network.parameters()])

        one, two = gradient([joined]), gradient(batches)
        assert (one - two).norm() < 1e-4 * one.norm(), module.__name__


QUICK = [
    "joint.loop.steps=1",
    "joint.loop.batch_size=1",
    "joint.loop.num_workers=0",
    "rank=2",
    "samples=0",
    "replay=none",
]


def test_the_base_is_bit_for_bit_what_it_was(data, tmp_path):
    """Whatever precision it trained in, whether the run went through or was refused, and modes and random numbers too."""
    model = make_limner()
    model.mllm.queries.weight.requires_grad_(False)
    model.detokenizer.mmdit.train()
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    torch.manual_seed(7)
    following = torch.random.get_rng_state()
    options = ["dtype=bfloat16", "modules_to_save=[queries,boi]", "parts=[llm]"]
    finetune(model, data, tmp_path / "out", load_config([*QUICK, *options]))
    for wrong in ("joint.precomputed=nowhere", "seed=1"):
        with pytest.raises(ValueError, match=r"nowhere|finished adapter"):
            finetune(
                model, data, tmp_path / ("new" if "nowhere" in wrong else "out"), load_config([*QUICK, *options, wrong])
            )
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype and torch.equal(value, after[name]), name
    assert torch.equal(torch.random.get_rng_state(), following)
    assert not model.mllm.queries.weight.requires_grad and model.mllm.llm.model.norm.weight.requires_grad
    assert model.detokenizer.mmdit.training and not model.mllm.training


def test_merging_leaves_what_it_does_not_change_in_its_own_precision(data, tmp_path):
    model = make_limner()
    model.mllm.bfloat16()
    model.detokenizer.mmdit.half()
    model.save_pretrained(tmp_path / "base")
    base = ["--model", str(tmp_path / "base"), "--device", "cpu"]
    finetune(Limner.from_pretrained(tmp_path / "base"), data, tmp_path / "a", load_config([*QUICK, "parts=[llm]"]))
    assert main(["merge", *base, "--adapter", str(tmp_path / "a"), "-o", str(tmp_path / "merged")]) == 0
    before, after = (dict(Limner.from_pretrained(tmp_path / f).named_parameters()) for f in ("base", "merged"))
    assert {value.dtype for value in before.values()} == {torch.float32, torch.bfloat16, torch.float16}
    assert all(value.dtype == after[name].dtype for name, value in before.items())
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith("mllm.llm.") for name in changed)


def test_merging_asks_for_room_first(tmp_path, monkeypatch, capsys):
    make_limner().save_pretrained(tmp_path / "base")
    monkeypatch.setattr(adapters.Adapters, "load", lambda *_, **__: None)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    words = [
        "merge",
        "--model",
        str(tmp_path / "base"),
        "--device",
        "cpu",
        "--adapter",
        "a",
        "-o",
        str(tmp_path / "merged"),
    ]
    assert main(words) == 2
    assert "merged: weights take 0.6 MiB more; 0.0 MiB are free there" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_an_output_inside_the_data_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"is inside the data, .*; choose a folder beside it"):
        finetune(make_limner(), data, data / "out", load_config(QUICK))
    assert not (data / "out").exists() and Path(tmp_path / "data") == data
