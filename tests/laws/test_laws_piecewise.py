"""Two-layer piecewise-linear networks (arXiv:2406.06158) against autograd on modules, and what moves their kernel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_cases import tensor
from torch import nn

from learndyn.dynamics.flow import flow
from learndyn.errors import InputError
from learndyn.laws import neuron
from learndyn.laws import piecewise as law

SLOPES = [0.0, 0.2, 1.0]


class Net(nn.Module):
    def __init__(self, a, w, slope=0.0):
        super().__init__()
        self.w, self.a, self.slope = nn.Parameter(w.clone()), nn.Parameter(a.clone()), slope

    def forward(self, x):
        return nn.functional.leaky_relu(x @ self.w.T, self.slope) @ self.a


def drawn(seed, n=12, d=3, h=5):
    rng = np.random.default_rng(seed)
    x, y = tensor(rng.standard_normal((n, d))), tensor(rng.standard_normal(n))
    return x, y, tensor(rng.standard_normal(h)), tensor(rng.standard_normal((h, d))), tuple(rng.uniform(0.3, 3, 2))


def velocity(x, y, a, w, slope, etas):
    """a' and w' of gradient flow, by autograd."""
    net = Net(a, w, slope)
    loss = (net(x) - y).square().sum() / 2
    of_a, of_w = torch.autograd.grad(loss, [net.a, net.w])
    return -etas[0] * of_a, -etas[1] * of_w


@pytest.mark.parametrize("slope", SLOPES)
def test_velocities_of_units_are_those_of_the_network(slope):
    for seed in range(10):
        x, y, a, w, etas = drawn(seed)
        active = law.patterns(x, w, slope)
        f = law.outputs(x, a, w, slope)
        assert torch.allclose(f, Net(a, w, slope)(x).detach(), rtol=1e-13, atol=1e-14)
        xi = law.currents(x, f - y, active)
        mu, b = law.spherical(a, w)
        found = law.velocities(mu, b, neuron.imbalance(a, w, etas), xi, etas)
        a_dot, w_dot = velocity(x, y, a, w, slope, etas)
        norm = w.norm(dim=1)
        along = (b * w_dot).sum(1)
        mu_dot = a_dot * norm + a * along
        b_dot = (w_dot - along[:, None] * b) / norm[:, None]
        assert torch.allclose(found.mu, mu_dot, rtol=1e-12, atol=1e-12)
        assert torch.allclose(found.direction, b_dot, rtol=1e-12, atol=1e-12)
        # ξ is the gradient in β_k = a_k w_k: M_k ξ_k is minus its velocity
        beta_dot = a_dot[:, None] * w + a[:, None] * w_dot
        m = etas[1] * a.square()[:, None, None] * torch.eye(3) + etas[0] * w[:, :, None] * w[:, None, :]
        assert torch.allclose((m @ xi[:, :, None])[..., 0], -beta_dot, rtol=1e-12, atol=1e-12)
        charge = 2 * etas[1] * a * a_dot - 2 * etas[0] * (w * w_dot).sum(1)
        assert float(charge.abs().max()) < 1e-12


def test_a_unit_without_read_out_turns_with_it_only():
    # a = 0, δ < 0: μ' = a'|w| and the direction stays
    x, y, a, w, etas = drawn(3)
    a[2] = 0.0
    f = law.outputs(x, a, w)
    xi = law.currents(x, f - y, law.patterns(x, w))
    found = law.velocities(*law.spherical(a, w), neuron.imbalance(a, w, etas), xi, etas)
    a_dot, _ = velocity(x, y, a, w, 0.0, etas)
    assert float(found.direction[2].abs().max()) == 0
    assert float(found.mu[2]) == pytest.approx(float(a_dot[2] * w[2].norm()), rel=1e-12)
    w[1] = 0.0
    with pytest.raises(InputError, match="Unit 1 has mu = 0"):
        zero = torch.where(w.norm(dim=1, keepdim=True) > 0, w / w.norm(dim=1, keepdim=True), tensor([1.0, 0.0, 0.0]))
        law.velocities(a * w.norm(dim=1), zero, neuron.imbalance(a, w, etas), xi, etas)


@pytest.mark.parametrize("slope", SLOPES)
def test_the_kernel_is_that_of_the_jacobian(slope):
    x, _, a, w, etas = drawn(1)
    net = Net(a, w, slope)
    jacobian = []
    for out in net(x):
        of_a, of_w = torch.autograd.grad(out, [net.a, net.w], retain_graph=True)
        jacobian.append(torch.cat([etas[0] ** 0.5 * of_a, etas[1] ** 0.5 * of_w.ravel()]))
    j = torch.stack(jacobian)
    found = law.kernel(x, a, w, law.patterns(x, w, slope), etas)
    assert torch.allclose(found, j @ j.T, rtol=1e-12, atol=1e-13 * float(found.max()))


def test_what_moves_the_kernel_is_taken_apart():
    x, _, a, w, etas = drawn(2)
    still = law.kernel_motion(x, (a, w), (a, w), etas=etas)
    assert still == (0.0, 0.0, 0.0)
    # larger weights with the signs kept: all of it by weights; rotated ones with a = 0 elsewhere: patterns too
    grown = law.kernel_motion(x, (a, w), (a * tensor([3.0, 1, 1, 1, 1]), w), etas=etas)
    assert grown.total == grown.by_weights > 0.01 and grown.by_patterns == 0
    turned = w.clone()
    turned[0] = -turned[0]
    moved = law.kernel_motion(x, (a, w), (a, turned), etas=etas)
    assert (
        moved.by_weights < 1e-30 and moved.total == pytest.approx(moved.by_patterns, rel=1e-12) and moved.total > 0.01
    )
    both = law.kernel_motion(x, (a, w), (a * tensor([3.0, 1, 1, 1, 1]), turned), 0.1, etas)
    dense = []
    for aa, ww, c in ((a, w, w), (a * tensor([3.0, 1, 1, 1, 1]), turned, turned)):
        active = law.patterns(x, c, 0.1)
        m = etas[1] * aa.square()[:, None, None] * torch.eye(3) + etas[0] * ww[:, :, None] * ww[:, None, :]
        dense.append(torch.einsum("ki,kj,ia,kab,jb->ij", active, active, x, m, x))
    cosine = (dense[0] * dense[1]).sum() / (dense[0].norm() * dense[1].norm())
    assert both.total == pytest.approx(1 - float(cosine), rel=1e-12)
    # a linear network has no patterns to move
    assert law.kernel_motion(x, (a, w), (a, turned + 1), 1.0).by_patterns == 0
    # and the distance of one linear unit is that of the neuron on white data
    q = tensor(np.linalg.qr(np.random.default_rng(0).standard_normal((7, 3)))[0])
    one = law.kernel_motion(q, (a[:1], w[:1]), (a[1:2], w[1:2]), 1.0, etas).total
    assert one == pytest.approx(float(neuron.kernel_distance(a[0], w[0], a[1], w[1], etas)), rel=1e-12)


def test_flips_are_counted_up_to_the_number_of_units():
    x, _, _, w, _ = drawn(4)
    first = law.patterns(x, w)
    assert law.hamming(first, first) == 0
    assert law.hamming(first, law.patterns(x, -w)) == 5
    flipped = w.clone()
    flipped[3] = -flipped[3]
    assert law.hamming(first, law.patterns(x, flipped)) == 1


@pytest.mark.parametrize(("delta", "order"), [(0.5, -1), (0.0, 0), (-0.5, 1)])
def test_three_speeds_as_the_scale_goes_down(delta, order):
    etas, mu = (0.6, 1.5), tensor([1e-2, 1e-4, 1e-6, -1e-6])
    exact, limit = law.turning_rate(mu, delta, etas), law.three_speeds(mu, delta, etas)
    assert torch.allclose(exact[1:], limit[1:], rtol=1e-7) and float(exact[0] / limit[0]) == pytest.approx(1, abs=1e-3)
    slope = math.log(float(exact[2] / exact[1])) / math.log(1e-2)
    assert slope == pytest.approx(order, abs=1e-6)
    kappa = (tensor(delta) ** 2 + 4 * etas[0] * etas[1] * mu**2).sqrt()
    assert torch.allclose(exact, (kappa + delta) / (2 * mu.abs()), rtol=1e-3)
    if delta:
        miss = float(exact[0] / limit[0]) - 1
        assert abs(miss) == pytest.approx(etas[0] * etas[1] * (1e-2 / delta) ** 2, rel=1e-2)


def test_networks_turn_at_three_speeds():
    # the same function scale and time, three imbalances: upstream units turn, downstream ones do not
    x, y, _, w, _ = drawn(6, h=4)
    turned = []
    for delta in (0.3, 0.0, -0.3):
        a, w0 = neuron.factors(1e-3 * w / w.norm(dim=1, keepdim=True), delta)
        net = Net(a, w0)
        run = flow(net, lambda f: (f(x) - y).square().sum() / 2, tensor([1e-6]), {"w": lambda s: s.model.w})
        end = tensor(run.series["w"].values[0])
        turned.append(float((end / end.norm(dim=1, keepdim=True) - w0 / w0.norm(dim=1, keepdim=True)).norm()))
        xi = law.currents(x, law.outputs(x, a, w0) - y, law.patterns(x, w0))
        mu, b = law.spherical(a, w0)
        rate = law.turning_rate(mu, delta)
        across = (xi - (b * xi).sum(1, keepdim=True) * b).norm(dim=1)
        assert turned[-1] == pytest.approx(1e-6 * float((rate * across).norm()), rel=0.02)
    assert turned[0] > 100 * turned[1] > 1e4 * turned[2] > 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(-8, 8), st.floats(-8, 8), st.sampled_from([-1, 0, 1]), st.floats(0.1, 10), st.floats(0.1, 10))
def test_turning_rates_are_finite_and_keep_their_digits(size, level, sign, eta_a, eta_w):
    mu, delta = 10.0**size, sign * 10.0**level
    found = float(law.turning_rate(mu, delta, (eta_a, eta_w)))
    squared = eta_a * eta_w
    # (κ + δ)/2μ and (κ − δ)/2μ multiply to η_aη_w
    other = float(law.turning_rate(mu, -delta, (eta_a, eta_w)))
    assert math.isfinite(found) and found * other == pytest.approx(squared, rel=1e-13)
    assert found - other == pytest.approx(delta / mu, rel=1e-10, abs=1e-12 * max(found, other))
    assert float(law.turning_rate(-mu, delta, (eta_a, eta_w))) == found


A, W2, X2 = tensor([1.0, 2.0]), torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
REFUSED = {
    "inputs": (lambda: law.patterns(X2, torch.ones(2, 3)), "do not fit"),
    "nan": (lambda: law.outputs(X2, A * math.nan, W2), "a is not finite"),
    "read-out": (lambda: law.outputs(X2, tensor([1.0]), W2), "one number a unit"),
    "slope": (lambda: law.patterns(X2, W2, math.nan), "slope"),
    "errors": (lambda: law.currents(X2, tensor([1.0]), W2), "do not fit"),
    "patterns": (lambda: law.kernel(X2, A, W2, torch.ones(2, 3)), "units times samples"),
    "rates": (lambda: law.kernel(X2, A, W2, W2, (1.0, 0.0)), "etas"),
    "direction": (lambda: law.velocities(A, W2, A, torch.ones(2, 3)), "must both be"),
    "delta": (lambda: law.velocities(A, W2, tensor([1.0]), W2), "one number a unit"),
    "networks": (lambda: law.kernel_motion(X2, (A, W2), (A[:1], W2[:1])), "differ in shape"),
    "flips": (lambda: law.hamming(W2, torch.ones(2, 3)), "must both be"),
    "speed": (lambda: law.three_speeds(1.0, math.inf), "delta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_units_are_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        call()
