"""Function space of one neuron and of deep linear networks, and where they end (arXiv:2406.06158)."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_cases import integrate, tensor
from scipy.integrate import solve_ivp
from scipy.optimize import root
from torch import nn

from learndyn.dynamics.flow import flow
from learndyn.errors import InputError
from learndyn.laws import linear as law
from learndyn.laws import neuron

INF = math.inf


def problem(seed, n=3, d=6, scale=1.0):
    """n examples of d inputs, a neuron and rates; a and w of order one, δ between −3 and 3."""
    rng = np.random.default_rng(seed)
    x, y = tensor(rng.standard_normal((n, d))), tensor(rng.standard_normal(n))
    etas = tuple(10 ** rng.uniform(-0.5, 0.5, 2))
    a, w = neuron.factors(scale * tensor(rng.standard_normal(d)), rng.uniform(-3, 3), etas)
    sign = float(np.sign(rng.standard_normal()))
    return x, y, sign * float(a), sign * w, etas


def ended(x, y, a, w, etas=(1.0, 1.0), rtol=1e-12):
    """The end by brute force, of the weights themselves: integrated until nothing moves."""
    end = 400.0 / float(torch.linalg.svdvals(x)[-1] ** 2) + 50
    a_t, w_t = integrate(a, w, x, y, tensor([end]), etas, "LSODA", rtol, 1e-14)
    return float(a_t[-1]), w_t[-1]


@pytest.mark.filterwarnings("ignore:The sign of a")
def test_the_end_of_the_flow_is_the_closed_form():
    crossed, worst = 0, 0.0
    for seed in range(30):
        x, y, a, w, etas = problem(seed)
        found = law.implicit_bias(x, y, a, w, etas)
        a_end, w_end = ended(x, y, a, w, etas)
        worst = max(worst, float((found.beta - a_end * w_end).abs().max() / found.beta.abs().max()))
        assert found.a == pytest.approx(a_end, rel=1e-7) and torch.allclose(found.w, w_end, atol=1e-7)
        assert found.success and found.residual < 1e-13
        crossed += found.crossed
        assert found.crossed == (a_end * a < 0)
    assert worst < 1e-8 and crossed >= 1


def test_the_end_solves_the_equations_of_the_root_finder():
    # w = w₀ + Xᵀν, a = ±√((δ + η_a|w|²)/η_w), X(a w) = y, from ν = 0
    agreed = 0
    for seed in range(20):
        x, y, a, w, etas = problem(seed)
        delta, sign = float(neuron.imbalance(a, w, etas)), math.copysign(1, a)

        def weights(nu, x=x, w=w, delta=delta, sign=sign, etas=etas):
            moved = w + x.T @ tensor(nu)
            return sign * torch.sqrt((delta + etas[0] * moved @ moved).clamp_min(0) / etas[1]) * moved

        solved = root(lambda nu, x=x, y=y, f=weights: (x @ f(nu) - y).numpy(), np.zeros(3), method="hybr", tol=1e-14)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = law.implicit_bias(x, y, a, w, etas)
        if found.crossed or np.abs(solved.fun).max() > 1e-10:
            continue
        agreed += 1
        assert torch.allclose(weights(solved.x), found.beta, rtol=1e-9, atol=1e-10)
    assert agreed >= 12


def test_the_end_minimises_the_potential():
    rng = np.random.default_rng(0)
    for seed in range(12):
        x, y, a, w, etas = problem(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = law.implicit_bias(x, y, a, w, etas)
        delta = float(neuron.imbalance(a, w, etas))
        pull = math.copysign(math.sqrt(2), found.a) * (etas[0] / etas[1]) ** 0.25 * w
        null = torch.linalg.svd(x).Vh[3:]
        value = law.potential(found.beta, delta, etas) - pull @ found.beta
        for size in (1e-3, 0.1, 2.0):
            other = found.beta + size * tensor(rng.standard_normal((50, 3))) @ null
            assert (law.potential(other, delta, etas) - other @ pull > value).all()


@pytest.mark.parametrize("delta", [-2.0, -1e-9, 0.0, 1e-9, 2.0, 1e4, -1e4])
def test_the_mirror_is_the_gradient_of_the_potential(delta):
    beta = tensor([[0.4, -0.3, 1.0], [1e-5, 2e-5, 0.0]]).requires_grad_()
    kappa = (delta**2 + 4 * beta.square().sum(-1)).sqrt()
    if abs(delta) < 10:
        formula = (kappa - 2 * delta) * (kappa + delta).sqrt() / 3
        (slope,) = torch.autograd.grad(formula.sum(), beta)
        assert torch.allclose(law.mirror(beta.detach(), delta), slope, rtol=1e-5, atol=1e-12)
        assert torch.allclose(law.potential(beta.detach(), delta), formula.detach(), rtol=1e-5)
    a, w = neuron.factors(beta.detach(), delta, (0.5, 2.0))
    hatted = math.sqrt(2) * (0.5 / 2.0) ** 0.25 * w
    assert torch.allclose(law.mirror(beta.detach(), delta, (0.5, 2.0)), hatted, rtol=1e-12)


ONE_EXAMPLE, ONE_TARGET = tensor([[0.5, 1.0]]), tensor([1.1])
FIGURE = {
    -4.0: -1.242222,
    -2.0: -1.033560,
    -1.0: -0.836485,
    0.0: -0.562376,
    1.0: -0.406290,
    2.0: -0.364131,
    4.0: -0.344223,
}


@pytest.mark.parametrize("delta", FIGURE)
def test_interpolants_of_figure_4b(delta):
    start = 0.5 * (0.6 * tensor([1.0, -0.5]) + 0.4 * tensor([0.5, 1.0]))
    assert start.tolist() == pytest.approx([0.4, 0.05])
    a, w = neuron.factors(start, delta)
    found = law.implicit_bias(ONE_EXAMPLE, ONE_TARGET, a, w)
    least = tensor([0.44, 0.88])
    normal = tensor([-0.88, 0.44]) / least.norm()
    assert float((found.beta - least) @ normal) == pytest.approx(FIGURE[delta], abs=1e-6)
    assert float((found.beta - least) @ least) == pytest.approx(0, abs=1e-15)
    k = float(w @ normal)
    q = (k**2 + delta) / 2
    printed = least + k * math.sqrt(q + math.sqrt(q**2 + float(least @ least))) * normal
    assert torch.allclose(found.beta, printed, rtol=1e-14)
    end = law.function_flow(ONE_EXAMPLE, ONE_TARGET, start, delta, tensor([INF])).beta[0]
    assert torch.allclose(end, found.beta, rtol=1e-9)
    assert found.residual < 1e-15 and not found.crossed and found.remarks == ()


def test_limits_of_the_interpolants_far_up_and_downstream():
    start = tensor([0.4, 0.05])
    up, down = (f(ONE_EXAMPLE, ONE_TARGET, start) for f in (law.upstream_end, law.downstream_end))
    least = tensor([0.44, 0.88])
    assert torch.allclose(down, start * float(least @ least) / float(start @ least), rtol=1e-14)
    x, y, *_ = problem(3, n=2, d=5)
    for inputs, targets, first in ((ONE_EXAMPLE, ONE_TARGET, start), (x, y, tensor([0.3, -0.5, 0.2, 0.9, -0.4]))):
        for sign in (1, -1):
            limits = (law.upstream_end, law.downstream_end)
            for delta, limit in zip((1.0, -1.0), limits, strict=True):
                misses = []
                for size in (1e3, 1e4):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        found = law.implicit_bias(inputs, targets, *neuron.factors(sign * first, size * delta))
                    misses.append(float((found.beta - limit(inputs, targets, sign * first)).norm()))
                assert misses[0] < 1e-2 and misses[1] < misses[0] / 5
    # by integration as well, above the saddle: a changes its sign, and β ends on the other side of 0
    back = law.downstream_end(ONE_EXAMPLE, ONE_TARGET, -start)
    a, w = neuron.factors(-start, -300.0)
    with pytest.warns(UserWarning, match="sign of a at the end.*integrated: it is -"):
        found = law.implicit_bias(ONE_EXAMPLE, ONE_TARGET, a, w)
    a_end, w_end = ended(ONE_EXAMPLE, ONE_TARGET, a, w)
    assert found.crossed and torch.allclose(found.beta, a_end * w_end, rtol=1e-7)
    assert torch.allclose(found.beta, back, rtol=1e-2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.floats(-8, 3), st.floats(-4, 4), st.booleans())
def test_any_end_fits_and_keeps_what_is_conserved(seed, n, d, size, level, negative):
    rng = np.random.default_rng(seed)
    x = tensor(rng.standard_normal((n, d)))
    if seed % 3 == 0:
        x[-1] = x[0]  # of lower rank
    y = x @ tensor(rng.standard_normal(d))
    delta, etas = (-1 if negative else 1) * 10**level, (1.0, float(rng.uniform(0.2, 5)))
    a, w = neuron.factors(tensor(rng.standard_normal(d)) * 10**size, delta, etas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = law.implicit_bias(x, y, a, w, etas, most=3000)
    assert torch.allclose(x @ found.beta, y, atol=1e-10 * float(y.norm()) + 1e-12 * float(found.beta.norm()))
    kept = etas[1] * found.a**2 - etas[0] * float(found.w @ found.w)
    assert kept == pytest.approx(float(neuron.imbalance(a, w, etas)), rel=1e-9, abs=1e-11 * float(found.w @ found.w))
    moved = found.w - w
    inside = torch.linalg.lstsq(x.T, moved, driver="gelsd").solution
    assert torch.allclose(x.T @ inside, moved, atol=1e-9 * float(w.norm() + moved.norm()))
    assert found.beta.isfinite().all()


def test_a_neuron_on_the_separatrix_is_told():
    # d = 1 in the row space, opposed and balanced: it tends to 0 for ever
    x = tensor([[1.0, 0.0]])
    with pytest.warns(UserWarning, match="could not be told"):
        found = law.implicit_bias(x, tensor([1.0]), 0.5, tensor([-0.5, 0.0]), most=2000)
    assert not found.success and torch.allclose(found.beta, tensor([1.0, 0.0]))


def test_a_zero_read_out_goes_the_way_of_its_weights():
    x, y, _, w, etas = problem(5)
    found = law.implicit_bias(x, y, 0.0, w, etas)
    a_end, w_end = ended(x, y, 0.0, w, etas)
    assert found.a == pytest.approx(a_end, rel=1e-7) and torch.allclose(found.w, w_end, atol=1e-7)
    zero = law.implicit_bias(x, torch.zeros(3), 0.7, w, etas)
    a_end, w_end = ended(x, torch.zeros(3, dtype=torch.float64), 0.7, w, etas)
    assert torch.allclose(zero.beta, a_end * w_end, atol=1e-8)


@pytest.mark.parametrize(("n", "d", "delta"), [(5, 3, 1.5), (2, 4, -1.5), (4, 4, 0.0), (1, 1, -0.4)])
def test_the_function_flow_solves_its_equation(n, d, delta):
    rng, etas = np.random.default_rng(n), (0.6, 1.4)
    x, y = tensor(rng.standard_normal((n, d))), tensor(rng.standard_normal(n))
    start = x.T @ y / 3 + 0.3 * tensor(rng.standard_normal(d))
    times = tensor([0.0, 0.1, 0.6, 2.0])
    found = law.function_flow(x, y, start, delta, times, etas)

    def slope(_, beta):
        now = tensor(beta)
        kappa = math.sqrt(delta**2 + 4 * etas[0] * etas[1] * float(now @ now))
        unit = now / now.norm()
        m = (kappa + delta) / 2 * torch.eye(d, dtype=torch.float64) + (kappa - delta) / 2 * torch.outer(unit, unit)
        assert torch.allclose(law.metric(now, delta, etas), m, rtol=1e-12, atol=1e-14)
        return -(m @ (x.T @ (x @ now - y))).numpy()

    other = solve_ivp(slope, (0, 2.0), start.numpy(), "DOP853", t_eval=times.numpy(), rtol=1e-11, atol=1e-13)
    assert torch.allclose(found.beta, tensor(other.y.T), atol=1e-9)
    kept = etas[1] * found.a.square() - etas[0] * found.w.square().sum(-1)
    assert torch.allclose(kept, torch.full_like(kept, delta), atol=1e-9)


def test_the_function_flow_is_that_of_a_network_and_of_the_closed_form():
    class Net(nn.Module):
        def __init__(self, a, w):
            super().__init__()
            self.a, self.w = nn.Parameter(torch.tensor(a, dtype=torch.float64)), nn.Parameter(w.clone())

        def forward(self, x):
            return self.a * (x @ self.w)

    x, y, a, w, etas = problem(2, n=5, d=3)
    times = tensor([0.05, 0.3])
    run = flow(
        Net(a, w),
        lambda net: (net(x) - y).square().sum() / 2,
        times,
        {"beta": lambda s: s.model.a * s.model.w},
        rates={"a": etas[0], "w": etas[1]},
    )
    found = law.parameter_flow(x, y, a, w, times, etas)
    assert torch.allclose(tensor(run.series["beta"].values), found.beta, atol=1e-8)
    white = torch.eye(3, dtype=torch.float64)
    target, times = tensor([0.4, -1.0, 0.3]), tensor([20.0, 0.0, 1.0, 1e6, INF, 0.2])
    exact = neuron.exact(a, w, target, times, etas)
    found = law.parameter_flow(white, target, a, w, times, etas)
    assert torch.allclose(found.a, exact.a, atol=1e-9) and torch.allclose(found.w, exact.w, atol=1e-9)


def test_a_flow_through_zero_goes_on_to_the_other_side():
    # δ < 0 and opposed: β = 0 on the way, where M is not defined
    x, y = tensor([[1.0, 0.2], [0.0, 0.7]]), tensor([1.0, 0.5])
    start = -0.4 * tensor([0.9, 0.6])
    times = torch.linspace(0, 8, 81, dtype=torch.float64)
    found = law.function_flow(x, y, start, -1.0, times)
    assert found.a[0] > 0 > found.a[-1]
    a, w = neuron.factors(start, -1.0)
    a_t, w_t = integrate(a, w, x, y, times)
    assert torch.allclose(found.beta, a_t[:, None] * w_t, atol=1e-9)
    late = law.function_flow(x, y, start, -1.0, tensor([1e9, INF]))
    assert torch.allclose(late.beta[0], torch.linalg.solve(x, y), rtol=1e-9) and torch.equal(late.beta[0], late.beta[1])


@pytest.mark.parametrize("method", ["DOP853", "LSODA", "Radau"])
def test_methods_of_the_flow_agree(method):
    x, y, a, w, etas = problem(7)
    reference = law.parameter_flow(x, y, a, w, tensor([0.2, 1.0]), etas)
    found = law.parameter_flow(x, y, a, w, tensor([0.2, 1.0]), etas, method)
    assert torch.allclose(found.beta, reference.beta, atol=1e-7)


class Deep(nn.Module):
    """Rank-one layers s u_{l+1} u_lᵀ, s = |β|^{1/(L+1)}, so that all layers are balanced."""

    def __init__(self, beta, hidden, width=3, seed=0):
        super().__init__()
        rng, size = np.random.default_rng(seed), float(beta.norm())
        units = [beta / size]
        for _ in range(hidden):
            u = tensor(rng.standard_normal(width))
            units.append(u / u.norm())
        units.append(torch.ones(1, dtype=torch.float64))
        s = size ** (1 / (hidden + 1))
        self.layers = nn.ParameterList([s * torch.outer(units[i + 1], units[i]) for i in range(hidden + 1)])

    @property
    def beta(self):
        made = self.layers[0]
        for layer in list(self.layers)[1:]:
            made = layer @ made
        return made[0]

    def forward(self, x):
        return x @ self.beta


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_deep_networks_move_and_end_as_predicted(hidden):
    rng = np.random.default_rng(hidden)
    x, y = tensor(np.linalg.qr(rng.standard_normal((4, 2)))[0].T * [[1.3], [0.9]]), tensor([0.8, -0.5])
    start = torch.linalg.lstsq(x, y).solution + 0.5 * tensor(rng.standard_normal(4))
    net = Deep(start, hidden)
    run = flow(
        net, lambda f: (f(x) - y).square().sum() / 2, tensor([0.3, 14.0]), {"beta": lambda s: s.model.beta}, rtol=1e-9
    )
    betas = tensor(run.series["beta"].values)
    slope = law.deep_velocity(start, x.T @ (x @ start - y), hidden)
    loss = (net(x) - y).square().sum() / 2
    grads = torch.autograd.grad(loss, list(net.layers))
    h = 1e-6
    moved = Deep(start, hidden)
    with torch.no_grad():
        for layer, g in zip(moved.layers, grads, strict=True):
            layer -= h * g
    assert torch.allclose((moved.beta - start) / h, slope, rtol=1e-4, atol=1e-4)
    other = solve_ivp(
        lambda _, b: law.deep_velocity(tensor(b), x.T @ (x @ tensor(b) - y), hidden).numpy(),
        (0, 0.3),
        start.numpy(),
        "DOP853",
        rtol=1e-9,
        atol=1e-11,
    )
    assert torch.allclose(betas[0], tensor(other.y[:, -1]), atol=1e-7)
    end = law.deep_bias(x, y, start, hidden)
    assert torch.allclose(betas[1], end, atol=1e-6)
    assert torch.allclose(x @ end, y, atol=1e-13)
    null = torch.linalg.svd(x).Vh[2:]
    power = -hidden / (hidden + 1)
    kkt = null @ (end * end.norm() ** power - start * start.norm() ** power)
    assert float(kkt.abs().max()) < 1e-14


def test_depth_one_is_the_balanced_neuron_and_depth_zero_is_regression():
    x, y, _, w, _ = problem(4)
    a, w = neuron.factors(w, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = law.implicit_bias(x, y, a, w)
    assert torch.allclose(law.deep_bias(x, y, a * w, 1), one.beta, rtol=1e-12)
    assert torch.allclose(law.deep_bias(x, y, a * w, 0), law.upstream_end(x, y, a * w), rtol=1e-13)
    for hidden in (1, 4, 30):
        end = law.deep_bias(x, y, 1e-9 * a * w, hidden)
        assert torch.allclose(x @ end, y, atol=1e-12) and end.isfinite().all()
    with pytest.warns(UserWarning, match="saddle"):
        law.deep_bias(tensor([[1.0, 0.0]]), tensor([1.0]), tensor([-1.0, 0.0]), 2)


X, Y, W = torch.eye(2, 3, dtype=torch.float64), tensor([1.0, 2.0]), tensor([0.1, 0.2, 0.3])
TALL = tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
REFUSED = {
    "outside the range": (lambda: law.implicit_bias(TALL, Y, 1.0, W), "outside the range of X. Project"),
    "deep, outside": (lambda: law.deep_bias(TALL, Y, W, 1), "outside the range"),
    "saddle": (lambda: law.implicit_bias(X, Y, 0.0, tensor([0.0, 0.0, 1.0])), "saddle"),
    "shape of w": (lambda: law.implicit_bias(X, Y, 1.0, tensor([1.0, 2.0])), "3 dimensions"),
    "two starts": (lambda: law.implicit_bias(X, Y, tensor([1.0, 2.0]), W), "one start"),
    "rows": (lambda: law.implicit_bias(X, tensor([1.0]), 1.0, W), "do not fit"),
    "zero inputs": (lambda: law.implicit_bias(0 * X, Y, 1.0, W), "All inputs are zero"),
    "nan": (lambda: law.implicit_bias(X * math.nan, Y, 1.0, W), "not finite"),
    "rate": (lambda: law.implicit_bias(X, Y, 1.0, W, (1.0, 0.0)), "etas"),
    "beta 0": (lambda: law.function_flow(X, Y, 0 * W, 1.0, Y), "does not determine"),
    "metric at 0": (lambda: law.metric(0 * W, 1.0), "does not determine"),
    "batch": (lambda: law.function_flow(X, Y, torch.ones(2, 3), 1.0, Y), "one start"),
    "method": (lambda: law.function_flow(X, Y, W, 1.0, Y, method="Euler"), "no method 'Euler'"),
    "budget": (
        lambda: law.function_flow(X, Y, tensor([0.3, -0.1, 0.2]), -1e5, tensor([1e6]), most=500),
        "After 500 gradients",
    ),
    "orthogonal downstream": (lambda: law.downstream_end(X, Y, tensor([0.0, 0.0, 1.0])), "orthogonal"),
    "upstream of 0": (lambda: law.upstream_end(X, Y, 0 * W), "not 0"),
    "deep of 0": (lambda: law.deep_bias(X, Y, 0 * W, 2), "not 0"),
    "layers": (lambda: law.deep_bias(X, Y, W, -1), "hidden=-1"),
    "velocity": (lambda: law.deep_velocity(W, Y, 1), "must both be"),
    "delta nan": (lambda: law.function_flow(X, Y, W, math.nan, Y), "delta is not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_ends_are_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        call()


def test_full_rank_leaves_one_solution():
    with pytest.warns(UserWarning, match="unique, as X has rank d = 3"):
        found = law.implicit_bias(tensor(np.diag([1.0, 2.0, 3.0])), tensor([1.0, 1.0, 1.0]), 1.0, W)
    assert torch.allclose(found.beta, tensor([1.0, 0.5, 1 / 3]), rtol=1e-14)
