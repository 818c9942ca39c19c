"""The solution of balanced two-layer linear networks against integration, textbook and published formulas, mpmath."""

import math
import warnings

import balanced_cases as cases
import numpy as np
import pytest
import torch
from balanced_cases import draw, integrate, observed, off, precise, tensor
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.laws import balanced as law
from learndyn.models.balanced import rebalance, sample_balanced

pytestmark = pytest.mark.filterwarnings("ignore:The start")
INF = math.inf

# d, h, c, λ, rank of Σ: square, funnel, inverted funnel, bottleneck, more hidden units than all, one of each
SHAPES = [
    (3, 3, 3, 0.0, None),
    (3, 3, 3, 2.0, None),
    (3, 3, 3, -0.3, 2),
    (6, 3, 3, 0.5, None),
    (6, 3, 3, -20.0, None),
    (3, 3, 6, 20.0, None),
    (3, 5, 6, 1.0, 1),
    (3, 5, 6, 0.0, 2),
    (5, 2, 4, 1e-8, None),
    (5, 2, 4, -2.0, None),
    (2, 7, 3, 0.0, None),
    (7, 4, 1, -0.5, None),
    (9, 3, 2, 0.0, None),
    (1, 1, 1, 3.0, None),
    (2, 1, 9, 0.0, None),
    (4, 4, 4, 1e-3, 0),
]


@pytest.mark.parametrize(("d", "h", "c", "lam", "rank"), SHAPES)
def test_integration_gives_the_same(d, h, c, lam, rank):
    times = tensor([0.0, 0.3, 2.0, 9.0])
    for seed in range(2):
        w1, w2, sigma = draw(d, h, c, lam, seed, rank=rank)
        found = law.exact(w1, w2, sigma, times, lam)
        assert found.trust > 9
        for i, (first, last) in enumerate(integrate(w1, w2, sigma, times)):
            assert off(observed(found.w1, found.w2)[i], observed(first, last)) < 1e-8
            assert torch.allclose(found.function[i], last @ first, atol=1e-8)
            assert torch.allclose(found.rep_in[i], first.T @ first, atol=1e-8)
            assert torch.allclose(found.rep_out[i], last @ last.T, atol=1e-8)
            assert found.loss[i].item() == pytest.approx(0.5 * float((last @ first - sigma).square().sum()), abs=1e-8)
        assert off(observed(found.w1, found.w2)[0], observed(w1, w2)) < 1e-14


@pytest.mark.parametrize(("d", "h", "c", "lam", "rank"), SHAPES)
def test_the_textbook_formula_gives_the_same_at_small_times(d, h, c, lam, rank):
    w1, w2, sigma = draw(d, h, c, lam, 3, rank=rank)
    t = 0.5 / (1 + abs(lam))
    mu, p = torch.linalg.eigh(cases.generator(sigma, lam))
    q = torch.cat([w1.mT, w2])
    integral = torch.where(mu.abs() > 1e-9, torch.expm1(2 * mu * t) / (2 * mu), t)
    bracket = torch.eye(h, dtype=torch.float64) + q.T @ (p * integral) @ p.T @ q
    grown = (p * (mu * t).exp()) @ p.T @ q
    found = law.exact(w1, w2, sigma, tensor([t]), lam)
    assert off(observed(found.w1, found.w2)[0], grown @ torch.linalg.solve(bracket, grown.T)) < 1e-12


HARD = {
    "zero singular values, tiny lambda": lambda: (*draw(4, 4, 4, 1e-8, 2, rank=2), 1e-8),
    "lambda < 0": lambda: (*draw(4, 3, 3, -1e-3, 1), -1e-3),
    "tiny start": lambda: (*draw(4, 4, 3, 0.0, 0, scale=1e-12), 0.0),
    "large start": lambda: (*draw(3, 3, 4, 0.0, 0, scale=1e4), 0.0),
    "large lambda": lambda: (*draw(3, 3, 5, 10.0, 0), 10.0),
    "bottleneck": lambda: (*draw(5, 2, 5, 0.5, 0), 0.5),
    "many units": lambda: (*draw(3, 8, 4, 0.0, 0), 0.0),
    "three equal modes for two units": lambda: (
        *draw(3, 2, 3, 0.0, 0)[:2],
        1.5 * torch.eye(3, dtype=torch.float64),
        0.0,
    ),
    "almost equal modes": lambda: (*draw(3, 3, 3, 0.2, 0)[:2], torch.diag(tensor([1 + 1e-9, 1.0, 1 - 1e-12])), 0.2),
    "no task": lambda: (*draw(3, 4, 2, 0.0, 0, rank=0), 0.0),
    "one unit": lambda: (*draw(4, 1, 1, -0.5, 0), -0.5),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("t", [1.0, 30.0, 300.0])
def test_mpmath_gives_the_same(name, t):
    w1, w2, sigma, lam = HARD[name]()
    found = law.exact(w1, w2, sigma, tensor([t]), lam)
    assert found.trust > t
    assert off(observed(found.w1, found.w2)[0], precise(w1, w2, sigma, lam, t)) < 1e-13


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 1.0, 5.0, -1e-8, -0.1, -1.0, -5.0]),
    st.integers(0, 10**6),
    st.floats(-6, 1),
    st.floats(-1, 2.5),
)
def test_mpmath_gives_the_same_for_any_generic_start(shape, lam, seed, size, instant):
    d, h, c = shape
    assume(not (lam > 0 and h > c or lam < 0 and h > d))
    w1, w2, sigma = draw(d, h, c, lam, seed, 10.0**size, seed % (min(d, c) + 1))
    found = law.exact(w1, w2, sigma, tensor([10.0**instant]), lam)
    assume(found.trust == INF)
    assert off(observed(found.w1, found.w2)[0], precise(w1, w2, sigma, lam, 10.0**instant)) < 1e-12


def test_digits_are_lost_only_in_proportion_to_the_smallest_component():
    # λ = 1e-8 and determinants of different signs: the weakest mode begins some 1e-8 away from its separatrix
    sigma = torch.diag(tensor([1.5, 1.0, 0.5]))
    w1, w2 = next(w for s in range(20) if law.plateau((w := draw(3, 3, 3, 1e-8, s)[:2])[1] @ w[0], sigma) > 0)
    times = [5.0, 20.0, 40.0, 80.0, 160.0]
    found = law.exact(w1, w2, sigma, tensor(times), 1e-8)
    errors = [off(observed(found.w1, found.w2)[i], precise(w1, w2, sigma, 1e-8, t)) for i, t in enumerate(times)]
    assert found.trust == INF and not found.missed
    assert 1e-12 < max(errors) < 1e-7 and errors[0] < 1e-13 and errors[-1] < 1e-13


def published(w1, w2, sigma, lam, t):
    """QQᵀ of a square network as arXiv:2409.14623 prints it; needs λ ≠ 0 and an invertible B."""
    us, s, vs = torch.linalg.svd(sigma)
    vs, one = vs.T, torch.eye(len(s), dtype=torch.float64)
    big = torch.diag((s.square() + lam**2 / 4).sqrt())
    gamma = torch.diag(((lam**2 + 4 * s.square()).sqrt() - 2 * s) / lam)
    a = torch.linalg.inv((one + gamma.square()).sqrt().diagonal().diag())
    plus, minus = a + gamma @ a, a - gamma @ a
    out, into = w2.T @ us, w1 @ vs  # of B and C with a rotation of hidden units in front, which cancels
    b, c = out @ plus + into @ minus, out @ minus - into @ plus
    e, inverse = torch.diag((-big.diagonal() * t).exp()), torch.linalg.inv(b)
    ratio = e @ c.T @ inverse.T @ e
    z = torch.cat([vs @ (minus - plus @ ratio), us @ (plus + minus @ ratio)])
    over = torch.linalg.inv(big)
    middle = 4 * e @ inverse @ inverse.T @ e + (one - e @ e) @ over
    middle = middle - e @ inverse @ c @ (e @ e - one) @ over @ c.T @ inverse.T @ e
    return z @ torch.linalg.solve(middle, z.T)


@pytest.mark.parametrize("lam", [0.5, -2.0, 1e-6])
def test_the_published_square_case_agrees_as_far_as_it_goes(lam):
    w1, w2, sigma = draw(4, 4, 4, lam, 1)
    found = law.exact(w1, w2, sigma, tensor([0.0, 0.7, 3.0]), lam)
    both = zip((0.0, 0.7, 3.0), observed(found.w1, found.w2), strict=True)
    error = max(off(published(w1, w2, sigma, lam, t), exact) for t, exact in both)
    assert error < 1e-12 if abs(lam) > 0.1 else 1e-12 < error < 1e-4  # it divides by λ


@st.composite
def starts(draw_from):
    """Shape, λ of any sign and size the shape allows, seed, scales and rank."""
    d, h, c = (draw_from(st.integers(1, 5)) for _ in range(3))
    signs = [0] + [1] * (h <= c) + [-1] * (h <= d)
    lam = draw_from(st.sampled_from(signs)) * 10.0 ** draw_from(st.integers(-8, 2))
    seed, rank = draw_from(st.integers(0, 10**6)), draw_from(st.integers(0, min(c, d)))
    scales = 10.0 ** draw_from(st.integers(-6, 2)), 10.0 ** draw_from(st.integers(-3, 2))
    return d, h, c, lam, seed, rank, scales


def make(start):
    d, h, c, lam, seed, rank, (scale, task) = start
    w1, w2, sigma = draw(d, h, c, lam, seed, scale, rank)
    return w1, w2, task * sigma, lam


instants = st.floats(-3, 8).map(lambda x: 10.0**x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(starts(), st.lists(instants, min_size=1, max_size=5))
def test_every_solution_is_a_balanced_network_that_learns(start, times):
    w1, w2, sigma, lam = make(start)
    found = law.exact(w1, w2, sigma, tensor(sorted([0.0, *times])), lam)
    h = len(w1)
    scale = found.rep_in.diagonal(dim1=1, dim2=2).sum(1) + found.rep_out.diagonal(dim1=1, dim2=2).sum(1)
    for values in (found.function, found.rep_in, found.rep_out, found.loss):
        assert bool(values.isfinite().all())
    for rep in (found.rep_in, found.rep_out):
        assert torch.equal(rep, rep.mT)
        assert bool((torch.linalg.eigvalsh(rep)[:, 0] >= -1e-14 * scale).all())
    # besides, rounding of the start in directions that it does not have decays later than all else
    allowed = 1e-12 * (scale + abs(lam)) + 1e-14 * (scale * scale[0]).sqrt()
    drift = found.w2.mT @ found.w2 - found.w1 @ found.w1.mT - lam * torch.eye(h, dtype=torch.float64)
    assert bool((drift.abs().amax((1, 2)) <= allowed).all())
    trace = (found.rep_out.diagonal(dim1=1, dim2=2).sum(1) - found.rep_in.diagonal(dim1=1, dim2=2).sum(1)) - lam * h
    assert bool((trace.abs() <= allowed).all())
    rounding = 1e-13 * (found.loss[0] + scale.max() ** 2)
    assert bool((found.loss.diff() <= rounding).all())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(starts())
def test_every_solution_tends_to_its_limit(start):
    w1, w2, sigma, lam = make(start)
    f = cases.generator(sigma, lam)
    rates = torch.linalg.eigvalsh(f).clamp_min(0)
    gaps = rates.diff()
    late = max(1e8, 60 / float(gaps[gaps > 1e-13 * rates[-1]].min())) if float(rates[-1]) else 1e8
    found = law.exact(w1, w2, sigma, tensor([late, INF]), lam)
    settled = observed(found.w1, found.w2)
    slow = 10 / late  # of what decays as 1/t
    assert float((settled[0] - settled[1]).abs().max()) <= slow + 1e-12 * float(settled.abs().max())
    # where the right-hand side of the flow is zero
    q = settled[1]
    assert float((f @ q + q @ f - q @ q).abs().max()) <= 1e-12 * max(float(q.abs().max()) ** 2, 1e-30)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(starts())
def test_generic_starts_tend_to_the_steady_state(start):
    w1, w2, sigma, lam = make(start)
    try:
        function, rep_in, rep_out = law.steady_state(sigma, lam, len(w1))
    except InputError:
        return
    found = law.exact(w1, w2, sigma, tensor([INF]), lam)
    assume(not found.missed and found.trust == INF)
    scale = float(rep_in.abs().max() + rep_out.abs().max()) + 1e-300
    for value, expected in ((found.function, function), (found.rep_in, rep_in), (found.rep_out, rep_out)):
        # a mode of Σ's rounding may count here and not there
        assert float((value[0] - expected).abs().max()) <= 1e-12 * scale + 1e-14 * float(sigma.abs().max())


def test_transposition_swaps_the_layers_and_the_sign_of_lambda():
    w1, w2, sigma = draw(4, 3, 5, 0.7, 0)
    times = tensor([0.0, 0.4, 3.0, 50.0, INF])
    one = law.exact(w1, w2, sigma, times, 0.7)
    other = law.exact(w2.T, w1.T, sigma.T, times, -0.7)
    assert off(other.function, one.function.mT) < 1e-14
    assert off(other.rep_in, one.rep_out) < 1e-14 and off(other.rep_out, one.rep_in) < 1e-14


def test_isotropic_inputs_and_two_learning_rates():
    k, etas, lam = 0.125, (0.3, 2.0), 0.4
    w1, w2, sigma = draw(4, 3, 3, lam, 0)
    stretch = (etas[1] / etas[0]) ** 0.25
    w1, w2 = w1 / stretch, w2 * stretch
    times = tensor([0.0, 1.0, 8.0])
    found = law.exact(w1, w2, sigma, times, k=k, etas=etas)
    assert found.lam == pytest.approx(lam, abs=1e-14) and found.defect < 1e-15
    second = k * torch.eye(4, dtype=torch.float64)
    for i, (first, last) in enumerate(integrate(w1, w2, sigma, times, second, etas)):
        assert off(observed(found.w1, found.w2)[i], observed(first, last)) < 1e-9
        assert found.loss[i].item() == pytest.approx(k / 2 * float((last @ first - sigma / k).square().sum()), rel=1e-9)
        conserved = etas[0] * found.w2[i].T @ found.w2[i] - etas[1] * found.w1[i] @ found.w1[i].T
        assert torch.allclose(conserved, math.sqrt(etas[0] * etas[1]) * lam * torch.eye(3, dtype=torch.float64))


def test_moments_and_loss_are_those_of_the_data():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((50, 2))
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / 50).T) * 1.5
    found = law.moments(tensor(x), tensor(y))
    assert found.k == pytest.approx(2.25, rel=1e-12)
    w1, w2, _ = draw(3, 2, 2, 0.0, 1)
    solved = law.exact(w1, w2, found.sigma, tensor([0.0]), k=found.k)
    loss = ((y - x @ (w2 @ w1).numpy().T) ** 2).sum() / 100
    assert solved.loss.item() + found.floor == pytest.approx(loss, rel=1e-12)
    one_hot = law.moments(torch.eye(8, dtype=torch.float64), tensor(rng.standard_normal((8, 2))))
    assert one_hot.k == pytest.approx(1 / 8) and one_hot.floor == pytest.approx(0, abs=1e-15)
    with pytest.raises(InputError, match="not white"):
        law.moments(tensor(rng.standard_normal((50, 3))), tensor(y))
    with pytest.raises(InputError, match="not white"):
        law.moments(torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(InputError, match="do not fit"):
        law.moments(tensor(x), tensor(y[:7]))


def neuron(a, w, target, t):
    """a wᵀ at time t by the solution of one neuron: in the plane of a and the target, all else decaying (1 output)."""
    d, r = a * a - w @ w, np.linalg.norm(target)
    wide = math.hypot(d, 2 * r)
    x = w @ target / r
    beside = w - x * target / r
    high, low = (wide + d, -4 * r * r / (wide + d)) if d >= 0 else (4 * r * r / (wide - d), d - wide)
    p, m = (np.array([2 * r, v]) / math.hypot(2 * r, v) for v in (high, low))
    gp, gm = p @ [x, a], m @ [x, a]

    def psi(rate):
        if rate == 0:
            return t * math.exp(-wide * t)
        if rate > 0:
            return math.exp((2 * rate - wide) * t) * -math.expm1(-2 * rate * t) / (2 * rate)
        return math.exp(-wide * t) * math.expm1(2 * rate * t) / (2 * rate)

    root = math.sqrt(
        math.exp(-wide * t) + gp**2 * psi(wide / 2) + gm**2 * psi(-wide / 2) + beside @ beside * psi(-d / 2)
    )
    x_t, a_t = (gp * p + gm * math.exp(-wide * t) * m) / root
    return a_t, x_t * target / r + beside * math.exp(-(d + wide) * t / 2) / root


@pytest.mark.parametrize("delta", [-3.0, -0.1, 0.0, 0.1, 3.0])
def test_one_unit_is_the_single_neuron(delta):
    rng = np.random.default_rng(1)
    direction, target = rng.standard_normal(5), rng.standard_normal(5)
    w = direction / np.linalg.norm(direction) * math.sqrt(0.3 + max(-delta, 0))
    a = -math.sqrt(0.3 + max(delta, 0))
    times = [0.0, 0.5, 4.0, 60.0]
    found = law.exact(tensor([w]), tensor([[a]]), tensor([target]), tensor(times))
    assert found.lam == pytest.approx(delta, abs=1e-14)
    for i, t in enumerate(times):
        a_t, w_t = neuron(a, w, target, t)
        assert torch.allclose(found.function[i, 0], tensor(a_t * w_t), rtol=0, atol=1e-12)
        assert torch.allclose(found.rep_in[i], tensor(np.outer(w_t, w_t)), rtol=0, atol=1e-12)
        assert found.rep_out[i].item() == pytest.approx(a_t**2, rel=1e-12)


def test_hierarchical_task_ends_in_the_steady_state():
    tree = hierarchy() / 8
    for lam in (-10.0, -1.0, 0.0, 1.0, 10.0):
        rng = np.random.default_rng(0)
        w1, w2 = sample_balanced((8, 8, 8), (lam,), rng, scale=0.42)
        found = law.exact(w1, w2, tree, tensor([300.0 * 8]), lam, k=1 / 8)
        if lam == 0 and found.missed:  # half of all starts
            w1, w2 = sample_balanced((8, 8, 8), (lam,), rng, scale=0.42)
            found = law.exact(w1, w2, tree, tensor([300.0 * 8]), lam, k=1 / 8)
        for value, expected in zip(
            (found.function, found.rep_in, found.rep_out), law.steady_state(tree * 8, lam, 8), strict=True
        ):
            assert off(value[0], expected) < 1e-12


def hierarchy():
    """The paper's tree of eight items; singular values √8, √8, 2, 2, √2 four times."""
    rows = [[1, 1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 0, -1, 0, 0, 0], [1, 1, -1, 0, 0, 1, 0, 0], [1, 1, -1, 0, 0, -1, 0, 0]]
    rows += [[1, -1, 0, 1, 0, 0, 1, 0], [1, -1, 0, 1, 0, 0, -1, 0], [1, -1, 0, -1, 0, 0, 0, 1]]
    return tensor([*rows, [1, -1, 0, -1, 0, 0, 0, -1]])


def test_hierarchical_representations_have_the_known_cosines():
    tree = hierarchy()
    _, s, vt = torch.linalg.svd(tree)
    assert torch.allclose(s, tensor([8**0.5] * 2 + [2.0] * 2 + [2**0.5] * 4))
    known = {-10: (0.9631, 0.8639), -1: (0.9975, 0.9467), 0: (1, 0.9670), 1: (0.9977, 0.9819), 10: (0.9714, 0.9998)}
    for lam, cosines in known.items():
        _, rep_in, _ = law.steady_state(tree, float(lam), 8)
        for power, expected in zip((1, 2), cosines, strict=True):
            task = (vt.T * s**power) @ vt
            assert float((rep_in * task).sum() / rep_in.norm() / task.norm()) == pytest.approx(expected, abs=6e-5)


def test_equal_modes_that_do_not_grow_leave_the_limit_unique():
    task = torch.diag(tensor([1.0, 0.0, 0.0]))
    assert torch.equal(law.steady_state(task, 0.0, 2)[1].abs(), task)
    with pytest.raises(InputError, match="modes 2 and 3 are equally fast"):
        law.steady_state(task, 0.5, 2)


# Separatrices


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("extra", [0, 2])
def test_the_sign_of_the_determinant_decides_what_is_learned(n, extra):
    outcomes = set()
    for seed in range(25):
        w1, w2, sigma = draw(n, n + extra, n, 0.0, seed)
        expected = law.plateau(w2 @ w1, sigma)
        found = law.exact(w1, w2, sigma, tensor([INF]), 0.0)
        weakest = float(torch.linalg.svdvals(sigma)[-1])
        assert expected in (0, pytest.approx(weakest**2 / 2))
        assert found.loss.item() == pytest.approx(expected, abs=1e-13)
        assert found.missed == ((n - 1,) if expected else ())
        outcomes.add(expected > 0)
    assert outcomes == {True, False}


def test_networks_that_are_not_square_learn_all():
    for seed in range(20):
        w1, w2, sigma = draw(4, 4, 3, 0.0, seed)
        assert law.exact(w1, w2, sigma, tensor([INF]), 0.0).loss.item() < 1e-25


def test_any_lambda_lifts_the_plateau_at_a_logarithmic_price():
    sigma = torch.diag(tensor([1.5, 1.0, 0.5]))
    times = torch.linspace(0, 80, 4001, dtype=torch.float64)
    medians = []
    for lam in (1e-8, 1e-4, 1e-2):
        taken = []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            w1, w2 = sample_balanced((3, 3, 3), (0.0,), rng)
            if law.plateau(w2 @ w1, sigma):
                loss = law.exact(*rebalance(w1, w2, lam), sigma, times, lam).loss
                taken.append(float(times[int((loss < 0.01).nonzero()[0])]))
        medians.append(np.median(taken))
    # each factor of 1e4 (1e2) takes about ln(1e4)/2s (ln(1e2)/2s) at s = 0.5
    assert medians[0] - medians[1] == pytest.approx(2 * math.log(100) / 0.5, rel=0.05)
    assert medians[1] - medians[2] == pytest.approx(math.log(100) / 0.5, rel=0.1)


def test_a_start_on_the_separatrix_says_until_when_it_holds():
    with pytest.warns(UserWarning, match=r"component on task mode 0 \(s = 1\) is zero to rounding"):
        found = law.exact(tensor([[0.3]]), tensor([[-0.3]]), tensor([[1.0]]), tensor([30.0]), 0.0)
    assert found.missed == (0,) and 33 < found.trust < 36 and abs(found.function.item()) < 1e-12
    slower = law.exact(tensor([[0.3]]), tensor([[-0.3]]), tensor([[1.0]]), tensor([30.0]), 0.0, k=0.25, etas=(0.1, 0.1))
    mode = 4.0  # Σ/k, and time runs 40 times slower
    assert slower.trust == pytest.approx((found.trust + math.log(mode) / 2) / mode * 40, rel=0.01)
    near = law.exact(tensor([[0.3]]), tensor([[-0.3 + 1e-8]]), tensor([[1.0]]), tensor([10.0, 30.0]))
    assert near.trust == INF and near.function[0].item() < 0.1 and near.function[1].item() == pytest.approx(1)
    late = law.exact(tensor([[0.3]]), tensor([[-0.3 + 1e-13]]), tensor([[1.0]]), tensor([1.0]))
    assert not late.missed and late.trust < 40 and "almost zero" in late.remarks[0]
    # rounding in a real integration escapes soon after
    (first, last), *_ = integrate(tensor([[0.3]]), tensor([[-0.3]]), tensor([[1.0]]), tensor([found.trust / 2, 80.0]))
    assert abs(float(last @ first)) < 1e-3


def test_a_missed_mode_has_to_outgrow_what_was_learned_instead():
    # one unit on the second of two modes: noise on the first grows as e^{(2 − 1)t}
    sigma, faint = torch.diag(tensor([2.0, 1.0])), 1e-9
    w1, w2 = tensor([[0.0, 0.3]]), tensor([[0.0], [0.3]])
    with pytest.warns(UserWarning, match="task mode 0"):
        found = law.exact(w1, w2, sigma, tensor([20.0, INF]), 0.0)
    assert found.missed == (0,) and torch.allclose(found.function, torch.diag(tensor([0.0, 1.0])), atol=1e-14)
    w1[0, 0] = w2[0, 0] = faint
    noisy = law.exact(w1, w2, sigma, torch.linspace(0, 40, 4001, dtype=torch.float64), 0.0)
    escaped = float(noisy.times[int((noisy.function[:, 0, 0] > 1).nonzero()[0])])
    noise = 8 * 2.2e-16 * math.sqrt(0.18)
    assert found.trust - escaped == pytest.approx(math.log(math.sqrt(2) * faint / noise), abs=0.5)
    # two units have room for both
    pair = (
        torch.cat([w1 * 0 + tensor([[0.0, 0.3]]), torch.zeros(1, 2)]),
        torch.cat([tensor([[0.0], [0.3]]), torch.zeros(2, 1)], 1),
    )
    with pytest.warns(UserWarning, match="task mode 0"):
        assert law.exact(*pair, sigma, tensor([1.0]), 0.0).trust < 20


def test_modes_equal_to_rounding_share_the_limit():
    # two units for three equal modes in a rotated basis: which plane they take, the start decides
    rng = np.random.default_rng(0)
    turn = tensor(np.linalg.qr(rng.standard_normal((3, 3)))[0])
    w1, w2, _ = draw(3, 2, 3, 0.3, 1)
    found = law.exact(w1, w2, 1.5 * turn, tensor([200.0, INF]), 0.3)
    assert off(observed(found.w1, found.w2)[1], observed(found.w1, found.w2)[0]) < 1e-12


def test_directions_that_all_grow_alike_are_not_missed():
    # of the three outputs that have no task the two units use one; which one, the start decides
    w2 = tensor([[1.1, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    w1 = tensor([[math.sqrt(0.21)], [0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = law.exact(w1, w2, tensor([[1.0], [0.0], [0.0], [0.0]]), tensor([1e8]), 1.0)
    assert found.missed == () and found.trust == INF
    assert torch.allclose(found.rep_out[0].diagonal(), tensor([(5**0.5 + 1) / 2, 0.0, 1.0, 0.0]), atol=1e-13)
    one = law.exact(torch.zeros(1, 2), torch.eye(2)[:, :1].double(), torch.eye(2) * 0.0, tensor([1e8]), 1.0)
    assert one.missed == () and torch.allclose(one.rep_out[0], torch.diag(tensor([1.0, 0.0])))


def test_zero_weights_never_move():
    with pytest.warns(UserWarning, match="start is zero"):
        found = law.exact(torch.zeros(3, 2), torch.zeros(2, 3), torch.eye(2), tensor([1.0, 1e8, INF]))
    assert found.missed == (0, 1) and float(observed(found.w1, found.w2).abs().max()) == 0


def test_a_quiet_start_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert law.exact(*draw(4, 3, 5, 0.2), tensor([1.0])).remarks == ()
        assert law.exact(*draw(20, 3, 2, 0.0), tensor([1.0])).remarks == ()


# Balance


def test_an_unbalanced_start_is_called_approximate():
    rng = np.random.default_rng(0)
    w1, w2, sigma = (tensor(rng.standard_normal((10, 10)) / math.sqrt(10)) for _ in range(3))
    assert 0.9 < law.balance(w1, w2).ratio <= 1
    with pytest.warns(UserWarning, match="not balanced"):
        found = law.exact(w1, w2, sigma, tensor([1.0]))
    (first, last), *_ = integrate(w1, w2, sigma, tensor([1.0]))
    assert found.defect > 0.1 and 0.01 < off(found.function[0], last @ first) < 0.5
    small = draw(10, 10, 10, 0.5, 0)
    assert law.balance(*small[:2]).defect < 1e-13 and law.balance(*small[:2]).lam == pytest.approx(0.5)
    with pytest.warns(UserWarning, match="lambda = 0.4"):
        assert law.exact(*small, tensor([1.0]), lam=0.4).defect > 1e-3


@pytest.mark.parametrize("widths", [(200, 400, 600), (50, 20, 10)])
def test_gaussian_layers_have_the_expected_lambda(widths):
    d, h, c = widths
    rng = np.random.default_rng(0)
    found = [
        law.balance(
            tensor(rng.standard_normal((h, d)) / math.sqrt(d)), tensor(rng.standard_normal((c, h)) / math.sqrt(h))
        )
        for _ in range(3)
    ]
    # LeCun: r/k − 1 with k = h/d and r = c/d
    assert np.mean([b.lam for b in found]) == pytest.approx(c / h - 1, abs=0.05)


# GD


def gradient_descent(w1, w2, sigma, lr, steps):
    path = [(w1, w2)]
    for _ in range(steps):
        error = sigma - w2 @ w1
        w1, w2 = w1 + lr * w2.T @ error, w2 + lr * error @ w1.T
        path.append((w1, w2))
    return path


@pytest.mark.parametrize("lam", [0.0, 1.0, -5.0])
def test_gradient_descent_is_off_in_proportion_to_its_step(lam):
    w1, w2, sigma = draw(3, 3, 3, lam, 4)
    errors = []
    for lr in (8e-3, 4e-3, 2e-3):
        steps = round(4 / lr)
        path = gradient_descent(w1, w2, 1.5 * sigma, lr, steps)
        found = law.exact(w1, w2, 1.5 * sigma, lr * torch.arange(steps + 1), lam).function
        errors.append(max(float((b @ a - f).abs().max()) for (a, b), f in zip(path, found, strict=True)))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05) and errors[1] / errors[2] == pytest.approx(2, rel=0.03)


def test_balance_moves_under_gradient_descent_as_the_bookkeeping_says():
    w1, w2, sigma = draw(4, 3, 5, 0.3, 0)
    lr = 0.05
    path = gradient_descent(w1, w2, sigma, lr, 50)
    for (a, b), (a_next, b_next) in zip(path, path[1:]):
        g1, g2 = (a - a_next) / lr, (b - b_next) / lr
        moved = (b_next.T @ b_next - a_next @ a_next.T) - (b.T @ b - a @ a.T)
        assert float((moved - lr**2 * (g2.T @ g2 - g1 @ g1.T)).abs().max()) < 1e-12


# Bad input


def test_bad_input_is_refused():
    w1, w2, sigma = draw(4, 3, 5, 0.0)
    t = tensor([1.0])
    bad = sigma.clone()
    bad[1, 2] = math.nan
    for arguments, message in [
        ((w1, w2.T, sigma, t), r"do not fit; expected \(h, d\)"),
        ((w1[:0], w2[:, :0], sigma, t), "do not fit"),
        ((w1, w2, sigma.T, t), r"expected \(c, d\) = \(5, 4\)"),
        ((w1, w2, bad, t), r"sigma is not finite at \(1, 2\)"),
        ((w1 * math.inf, w2, sigma, t), "w1 is not finite"),
        ((w1, w2, sigma, tensor([-1.0])), "at least 0, not -1"),
        ((w1, w2, sigma, tensor([math.nan])), "at least 0, not nan"),
        ((w1, w2, sigma, tensor(1.0)), "expected"),
        ((w1, w2, sigma, t, math.nan), "lam=nan"),
        ((w1, w2, sigma, t, None, 0.0), "k=0"),
        ((w1, w2, sigma, t, None, 1.0, (1.0, -1.0)), "etas"),
    ]:
        with pytest.raises(InputError, match=message):
            law.exact(*arguments)
    assert len(law.exact(w1, w2, sigma, tensor([])).loss) == 0
    assert law.exact(w1.float(), w2.float(), sigma.float(), t).function.dtype == torch.float64
    with pytest.raises(InputError, match="determinant"):
        law.plateau(w2 @ w1, sigma)
    with pytest.raises(InputError, match="product is singular"):
        law.plateau(torch.zeros(2, 2), torch.eye(2))
    with pytest.raises(InputError, match="sigma is singular"):
        law.plateau(torch.eye(2), torch.ones(2, 2))
    with pytest.raises(InputError, match=r"lambda > 0 needs h <= c \(h=6, c=3\)"):
        law.steady_state(torch.ones(3, 8), 1.0, 6)
    with pytest.raises(InputError, match="limit depends on the start"):
        law.steady_state(torch.eye(3), 0.0, 2)
    with pytest.raises(InputError, match="expected"):
        law.steady_state(torch.eye(3), 0.0, 0)
