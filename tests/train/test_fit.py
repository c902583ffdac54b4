"""`fit` on a small problem: resuming is exact, bad batches never reach the weights, accumulated ones are one large batch."""

import multiprocessing
import signal
import subprocess
from functools import partial

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers, register_tracker_class
from torch import nn

from helpers import make_limner, picture
from limner.train import loop, tracking
from limner.train.data import joint_batch
from limner.train.interrupts import Interrupted
from limner.train.loop import LoopConfig, fit
from limner.train.objective import JointObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel


def problem():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1)).to(torch.bfloat16)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 4, generator=generator)


def losses(model, x, step):
    loss = (model(x.to(torch.bfloat16)).float() - x.sum(1, keepdim=True)).square().mean()
    return {"loss": loss}


def run(folder, steps=12, before=None, kind="adamw"):
    model = problem()
    config = LoopConfig(
        steps=steps, learning_rate=1e-2, warmup_steps=2, save_every=4, num_workers=0, ema_decay=0.9, optimizer=kind
    )
    fit("test", model, batch, before or partial(losses, model), config, folder)
    return model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(workers, tmp_path):
    whole = run(tmp_path / "whole")
    model = problem()
    config = LoopConfig(steps=12, learning_rate=1e-2, warmup_steps=2, save_every=4, num_workers=workers, ema_decay=0.9)

    def interrupted(x, step):
        if step == 6:
            for worker in multiprocessing.active_children():  # `timeout` and schedulers stop all processes of a run
                subprocess.run(["kill", str(worker.pid)], check=True)  # from another process: its parent may end it
                worker.join(0.2)
            signal.raise_signal(signal.SIGTERM)
        return losses(model, x, step)

    with pytest.raises(Interrupted, match="step 7 of 12"):
        fit("test", model, batch, interrupted, config, tmp_path / "cut")
    assert same(run(tmp_path / "cut"), whole)


def test_training_learns_and_ends_with_the_average(tmp_path):
    before = losses(problem(), batch(99), 0)["loss"]
    after = losses(run(tmp_path, steps=200), batch(99), 0)["loss"]
    assert after < 0.2 * before


def test_figures_go_to_tensorboard_or_to_any_tracker_of_accelerate(tmp_path):
    run(tmp_path / "usual", steps=1)
    assert list((tmp_path / "usual" / "tensorboard").rglob("events.out.*"))
    kept = []

    class Kept(GeneralTracker):
        name, requires_logging_directory, tracker = "kept", False, None

        def __init__(self, run_name):
            super().__init__()

        def store_init_configuration(self, values):
            raise AssertionError("nobody asked")

        def log(self, values, step=None):
            kept.append((step, sorted(values)))

        def finish(self):
            kept.append("finished")

    register_tracker_class(Kept)
    model = problem()
    config = LoopConfig(steps=5, log_every=2, num_workers=0, tracker="kept")
    fit("test", model, batch, partial(losses, model), config, tmp_path / "own")
    assert kept == [(step, ["test/gradient_norm", "test/loss"]) for step in (0, 2, 4)] + ["finished"]
    with pytest.raises(ValueError, match=r"tracker is .paper.; accelerate has .*tensorboard"):
        tracking.start_tracker("paper", tmp_path)
    missing = next(kind for kind in LOGGER_TYPE_TO_CLASS if kind not in {"kept", *map(str, get_available_trackers())})
    with pytest.raises(ValueError, match=f"tracker {missing}: its package is not installed"):
        tracking.start_tracker(missing, tmp_path)


def test_batches_without_a_finite_gradient_change_nothing(tmp_path):
    model = problem()
    config = LoopConfig(steps=3, num_workers=0, max_bad_batches=5)
    start = [p.clone() for p in model.parameters()]

    def broken(x, step):
        return {"loss": losses(model, x, step)["loss"] * float("nan")}

    with pytest.raises(ValueError, match="nothing was learned: the gradient was not finite in 3 of 3 steps"):
        fit("test", model, batch, broken, config, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start, strict=True))
    with pytest.raises(FloatingPointError, match="3 batches in a row"):
        fit("test", model, batch, broken, LoopConfig(steps=9, num_workers=0, max_bad_batches=2), tmp_path / "b")


def test_norms_that_are_looked_at_later_are_counted_all_the_same(tmp_path, monkeypatch, capsys):
    """As on a GPU, which the host waits for every few steps only."""
    real = loop.Trainer.__init__

    def made(trainer, *given):
        real(trainer, *given)
        trainer.check_every = 4

    monkeypatch.setattr(loop.Trainer, "__init__", made)
    model = problem()

    def broken(x, step):
        return {"loss": losses(model, x, step)["loss"] * (float("nan") if step in (1, 2, 5, 6, 7) else 1)}

    fit("test", model, batch, broken, LoopConfig(steps=9, num_workers=0, log_every=0, max_bad_batches=3), tmp_path)
    assert "5 of 9 steps were skipped" in capsys.readouterr().out and all(
        p.isfinite().all() for p in model.parameters()
    )
    with pytest.raises(FloatingPointError, match="3 batches in a row"):
        config = LoopConfig(steps=9, num_workers=0, log_every=0, max_bad_batches=2)
        fit("test", model, batch, broken, config, tmp_path / "b")


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Two of 16 against one of 32, in fp32, and a resumed run goes on at the right batch."""

    def train(folder, accumulate, steps=6):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)

        def make(number):
            if accumulate == 2:
                return batch(number)
            return torch.cat([batch(2 * number), batch(2 * number + 1)])

        def loss(x, step):
            return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

        config = LoopConfig(
            steps=steps,
            learning_rate=1e-2,
            warmup_steps=1,
            decay_ratio=0.0,
            num_workers=0,
            gradient_accumulation_steps=accumulate,
        )
        fit("test", model, make, loss, config, folder)
        return model

    whole = train(tmp_path / "one", 1)
    train(tmp_path / "two", 2, steps=3)
    for a, b in zip(whole.parameters(), train(tmp_path / "two", 2).parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_bad_batch_is_named(tmp_path, capsys):
    model = problem()

    class Named:
        def __call__(self, step):
            return batch(step)

        def names(self, step):
            return [f"cat-{step}.png"]

    def broken(x, step):
        values = losses(model, x, step)
        return {"loss": values["loss"] * float("nan")} if step == 2 else values

    fit("test", model, Named(), broken, LoopConfig(steps=4, num_workers=0), tmp_path)
    assert "step 2: gradient not finite, batch skipped (1 so far): cat-2.png" in capsys.readouterr().out
    assert all(p.isfinite().all() for p in model.parameters())


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    """Long and short answers, some with pictures: each is divided by what is counted in all of them."""
    model = make_limner()

    def said(question, answer, drawn=()):
        shown = [{"type": "image", "image": picture(seed)} for seed in drawn]
        return [
            {"role": "user", "content": [{"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}, *shown]},
        ]

    talks = [
        said("Is it day?", "Yes."),
        said("Tell me.", "The sun is round and far away, over sea and hills."),
        said("draw", "Here", (1, 2)),
        said("draw one", "It is here", (3,)),
    ]

    def gradients(batches):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainable = TrainableModel(model.mllm, model.detokenizer)
        places = iter(range(4))
        made = [joint_batch(batch, model.encoder, [next(places) for _ in batch]) for batch in batches]
        config = LoopConfig(
            steps=1,
            gradient_accumulation_steps=len(batches),
            num_workers=0,
            max_grad_norm=1e9,
            learning_rate=1e-9,
            warmup_steps=1,
        )
        fixed = JointObjective(trainable, JointStage(), 0)
        optimizer = fit(
            "x", trainable, lambda n: made[n], lambda b, _: fixed(b, 0), config, tmp_path / str(len(batches))
        )
        (adam,) = optimizer.optimizers
        found = [adam.state[master]["exp_avg"].clone() for master in optimizer.masters.values() if master in adam.state]
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(before[name])
        return torch.cat([value.flatten() for value in found])

    one = gradients([talks])
    for batches in ([talks[:2], talks[2:]], [talks[:1], talks[1:3], talks[3:]]):
        assert (gradients(batches) - one).norm() < 1e-4 * one.norm()
