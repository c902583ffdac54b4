"""Numbers from counters: the published ones, and they are normal and unrelated."""

import torch

from limner.train import philox


def test_known_answers():
    """Those of Random123, the authors' implementation."""
    for low, high, key, expected in (
        (0, 0, 0, (0xFF1DAE59, 0x6CD10DF2)),
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ):
        found = philox.philox(key, torch.tensor(low), torch.tensor(high))
        assert tuple(map(int, found)) == expected


def test_normal_numbers_are_normal_and_a_row_s_own():
    rows = torch.arange(1000)
    first = torch.zeros_like(rows)
    made = philox.normal(7, first, rows, 501)
    assert made.shape == (1000, 501) and made.isfinite().all()
    assert made.mean().abs() < 0.01 and abs(made.std() - 1) < 0.01
    assert abs(made.pow(4).mean() - 3) < 0.1 and made.abs().max() < 6.5
    for other in (philox.normal(8, first, rows, 501), made.roll(1, 0), made.roll(1, 1)):
        assert (made * other).mean().abs() < 0.01
    assert torch.equal(philox.normal(7, first[:2], torch.tensor([5, 3]), 501), made[[5, 3]])
    assert torch.equal(philox.normal(7, first[:9], rows[:9], 100), made[:9, :100])
    assert torch.equal(philox.normal(7, first + 10, rows, 100), made[:, 20:120])
