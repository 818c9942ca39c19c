"""Single modes, deep chains, lazy limits, kernels, regimes and sequences of tasks of balanced linear networks."""

import math

import numpy as np
import pytest
import torch
from balanced_cases import draw, integrate, off, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from learndyn.errors import InputError
from learndyn.laws import balanced as law
from learndyn.models.balanced import rebalance, sample_balanced

pytestmark = pytest.mark.filterwarnings("ignore:The start")
INF = math.inf

# Aligned modes


def mode_by_integration(a0, s, lam, times):
    found = solve_ivp(
        lambda _, a: math.sqrt(lam**2 + 4 * a[0] ** 2) * (s - a[0]),
        (0, times[-1]),
        [a0],
        "DOP853",
        rtol=1e-12,
        atol=1e-14,
        t_eval=times,
    )
    return found.y[0]


@pytest.mark.parametrize("lam", [0.0, 1e-6, -0.1, 1.0, -30.0])
@pytest.mark.parametrize(("a0", "s"), [(0.05, 1.0), (3.0, 1.0), (-0.4, 1.0), (0.5, -2.0), (0.3, 0.0), (0.0, 1.0)])
def test_a_mode_is_what_integration_gives(a0, s, lam):
    times = [0.0, 0.2, 1.0, 3.0]
    found = law.aligned_modes(tensor([a0]), tensor([s]), lam, tensor(times))[:, 0]
    assert np.allclose(found, mode_by_integration(a0, s, lam, times), rtol=1e-9, atol=1e-9)
    assert found[0].item() == pytest.approx(a0, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("lam", [0.0, 0.3, -4.0])
def test_aligned_networks_have_these_modes(lam):
    rng = np.random.default_rng(0)
    _, _, sigma = draw(4, 4, 4, lam)
    w1, w2 = sample_balanced((4, 4, 4), (lam,), rng, scale=0.3, align=sigma)
    u, s, vt = torch.linalg.svd(sigma)
    times = tensor([0.0, 0.5, 4.0, 30.0, 1e8])
    found = law.exact(w1, w2, sigma, times, lam).function
    modes = law.aligned_modes((u.T @ w2 @ w1 @ vt.T).diagonal(), s, lam, times)
    assert off(u.T @ found @ vt.T, torch.diag_embed(modes)) < 1e-12


def test_a_mode_has_the_known_limits_in_lambda():
    times, a0, s = tensor([0.0, 0.3, 1.0, 4.0, 40.0]), tensor([0.05]), tensor([1.0])
    sigmoid = s / (1 + (s / a0 - 1) * (-2 * s * times[:, None]).exp())
    assert torch.allclose(law.aligned_modes(a0, s, 0.0, times), sigmoid, rtol=1e-14)
    shift = [float((law.aligned_modes(a0, s, lam, times) - sigmoid).abs().max()) for lam in (1e-3, 1e-4)]
    assert shift[0] / shift[1] == pytest.approx(100, rel=0.01)
    away = []
    for lam in (10.0, 1e2, 1e3):
        t = torch.linspace(0, 8 / lam, 400, dtype=torch.float64)
        away.append(float((law.aligned_modes(a0, s, lam, t)[:, 0] - (1 - 0.95 * (-lam * t).exp())).abs().max()))
    assert away == pytest.approx([2e-3, 2e-5, 2e-7], rel=0.2)


sizes = st.floats(-100, 3).map(lambda x: 10.0**x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(sizes, st.sampled_from([-1, 1])), sizes, st.one_of(st.just(0.0), sizes), sizes.map(lambda x: x * 1e5))
def test_a_mode_stays_between_its_start_and_its_end(start, s, lam, t):
    a0 = start[0] * start[1]
    times = tensor([0.0, t, 2 * t, INF])
    found = law.aligned_modes(tensor([a0]), tensor([s]), lam, times)[:, 0]
    opposite = law.aligned_modes(tensor([a0]), tensor([s]), -lam, times)[:, 0]
    mirrored = law.aligned_modes(tensor([-a0]), tensor([-s]), lam, times)[:, 0]
    assert bool(found.isfinite().all()) and torch.equal(found, opposite) and torch.equal(found, -mirrored)
    low, high, rounding = min(a0, s), max(a0, s), 1e-14 * max(abs(a0), s)
    assert bool((found >= low - rounding).all() and (found <= high + rounding).all())
    assert found[0].item() == pytest.approx(a0, rel=1e-14, abs=rounding)
    end = 0.0 if lam == 0 and a0 < 0 else s
    assert found[-1].item() == pytest.approx(end, rel=1e-14)
    way = found.diff() * math.copysign(1, end - a0)
    assert bool((way >= -rounding).all())


def test_a_mode_without_task_or_lambda_decays_as_one_over_t():
    times = tensor([0.0, 1.0, 1e8, INF])
    assert law.aligned_modes(tensor([0.5, -0.5]), tensor([0.0, 0.0]), 0.0, times)[:, 0].tolist() == pytest.approx(
        [0.5, 0.25, 0.5 / (1 + 1e8), 0.0]
    )


@pytest.mark.parametrize("lam", [0.1, 1.0, -10.0])
def test_a_reversed_mode_crosses_zero_at_the_predicted_time(lam):
    s = tensor([2.0, 1.0, 0.3])
    crossing = law.reversal_time(s, lam)
    printed = ((2 * s / abs(lam)) / torch.tan(0.5 * torch.atan(2 * s / abs(lam)))).log() / (lam**2 + 4 * s**2).sqrt()
    assert torch.allclose(crossing, printed, rtol=1e-13)
    at = law.aligned_modes(-s, s, lam, crossing).diagonal()
    assert float(at.abs().max()) < 1e-15
    # and in the network itself, turned round at the end of the first task
    rng = np.random.default_rng(0)
    w1, w2 = sample_balanced((3, 3, 3), (lam,), rng, product=torch.diag(s))
    found = law.exact(w1, w2, -torch.diag(s), crossing, lam).function
    assert float(found.diagonal(dim1=1, dim2=2).diagonal().abs().max()) < 1e-14


def test_reversal_takes_for_ever_without_lambda_and_its_logarithm_with():
    s = tensor([1.0])
    assert law.reversal_time(s, 0.0).tolist() == [INF]
    assert law.reversal_time(s, 1e-300).item() == pytest.approx((math.log(2) + 300 * math.log(10)) / 2)
    sigma = torch.diag(tensor([1.5, 1.0, 0.5]))
    integrated = {1e-6: 29.4953, 1e-3: 15.6798, 0.1: 6.4507, 1.0: 2.16208, 10.0: 0.340092}  # of three modes, DOP853
    for lam, expected in integrated.items():
        w1, w2 = sample_balanced((3, 3, 3), (lam,), np.random.default_rng(0), product=sigma)
        times = torch.linspace(0, 1.2 * expected, 20001, dtype=torch.float64)
        loss = law.exact(w1, w2, -sigma, times, lam).loss
        taken = float(times[int((loss < 1e-3 * loss[0]).nonzero()[0])])
        assert taken == pytest.approx(expected, rel=1e-4)
    w1, w2 = sample_balanced((3, 3, 3), (0.0,), np.random.default_rng(0), product=sigma)
    stuck = law.exact(w1, w2, -sigma, tensor([20.0]), 0.0)
    assert stuck.missed == (0, 1, 2) and float(stuck.function.abs().max()) < 1e-3


# Deep chains


def chain_by_integration(x0, s, times):
    def slope(_, x):
        return [np.prod(np.delete(x, j)) * (s - np.prod(x)) for j in range(len(x))]

    return solve_ivp(slope, (0, times[-1]), x0, "DOP853", rtol=1e-12, atol=1e-15, t_eval=times).y.T


@pytest.mark.parametrize(
    ("x0", "s"),
    [
        ((0.3, 0.5), 1.0),
        ((-0.3, 0.5), 1.0),
        ((0.1, 0.1, 0.1), 2.0),
        ((0.4, -0.2, 1.1), 1.5),
        ((0.4, -0.2, 1.1), -1.5),
        ((-0.2, 0.2, 1.1), 1.5),
        ((-0.2, 0.2, 0.2), 1.5),
        ((1e-3, 0.2, 0.3, 0.4), 0.7),
        ((0.0, 0.2, 0.3), 0.7),
        ((0.5, 0.6, 0.9, 1.3, -1.4), 0.0),
        ((2.0, 2.0, -2.0), -1.0),
        ((0.01, 0.01, 0.01, 0.012), 1.0),
        ((-1e-4, 0.02, 0.9), 1.0),
    ],
)
def test_a_chain_is_what_integration_gives(x0, s):
    times = np.array([0.0, 0.1, 1.0, 5.0, 20.0, 60.0])
    found = law.chain_modes(tensor([x0]), tensor([s]), tensor(times))[:, 0]
    assert np.allclose(found, chain_by_integration(x0, s, times), rtol=1e-8, atol=1e-9)
    assert np.allclose(np.diff(found**2, axis=1), np.diff(np.square(x0))[None], rtol=1e-11, atol=1e-13)


def test_a_chain_of_two_is_the_closed_form():
    lam, a0, s = 0.4, tensor([0.2, -0.7, 1.5]), tensor([1.0, 1.0, 0.4])
    large = ((0.4 + (0.4**2 + 4 * a0**2).sqrt()) / 2).sqrt()
    x0 = torch.stack([a0 / large, large], 1)
    times = tensor([1e8, 0.0, 0.7, 3.0, 30.0])
    found = law.chain_modes(x0, s, times)
    assert torch.allclose(found.prod(2), law.aligned_modes(a0, s, lam, times), rtol=1e-10, atol=1e-13)
    approach = (found.prod(2)[3] - s) / (law.aligned_modes(a0, s, lam, times)[3] - s)
    assert torch.allclose(approach, torch.ones(3, dtype=torch.float64), rtol=1e-8)


strengths = st.lists(st.floats(-2, 2).map(lambda x: round(x, 2)), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(strengths, st.floats(-3, 3).map(lambda x: round(x, 2)), st.floats(-2, 8).map(lambda x: 10.0**x))
def test_a_chain_learns_its_target_or_stops_at_a_saddle(x0, s, t):
    found = law.chain_modes(tensor([x0]), tensor([s]), tensor([1e8, t, 0.0, 1e8]))[[2, 1, 3], 0]
    assert bool(found.isfinite().all()) and torch.allclose(found[0], tensor(x0), rtol=1e-13, atol=1e-15)
    squares = found.square()
    assert torch.allclose(squares.diff(dim=1), squares[:1].diff(dim=1), rtol=1e-11, atol=1e-11)
    loss = (found.prod(1) - s).square()
    assert bool((loss.diff() <= 1e-11 * (1 + loss[0])).all())
    sizes_, product = np.sort(np.abs(x0)), float(np.prod(x0))
    tied = sizes_[0] == sizes_[1]
    free = not tied or product * s > 0
    if free and s and (sizes_[1] > 0.3):
        assert found[-1].prod().item() == pytest.approx(s, rel=1e-9)
    if tied and product * s < 0:
        assert abs(found[-1].prod().item()) <= abs(product) and found[-1].prod().item() * s <= 0


def test_deeper_chains_wait_longer_at_the_saddle():
    times = torch.logspace(-2, 6, 4001, dtype=torch.float64)
    waited = []
    for depth in (2, 3, 4):
        u = law.chain_modes(torch.full((1, depth), 0.01), tensor([1.0]), times).prod(2)[:, 0]
        waited.append(float(times[int((u > 0.5).nonzero()[0])]))
    # ln(s/a₀)/2s, 1/x₀, 1/2x₀² to leading order
    assert waited == pytest.approx([math.log(1e4) / 2, 100, 5000], rel=0.02)


def test_a_chain_at_rest_stays():
    times = tensor([0.0, 1.0, 1e8])
    for x0, s in (((0.0, 0.0, 1.0), 1.0), ((0.0, 0.5), 0.0), ((1.0, 2.0), 2.0)):
        found = law.chain_modes(tensor([x0]), tensor([s]), times)[:, 0]
        assert torch.allclose(found, tensor(x0).expand(3, -1), atol=1e-14)
    assert law.chain_modes(tensor([[0.1, 0.2]]), tensor([1.0]), tensor([])).shape == (0, 1, 2)


# Lazy limit


def test_a_large_lambda_makes_a_spanning_network_exponential():
    away = []
    for lam in (10.0, 1e2, 1e3):
        w1, w2, sigma = draw(4, 4, 4, lam, 0)
        times = torch.linspace(0, 10 / lam, 200, dtype=torch.float64)
        found = law.exact(w1, w2, sigma, times, lam).function
        away.append(float((found - law.lazy_function(w2 @ w1, sigma, lam, 4, times)).abs().max()))
    assert away[0] / away[1] == pytest.approx(100, rel=0.1) and away[1] / away[2] == pytest.approx(100, rel=0.01)
    assert away[0] < 1e-2
    w1, w2, sigma = draw(3, 3, 6, 100.0, 0)
    with pytest.raises(InputError, match="no lazy limit"):
        law.lazy_function(w2 @ w1, sigma, 100.0, 3, times)
    with pytest.raises(InputError, match="h <= c"):
        law.lazy_function(w2 @ w1, sigma, 100.0, 7, times)


# Kernel


def kernel(w1, w2, x):
    """The tangent kernel as it is: Jacobians of all outputs, `(P c, P c)`."""
    parameters = torch.cat([w1.flatten(), w2.flatten()])
    h, d = w1.shape

    def outputs(p):
        return (x @ p[: h * d].reshape(h, d).T @ p[h * d :].reshape(-1, h).T).flatten()

    jacobian = torch.func.jacrev(outputs)(parameters)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("white", [True, False])
def test_kernel_distance_is_that_of_the_kernels(white):
    x = tensor(np.random.default_rng(0).standard_normal((9, 4)))
    if white:
        x = torch.linalg.qr(x).Q * 1.7
    pairs = [draw(4, 5, 3, 0.0, seed)[:2] for seed in range(2)]
    kernels = [kernel(w1, w2, x) for w1, w2 in pairs]
    expected = 1 - float((kernels[0] * kernels[1]).sum() / kernels[0].norm() / kernels[1].norm())
    reps = [m for w1, w2 in pairs for m in (w1.T @ w1, w2 @ w2.T)]
    assert law.kernel_distance(*reps, inputs=None if white else x).item() == pytest.approx(expected, rel=1e-12)
    # small distances keep their digits
    near = [reps[0], reps[1], reps[0] + 1e-9 * reps[2], reps[1] + 1e-9 * reps[3]]
    far = [reps[0], reps[1], reps[0] + 1e-3 * reps[2], reps[1] + 1e-3 * reps[3]]
    assert law.kernel_distance(*near).item() == pytest.approx(1e-12 * law.kernel_distance(*far).item(), rel=1e-2)


def drift(d, h, c, lam, tasks=20):
    """Mean kernel distance from start to end, product 0.3 N(0, 1)/√max(d, c)."""
    found = []
    for seed in range(tasks):
        rng = np.random.default_rng(seed)
        sigma, product = (tensor(rng.standard_normal((c, d)) / math.sqrt(max(c, d))) for _ in range(2))
        w1, w2 = sample_balanced((d, h, c), (lam,), rng, product=0.3 * product)
        solved = law.exact(w1, w2, sigma, tensor([0.0, INF]), lam)
        found.append(law.kernel_distance(solved.rep_in[0], solved.rep_out[0], solved.rep_in[1], solved.rep_out[1]))
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("shape", "lams", "expected"),
    [
        ((5, 5, 5), (-100, -10, -1, 0, 1, 10), (1.2e-8, 1.1e-4, 0.049, 0.20, 0.049, 1.1e-4)),
        ((3, 3, 6), (-100, -1, 0, 1, 10, 100), (5.9e-9, 0.035, 0.19, 0.40, 0.52, 0.53)),
        ((6, 3, 3), (-100, -1, 0, 1, 10, 100), (0.53, 0.39, 0.18, 0.033, 5.1e-5, 5.5e-9)),
        ((3, 6, 6), (0, 1, 10, 100), (0.19, 0.035, 5.4e-5, 5.9e-9)),
        ((3, 5, 6), (0, 1, 10, 100), (0.19, 0.12, 0.11, 0.11)),
    ],
)
def test_the_kernel_moves_by_shape_and_sign(shape, lams, expected):
    assert [drift(*shape, float(lam)) for lam in lams] == pytest.approx(expected, rel=0.05)


def test_the_kernel_of_a_square_network_moves_as_the_fourth_power_of_lambda():
    assert drift(5, 5, 5, 10.0, 5) / drift(5, 5, 5, 100.0, 5) == pytest.approx(1e4, rel=0.15)


def test_regimes():
    assert law.regime(5, 5, 5, 0.1, 1.0).name == "rich" and law.regime(3, 3, 6, -100.0, 1.0).name == "lazy"
    assert law.regime(3, 3, 6, 100.0, 1.0) == ("delayed rich", 50.0, False)
    assert law.regime(3, 6, 6, 100.0, 1.0).name == "lazy" and law.regime(3, 5, 6, 100.0, 1.0).name == "delayed rich"
    with pytest.raises(InputError, match="h <= c"):
        law.regime(3, 6, 3, 1.0, 1.0)
    with pytest.raises(InputError, match="strength=0"):
        law.regime(3, 6, 3, 0.0, 0.0)


# Sequences


def test_tasks_one_after_the_other():
    lam, rng = 1.0, np.random.default_rng(0)
    w1, w2 = sample_balanced((4, 3, 3), (lam,), rng)
    sigmas = [tensor(rng.standard_normal((3, 4)) / 2) for _ in range(3)]
    times = tensor([0.0, 0.5, 2.0])
    found = law.chain_tasks(w1, w2, sigmas, [times] * 3)
    for stage, losses, sigma in zip(found.stages, found.losses, sigmas, strict=True):
        path = integrate(w1, w2, sigma, times)
        w1, w2 = path[-1]
        for i, (first, last) in enumerate(path):
            assert torch.allclose(stage.function[i], last @ first, atol=1e-9)
            assert torch.allclose(
                losses[i], tensor([0.5 * float((last @ first - s).square().sum()) for s in sigmas]), atol=1e-8
            )
    assert torch.equal(found.ends[1], found.losses[1][-1])
    assert found.stages[2].defect < 1e-13


@pytest.mark.parametrize("lam", [-1.0, 0.0, 2.0])
def test_forgetting_does_not_depend_on_lambda(lam):
    rng = np.random.default_rng(3)
    sigmas = [tensor(rng.standard_normal((3, 5)) / 2) for _ in range(3)]
    w1, w2 = sample_balanced((5, 3, 3), (lam,), rng)
    found = law.chain_tasks(w1, w2, sigmas, [tensor([0.0, 3e4])] * 3, k=0.5)
    assert all(stage.trust > 3e4 for stage in found.stages)
    rise = float(found.ends[2, 0] - found.ends[1, 0])
    assert rise == pytest.approx(law.forgetting(sigmas[0], sigmas[1], sigmas[2], k=0.5), rel=1e-10)
    # the rate of L_0 while task 1 is learned
    short = law.chain_tasks(w1, w2, sigmas[:2], [tensor([1.0]), tensor([0.5 - 1e-5, 0.5, 0.5 + 1e-5])], k=0.5)
    stage, losses = short.stages[1], short.losses[1][:, 0]
    first, last = stage.w1[1], stage.w2[1]
    error = sigmas[1] - 0.5 * last @ first
    moving = error @ first.T @ first + last @ last.T @ error
    rate = float((moving * (0.5 * last @ first - sigmas[0])).sum())
    assert float(losses[2] - losses[0]) / 2e-5 == pytest.approx(rate, rel=1e-6)


def test_a_pretrained_pair_learns_on_from_any_lambda():
    rng = np.random.default_rng(0)
    first, second = (tensor(rng.standard_normal((4, 4)) / 2) for _ in range(2))
    w1, w2 = sample_balanced((4, 4, 4), (0.0,), rng, product=first)
    moved = []
    for lam in (0.5, 5.0, 50.0):
        pair = rebalance(w1, w2, lam)
        assert torch.allclose(pair[1] @ pair[0], first, atol=1e-13)
        found = law.exact(*pair, second, tensor([0.0, INF]), lam)
        assert float(found.loss[1]) < 1e-24
        moved.append(float(law.kernel_distance(found.rep_in[0], found.rep_out[0], found.rep_in[1], found.rep_out[1])))
    assert moved[0] > 10 * moved[1] > 100 * moved[2]


def test_bad_input_to_the_laws_of_modes_and_tasks_is_refused():
    one, two, t = tensor([1.0]), tensor([1.0, 2.0]), tensor([1.0])
    eye = torch.eye(2, dtype=torch.float64)
    for call, message in [
        (lambda: law.aligned_modes(one, two, 0.0, t), "one number a mode"),
        (lambda: law.aligned_modes(one, one, INF, t), "lam=inf"),
        (lambda: law.aligned_modes(one * math.nan, one, 0.0, t), "start is not finite"),
        (lambda: law.reversal_time(tensor([0.0]), 1.0), "other than 0"),
        (lambda: law.chain_modes(one[None], one, t), "layers >= 2"),
        (lambda: law.chain_modes(two[None], two, t), "expected"),
        (lambda: law.chain_modes(two[None], one, tensor([INF])), "times is not finite"),
        (lambda: law.lazy_function(eye, eye[:1], 1.0, 2, t), "must both be"),
        (lambda: law.kernel_distance(eye, eye, eye, eye[:1, :1]), "do not fit"),
        (lambda: law.kernel_distance(eye, eye, eye, eye, inputs=torch.zeros(3, 5)), r"expected \(P, 2\)"),
        (lambda: law.chain_tasks(eye, eye, [], []), "0 tasks"),
        (lambda: law.chain_tasks(eye, eye, [eye], [t[:0]]), "none of them empty"),
        (lambda: law.chain_tasks(eye, eye, [eye, eye[:1]], [t, t]), "for all"),
        (lambda: law.forgetting(eye, eye[:1], eye), "for all"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
