"""Gradient flow in norms and directions, against raw gradient flow and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from learndyn.dynamics import flow, log_polar, vanishing_flow
from learndyn.errors import InputError
from learndyn.neurons import InContext, activated, gaussian, linear, polar, power, relu, sampled

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("stretch", [0.0, 1.0])
def test_jacobian_is_that_of_the_slopes(stretch: float):
    problem = InContext(torch.diag(torch.tensor([1.0, 0.5], dtype=F64)), 4)
    y = torch.cat([0.3 * drawn(3), drawn(15, seed=1)])

    def slopes(y: torch.Tensor) -> torch.Tensor:
        log_norms, unit = log_polar._split(y, 3)
        residual = problem.residual(log_norms.exp()[:, None] * unit)
        return log_polar._polar(log_norms, unit, log_polar._slope(problem, unit, residual), stretch)

    found = log_polar._jacobian(problem, stretch, y, 3)
    steps = 1e-6 * torch.eye(18, dtype=F64)
    numeric = torch.stack([(slopes(y + e) - slopes(y - e)) / 2e-6 for e in steps], 1)
    assert torch.allclose(found, numeric, rtol=1e-6, atol=1e-6 * float(numeric.abs().max()))


@pytest.mark.parametrize("kind", ["linear", "square"])
def test_it_is_the_gradient_flow_of_the_module(kind: str):
    x, y = drawn(20, 3), drawn(20, 2, seed=1)
    neuron = linear(2) if kind == "linear" else power(2, 2)
    problem, start = sampled(neuron, x, y, 5), gaussian(3, (3, 2), 0.3, seed=2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(start.weights()[:, :3].clone())
            self.a = nn.Parameter(start.weights()[:, 3:].clone())

        def forward(self, x):
            h = x @ self.w.T
            return (h if kind == "linear" else h.square()) @ self.a

    times = torch.linspace(0.5, 6.0, 5, dtype=F64)
    raw = flow(Net(), lambda net: 0.5 * (net(x) - y).square().sum(1).mean(), times)
    run = vanishing_flow(problem, start, 6.0, rest=0.0, rtol=1e-8)
    for time, loss in zip(times.tolist(), raw.series.loss.values):
        assert float(problem.loss(run.at(time).weights())) == pytest.approx(loss, rel=1e-5)


def test_linear_neurons_keep_their_conserved_difference():
    problem, start = sampled(linear(2), drawn(20, 3), drawn(20, 2, seed=1), 5), gaussian(4, (3, 2), 1e-2, seed=2)
    run = vanishing_flow(problem, start, 20.0, rest=0.0, rtol=1e-9)
    theta = run.weights()
    kept = theta[..., :3].square().sum(-1) - theta[..., 3:].square().sum(-1)
    assert float((kept - kept[0]).abs().max()) < 1e-6


@pytest.mark.parametrize("log_alpha", [-20.0, -230.0])
def test_the_first_drop_comes_a_constant_after_the_limit(log_alpha: float):
    x = 2**0.5 * torch.eye(2, dtype=F64)
    problem = sampled(linear(2), x, x @ torch.diag(torch.tensor([2.0, 1.0], dtype=F64)), 4)
    start = gaussian(3, (2, 2), log_size=log_alpha, seed=1)
    run = vanishing_flow(problem, start, -0.6 * log_alpha)
    loss = lambda t: float(problem.loss(run.at(t).weights())) - 1.5  # noqa: E731
    drop = brentq(loss, 0.0, float(run.times[-1]))
    # what grows is the start along (1, 0, 1, 0)/√2; the singular value s x e^{2st}/(s + x(e^{2st} − 1)) with s = 2
    along = (start.directions[:, [0, 2]].sum(1) / 2**0.5).square() * (2 * (start.log_norms - log_alpha)).exp()
    log_x = float(along.sum().log()) - math.log(2) + 2 * log_alpha
    s = 2 - 2**0.5  # at ½(2 − s)² + ½ = 1.5
    assert drop == pytest.approx((math.log(2 * s / (2 - s)) - log_x) / 4, abs=1e-3)


def test_preconditioned_growth_is_exponential():
    x = torch.ones(1, 1, dtype=F64)
    problem = sampled(power(1, 3), x, x, 2)
    best = torch.tensor([[math.sqrt(3 / 4), 1 / 2]], dtype=F64)
    utility = float(problem.utility(best, x))
    run = vanishing_flow(problem, polar(1e-8 * best), 10.0, preconditioned=True, rest=0.0)
    assert float(run.at(10.0).log_norms[0]) == pytest.approx(math.log(1e-8) + 4 * utility * 10, abs=1e-4)


def test_relu_by_explicit_steps():
    problem = sampled(relu(1), drawn(30, 3), drawn(30, 1, seed=1), 4)
    run = vanishing_flow(problem, gaussian(3, (3, 1), 1e-3, seed=2), 10.0)
    assert (run.loss.diff() < 1e-6).all() and run.loss[-1] < run.loss[0]
    assert run.weights().shape == (len(run.times), 3, 4)


def test_what_is_refused():
    problem, start = sampled(linear(2), drawn(20, 3), drawn(20, 2, seed=1), 5), gaussian(3, (3, 2), 0.1)
    with pytest.raises(InputError, match="do not fit"):
        vanishing_flow(problem, gaussian(3, (3, 3), 0.1), 1.0)
    with pytest.raises(InputError, match="no flow time"):
        vanishing_flow(problem, start, 0.0)
    with pytest.raises(InputError, match="origin only"):
        vanishing_flow(sampled(activated(torch.tanh, 2), drawn(20, 3), drawn(20, 2, seed=1), 5), start, 1.0)
    with pytest.raises(InputError, match="outside"):
        vanishing_flow(problem, start, 1.0).at(2.0)
    with pytest.raises(InputError, match="After 3 steps"):
        vanishing_flow(problem, start, 100.0, most=3)
