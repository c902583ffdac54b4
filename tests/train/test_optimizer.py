"""fp32 masters, Muon and AdamW, the learning rate over a run."""

import pytest
import torch
from torch import nn

from limner.train import muon
from limner.train.muon import Muon, orthogonalize
from limner.train.optimizer import MasterOptimizer, learning_rate_factor


def test_masters_keep_what_bf16_rounds_away():
    p = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = MasterOptimizer([("p", p)], 1e-4)
    for _ in range(40):
        p.grad = torch.ones_like(p)
        optimizer.step(1.0, 1e9)
    # forty steps of 1e-4: each is below bf16's resolution at 1, together they are not
    assert optimizer.masters["p"].max() < 0.9965 and p.max() < 1


def test_muon_takes_inner_matrices_and_adamw_the_rest():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)]), "head": nn.Linear(4, 4)})
    optimizer = MasterOptimizer(model.named_parameters(), 1e-2, kind="muon")
    sizes = [sum(len(g["params"]) for g in o.param_groups) for o in optimizer.optimizers]
    assert sizes == [3, 1]
    with pytest.raises(ValueError, match="adamw or muon"):
        MasterOptimizer(model.named_parameters(), 1e-2, kind="sgd")
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.load_state_dict({"master.x": torch.zeros(1), "updates": torch.tensor(0)})


def test_learning_rate():
    rates = [learning_rate_factor(s, 100, 10, 0.2) for s in range(101)]
    assert rates[0] == 0.1 and rates[50] == 1 and rates[90] == 0.5 and rates[100] == 0
    cosine = [learning_rate_factor(s, 100, 10, 1.0, "cosine") for s in range(101)]
    assert cosine[0] == 0.1 and abs(cosine[50] - 0.5) < 1e-9 and cosine[100] == 0
    assert learning_rate_factor(99, 100, 10, 0.5, "constant") == 1
    with pytest.raises(ValueError, match="linear, cosine or constant"):
        learning_rate_factor(0, 10, 1, 0.5, "stairs")


@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_takes_the_steps_of_torch_s_own(tall, dtype):
    """Which computes in bf16; in fp32 ours differ by that rounding alone."""
    shape = (24, 16) if tall else (16, 24)
    ours, theirs = (
        torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for _ in range(2)
    )
    made = Muon([ours], lr=0.02, weight_decay=0.1, dtype=dtype)
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for step in range(4):
        for parameter in (ours, theirs):
            parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        made.step()
        reference.step()
    moved, expected = ours.detach() - start, theirs.detach() - start
    assert (moved - expected).norm() <= (2e-6 if dtype == torch.bfloat16 else 0.02) * expected.norm()
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, *shape), torch.float32))
    assert values.min() > 0.3 and values.max() < 1.3


def test_many_matrices_at_once_are_each_made_as_alone():
    """As on a GPU; a CPU takes one after the other."""
    matrices = torch.randn(3, 8, 12)
    together = muon._iterate(matrices, torch.baddbmm, torch.float32)
    torch.testing.assert_close(together, muon.orthogonalize(matrices, torch.float32))
