"""Predicted growth and transition time, against closed forms and brute force."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from learndyn import laws, observables
from learndyn.errors import InputError
from learndyn.laws.growth import log_growth, log_growth_error, transition_time


def test_laws_bear_the_names_of_observables_and_their_source():
    for name in laws.LAWS:
        assert name in observables.OF_ONE + observables.OF_TWO
        assert "arXiv:" in inspect.getmodule(getattr(laws, name)).__doc__


def squares(matrix, probes):
    """‖Mᵀu‖² of Gaussian probes, what the sweep hands over."""
    u = torch.randn(probes, len(matrix), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (u @ matrix).square().sum(1)[:, None]


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("factor", [1e-8, 1.0, 3e5])
def test_a_scaled_rotation_grows_by_its_factor(size, factor):
    """M = c Q: every direction grows by c. With the unit vectors, times √P, as probes there is no scatter at all."""
    rotation = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)).double()).Q
    units = math.sqrt(size) * torch.eye(size, dtype=torch.float64)
    norms = (units @ (factor * rotation)).square().sum(1)[:, None]
    assert log_growth(norms, size).item() == pytest.approx(math.log(factor), abs=1e-12)


def test_growth_is_the_root_mean_square_over_directions():
    matrix = torch.diag(torch.tensor([10.0, 1.0, 0.1, 0.0], dtype=torch.float64))
    exact = 0.5 * math.log((100 + 1 + 0.01) / 4)
    found = log_growth(squares(matrix, 20_000), 4).item()
    assert found == pytest.approx(exact, abs=0.04)  # u₁² has variance 2: 4 × √(2 / 20000) / 2
    start = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start /= start.norm(dim=0)
    measured = 0.5 * math.log((matrix @ start).square().sum(0).mean().item())
    assert measured == pytest.approx(exact, abs=0.04)


def test_starts_do_not_know_of_each_other():
    norms = torch.tensor([[4.0, 100.0, 0.0], [12.0, 300.0, 0.0]], dtype=torch.float64)
    expected = [0.5 * math.log(8 / 2), 0.5 * math.log(200 / 2), -math.inf]
    assert log_growth(norms, 2).tolist() == pytest.approx(expected)
    assert log_growth(torch.tensor([[math.inf, 1.0]]), 1).tolist() == [math.inf, 0]
    assert log_growth(norms.float(), 2).dtype == torch.float32


@pytest.mark.parametrize(("norms", "size"), [([[-1.0]], 3), ([[math.nan]], 3), ([[1.0]], 0)])
def test_what_is_no_norm_is_refused(norms, size):
    with pytest.raises(InputError, match="log_growth needs squared norms that are not negative"):
        log_growth(torch.tensor(norms), size)


@pytest.mark.parametrize("probes", [2, 3, 10])
def test_the_error_is_the_jackknifes(probes):
    """Brute force: leave each probe out, take the law itself."""
    norms = torch.rand(probes, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    left_out = [log_growth(norms[[j for j in range(probes) if j != i]], 9) for i in range(probes)]
    found = log_growth_error(norms)
    for t0 in range(4):
        values = [g[t0].item() for g in left_out]
        mean = sum(values) / probes
        exact = math.sqrt((probes - 1) / probes * sum((v - mean) ** 2 for v in values))
        assert found[t0].item() == pytest.approx(exact, rel=1e-12)


def test_the_error_is_that_of_repetition():
    """4,000 sets of 20 probes with relative deviation √(2/20): the standard error is what the results scatter by."""
    draw = torch.Generator().manual_seed(4)
    norms = torch.randn(20, 4000, 20, generator=draw, dtype=torch.float64).square().sum(2)
    scatter = log_growth(norms, 20).std().item()
    assert log_growth_error(norms).square().mean().sqrt().item() == pytest.approx(scatter, rel=0.05)


def test_one_probe_has_no_error_and_equal_probes_none():
    assert log_growth_error(torch.ones(1, 3)).isnan().all() and log_growth_error(torch.ones(1, 3)).shape == (3,)
    assert log_growth_error(torch.full((4, 2), 7.0)).tolist() == [0, 0]


STARTS = np.array([0.0, 100.0, 200.0, 400.0])


@pytest.mark.parametrize(
    ("growth", "threshold", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], 2.5, 150.0),  # halfway between 100 and 200
        ([4.0, 3.0, 2.0, 1.0], 1.25, 350.0),
        ([4.0, 3.0, 2.0, 1.0], 5.0, 0.0),  # below from the beginning
        ([4.0, 3.0, 2.0, 1.0], 4.0, 0.0),  # just so
        ([4.0, 3.0, 2.0, 1.0], 0.5, math.inf),  # above until the end
        ([4.0, 3.0, 2.0, 1.0], 1.0, 400.0),  # down to the threshold at the last start
        ([4.0, 1.0, 3.0, 1.0], 2.0, 300.0),  # the last crossing counts
        ([1.0, 1.0, 1.0, 3.0], 2.0, math.inf),
        ([3.0, 2.0, 2.0, 1.0], 2.0, 100.0),  # on the threshold is not above
        ([4.0, 3.0, 2.0, -math.inf], 1.0, 200.0),  # nothing is left of the perturbation
    ],
)
def test_where_the_growth_crosses_the_threshold(growth, threshold, expected):
    for epsilon in (1e-7, 1.0):
        found = transition_time(STARTS, np.array(growth), epsilon, epsilon * math.exp(threshold))
        assert found == pytest.approx(expected, abs=1e-6)


@given(
    st.lists(st.floats(-5, 20), min_size=2, max_size=8),
    st.floats(1e-9, 1e-3),
    st.floats(1e-6, 1e3),
)
def test_after_the_transition_nothing_crosses_again(growth, epsilon, threshold):
    starts = 50.0 * np.arange(len(growth))
    limit = math.log(threshold / epsilon)
    assume(min(abs(g - limit) for g in growth) > 1e-6)
    time = transition_time(starts, np.array(growth), epsilon, threshold)
    if math.isinf(time):
        assert growth[-1] > limit
        return
    fine = np.linspace(time, starts[-1], 200)[1:]
    assert (np.interp(fine, starts, growth) <= limit + 1e-6).all()
    if time > starts[0]:
        assert np.interp(time, starts, growth) == pytest.approx(limit, abs=1e-6)
        assert np.interp(time - 1e-6 * 50, starts, growth) > limit - 1e-9


@given(st.floats(1e-12, 1e-3), st.floats(1.01, 1e6))
def test_doubling_does_not_depend_on_the_perturbation(epsilon, factor):
    growth = np.array([9.0, 5.0, 1.0, 0.1])
    one = transition_time(STARTS, growth, epsilon, factor * epsilon)
    other = transition_time(STARTS, growth, 1.0, factor)
    assert one == pytest.approx(other, abs=1e-6)
    smaller = transition_time(STARTS, growth, epsilon / 2, factor * epsilon)
    assert smaller <= other  # a smaller perturbation is safe earlier


@pytest.mark.parametrize(
    ("starts", "epsilon", "threshold", "message"),
    [
        ([0.0], 1e-7, 1.0, "at least two starts in increasing order"),
        ([0.0, 0.0], 1e-7, 1.0, "at least two starts in increasing order"),
        ([10.0, 5.0], 1e-7, 1.0, "at least two starts in increasing order"),
        ([0.0, 5.0], 0.0, 1.0, "epsilon=0 and threshold=1 must be positive"),
        ([0.0, 5.0], 1e-7, -1.0, "epsilon=1e-07 and threshold=-1 must be positive"),
        ([0.0, 5.0], math.nan, 1.0, "epsilon=nan"),
    ],
)
def test_requests_that_make_no_sense_are_refused(starts, epsilon, threshold, message):
    with pytest.raises(InputError, match=message):
        transition_time(np.array(starts), np.zeros(len(starts)), epsilon, threshold)
