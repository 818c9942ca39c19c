"""Wide linear networks in function space (arXiv:2406.06158): units, isotropic Δ, regimes, entropy, bookkeeping."""

import math

import numpy as np
import pytest
import torch
from balanced_cases import integrate
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_cases import tensor
from torch import nn

from learndyn.errors import InputError
from learndyn.laws import balanced, charges
from learndyn.laws import linear as law
from learndyn.models.balanced import sample_balanced


def network(shape, seed=0):
    """W (h, d), A (h, c) of any size, X (n, d), Y (n, c) and rates."""
    d, h, c = shape
    rng = np.random.default_rng(seed)
    w, a = tensor(rng.standard_normal((h, d))), tensor(rng.standard_normal((h, c)))
    return w, a, tensor(rng.standard_normal((5, d))), tensor(rng.standard_normal((5, c))), tuple(rng.uniform(0.3, 3, 2))


def velocity(w, a, x, y, etas):
    """β' of the network by autograd."""
    leaves = w.clone().requires_grad_(), a.clone().requires_grad_()
    loss = (x @ leaves[0].T @ leaves[1] - y).square().sum() / 2
    of_w, of_a = torch.autograd.grad(loss, leaves)
    return -etas[1] * of_w.T @ a - etas[0] * w.T @ of_a


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 1, 1), (1, 3, 4), (4, 4, 4), (5, 2, 3)])
def test_units_give_the_preconditioner(shape):
    for seed in range(5):
        w, a, x, y, etas = network(shape, seed)
        w = w * tensor([[1e-3], [1.0], [30.0], [1.0]])[: len(w)]
        betas = w[:, :, None] * a[:, None, :]
        deltas = etas[1] * a.square().sum(1) - etas[0] * w.square().sum(1)
        left, right = law.of_units(betas, deltas, etas)
        assert torch.allclose(left, etas[0] * w.T @ w, rtol=1e-12, atol=1e-13 * float(left.abs().max()))
        assert torch.allclose(right, etas[1] * a.T @ a, rtol=1e-12, atol=1e-13 * float(right.abs().max()))
        gradient = x.T @ (x @ betas.sum(0) - y)
        true = velocity(w, a, x, y, etas)
        assert torch.allclose(-(left @ gradient + gradient @ right), true, atol=1e-12 * float(true.abs().max()))


def test_one_unit_with_one_output_has_the_metric_of_the_neuron():
    beta, etas = tensor([0.4, -1.0, 0.2]), (0.7, 1.6)
    for delta in (-2.0, 0.0, 1e-9, 3.0):
        left, right = law.of_units(beta[None, :, None], tensor([delta]), etas)
        metric = left + right * torch.eye(3, dtype=torch.float64)
        assert torch.allclose(law.metric(beta, delta, etas), metric, rtol=1e-13, atol=1e-15)
        kappa = math.sqrt(delta**2 + 4 * etas[0] * etas[1] * float(beta @ beta))
        values = torch.linalg.eigvalsh(metric)
        assert values.tolist() == pytest.approx([(kappa + delta) / 2] * 2 + [kappa], rel=1e-13)


def isotropic_start(d, h, c, delta, etas, seed=0, scale=0.8):
    """W and A with η_w AAᵀ − η_a WWᵀ = δI, from a λ-balanced pair in hatted units."""
    k, stretch = math.sqrt(etas[0] * etas[1]), (etas[1] / etas[0]) ** 0.25
    w1, w2 = sample_balanced((d, h, c), (delta / k,), np.random.default_rng(seed), scale=scale)
    return w1 * stretch, w2.T / stretch


EXACT = [
    (3, 3, 2, 0.0),
    (3, 5, 2, 0.0),
    (4, 2, 3, 0.0),
    (4, 2, 2, 1.3),
    (2, 3, 3, 0.4),
    (3, 3, 3, 2.0),
    (3, 3, 5, -0.7),
]
INEXACT = [(3, 2, 3, 1.5), (4, 2, 3, 1.5), (4, 3, 2, -1.5), (2, 3, 5, 1.5), (5, 1, 3, -1.0)]


@pytest.mark.parametrize(("d", "h", "c", "delta"), EXACT)
def test_isotropic_networks_follow_the_flow_of_beta(d, h, c, delta):
    etas, rng = (0.6, 1.8), np.random.default_rng(1)
    w, a = isotropic_start(d, h, c, delta, etas)
    held = etas[1] * a @ a.T - etas[0] * w @ w.T
    assert torch.allclose(held, delta * torch.eye(h, dtype=torch.float64), atol=1e-13)
    left, right = law.isotropic(w.T @ a, delta, etas)
    assert torch.allclose(left, etas[0] * w.T @ w, atol=1e-8) and torch.allclose(right, etas[1] * a.T @ a, atol=1e-8)
    x, y = tensor(rng.standard_normal((6, d))) / 2, tensor(rng.standard_normal((6, c)))
    times = tensor([0.0, 0.2, 1.0])
    found = law.isotropic_flow(x, y, w.T @ a, delta, h, times, etas)
    # `integrate` has W₂ (c, h), Σ = YᵀX and E[xxᵀ] = XᵀX
    runs = integrate(w, a.T.contiguous(), y.T @ x, times, x.T @ x, (etas[1], etas[0]), rtol=1e-10, atol=1e-12)
    for one, (first, last) in zip(found, runs, strict=True):
        assert torch.allclose(one, (last @ first).T, atol=1e-6)


@pytest.mark.parametrize(("d", "h", "c", "delta"), INEXACT)
def test_other_isotropic_shapes_are_refused_as_beta_does_not_tell_their_flow(d, h, c, delta):
    w, a = isotropic_start(d, h, c, delta, (1.0, 1.0))
    left, right = law.isotropic(w.T @ a, delta)
    miss = max(float((left - w.T @ w).abs().max()), float((right - a.T @ a).abs().max()))
    assert miss > 0.1
    with pytest.raises(InputError, match="not self-consistent"):
        law.isotropic_flow(torch.eye(d), torch.zeros(d, c), w.T @ a, delta, h, tensor([1.0]))


@pytest.mark.parametrize(("d", "h", "c", "delta"), [(5, 3, 2, 1.0), (2, 3, 5, -1.0)])
def test_shapes_that_cannot_be_isotropic_are_refused(d, h, c, delta):
    with pytest.raises(InputError, match="needs h <= "):
        law.self_consistent(d, h, c, delta)


def test_white_data_have_the_exact_solution_of_two_layers():
    w, a = isotropic_start(3, 2, 2, 0.9, (1.0, 1.0), seed=3)
    sigma, times = tensor(np.random.default_rng(2).standard_normal((2, 3))), tensor([0.0, 3.0, 0.5])
    exact = balanced.exact(w, a.T.contiguous(), sigma, times, 0.9)
    found = law.isotropic_flow(torch.eye(3), sigma.T.contiguous(), w.T @ a, 0.9, 2, times)
    assert torch.allclose(found, exact.function.mT, atol=1e-9)


def test_shapes_have_the_regimes_that_kernels_show():
    assert law.limit_regimes(6, 3, 3) == ("lazy", "delayed rich")
    assert law.limit_regimes(3, 3, 6) == ("delayed rich", "lazy")
    assert law.limit_regimes(3, 6, 6) == law.limit_regimes(5, 5, 5) == law.limit_regimes(2, 9, 3) == ("lazy", "lazy")
    rng = np.random.default_rng(0)
    for d, h, c in ((6, 3, 3), (3, 3, 6), (4, 4, 4)):
        for side, delta in zip(law.limit_regimes(d, h, c), (100.0, -100.0), strict=True):
            w, a = isotropic_start(d, h, c, delta, (1.0, 1.0), scale=0.3)
            sigma = tensor(rng.standard_normal((c, d))) / math.sqrt(max(d, c))
            run = balanced.exact(w, a.T.contiguous(), sigma, tensor([0.0, math.inf]), delta)
            moved = float(balanced.kernel_distance(run.rep_in[0], run.rep_out[0], run.rep_in[1], run.rep_out[1]))
            assert (moved < 1e-6) if side == "lazy" else (moved > 0.1)


@pytest.mark.parametrize("delta", [100.0, -100.0])
def test_more_units_than_inputs_and_outputs_are_lazy_at_both_ends(delta):
    # δ of every unit, as no such Δ is isotropic
    rng = np.random.default_rng(1)
    w, a = tensor(rng.standard_normal((12, 3))) / 10, tensor(rng.standard_normal((12, 2))) / 10
    large, small = (a, w) if delta > 0 else (w, a)
    large *= ((abs(delta) + small.square().sum(1)) / large.square().sum(1)).sqrt()[:, None]
    assert torch.allclose(a.square().sum(1) - w.square().sum(1), torch.full((12,), delta, dtype=torch.float64))
    start, sigma = w.T @ a, tensor(rng.standard_normal((2, 3)))
    first, last = integrate(w, a.T.contiguous(), sigma, tensor([0.5]), rtol=1e-9, atol=1e-11)[0]
    assert torch.allclose(last @ first, sigma, atol=1e-6) and float((start.T - sigma).norm()) > 1
    moved = balanced.kernel_distance(w.T @ w, a.T @ a, first.T @ first, last @ last.T)
    assert law.limit_regimes(3, 12, 2) == ("lazy", "lazy") and float(moved) < 1e-4


@pytest.mark.parametrize("delta", [-3.0, 1e-3, 0.7])
def test_singular_values_are_a_mirror_flow_in_the_hyperbolic_entropy(delta):
    x = torch.tensor([-2.0, -1e-3, 1e-9, 0.3, 50.0], dtype=torch.float64, requires_grad=True)
    formula = (2 * x * torch.asinh(2 * x / abs(delta)) - (4 * x**2 + delta**2).sqrt() + abs(delta)) / 4
    assert torch.allclose(law.hyperbolic_entropy(x.detach(), delta), formula.detach(), rtol=1e-9, atol=1e-16)
    tiny = 1e-8 * abs(delta)
    assert float(law.hyperbolic_entropy(tiny, delta)) == pytest.approx(tiny**2 / (2 * abs(delta)), rel=1e-12)
    (slope,) = torch.autograd.grad(formula.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert torch.allclose(curvature, 1 / (4 * x.detach() ** 2 + delta**2).sqrt(), rtol=1e-9)
    # d q'(a)/dt = s − a along the exact mode
    target, h = tensor([1.4]), 1e-4
    times = tensor([0.6 - h, 0.6, 0.6 + h])
    a = balanced.aligned_modes(tensor([0.2]), target, delta, times)[:, 0]
    mirror = torch.asinh(2 * a / abs(delta)) / 2
    assert float(mirror[2] - mirror[0]) / (2 * h) == pytest.approx(float(target - a[1]), rel=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.floats(-4, 4), st.sampled_from([-1, 0, 1]))
def test_isotropic_parts_are_positive_and_multiply_to_beta(seed, d, c, level, sign):
    beta, delta = tensor(np.random.default_rng(seed).standard_normal((d, c))), sign * 10.0**level
    left, right = law.isotropic(beta, delta, (0.5, 2.0))
    size = max(float(left.abs().max()), float(right.abs().max()))
    for part in (left, right):
        assert torch.linalg.eigvalsh(part)[0] > -1e-14 * size
    # √(S² + δ²/4) ∓ δ/2: left (left + δ) = k² ββᵀ and right (right − δ) = k² βᵀβ
    eye = [torch.eye(n, dtype=torch.float64) * delta for n in (d, c)]
    assert torch.allclose(left @ (left + eye[0]), beta @ beta.T, atol=1e-13 * size**2)
    assert torch.allclose(right @ (right - eye[1]), beta.T @ beta, atol=1e-13 * size**2)


class Pair(nn.Module):
    def __init__(self, w, a, relu):
        super().__init__()
        self.w, self.a, self.relu = nn.Parameter(w.clone()), nn.Parameter(a.clone()), relu

    def forward(self, x):
        hidden = x @ self.w.T
        return (hidden.relu() if self.relu else hidden) @ self.a

    def imbalance(self):
        """Δ, flat, or its diagonal for ReLU, at rates 1."""
        made = self.a @ self.a.T - self.w @ self.w.T
        return (made.diagonal() if self.relu else made.ravel()).detach().clone()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_charge_laws_keep_the_books_of_the_imbalance(relu, decay):
    w, a, x, y, _ = network((3, 4, 2), 7)
    net, eta, steps = Pair(0.5 * w, 0.5 * a, relu), 6e-3, 1000
    seen, squares = [net.imbalance()], []
    for _ in range(steps):
        out, into = torch.autograd.grad((net(x) - y).square().sum() / 2, [net.a, net.w])
        with torch.no_grad():
            step_a, step_w = -eta * (out + decay * net.a), -eta * (into + decay * net.w)
            net.a += step_a
            net.w += step_w
        grown = step_a @ step_a.T - step_w @ step_w.T
        squares.append(grown.diagonal() if relu else grown.ravel())
        seen.append(net.imbalance())
    books = charges.discrete(seen[0], torch.stack(squares), eta, decay)
    measured = torch.stack(seen)
    assert float((books - measured).abs().max()) < 1e-12
    if decay:
        # e^{−2λt}, up to the finite steps
        flowing = charges.decay_only(seen[0], steps, eta, decay)
        assert float((flowing - measured).abs().max()) < 0.1 * float(seen[0].abs().max())
        assert float((flowing[-1] - measured[-1]).abs().max()) < 2e-2 * float(seen[0].abs().max())


def test_drift_of_the_imbalance_is_of_the_order_of_the_step():
    w, a, x, y, _ = network((3, 4, 2), 8)
    drifts = []
    for eta in (8e-3, 4e-3, 2e-3):
        net = Pair(0.5 * w, 0.5 * a, False)
        first = net.imbalance()
        for _ in range(round(2 / eta)):
            out, into = torch.autograd.grad((net(x) - y).square().sum() / 2, [net.a, net.w])
            with torch.no_grad():
                net.a -= eta * out
                net.w -= eta * into
        drifts.append(float((net.imbalance() - first).norm()))
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.15) and drifts[1] / drifts[2] == pytest.approx(2, rel=0.1)


def test_decoupled_decay_shrinks_the_imbalance_for_any_rates():
    # θ' = −η_θ g − λθ: Δ = η_w AAᵀ − η_a WWᵀ falls as e^{−2λt}; per group, decay η_g λ_g is what has to agree
    w, a, x, y, etas = network((3, 2, 2), 9)
    lam, h, steps = 0.4, 5e-4, 2000
    start = etas[1] * a @ a.T - etas[0] * w @ w.T
    parts = torch.stack([(a @ a.T).ravel(), -(w @ w.T).ravel()])
    for _ in range(steps):
        miss = x @ w.T @ a - y
        out, into = w @ x.T @ miss, a @ miss.T @ x
        # midpoint rule, so that the error is h²
        half = a - h / 2 * (etas[0] * out + lam * a), w - h / 2 * (etas[1] * into + lam * w)
        miss = x @ half[1].T @ half[0] - y
        out, into = half[1] @ x.T @ miss, half[0] @ miss.T @ x
        a, w = a - h * (etas[0] * out + lam * half[0]), w - h * (etas[1] * into + lam * half[1])
    end = etas[1] * a @ a.T - etas[0] * w @ w.T
    assert torch.allclose(end, start * math.exp(-2 * lam * h * steps), atol=1e-4 * float(start.abs().max()))
    law_says = charges.decay_only(charges.per_group(parts, tensor(etas)), steps, h, lam)[-1]
    assert torch.allclose(math.prod(etas) * law_says, end.ravel(), atol=1e-4 * float(start.abs().max()))


E3 = torch.eye(3, dtype=torch.float64)
REFUSED = {
    "unit without beta": (lambda: law.of_units(torch.zeros(2, 3, 1), torch.zeros(2)), "Unit 0 has beta = 0"),
    "rank two": (lambda: law.of_units(E3[None], tensor([1.0])), "not of rank one"),
    "units": (lambda: law.of_units(E3, tensor([1.0])), "expected"),
    "beta": (lambda: law.isotropic(tensor([1.0]), 1.0), "must be a matrix"),
    "delta": (lambda: law.isotropic(E3, math.inf), "delta=inf"),
    "rates": (lambda: law.isotropic(E3, 1.0, (-1.0, 1.0)), "etas"),
    "rank": (lambda: law.isotropic_flow(E3, E3, E3, 0.0, 2, tensor([1.0])), "rank 3, more than 2 hidden units"),
    "shapes": (lambda: law.isotropic_flow(E3, E3, E3[:2], 0.0, 2, tensor([1.0])), "do not fit"),
    "time": (lambda: law.isotropic_flow(E3, E3, E3, 0.0, 3, tensor([-1.0])), "at least 0"),
    "bottleneck": (lambda: law.limit_regimes(3, 1, 2), "bottleneck"),
    "no units": (lambda: law.limit_regimes(0, 1, 2), "at least 1"),
    "entropy": (lambda: law.hyperbolic_entropy(tensor([1.0]), 0.0), "delta = 0 has no"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_wide_networks_are_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        call()
