"""Buffers that training moves: kept in checkpoints, averaged with the weights, untouched by a step that is left out."""

from functools import partial

import pytest
import torch
from torch import nn

from limner.mllm.visual_tokens.quantizers import VectorQuantizer
from limner.train import checkpoints
from limner.train.loop import LoopConfig, fit
from limner.train.optimizer import MasterOptimizer, training_buffers


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.proj, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)
        self.quantizer, self.out = VectorQuantizer(8, 3, ema_decay=0.9), nn.Linear(3, 4)
        self.frozen = nn.BatchNorm1d(4).eval().requires_grad_(False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def batch(step):
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(step))


def losses(model, x, step, nan_at=-1):
    quantized, _, commitment = model.quantizer(model.norm(model.proj(x * (float("nan") if step == nan_at else 1))))
    return {"loss": (model.out(quantized) - x).square().mean() + commitment}


def run(folder, steps, ema_decay=0.9, nan_at=-1, total=8):
    model = Quantized()
    options = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "constant", "save_every": 4, "num_workers": 0}
    config = LoopConfig(steps=steps, ema_decay=ema_decay, sample_every=0, **options)
    fit("test", model, batch, partial(losses, model, nan_at=nan_at), config, folder)
    return model


def test_buffers_of_modules_in_training_mode_are_those_that_move():
    names = set(training_buffers(Quantized()))
    own = {f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert names == own | {f"quantizer.{name}" for name in ("codebook", "cluster_size", "cluster_sum", "updates")}
    assert not training_buffers(Quantized().eval())


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_run_that_was_cut_goes_on_to_the_same_buffers(tmp_path, ema_decay):
    whole = run(tmp_path / "whole", 8, ema_decay).state_dict()
    run(tmp_path / "cut", 4, ema_decay)
    again = run(tmp_path / "cut", 8, ema_decay).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert whole["quantizer.updates"] == 8 and whole["norm.num_batches_tracked"] == 8


def test_buffers_are_averaged_as_the_weights_are():
    """With the same factor: a buffer that follows a weight is, in the average, that of the averaged weight."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2))
    model.register_buffer("twice", torch.zeros(2))
    optimizer = MasterOptimizer(model.named_parameters(), 0.1, ema_decay=0.5, buffers=training_buffers(model))
    for _ in range(4):
        model.weight.grad = -torch.ones(2)
        with torch.no_grad():
            model.twice.copy_(2 * (model.weight + 0.1))  # what the step will make of it, twice
        optimizer.step(1.0)
    averaged = optimizer.averaged()
    torch.testing.assert_close(averaged["twice"], 2 * averaged["weight"])
    assert (model.twice > averaged["twice"]).all()


def test_a_step_that_is_left_out_leaves_the_buffers(tmp_path):
    cut = run(tmp_path / "cut", 4, nan_at=3)
    assert all(value.isfinite().all() for value in cut.state_dict().values())
    assert cut.quantizer.updates == 3 == cut.norm.num_batches_tracked


def test_validation_sees_averaged_buffers_and_training_goes_on_with_its_own(tmp_path):
    seen = []
    model = Quantized()
    config = LoopConfig(steps=3, learning_rate=1e-2, ema_decay=0.99, num_workers=0, sample_every=2)

    def validation():
        seen.append((model.norm.running_mean.clone(), model.norm.training))
        return {"loss": torch.ones(())}

    fit("test", model, batch, partial(losses, model), config, tmp_path, validation=validation)
    plain = Quantized()
    config = LoopConfig(steps=3, learning_rate=1e-2, ema_decay=0.99, num_workers=0, sample_every=0)
    fit("test", plain, batch, partial(losses, plain), config, tmp_path / "plain")
    assert [training for _, training in seen] == [False, False]
    assert not torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[1][0], model.norm.running_mean)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_from_before_is_read_and_one_of_other_buffers_refused(tmp_path):
    run(tmp_path, 4)
    model = Quantized().eval()
    without = MasterOptimizer(model.named_parameters(), 1e-2, ema_decay=0.9)
    with pytest.raises(ValueError, match=r"of other parameters: norm\.num_batches_tracked is \(\) there and missing"):
        checkpoints.load(tmp_path / "checkpoints", without)
    checkpoints.save(tmp_path / "before", without, checkpoints.RunState(4))
    model.train()
    kept = {name: buffer.clone() for name, buffer in training_buffers(model).items()}
    now = MasterOptimizer(model.named_parameters(), 1e-2, ema_decay=0.9, buffers=training_buffers(model))
    assert checkpoints.load(tmp_path / "before", now).step == 4
    assert all(torch.equal(buffer, kept[name]) for name, buffer in now.averaged().items() if name in kept)
