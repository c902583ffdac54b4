"""Flow and samplers on fields with known solutions."""

import math
from statistics import NormalDist

import pytest
import torch

from limner.detokenizer import flow
from limner.detokenizer.drawing_options import SAMPLERS, DrawingOptions
from limner.detokenizer.guidance import Guidance
from limner.detokenizer.samplers import integrate, noise_like, sampler


def test_interpolation_and_its_velocity():
    x0, noise, t = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.tensor([0.0, 0.25, 0.5, 1.0])
    x = flow.interpolate(x0, noise, t)
    torch.testing.assert_close(x[0], x0[0])
    torch.testing.assert_close(x[3], noise[3])
    # following the velocity back from any t lands on x0
    torch.testing.assert_close(x - t.view(-1, 1, 1, 1) * flow.velocity_target(x0, noise), x0, atol=1e-6, rtol=1e-5)


def gaussian_velocity(mean, deviation):
    """The exact velocity of the flow between N(mean, deviation²) and N(0, 1), and its solution.

    x_t = (1 - t) x0 + t n is N((1 - t) m, (1 - t)² s² + t²); E[n - x0 | x_t] follows from joint normality.
    """

    def velocity(x, t):
        variance = (1 - t) ** 2 * deviation**2 + t**2
        slope = (t - (1 - t) * deviation**2) / variance
        return -mean + slope * (x - (1 - t) * mean)

    def solution(noise):
        return mean + deviation * noise

    return velocity, solution


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("multistep", 2)])
def test_order_of_convergence(name, order):
    velocity, solution = gaussian_velocity(2.0, 0.5)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (20, 40, 80, 160):
        x = integrate(sampler(name)(noise, flow.inference_timesteps(steps)), velocity)
        errors.append(float((x - solution(noise)).abs().max()))
    measured = math.log2(errors[-2] / errors[-1])
    assert order - 0.2 < measured < order + 0.7, (name, errors)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_handle_uneven_times_and_exact_lines(name):
    seen = []
    times = flow.inference_timesteps(7, alpha=3.0)

    def velocity(x, t):
        seen.append(t)
        return torch.full_like(x, 2.0)

    x = integrate(sampler(name)(torch.ones(3), times), velocity)
    torch.testing.assert_close(x, torch.full((3,), -1.0))
    assert sorted(set(seen), reverse=True) == times.tolist()[:-1]


def test_gradients_pass_through_a_path():
    """x' = -a x, so x(0) is exp(a) x(1), and its derivative by a the same."""
    a = torch.tensor(0.5, requires_grad=True)
    x = integrate(sampler("heun")(torch.ones(1), flow.inference_timesteps(50)), lambda x, t: -a * x)
    (slope,) = torch.autograd.grad(x.sum(), a)
    end = float(x.detach())
    assert end == pytest.approx(math.exp(0.5), rel=1e-3) and float(slope) == pytest.approx(end, rel=1e-2)


def test_timesteps():
    times = flow.inference_timesteps(4)
    assert times.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert flow.shift_timesteps(torch.tensor(0.5), 3.0) == pytest.approx(0.75)
    assert flow.inference_timesteps(1).tolist() == [1, 0]
    for steps in (0, -3):
        with pytest.raises(ValueError, match="at least 1"):
            flow.inference_timesteps(steps)
    for density in ("gaussian", "zipf"):
        with pytest.raises(ValueError, match="no timestep density"):
            flow.sample_timesteps(1, density)
    with pytest.raises(ValueError, match="no sampler"):
        DrawingOptions(sampler="ddim")


# Times below which a share p of each density lies, from section 3.1 of the paper. CosMap's is where the integral of its
# density, 2 / (pi (1 - 2 t + 2 t²)), is p; `mode` maps a uniform 1 - p by a falling function.
QUANTILES = {
    "uniform": lambda p, a, b: p,
    "logit_normal": lambda p, a, b: 1 / (1 + math.exp(-NormalDist(a, b).inv_cdf(p))),
    "mode": lambda p, s, b: p - s * (math.sin(math.pi / 2 * p) ** 2 - p),
    "cosmap": lambda p, a, b: math.tan(math.pi / 2 * p) / (1 + math.tan(math.pi / 2 * p)),
}


@pytest.mark.parametrize(
    ("density", "a", "b"),
    [
        ("uniform", 0, 1),
        ("logit_normal", 0, 1),
        ("logit_normal", -0.6, 0.5),
        ("mode", 1.29, 1),
        ("mode", 0.8, 1),
        ("mode", -0.5, 1),
        ("cosmap", 0, 1),
    ],
)
def test_timesteps_have_the_papers_densities(density, a, b):
    count = 100_000
    t = flow.sample_timesteps(count, density, a, b, torch.Generator().manual_seed(1))
    assert t.shape == (count,) and t.min() >= 0 and t.max() <= 1
    for percent in range(5, 100, 5):
        below = (t < QUANTILES[density](percent / 100, a, b)).double().mean()
        # four standard deviations of a share at most
        assert abs(below - percent / 100) < 4 * 0.5 / math.sqrt(count), (percent, below)


def test_timesteps_are_logit_normal_by_default_and_follow_their_generator():
    first, again = (flow.sample_timesteps(9, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    named = flow.sample_timesteps(9, "logit_normal", 0.0, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and torch.equal(first, named)
    for density in ("uniform", "mode", "cosmap"):
        one, two = (flow.sample_timesteps(9, density, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(one, two)


def test_guidance():
    full, plain, nothing = torch.tensor(3.0), torch.tensor(1.0), torch.tensor(0.5)
    assert Guidance() == Guidance(1.0, 1.0, (0.0, 1.0)) and Guidance(1.0).passes(0.5, True) == ("full",)
    assert Guidance(4.0).passes(0.5, True) == ("full", "no_context")
    assert Guidance(4.0, 1.5).passes(0.5, False) == ("full", "no_context")
    assert Guidance(4.0, 1.5).passes(0.5, True) == ("full", "no_context", "nothing")
    for t, passes in ((0.1, 1), (0.2, 2), (0.5, 2), (0.8, 2), (0.9, 1)):
        assert Guidance(4.0, interval=(0.2, 0.8)).passes(t, True) == ("full", "no_context")[:passes]
    assert Guidance(4.0).combine({"full": full, "no_context": plain}) == 9
    # InstructPix2Pix: v0 + s_I (v_I - v0) + s_T (v_IT - v_I)
    three = Guidance(4.0, 2.5).combine({"full": full, "no_context": plain, "nothing": nothing})
    assert three == 0.5 + 2.5 * (1 - 0.5) + 4 * (3 - 1)
    for interval in ((0.9, 0.1), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="interval"):
            Guidance(interval=interval)
    for scales in ((-1.0, 1.0), (1.0, -1.0), (math.inf, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            Guidance(*scales)
    assert Guidance(0.5).passes(0.5, False) == ("full", "no_context")
    assert Guidance(0.0, 0.0, (0.3, 0.3)).passes(0.3, True) == ("full", "no_context", "nothing")


def test_noise_depends_on_seed_and_index_alone():
    assert torch.equal(noise_like((4, 2, 2), 7, 1), noise_like((4, 2, 2), 7, 1))
    assert not torch.equal(noise_like((4, 2, 2), 7, 1), noise_like((4, 2, 2), 7, 2))
    assert not torch.equal(noise_like((4, 2, 2), 7, 1), noise_like((4, 2, 2), 8, 1))
    assert torch.isfinite(noise_like((4,), -5, 0)).all()
    # what a seed draws must not change: a seed and an index choose one of torch's own streams
    for seed, index in ((7, 1), (-5, 2)):
        stream = torch.Generator().manual_seed((seed * 1_000_003 + index) % 9_223_372_036_854_775_808)
        assert torch.equal(noise_like((4, 2), seed, index), torch.randn(4, 2, generator=stream))
