"""The single neuron of arXiv:2406.06158 in closed form: mpmath, integration, the engine of `balanced`, networks."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from neuron_cases import integrate, precise, tensor
from torch import nn

from learndyn.dynamics.flow import descent, flow
from learndyn.errors import InputError
from learndyn.laws import balanced
from learndyn.laws import neuron as law

INF = math.inf
DELTAS = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0]


def draw(rng, kind=0):
    """A start, a task and rates of any size and sign; balanced, a = 0, w = 0, aligned or equal rates by `kind`."""
    d = int(rng.integers(1, 6))
    w = tensor(rng.standard_normal(d) * 10 ** rng.uniform(-3, 0.7))
    a = float(rng.standard_normal() * 10 ** rng.uniform(-3, 0.7))
    target = tensor(rng.standard_normal(d) * 10 ** rng.uniform(-2, 0.4))
    etas = (1.0, 1.0) if kind % 2 else tuple(10 ** rng.uniform(-1, 1, 2))
    if kind % 7 == 3:
        a = math.copysign(float(w.norm()) * math.sqrt(etas[0] / etas[1]), a)
    if kind % 11 == 5:
        a = 0.0
    if kind % 11 == 6:
        w = torch.zeros_like(w)
    if kind % 11 == 7:
        w = target * float(rng.standard_normal())
    return a, w, target, etas


def off(found, true):
    """Largest error of a and w, relative to the larger of |a| and |w|."""
    size = max(abs(true[0]), float(true[1].abs().max()))
    return max(abs(float(found[0]) - true[0]), float((found[1] - true[1]).abs().max())) / size


def at(found, i):
    return found.a[..., i], found.w[..., i, :]


@pytest.mark.filterwarnings("ignore:The start")
def test_the_weights_of_the_neuron_integrate_to_the_same():
    rng, times, worst, drift = np.random.default_rng(0), tensor([0.0, 0.2, 1.5, 6.0]), 0.0, 0.0
    for kind in range(200):
        a, w, target, etas = draw(rng, kind)
        found = law.exact(a, w, target, times, etas)
        a_t, w_t = integrate(a, w, torch.eye(len(w), dtype=torch.float64), target, times, etas)
        size = max(float(a_t.abs().max()), float(w_t.abs().max()))
        worst = max(worst, float((found.a - a_t).abs().max()) / size, float((found.w - w_t).abs().max()) / size)
        kappa = etas[1] * found.a.square() + etas[0] * found.w.square().sum(-1)
        kept = etas[1] * found.a.square() - etas[0] * found.w.square().sum(-1)
        drift = max(drift, float(((kept - found.delta) / kappa).abs().max()))
        assert (found.loss.diff() <= 1e-14 * found.loss[0]).all()
    assert worst < 1e-8 and drift < 1e-14


@pytest.mark.filterwarnings("ignore:The start")
def test_mpmath_agrees_on_the_neuron_to_the_last_digits():
    rng = np.random.default_rng(1)
    for kind in range(80):
        a, w, target, etas = draw(rng, kind)
        times = [0.0, 0.03, 1.0, 5.0]
        found = law.exact(a, w, target, tensor(times), etas, c=1.5)
        for i, t in enumerate(times):
            assert off(at(found, i), precise(a, w, target, t, etas, 1.5)) < 4e-15, (kind, t)


HARD = {
    "tiny delta": (0.5, [0.3, 0.4000000001], [1.0, -0.7], [0.5, 10.0, 60.0]),
    "large start, tiny task": (30.0, [18.0, 24.0], [1e-6, 2e-6], [1e-3, 0.05, 1.0]),
    "delta 1e4": (100.0, [0.1, 0.2], [1.0, 0.5], [1e-5, 1e-3, 0.1]),
    "delta -1e4": (1e-3, [60.0, 80.0], [1.0, 0.5], [1e-5, 1e-3, 0.1]),
    "a = 1e-30": (1e-30, [0.3, -0.4], [1.0, 0.5], [1e-9, 1.0, 50.0]),
    "start of 1e-100": (1e-100, [1e-100, -2e-100], [1.0, 0.5], [1.0, 230.0, 300.0]),
    "opposed": (0.4, [-0.3], [1.0], [0.3, 5.0, 50.0]),
    "no task, upstream": (0.8, [0.3, 0.2], [0.0, 0.0], [0.5, 5.0, 50.0]),
    "no task, downstream": (0.2, [0.3, 0.2], [0.0, 0.0], [0.5, 5.0, 50.0]),
    "no task, balanced": (0.5, [0.3, 0.4], [0.0, 0.0], [0.5, 5.0, 50.0]),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_neurons_keep_their_digits(name):
    a, w, target, times = HARD[name]
    w, target = tensor(w), tensor(target)
    found = law.exact(a, w, target, tensor(times))
    for i, t in enumerate(times):
        true = precise(a, w, target, t, digits=260)
        assert off(at(found, i), true) < 2e-14
        assert abs(float(found.a[i]) / true[0] - 1) < 2e-13  # a on its own too, where it is small


def separatrix(w, target, etas=(1.0, 1.0)):
    """The float next to the a at which a neuron with these w is on the separatrix."""
    low, high = -100.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if law.separatrix_distance(middle, w, target, etas) < 0 else (low, middle)
    return low


@pytest.mark.filterwarnings("ignore:The start")
@pytest.mark.parametrize("above", [0.0, 1e-13, 1e-6])
def test_mpmath_agrees_next_to_the_separatrix(above):
    rng, target = np.random.default_rng(2), tensor([1.0, 0.25])
    for _ in range(3):
        w, etas = tensor(rng.standard_normal(2)), tuple(rng.uniform(0.5, 2, 2))
        a = separatrix(w, target, etas) + above
        times = [1.0, 12.0, 36.0]
        found = law.exact(a, w, target, tensor(times), etas)
        errors = [off(at(found, i), precise(a, w, target, t, etas)) for i, t in enumerate(times)]
        assert max(errors) < 1e-13
        assert float(found.distance.sign()) == float(found.basin) == float(found.a[-1].sign())


@pytest.mark.filterwarnings("ignore:The start")
def test_the_engine_of_two_layers_gives_the_same_neuron():
    rng, times = np.random.default_rng(3), tensor([0.0, 0.5, 3.0, 40.0, 1e8, INF])
    for kind in range(60):
        a, w, target, etas = draw(rng, kind)
        if kind % 10 == 9:
            target = torch.zeros_like(target)
        c = 0.7
        found = law.exact(a, w, target, times, etas, c)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            delta = float(found.delta) / math.sqrt(etas[0] * etas[1])
            same = balanced.exact(
                w[None], tensor([[a]]), c * target[None], times, lam=delta, k=c, etas=(etas[1], etas[0])
            )
        if same.trust < 100:
            continue
        size = max(float(found.a.abs().max()), float(found.w.abs().max())) ** 2
        for mine, other in (
            (found.beta, same.function[:, 0]),
            (found.a.square(), same.rep_out[:, 0, 0]),
            (found.w[:, :, None] * found.w[:, None, :], same.rep_in),
        ):
            assert float((mine - other).abs().max()) < 1e-12 * size, kind
        assert torch.allclose(found.loss, same.loss, atol=1e-12 * size**2)


def test_values_of_figure_3():
    expected = {
        -4.0: ([0.07592, 0.16018, 0.98447], [0.06593, 0.16936, 0.98607], [0.00548, 0.02840, 0.87131]),
        0.0: ([0.62440, 0.99900, 1.0], [0.76159, 0.99991, 1.0], [0.11601, 0.19996, 0.20000]),
        4.0: ([0.98669, 1.0, 1.0], [0.99988, 1.0, 1.0], [0.00144, 0.00147, 0.00147]),
    }
    words = {-4.0: ("downstream", "delayed rich"), 0.0: ("balanced", "rich"), 4.0: ("upstream", "lazy")}
    for delta, values in expected.items():
        a, w = law.factors(tensor([-1.0, 0.0]), delta)
        found = law.exact(a, w, tensor([0.0, 1.0]), tensor([1.0, 5.0, 20.0]))
        for series, value in zip((found.mu, found.phi, found.kernel_distance), values, strict=True):
            assert torch.allclose(series, tensor(value), atol=1e-5)
        assert (found.side, found.regime) == words[delta]
        assert torch.allclose(found.rho, delta / (delta**2 + 4 * found.beta.square().sum(-1)).sqrt(), atol=1e-14)


def test_starts_beside_the_separatrix_end_on_both_sides():
    target = tensor([1.0, 0.25])
    for delta in (-2.0, -10.0):
        # a = -4 on the separatrix: w'beta* = -(a/2)(delta + K), |w|^2 = a^2 - delta
        along = 2 * (delta + math.sqrt(delta**2 + 4 * float(target.square().sum()))) / float(target.norm())
        across = math.sqrt(16 - delta - along**2)
        unit = target / target.norm()
        w = along * unit + across * tensor([-unit[1], unit[0]])
        assert abs(float(law.separatrix_distance(-4.0, w, target))) < 1e-14
        ends = [law.exact(-4 + e, w, target, tensor([200.0])) for e in (1e-3, -1e-3)]
        if delta == -2.0:
            assert [round(float(e.a[0]), 4) for e in ends] == pytest.approx([0.6595, -0.6613], abs=1e-3)
        assert [float(e.basin) for e in ends] == [1.0, -1.0] == [float(e.a[0].sign()) for e in ends]


def test_the_basin_has_the_sign_that_the_paper_gives():
    rng = np.random.default_rng(4)
    a, w = tensor(rng.standard_normal(400)), tensor(rng.standard_normal((400, 3)))
    target, etas = tensor([0.3, -0.8, 0.4]), (0.6, 1.7)
    found = law.exact(a, w, target, tensor([1e4]), etas)
    hat = (a * (etas[1] / etas[0]) ** 0.25, w * (etas[0] / etas[1]) ** 0.25)
    d = hat[0].square() - hat[1].square().sum(1)
    paper = (hat[1] @ target + hat[0] / 2 * (d + (d.square() + 4 * target.square().sum()).sqrt())).sign()
    expected = torch.where(d >= 0, a.sign(), paper)
    assert torch.equal(law.basin(a, w, target, etas), expected) and torch.equal(found.a[:, 0].sign(), expected)
    assert torch.equal(found.basin, expected) and torch.equal(found.distance.sign(), expected)
    assert (d < 0).any() and (expected != a.sign()).any()


def test_exactly_on_the_separatrix_the_saddle_is_reached():
    with pytest.warns(UserWarning, match="on the separatrix"):
        found = law.exact(0.5, tensor([-0.5]), tensor([1.0]), tensor([0.0, 3.0, 40.0, 1e8, INF]))
    true = [precise(0.5, tensor([-0.5]), tensor([1.0]), t)[0] for t in (0.0, 3.0, 40.0)]
    assert torch.allclose(found.a[:3], tensor(true), rtol=1e-14, atol=0) and (found.a[3:] == 0).all()
    assert float(found.basin) == 0 == float(found.distance)
    # downstream: w*beta* = -(a/2)(delta + K) with numbers that float64 holds, delta = -3, K = 5, r = 2, a = 1, x = -1/2
    w = tensor([-0.5, 0.0, 1.0, 1.0])
    w[1] = math.sqrt(4 - 0.25 - 2)
    with pytest.warns(UserWarning, match="on the separatrix"):
        found = law.exact(1.0, w, tensor([2.0, 0, 0, 0]), tensor([0.0, 1.0, 4.0]))
    assert float(found.delta) == pytest.approx(-3, abs=1e-15)
    for i, t in enumerate((0.0, 1.0, 4.0)):
        assert off(at(found, i), precise(1.0, w, tensor([2.0, 0, 0, 0]), t)) < 1e-13
    # δ = −3, r = 2, K = 5 in numbers that float64 holds: the saddle is a = 0 and w across the task, |w|² = 3
    w = tensor([-0.5, 1.5, 1.0, 0.5, 0.5])
    with pytest.warns(UserWarning, match="on the separatrix"):
        found = law.exact(1.0, w, tensor([2.0, 0, 0, 0, 0]), tensor([3.0, 1e8, INF]))
    assert float(found.delta) == -3 and float(found.distance) == 0 == float(found.basin)
    assert off(at(found, 0), precise(1.0, w, tensor([2.0, 0, 0, 0, 0]), 3.0)) < 1e-14
    saddle = w.clone()
    saddle[0] = 0
    for i in (1, 2):
        assert float(found.a[i]) == 0 and torch.allclose(found.w[i], saddle * math.sqrt(3 / float(saddle @ saddle)))


@pytest.mark.parametrize("w", [[0.0, 0.0], [0.0, 2.0]])
def test_fixed_points_stay_and_are_told(w):
    with pytest.warns(UserWarning, match="fixed point"):
        found = law.exact(0.0, tensor(w), tensor([1.0, 0.0]), tensor([0.0, 5.0, 1e8, INF]))
    assert (found.a == 0).all() and torch.equal(found.w, tensor([w] * 4))
    with pytest.warns(UserWarning, match="2 of 3 starts are each a fixed point"):
        law.exact(tensor([0.0, 0.0, 1.0]), tensor([0.0, 1.0]), tensor([1.0, 0.0]), tensor([0.0]))


def test_a_batch_of_starts_is_its_starts_one_by_one():
    rng, times = np.random.default_rng(5), tensor([0.0, 2.0, 0.5, INF])
    a, w, target = (tensor(rng.standard_normal(s)) for s in ((3, 1), (3, 4, 2), (3, 4, 2)))
    found = law.exact(a, w, target, times, (2.0, 0.5))
    assert found.a.shape == (3, 4, 4) and found.w.shape == (3, 4, 4, 2) and found.kernel_distance.shape == (3, 4, 4)
    for i in range(3):
        for j in range(4):
            one = law.exact(a[i, 0], w[i, j], target[i, j], times, (2.0, 0.5))
            for name in ("a", "w", "beta", "mu", "phi", "rho", "loss", "kernel_distance", "delta", "distance", "basin"):
                assert torch.allclose(getattr(one, name), getattr(found, name)[i, j], rtol=1e-14, atol=1e-15)
    with pytest.raises(InputError, match="batch of 12"):
        _ = found.regime
    assert law.exact(0.3, tensor([1.0]), tensor([1.0]), tensor([])).a.shape == (0,)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.floats(-6, 3),
    st.floats(-6, 3),
    st.floats(-3, 3),
    st.floats(0.01, 100.0),
    st.lists(st.floats(0, 1e8), min_size=1, max_size=4),
)
def test_any_neuron_is_finite_conserved_and_converges(seed, d, size_a, size_w, size_task, rate, times):
    rng = np.random.default_rng(seed)
    a, w = float(rng.standard_normal() * 10**size_a), tensor(rng.standard_normal(d) * 10**size_w)
    target, etas = tensor(rng.standard_normal(d) * 10**size_task), (1.0, rate)
    found = law.exact(a, w, target, tensor([*times, 0.0, INF]), etas)
    kappa = etas[1] * found.a.square() + found.w.square().sum(-1)
    kept = etas[1] * found.a.square() - found.w.square().sum(-1)
    assert found.a.isfinite().all() and found.w.isfinite().all()
    # over the largest κ, by which the flow may have shrunk
    assert float((kept - found.delta).abs().max()) < 1e-13 * float(kappa.max())
    assert off(at(found, len(times)), (a, w)) < 1e-14
    assert torch.allclose(found.beta[-1], target, rtol=1e-12, atol=1e-13 * float(target.norm()))
    assert float(found.a[-1].sign()) == float(found.basin)
    assert (found.loss[:-1] <= found.loss[-2] * (1 + 1e-12)).all()
    s = found.kernel_distance
    assert ((s >= 0) & (s <= 1 + 1e-14)).all() and float(s[-2]) < 1e-28


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.05, 5.0), st.floats(0.05, 5.0), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_time_goes_on_from_anywhere(seed, eta_a, eta_w, first, second):
    rng = np.random.default_rng(seed)
    a, w, target = float(rng.standard_normal()), tensor(rng.standard_normal(3)), tensor(rng.standard_normal(3))
    half = law.exact(a, w, target, tensor([first]), (eta_a, eta_w))
    assume(float(half.distance.abs()) > 1e-3)
    whole = law.exact(a, w, target, tensor([first + second]), (eta_a, eta_w))
    rest = law.exact(half.a[0], half.w[0], target, tensor([second]), (eta_a, eta_w))
    # what rounding at the join has grown to near the saddle
    assert off(at(rest, 0), (float(whole.a[0]), whole.w[0])) < 1e-10
    with_signs = law.exact(-a, -w, target, tensor([first]), (eta_a, eta_w))
    assert torch.allclose(with_signs.beta, half.beta, rtol=1e-14) and torch.allclose(with_signs.a, -half.a, rtol=1e-14)


def test_the_laws_own_equation_holds_by_autograd():
    # d/dt by a step of the complex kind is not at hand; by central differences of the closed form, error h²
    a, w, target, etas = -0.4, tensor([0.9, -0.3]), tensor([0.5, 1.2]), (0.7, 1.9)
    h, t = 1e-4, 1.3
    found = law.exact(a, w, target, tensor([t - h, t, t + h]), etas)
    miss = target - found.beta[1]
    assert float(found.a[2] - found.a[0]) / (2 * h) == pytest.approx(etas[0] * float(found.w[1] @ miss), rel=1e-7)
    slope = (found.w[2] - found.w[0]) / (2 * h)
    assert torch.allclose(slope, etas[1] * found.a[1] * miss, rtol=1e-7)


class Net(nn.Module):
    def __init__(self, a, w):
        super().__init__()
        self.w = nn.Linear(len(w), 1, bias=False).double()
        self.a = nn.Linear(1, 1, bias=False).double()
        with torch.no_grad():
            self.w.weight.copy_(w[None])
            self.a.weight.fill_(a)

    def forward(self, x):
        return self.a(self.w(x))[:, 0]


def white_data(n=7, d=3, c=2.5, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, d)))
    return tensor(math.sqrt(c) * q), tensor(rng.standard_normal(n))


def test_a_network_on_white_data_flows_as_the_neuron():
    x, y = white_data()
    task = law.whitened(x, y)
    assert task.c == pytest.approx(2.5)
    a, w, times, etas = 0.3, tensor([0.5, -0.2, 0.4]), tensor([0.1, 0.7, 2.0]), (0.5, 2.0)
    run = flow(
        Net(a, w),
        lambda net: (net(x) - y).square().sum() / 2,
        times,
        {"a": lambda s: s.model.a.weight[0, 0], "w": lambda s: s.model.w.weight[0]},
        rates={"a.weight": etas[0], "w.weight": etas[1]},
    )
    found = law.exact(a, w, task.target, times, etas, task.c)
    assert torch.allclose(tensor(run.series["a"].values), found.a, atol=1e-9)
    assert torch.allclose(tensor(run.series["w"].values), found.w, atol=1e-9)
    assert torch.allclose(tensor(run.series["loss"].values), found.loss + task.floor, atol=1e-9)


def test_gradient_descent_comes_to_the_neuron_at_the_rate_of_its_step():
    x, y = white_data()
    task, a, w = law.whitened(x, y), 0.3, tensor([0.5, -0.2, 0.4])
    # a mean over n examples without the ½: t = 2ηk/n
    time = 1.0
    exact = law.exact(a, w, task.target, tensor([2 * time / len(y)]), c=task.c).beta[0]
    misses = []
    for steps in (40, 80, 160):
        net = descent(Net(a, w), lambda net: (net(x) - y).square().mean(), time, steps)
        misses.append(float((net.a.weight[0, 0] * net.w.weight[0] - exact).norm().detach()))
    assert misses[0] / misses[1] == pytest.approx(2, rel=0.1) and misses[1] / misses[2] == pytest.approx(2, rel=0.05)


def test_kernel_distances_are_those_of_the_tangent_kernel():
    x, _ = white_data(9, 4, 1.0)
    rng, etas = np.random.default_rng(6), (0.6, 1.9)
    pairs = [(float(rng.standard_normal()), tensor(rng.standard_normal(4))) for _ in range(2)]
    kernels = []
    for a, w in pairs:
        net = Net(a, w)
        rows = [torch.autograd.grad(out, [net.a.weight, net.w.weight], retain_graph=True) for out in net(x)]
        jacobian = torch.stack(
            [torch.cat([etas[0] ** 0.5 * g[0].ravel(), etas[1] ** 0.5 * g[1].ravel()]) for g in rows]
        )
        kernels.append(jacobian @ jacobian.T)
    cosine = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    found = law.kernel_distance(*pairs[0], *pairs[1], etas)
    assert float(found) == pytest.approx(1 - float(cosine), rel=1e-13)
    (a1, w1), (a2, w2) = pairs
    other = balanced.kernel_distance(
        etas[0] * torch.outer(w1, w1),
        tensor([[etas[1] * a1**2]]),
        etas[0] * torch.outer(w2, w2),
        tensor([[etas[1] * a2**2]]),
    )
    assert float(found) == pytest.approx(float(other), rel=1e-13)
    # formula of the paper, and far below the rounding of 1 − cos
    near = law.kernel_distance(a1, w1, a1 * (1 + 1e-10), w1, etas)
    assert float(near) == pytest.approx(
        1e-20 * float(law.kernel_distance(a1, w1, a1 * 1.0001, w1, etas)) / 1e-8, rel=1e-3
    )
    assert float(law.kernel_distance(0.3, tensor([2.0]), -1.0, tensor([0.1]))) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("delta", [-3.0, -0.2, 0.0, 0.2, 3.0])
def test_polar_coordinates_have_their_slopes(delta):
    etas, h = (0.8, 1.7), 1e-4
    a, w = law.factors(tensor([0.4, -0.3]), delta, etas)
    target = tensor([1.0, 0.6])
    assert float(law.imbalance(a, w, etas)) == pytest.approx(delta, abs=1e-15)
    found = law.exact(a, w, target, tensor([0.5 - h, 0.5, 0.5 + h]), etas)
    slopes = law.slopes(found.mu[1], found.phi[1], float(target.norm()), delta, etas)
    for series, slope in zip((found.mu, found.phi), slopes, strict=True):
        assert float(series[2] - series[0]) / (2 * h) == pytest.approx(float(slope), rel=2e-7)


@pytest.mark.parametrize("delta", [-4.0, -0.5, 0.0, 0.5, 4.0])
@pytest.mark.parametrize("phi", [-0.9, 0.3])
def test_the_ratio_is_a_tanh_or_coth_and_that_of_the_neuron(delta, phi):
    etas, r = (0.5, 1.3), 1.4
    k = math.sqrt(etas[0] * etas[1])
    target = tensor([r, 0.0])
    a, w = law.factors(tensor([phi, math.sqrt(1 - phi**2)]) * 0.7, delta, etas)
    times = tensor([0.0, 0.3, 1.0, 2.5])
    found = law.exact(a, w, target, times, etas)
    hat = math.sqrt(etas[0] / etas[1])
    true = hat * (found.w @ target) / found.a
    nu = law.ratio(true[0], r, delta, times, k)
    assert torch.allclose(nu, true, rtol=1e-12)
    d, width = delta / k, math.hypot(delta / k, 2 * r)
    z = (d + 2 * float(true[0])) / width
    turn = width * k * times / 2
    formula = torch.tanh(turn + math.atanh(z)) if abs(z) < 1 else 1 / torch.tanh(turn + math.atanh(1 / z))
    assert torch.allclose(nu, (width * formula - d) / 2, rtol=1e-11)
    assert float(law.ratio(INF, r, delta, tensor([50.0]), k)[0]) == pytest.approx((width - d) / 2, rel=1e-12)
    assert float(law.ratio(0.3, 0.0, 0.0, tensor([4.0]))[0]) == pytest.approx(0.3 / 2.2)
    assert float(law.ratio(0.3, r, delta, tensor([1e9]))[0]) == pytest.approx((math.hypot(delta, 2 * r) - delta) / 2)


@pytest.mark.parametrize("delta", [-2.5, -1e-6, 1e-6, 2.5])
def test_hyperbolic_angles_go_there_and_back(delta):
    etas = (0.7, 1.2)
    for theta in (-2.0, -0.1, 0.4, 3.0):
        a, norm = law.on_hyperbola(theta, delta, etas=etas)
        w = float(norm) * tensor([0.6, 0.8])
        assert float(law.hyperbolic_angle(a, w, etas)) == pytest.approx(theta, rel=1e-9)
        assert float(law.imbalance(a, w, etas)) == pytest.approx(delta, rel=1e-8)
        mu = float(a * norm)
        assert mu == pytest.approx(abs(delta) / (2 * math.sqrt(etas[0] * etas[1])) * math.sinh(2 * theta), rel=1e-12)
    if delta > 0:
        assert float(law.on_hyperbola(0.0, delta, -1.0)[0]) == pytest.approx(-math.sqrt(delta))
    with pytest.raises(InputError, match="cone"):
        law.on_hyperbola(1.0, 0.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("phi", [-0.99, -0.3, 0.3, 0.999])
def test_balanced_curves_are_those_of_the_neuron(sign, phi):
    times, etas, r = tensor([0.0, 0.4, 2.0, 9.0, 500.0]), (0.5, 2.0), 1.3
    a, w = law.factors(sign * tensor([phi, math.sqrt(1 - phi**2)]) * 0.02, 0.0, etas)
    a, w = sign * a, sign * w
    found = law.exact(a, w, tensor([r, 0.0]), times, etas)
    mu, cosine = law.balanced_curves(float(found.mu[0]), float(found.phi[0]), r, times, 1.0)
    assert torch.allclose(mu, found.mu, rtol=1e-12) and torch.allclose(cosine, found.phi, rtol=1e-12)
    if sign * phi > 0:
        assert torch.allclose(law.alignment(sign * phi, r, times, etas), sign * found.phi, rtol=1e-12)


def test_upstream_law_misses_by_the_square_of_one_over_delta():
    target = tensor([1.0, 0.0])
    for angle in (0.0, 1.05, 2.5):
        start, misses = 0.5 * tensor([math.cos(angle), math.sin(angle)]), []
        for delta in (10.0, 30.0, 100.0):
            times = torch.linspace(0, 40 / delta, 4001, dtype=torch.float64)
            found = law.exact(*law.factors(start, delta), target, times).beta
            misses.append(float((found - law.upstream(start, target, delta, times)).norm(dim=-1).max()))
        order = [math.log(misses[i] / misses[i + 1]) / math.log((30 / 10, 100 / 30)[i]) for i in range(2)]
        assert order == pytest.approx([2, 2], abs=0.02)
        assert misses == pytest.approx([2.0e-3, 2.25e-4, 2.03e-5], rel=0.08)


def test_delay_law_is_met_far_downstream():
    def ratio(delta, phi, size):
        """Time from φ = 0.3 to 0.9, over the law, of a run that starts at |β₀| and φ₀."""
        a, w = law.factors(size * tensor([phi, math.sqrt(1 - phi**2)]), delta)
        times = torch.linspace(0, 6 * abs(delta), 200001, dtype=torch.float64)
        cosine = law.exact(a, w, tensor([1.0, 0.0]), times).phi.numpy()
        spent = np.interp(0.9, cosine, times) - np.interp(0.3, cosine, times)
        return float(spent) / float(law.delay(0.3, 0.9, 1.0, delta))

    deltas = (-10.0, -30.0, -100.0, -300.0)
    assert [ratio(d, 0.3, 0.5) for d in deltas] == pytest.approx([1.0064, 1.0007, 1.0001, 1.0], abs=6e-5)
    for phi, size in ((0.1, 0.01), (0.1, 1.0), (0.2, 0.2)):  # on the slow manifold the start is forgotten
        assert [ratio(d, phi, size) for d in deltas] == pytest.approx([1.0099, 1.0011, 1.0001, 1.0], abs=6e-5)
    # the fast phase before it, and the turn itself
    a, w = law.factors(-0.5 * tensor([0.3, math.sqrt(1 - 0.09)]), -300.0, (0.5, 2.0))
    times = tensor([0.0, 0.002, 0.01, 0.05])
    found = law.exact(a, w, tensor([1.0, 0.0]), times, (0.5, 2.0))
    fitted = law.fast_fit(float(found.mu[0]), float(found.phi[0]), 1.0, -300.0, times)
    assert torch.allclose(found.mu, fitted, atol=2e-4)
    late = tensor([0.05, 100.0, 300.0, 900.0])
    found = law.exact(a, w, tensor([1.0, 0.0]), late, (0.5, 2.0))
    turned = law.slow_turn(float(found.phi[0]), 1.0, -300.0, late - 0.05, (0.5, 2.0))
    assert torch.allclose(found.phi, turned, atol=1e-3)
    between = law.delay(found.phi[0], found.phi[1:], 1.0, -300.0, (0.5, 2.0))
    assert torch.allclose(between, late[1:] - 0.05, rtol=2e-3)


def test_balanced_onset_comes_later_by_the_same_time_for_every_decade():
    times, crossings = torch.linspace(0, 12, 120001, dtype=torch.float64), []
    for size in (1e-3, 1e-6):
        a, w = law.factors(size * tensor([0.3, math.sqrt(1 - 0.09)]), 0.0)
        found = law.exact(a, w, tensor([1.0, 0.0]), times)
        crossings.append(float(times[int((found.mu >= 0.5).nonzero()[0])]))
        aligned = float(times[int((found.phi >= 0.99).nonzero()[0])])
        assert aligned == pytest.approx(math.atanh(0.99) - math.atanh(0.3), abs=2e-4) == pytest.approx(2.337, abs=1e-3)
    assert crossings == pytest.approx([3.886, 7.339], abs=1e-3)
    assert (crossings[1] - crossings[0]) / 3 == pytest.approx(math.log(10) / 2, abs=1e-3)
    law_says = law.onset(tensor([1e-3, 1e-6]), 0.3, 1.0)
    assert law_says.tolist() == pytest.approx(crossings, abs=3e-3)
    halved = law.onset(1e-6, 0.3, 1.0, etas=(0.5, 0.5))
    assert float(halved) == pytest.approx(2 * float(law_says[1]), rel=1e-14)


def test_extreme_sizes_and_exact_balance_reach_the_end():
    times, task = tensor([0.0, 1.0, 1e8, INF]), tensor([1.0, 2.0])
    for a, w, target in (
        (0.5, [0.3, 0.4], task),
        (5.0, [3.0, 4.0], task),
        (1e-160, [1e-160, 0.0], task),
        (1e120, [1e120, 3.0], task),
        (1e100, [1e-100, 1.0], 1e3 * task),
        (-1e-300, [1.0, 0.0], task),
        (1e-200, [0.0, 0.0], task),
        (0.1, [0.2, 0.3], 1e150 * task),
        (0.1, [0.2, 0.3], 1e-200 * task),
    ):
        found = law.exact(a, tensor(w), target, times)
        assert found.a.isfinite().all() and found.w.isfinite().all()
        assert torch.allclose(found.beta[-1], target, rtol=1e-13, atol=0)
        assert float(found.a[0]) == pytest.approx(a, rel=1e-14)
    # the δ of the floats 0.3 and 0.4, which the squares in float64 lose
    exactly = Fraction(0.5) ** 2 - Fraction(0.3) ** 2 - Fraction(0.4) ** 2
    assert float(law.imbalance(0.5, tensor([0.3, 0.4]))) == float(exactly) != 0


ONE, TWO, TIME = tensor([1.0]), tensor([1.0, 2.0]), tensor([0.0, 1.0])
REFUSED = {
    "nan in w": (lambda: law.exact(0.1, tensor([math.nan]), ONE, TIME), "w is not finite"),
    "overflow": (lambda: law.exact(1e160, ONE, ONE, TIME), "overflows"),
    "nan in a": (lambda: law.exact(math.nan, ONE, ONE, TIME), "a is not finite"),
    "infinite task": (lambda: law.exact(0.1, ONE, tensor([INF]), TIME), "target is not finite"),
    "shapes": (lambda: law.exact(0.1, TWO, ONE, TIME), r"target \(1,\) does not fit w \(2,\)"),
    "shape of a": (lambda: law.exact(TWO, torch.ones(3, 2), TWO, TIME), "do not fit"),
    "no inputs": (lambda: law.exact(0.1, tensor([]), tensor([]), TIME), "do not fit"),
    "negative time": (lambda: law.exact(0.1, ONE, ONE, tensor([-1.0])), "at least 0"),
    "rate 0": (lambda: law.exact(0.1, ONE, ONE, TIME, (0.0, 1.0)), "etas"),
    "rate < 0": (lambda: law.imbalance(0.1, ONE, (1.0, -1.0)), "etas"),
    "c": (lambda: law.exact(0.1, ONE, ONE, TIME, c=0.0), "c=0"),
    "not white": (lambda: law.whitened(tensor([[1.0, 0.0], [0.0, 2.0]]), TWO), "not whitened.*function_flow"),
    "rows": (lambda: law.whitened(tensor([[1.0, 0.0]]), TWO), "do not fit"),
    "zero data": (lambda: law.whitened(torch.zeros(3, 2), torch.ones(3)), "not whitened"),
    "beta 0": (lambda: law.factors(tensor([0.0, 0.0]), 1.0), "does not determine"),
    "not upstream": (lambda: law.upstream(ONE, ONE, -1.0, TIME), "not upstream"),
    "not downstream": (lambda: law.slow_turn(0.1, 1.0, 1.0, TIME), "not downstream"),
    "delay through 0": (lambda: law.delay(-0.1, 0.5, 1.0, -9.0), "one sign"),
    "cosine": (lambda: law.alignment(1.5, 1.0, TIME), "cosine"),
    "onset of nothing": (lambda: law.onset(0.0, 0.5, 1.0), "positive"),
    "aligned balanced": (lambda: law.balanced_curves(1.0, 1.0, 1.0, TIME), "use exact"),
    "kernels of two widths": (lambda: law.kernel_distance(1.0, ONE, 1.0, TWO), "no kernels to compare"),
    "r < 0": (lambda: law.slopes(1.0, 0.0, -1.0, 0.0), "r=-1"),
    "delta nan": (lambda: law.ratio(1.0, 1.0, math.nan, TIME), "delta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_neurons_that_make_no_sense_are_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        call()
