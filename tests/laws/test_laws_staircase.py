"""Staircases of arXiv:2506.06489 against its numbers, brute force, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from vanishing_cases import five, harmonic, mismatched, plane, rotation, template, tensor, weights, whitened

from learndyn.errors import InputError
from learndyn.laws.staircase import (
    FEW,
    GROUP,
    attention_staircase,
    diagonal_staircase,
    diagonal_time,
    linear_curves,
    linear_seed,
    linear_staircase,
    linear_times,
    lower_bounds,
    modular_staircase,
)
from learndyn.neurons import InContext

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, deadline=None)

# Diagonal


def test_the_plane():
    found = diagonal_staircase(*plane())
    np.testing.assert_allclose(found.times, [0, 0.193042, 0.600220, 3.457363], atol=1e-6)
    np.testing.assert_allclose(found.betas, [[0, 0], [0.461930, 0], [0, 1.584308], [-0.2, 2]], atol=1e-6)
    np.testing.assert_allclose(found.staircase.levels, [2.311099, 1.114650, 0.07, 0], atol=1e-6)
    what = [(event.neuron, event.kind) for event in found.staircase.events]
    assert what == [(0, "activation"), (0, "deactivation"), (1, "activation"), (0, "activation")]
    assert found.staircase.sentences == ()
    # Between two drops its sign turns at the middle, and s is a straight line.
    middle = (found.times[2] + found.times[3]) / 2
    assert abs(float(found.accumulated(middle[None])[0, 0])) < 1e-12
    later = found.beta(tensor([0.0, 0.19, 0.2, 0.7, 9.0]))
    assert torch.equal(later, found.betas[[0, 0, 1, 2, 3]])
    np.testing.assert_allclose(diagonal_staircase(*plane(), 1e-6).times[1:], [2.667, 8.292, 47.765], atol=1e-3)


def test_five_coordinates():
    found = diagonal_staircase(*five())
    times = found.staircase.times * math.log(1e100)
    np.testing.assert_allclose(times, [27.659, 138.315, 226.047, 256.113, 971.519], atol=1e-3)
    np.testing.assert_allclose(found.staircase.levels, [82.41671, 13.32300, 2.26703, 0.98805, 0.16556, 0], atol=1e-5)
    assert [event.neuron for event in found.staircase.events] == [1, 2, 3, 0, 4]
    np.testing.assert_allclose(diagonal_staircase(*five(), 1e-100).staircase.times, times, rtol=1e-9)


def correlated(rng, n=30, d=12):
    x = rng.standard_normal((n, d)) @ (np.eye(d) + 0.6 * rng.standard_normal((d, d)))
    return tensor(x), tensor(x @ (3 * rng.standard_normal(d)) + rng.standard_normal(n))


def test_random_problems_end_at_least_squares_and_never_rise():
    rng, asleep = np.random.default_rng(0), 0
    for _ in range(30):
        x, y = correlated(rng)
        found = diagonal_staircase(x, y)
        np.testing.assert_allclose(found.betas[-1], torch.linalg.lstsq(x, y[:, None])[0][:, 0], atol=1e-6)
        assert (found.staircase.levels.diff() < 0).all() and (found.times.diff() > 0).all()
        asleep += sum(event.kind == "deactivation" for event in found.staircase.events)
    assert asleep > 20


def test_every_round_solves_its_own_conditions():
    """s is ∫g, g is that of β, and β the minimum on its side of 0: the conditions that make it one hold."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, y = correlated(rng)
        found = diagonal_staircase(x, y)
        slopes = (y - found.betas @ x.T) @ x / len(x)
        np.testing.assert_allclose(found.s[1:], found.s[:-1] + found.times.diff()[:, None] * slopes[:-1], atol=1e-7)
        assert float(found.s.abs().max()) <= 1
        least = 1e-9 * float(slopes[0].abs().max())
        edge, there = found.s.abs() == 1, found.betas != 0
        assert not (there & ~edge).any() and (found.betas * found.s >= 0).all()
        assert float(slopes[there].abs().max()) < least and (slopes * found.s)[edge & ~there].max() < least


@few
@given(seeds, st.floats(0.1, 10))
def test_order_sign_and_size_of_a_problem(seed, size):
    rng = np.random.default_rng(seed)
    x, y = correlated(rng, 12, 5)
    order, signs = rng.permutation(5), tensor(rng.choice([-1.0, 1.0], 5))
    turn = tensor(rotation(rng, 12))
    one = diagonal_staircase(x, y)
    other = diagonal_staircase(turn @ x[:, order] * signs, size * turn @ y)
    torch.testing.assert_close(size * other.times, one.times, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(other.betas * signs / size, one.betas[:, order], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(other.staircase.levels, size**2 * one.staircase.levels, rtol=1e-6, atol=1e-10)


def test_forms_and_sizes_of_diagonal_starts():
    once, twice = diagonal_staircase(*five()), diagonal_staircase(*five(), form="difference")
    torch.testing.assert_close(once.times, 2 * twice.times)
    for alpha in (0.2, 1e-2, 1e-6):
        assert diagonal_time(alpha) == pytest.approx(math.acosh(1 / (2 * alpha**2)) / 2, rel=1e-14)
    assert diagonal_time(1e-300, "difference") == pytest.approx(150 * math.log(10), rel=1e-15)
    # The norm of a neuron, √(2α² cosh 2G), is 1 there.
    assert 2 * 1e-8 * math.cosh(2 * diagonal_time(1e-4)) == pytest.approx(1, rel=1e-12)


def test_ties_of_coordinates_are_said():
    x, y = torch.eye(3, dtype=torch.float64), tensor([1.0, -1.0, 0.5])
    found = diagonal_staircase(x, y)
    assert found.staircase.sentences == ("coordinates 0 and 1 drop together: a tie.",)
    assert len(found.staircase.times) == 2 and len(found.staircase.events) == 3
    twins = diagonal_staircase(tensor([[1.0, 1.0], [2.0, 2.0]]), tensor([1.0, 2.0]))
    assert "one of several" in twins.staircase.sentences[1] and float(twins.staircase.levels[-1]) < 1e-15
    nothing = diagonal_staircase(x, torch.zeros(3, dtype=torch.float64))
    assert len(nothing.staircase.times) == 0 and nothing.staircase.loss(tensor([1.0])).item() == 0


# Linear


def test_whitened_modes():
    found = linear_staircase(*map(tensor, whitened(np.random.default_rng(0))), hidden=20)
    np.testing.assert_allclose(found.staircase.times, [0.25, 0.4, 1 / 1.5, 1.25])
    np.testing.assert_allclose(found.staircase.levels, [12.57, 4.57, 1.445, 0.32, 0], atol=1e-12)
    noisy = linear_staircase(*map(tensor, whitened(np.random.default_rng(0))), hidden=20, power=25.14 + 2)
    np.testing.assert_allclose(noisy.staircase.levels, found.staircase.levels + 1)


def test_modes_that_commute_come_in_the_order_of_growth():
    cov, corr = map(tensor, mismatched(np.random.default_rng(0)))
    found = linear_staircase(cov, corr, hidden=20)
    np.testing.assert_allclose(found.staircase.times, [1 / 3, 1 / 2, 1 / 1.6])
    np.testing.assert_allclose(found.staircase.levels, [6.06, 4.56, 2.56, 0], atol=1e-12)
    assert "not of their gains, 3, 4, 5.12" in found.staircase.sentences[0]
    with pytest.raises(InputError, match="order ambiguous"):
        linear_staircase(cov, corr, hidden=2)


def excess(m, cov, corr):
    """½E|y − Mx|² with y = Σyx Σxx⁻¹ x."""
    rest = m - corr @ torch.linalg.pinv(cov)
    return float((rest @ cov @ rest.T).trace()) / 2


@few
@given(seeds)
def test_levels_are_losses_of_the_maps_and_rotations_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((4, 9))
    for cov, corr in (whitened(rng), mismatched(rng), (z @ z.T / 9, rng.standard_normal((3, 4)))):
        cov, corr = tensor(cov), tensor(corr)
        out, into = tensor(rotation(rng, len(corr))), tensor(rotation(rng, len(cov)))
        try:
            one = linear_staircase(cov, corr, 20)
        except InputError as error:
            assert "order ambiguous" in str(error)
            continue
        other = linear_staircase(into @ cov @ into.T, out @ corr @ into.T, 20)
        torch.testing.assert_close(other.staircase.times, one.staircase.times, rtol=1e-6, atol=1e-9)
        for m, level in zip(one.maps, one.staircase.levels):
            assert excess(m, cov, corr) == pytest.approx(float(level), abs=1e-8 * float(one.staircase.levels[0]))
        torch.testing.assert_close(other.maps, out @ one.maps @ into.T, rtol=1e-6, atol=1e-7)
        twice = linear_staircase(cov, 2 * corr, 20)
        torch.testing.assert_close(2 * twice.staircase.times, one.staircase.times, rtol=1e-9, atol=0)


def test_the_conjecture_is_continuous_where_modes_begin_to_commute():
    """Both branches are there to the same times where the orders agree and the defect is small."""
    rng = np.random.default_rng(0)
    right, left = rotation(rng, 3), rotation(rng, 3)
    corr = tensor(left @ np.diag([3.0, 2.0, 1.0]) @ right.T)
    plain = tensor(right @ np.diag([1.2, 1.0, 0.8]) @ right.T)
    exact = linear_staircase(plain, corr, 9)
    assert exact.commuting
    gaps = []
    for size in (1e-3, 1e-4):
        off = np.zeros((3, 3))
        off[0, 1] = off[1, 0] = size
        near = linear_staircase(plain + tensor(right @ off @ right.T), corr, 9)
        assert not near.commuting
        gaps.append(float((near.staircase.times - exact.staircase.times).abs().max()))
    assert gaps[0] < 1e-3 and gaps[1] < gaps[0] / 5


def test_what_linear_networks_say():
    eye = torch.eye(3, dtype=torch.float64)
    tied = linear_staircase(eye, torch.diag(tensor([2.0, 2.0, 1.0])), 5)
    assert tied.staircase.sentences == ("modes 0 and 1 drop together: a tie.",)
    silent = linear_staircase(torch.diag(tensor([1.0, 2.0, 0.0])), torch.diag(tensor([2.0, 1.0, 0.0])), 5)
    assert "without variance" in silent.staircase.sentences[0] and len(silent.staircase.times) == 2
    fewer = linear_staircase(eye, torch.diag(tensor([3.0, 2.0, 1.0])), 2)
    np.testing.assert_allclose(fewer.staircase.levels, [7, 2.5, 0.5])
    assert fewer.staircase.reason == "All hidden units are used." and fewer.maps.shape == (3, 3, 3)


def test_curves_solve_their_equation_and_halve_at_the_times():
    rng = np.random.default_rng(0)
    modes = linear_staircase(*map(tensor, mismatched(rng)), hidden=20)
    w, a = weights(rng, 1e-3, 4, 20, 3)
    seed = linear_seed(modes, w, a)
    times = torch.linspace(0, 8, 50, dtype=torch.float64).requires_grad_()
    curve = linear_curves(modes, seed, times)
    for k in range(3):
        rate = torch.autograd.grad(curve[:, k].sum(), times, retain_graph=True)[0]
        expected = 2 * modes.growth[k] * curve[:, k] * (1 - curve[:, k] / modes.values[k])
        torch.testing.assert_close(rate, expected, rtol=1e-8, atol=1e-12)
    assert torch.allclose(linear_curves(modes, seed, tensor([0.0]))[0].log(), seed, rtol=1e-12)
    halves = linear_curves(modes, seed, linear_times(modes, seed)).diagonal()
    torch.testing.assert_close(halves, modes.values * (1 - math.sqrt(0.5)), rtol=1e-9, atol=0)
    far = linear_seed(modes, w * 1e-297, a * 1e-297)
    torch.testing.assert_close(far, seed - 2 * 297 * math.log(10), rtol=1e-12, atol=0)
    turn = tensor(rotation(rng, 20))
    torch.testing.assert_close(linear_seed(modes, turn @ w, a @ turn.T), seed, rtol=1e-9, atol=0)


# Attention


def test_levels_of_linear_attention():
    sigma = tensor(harmonic(np.random.default_rng(0)))
    found = attention_staircase(sigma, 32, 5)
    np.testing.assert_allclose(found.staircase.levels, [1, 0.56219, 0.35555, 0.22510, 0.13220], atol=5e-6)
    np.testing.assert_allclose(found.weights.flip(0), [0.1008, 0.0796, 0.0561, 0.0297], atol=5e-5)
    three = attention_staircase(sigma, 32, 3)
    torch.testing.assert_close(three.staircase.levels, found.staircase.levels[:4])
    assert "heads" in three.staircase.reason
    # The loss of what is learned is the level, and its gradient has nothing in these directions.
    for k in range(5):
        m = torch.einsum("ik,k,jk->ij", found.eigenvectors[:, :k], found.weights[:k], found.eigenvectors[:, :k])
        m = m.requires_grad_()
        loss = InContext(sigma, 32).loss_of(m)
        assert loss.item() == pytest.approx(float(found.staircase.levels[k]), rel=1e-12)
        slope = torch.autograd.grad(loss, m)[0]
        inside = found.eigenvectors.T @ slope @ found.eigenvectors
        assert float(inside[:k, :k].abs().max()) < 1e-10 if k else True
        for head in range(k, 4):  # the utility of an aligned head of norm 1 is U*, and its gradient U* κ times itself
            assert -inside[head, head].item() / 3**1.5 == pytest.approx(float(found.utilities[head]), rel=1e-9)


def test_the_loss_of_attention_is_the_mean_over_prompts():
    rng = np.random.default_rng(0)
    sigma, m = harmonic(rng), 0.02 * rng.standard_normal((4, 4))
    x = rng.standard_normal((20_000, 33, 4)) @ np.linalg.cholesky(sigma).T
    w = rng.standard_normal((20_000, 4))
    scatter = np.einsum("bni,bnj->bij", x[:, :32], x[:, :32])
    f = np.einsum("bi,bij,jk,bk->b", w, scatter, m, x[:, 32])
    errors = (np.einsum("bi,bi->b", w, x[:, 32]) - f) ** 2 / 2
    assert abs(errors.mean() - float(InContext(tensor(sigma), 32).loss_of(tensor(m)))) < 4 * errors.std() / math.sqrt(
        2e4
    )
    square = np.einsum("bij,bjk->bik", scatter, scatter)
    off = np.abs(square.mean(0) - InContext(tensor(sigma), 32).second_moment().numpy()) / (
        square.std(0) / math.sqrt(2e4)
    )
    assert off.max() < 4.5


@few
@given(seeds, st.floats(0.3, 3))
def test_rotations_do_not_matter_to_attention(seed, size):
    rng = np.random.default_rng(seed)
    sigma = tensor(harmonic(rng))
    turn = tensor(rotation(rng, 4))
    one = attention_staircase(sigma, 7, 4, 1e-3)
    other = attention_staircase(size * turn @ sigma @ turn.T, 7, 4, 1e-3)
    torch.testing.assert_close(other.staircase.levels, size * one.staircase.levels, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(other.staircase.times * size**2, one.staircase.times, rtol=1e-8, atol=0)


def test_bounds_of_rounds():
    utility = tensor([2.0, 0.5])
    at_start = lower_bounds(utility, 0.01)
    torch.testing.assert_close(at_start, 99 / (3 * utility))
    later = lower_bounds(utility, tensor([0.01, 0.05]), previous=tensor([0.0, 20.0]))
    torch.testing.assert_close(later, tensor([99 / 6, 20 + 19 / 1.5]))
    sigma = tensor(harmonic(np.random.default_rng(0)))
    found = attention_staircase(sigma, 32, 4, 1e-3)
    expected = math.sqrt(3) / (32 * found.eigenvalues**2) * 999
    torch.testing.assert_close(found.staircase.times, expected)
    tied = attention_staircase(torch.eye(3, dtype=torch.float64), 8, 3)
    assert "modes 0, 1 and 2 drop together: a tie." in tied.staircase.sentences


# Modular addition


def test_frequencies_in_order():
    rng = np.random.default_rng(0)
    found = modular_staircase(template(rng, 20, {5: 2.5, 1: 10, 3: 5}))
    assert found.frequencies == (1, 3, 5)
    np.testing.assert_allclose(found.staircase.levels, [6.5625, 1.5625, 0.3125, 0], atol=1e-12)
    np.testing.assert_allclose(found.staircase.levels * 2 / 20, [0.65625, 0.15625, 0.03125, 0], atol=1e-12)
    nine = modular_staircase(template(rng, 9, {1: 6, 2: 3}), norm=0.018, neurons=12)
    np.testing.assert_allclose(nine.staircase.levels, [5, 1, 0], atol=1e-12)
    assert nine.staircase.times[1] / nine.staircase.times[0] == pytest.approx(8)
    assert (
        len(nine.staircase.sentences) == 1
        and "fewer" in modular_staircase(template(rng, 9, {1: 6, 2: 3}), neurons=11).staircase.sentences[1]
    )


def test_the_bounds_of_the_paper_s_run_belong_to_one_norm():
    """6.8, 54.2 and 433.9 at p = 20, 8.3 and 66.7 at p = 9: each from one largest norm of the start."""
    rng = np.random.default_rng(0)
    for p, amplitudes, bounds in ((20, {1: 10, 3: 5, 5: 2.5}, [6.8, 54.2, 433.9]), (9, {1: 6, 2: 3}, [8.3, 66.7])):
        x = template(rng, p, amplitudes)
        norm = 1 / (bounds[-1] / float(modular_staircase(x).staircase.times[-1]) + 1)
        np.testing.assert_allclose(modular_staircase(x, norm).staircase.times, bounds, atol=0.06)
        assert norm == pytest.approx(0.016, rel=0.15)  # √2 · 0.01 for the average neuron of these starts


def pairs(x):
    p = len(x)
    shifts = torch.stack([x.roll(a) for a in range(p)])
    first, second = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    first, second = first.flatten(), second.flatten()
    return shifts[first], shifts[second], shifts[(first + second) % p]


def least(x, neurons, tries, rng):
    """Least loss that some neurons reach, by L-BFGS from random starts, over the loss of none."""
    one, two, y = pairs(x)
    p = len(x)

    def loss(flat):
        u, v, w = (part.reshape(neurons, p) for part in np.split(flat, 3))
        u, v, w = (torch.tensor(part, requires_grad=True) for part in (u, v, w))
        found = (((one @ u.T + two @ v.T) ** 2 @ w - y) ** 2).sum() / (2 * p * p)
        slopes = torch.autograd.grad(found, (u, v, w))
        return found.item(), torch.cat([s.flatten() for s in slopes]).numpy()

    starts = [rng.standard_normal(3 * neurons * p) for _ in range(tries)]
    found = min(minimize(loss, s, jac=True, method="L-BFGS-B", options={"maxiter": 400}).fun for s in starts)
    return found / (float((y**2).sum()) / (2 * p * p))


@pytest.mark.parametrize("p", [5, 7])
def test_what_a_few_neurons_leave_of_a_frequency(p):
    rng = np.random.default_rng(p)
    x = template(rng, p, {1: p})
    for neurons in (1, 2):
        assert least(x, neurons, 6, rng) == pytest.approx(FEW[neurons], abs=2e-4)


@pytest.mark.parametrize(("p", "k"), [(5, 1), (7, 3), (9, 2), (20, 3)])
def test_six_neurons_are_one_frequency(p, k):
    """Phases 0, 2π/3, 4π/3 and two signs: Σ ±(cos(ka + θ) ± cos(kb + θ))² cos(kn + 2θ) is 3 cos(k(a + b − n))."""
    x = template(np.random.default_rng(0), p, {k: 2.0})
    one, two, y = pairs(x)
    places = 2 * math.pi * k * torch.arange(p, dtype=torch.float64) / p
    shifts = torch.stack([x.roll(a) for a in range(p)])
    phase = float(torch.fft.fft(x)[k].angle())
    total = torch.zeros_like(y)
    for theta in (0, 2 * math.pi / 3, 4 * math.pi / 3):
        u = torch.linalg.pinv(shifts) @ torch.cos(places + theta)
        for sign in (1, -1):
            total += sign * ((one + sign * two) @ u)[:, None] ** 2 * torch.cos(places + 2 * theta + phase)
    share = (total * y).sum() / (total * total).sum()
    assert float((share * total - y).abs().max()) < 1e-12 * float(y.abs().max()) * p and float(share) > 0
    assert GROUP == 6


@pytest.mark.parametrize(("p", "k"), [(9, 2), (7, 1), (8, 4), (10, 5), (8, 3)])
def test_the_largest_utility_is_that_of_brute_force(p, k):
    """Of a template with one frequency, over all directions of (u, v, w), from random starts."""
    rng = np.random.default_rng(0)
    x = template(rng, p, {k: 3.0})
    one, two, y = pairs(x)

    def utility(flat):
        theta = torch.tensor(flat, requires_grad=True)
        u, v, w = (theta / theta.norm()).reshape(3, p)
        found = -((one @ u + two @ v) ** 2 * (y @ w)).mean()
        return found.item(), torch.autograd.grad(found, theta)[0].numpy()

    found = [minimize(utility, rng.standard_normal(3 * p), jac=True, method="BFGS", tol=1e-10) for _ in range(5)]
    best = min(found, key=lambda each: each.fun)
    law = modular_staircase(x)
    assert law.frequencies == (k,) and -best.fun == pytest.approx(float(law.utilities[0]), rel=1e-6)
    phases = [np.angle(np.fft.fft(part)[k]) for part in best.x.reshape(3, p)]
    assert abs(np.exp(1j * (phases[0] + phases[1] - phases[2] - float(law.phases[0]))) - 1) < 1e-3


def test_half_of_p_beats_a_frequency_of_equal_size():
    found = modular_staircase(template(np.random.default_rng(0), 8, {1: 2.0, 4: 2.0, 3: 2.0}))
    assert found.frequencies[0] == 4 and "frequencies 1 and 3 drop together: a tie." in found.staircase.sentences
    np.testing.assert_allclose(found.powers, [0.5, 1, 1])
    assert float(found.utilities[0] / found.utilities[1]) == pytest.approx(math.sqrt(2))


@few
@given(seeds, st.integers(3, 12), st.integers(0, 11))
def test_levels_of_any_template_and_its_shifts(seed, p, shift):
    x = tensor(np.random.default_rng(seed).standard_normal(p))
    x = x - x.mean()
    found = modular_staircase(x)
    assert float(found.staircase.levels[0]) == pytest.approx(float(x.square().sum()) / 2, rel=1e-12)
    other = modular_staircase(x.roll(shift))
    torch.testing.assert_close(other.staircase.levels, found.staircase.levels, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(other.staircase.times, found.staircase.times, rtol=1e-6, atol=0)


EYE = torch.eye(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagonal_staircase(EYE * torch.tensor([1.0, 0.0]), EYE[0]), "Column 1 of the inputs is 0"),
        (lambda: diagonal_staircase(EYE * math.nan, EYE[0]), "finite"),
        (lambda: diagonal_staircase(EYE, EYE[0], form="sum"), "form='sum'"),
        (lambda: diagonal_staircase(EYE, EYE[0], alpha=0.4), "vanishing regime"),
        (lambda: diagonal_staircase(*plane(), most=1), "more than 1 rounds"),
        (lambda: linear_staircase(EYE, EYE * 0, 3), "nothing is to be learned"),
        (lambda: linear_staircase(-EYE, EYE, 3), "negative eigenvalue"),
        (lambda: linear_staircase(EYE + torch.tensor([[0.0, 1.0], [0.0, 0.0]]), EYE, 3), "symmetric"),
        (lambda: linear_staircase(EYE * torch.tensor([1.0, 0.0]), EYE, 3), "no data have these moments"),
        (lambda: linear_staircase(EYE, EYE, 0), "hidden=0"),
        (lambda: linear_staircase(EYE, EYE, 3, power=1.0), "less than what a linear map explains"),
        (lambda: linear_seed(linear_staircase(EYE, EYE, 3), EYE[:1] * 0.01, EYE[:, :1] * 0.01), "fewer than"),
        (lambda: linear_seed(linear_staircase(EYE, EYE, 3), EYE * 0, EYE * 0), "stays there"),
        (lambda: attention_staircase(EYE * 0, 3, 3), "not 0"),
        (lambda: attention_staircase(-EYE, 3, 3), "negative eigenvalue"),
        (lambda: attention_staircase(EYE, 0, 3), "at least one"),
        (lambda: attention_staircase(EYE, 3, 3, 0.5), "vanishing regime"),
        (lambda: modular_staircase(tensor([1.0, 0.0, 0.0])), "frequency 0 is a feature"),
        (lambda: modular_staircase(tensor([1.0, -1.0])), "at least 3"),
        (lambda: lower_bounds(tensor([0.0]), 0.1), "above 0"),
    ],
)
def test_bad_vanishing_problems_are_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
