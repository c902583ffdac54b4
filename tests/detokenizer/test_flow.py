"""Flow and samplers on fields with known solutions."""

import math

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
    for density, options in (("logit_normal", {}), ("uniform", {}), ("mode", {"a": 0.8}), ("cosmap", {})):
        t = flow.sample_timesteps(20_000, density, **options)
        assert t.min() >= 0 and t.max() <= 1
        assert abs(t.mean() - 0.5) < 0.02, density
    with pytest.raises(ValueError, match="at least 1"):
        flow.inference_timesteps(-3)
    with pytest.raises(ValueError, match="no timestep density"):
        flow.sample_timesteps(1, "gaussian")
    with pytest.raises(ValueError, match="no sampler"):
        DrawingOptions(sampler="ddim")


def test_mode_density_is_the_papers():
    """u -> 1 - u - s (cos²(pi u / 2) - 1 + u), at s = 0.8 the middle is likelier than the ends."""
    t = flow.sample_timesteps(50_000, "mode", a=0.8)
    middle = ((t > 0.4) & (t < 0.6)).float().mean()
    assert middle > 0.25


def test_guidance():
    full, plain, nothing = torch.tensor(3.0), torch.tensor(1.0), torch.tensor(0.5)
    assert Guidance(1.0).passes(0.5, True) == ("full",)
    assert Guidance(4.0).passes(0.5, True) == ("full", "no_context")
    assert Guidance(4.0, 1.5).passes(0.5, False) == ("full", "no_context")
    assert Guidance(4.0, 1.5).passes(0.5, True) == ("full", "no_context", "nothing")
    assert Guidance(4.0, interval=(0.2, 0.8)).passes(0.9, True) == ("full",)
    assert Guidance(4.0).combine({"full": full, "no_context": plain}) == 9
    # InstructPix2Pix: v0 + s_I (v_I - v0) + s_T (v_IT - v_I)
    three = Guidance(4.0, 2.0).combine({"full": full, "no_context": plain, "nothing": nothing})
    assert three == 0.5 + 2 * (1 - 0.5) + 4 * (3 - 1)
    with pytest.raises(ValueError, match="interval"):
        Guidance(interval=(0.9, 0.1))
    with pytest.raises(ValueError, match="negative"):
        Guidance(-1.0)


def test_noise_depends_on_seed_and_index_alone():
    assert torch.equal(noise_like((4, 2, 2), 7, 1), noise_like((4, 2, 2), 7, 1))
    assert not torch.equal(noise_like((4, 2, 2), 7, 1), noise_like((4, 2, 2), 7, 2))
    assert not torch.equal(noise_like((4, 2, 2), 7, 1), noise_like((4, 2, 2), 8, 1))
    assert torch.isfinite(noise_like((4,), -5, 0)).all()
