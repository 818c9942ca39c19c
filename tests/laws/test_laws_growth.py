"""The law of growth against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.laws import log_growth, transition_time
from learndyn.laws.growth import log_growth_error


def test_growth_of_a_known_map():
    """For M = c·I every unit-variance probe has ‖Mᵀu‖² = c² ‖u‖², so with ‖u‖² = P the growth is ln c, exactly."""
    size, factors = 50, torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    norms = (factors.square() * size).repeat(4, 1)
    assert torch.allclose(log_growth(norms, size), factors.log(), atol=1e-14)
    assert torch.allclose(log_growth_error(norms), torch.zeros(3, dtype=torch.float64), atol=1e-14)


def test_growth_of_a_random_map_is_its_frobenius_norm():
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=draw, dtype=torch.float64)
    probes = torch.randn(20_000, 30, generator=draw, dtype=torch.float64)
    norms = (probes @ matrix).square().sum(1, keepdim=True)
    expected = 0.5 * math.log(float(matrix.square().sum()) / 30)
    found, error = float(log_growth(norms, 30)), float(log_growth_error(norms))
    assert abs(found - expected) < 4 * error < 0.02


def test_error_is_the_jackknife():
    norms = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    without = torch.stack([log_growth(torch.cat([norms[:i], norms[i + 1 :]]), 7) for i in range(5)])
    expected = (4 / 5 * (without - without.mean(0)).square().sum(0)).sqrt()
    assert torch.allclose(log_growth_error(norms), expected, rtol=1e-12)
    assert log_growth_error(norms[:1]).isnan().all()


@given(st.floats(50, 900), st.floats(0.001, 0.1), st.floats(1e-9, 1e-3), st.floats(1.5, 1e4))
def test_transition_of_a_straight_line(middle, slope, epsilon, ratio):
    """G(t0) = slope · (middle − t0) + ln(ratio) crosses ln(threshold/ε) = ln(ratio) at the middle."""
    t0 = np.linspace(0, 1000, 41)
    growth = slope * (middle - t0) + math.log(ratio)
    assert transition_time(t0, growth, epsilon, ratio * epsilon) == pytest.approx(middle, rel=1e-6)


def test_transition_outside_the_window():
    t0 = np.array([0.0, 10.0, 20.0])
    assert transition_time(t0, np.array([9.0, 8.0, 7.0]), 1.0, math.e) == math.inf
    assert transition_time(t0, np.array([0.5, 0.2, 0.1]), 1.0, math.e) == 0.0
    # it counts the last crossing: a curve that dips and rises again is stable only after the rise
    assert transition_time(t0, np.array([0.0, 2.0, 0.0]), 1.0, math.e) == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_growth(torch.tensor([[-1.0]]), 3), "not negative"),
        (lambda: log_growth(torch.tensor([[math.nan]]), 3), "not negative"),
        (lambda: log_growth(torch.tensor([[1.0]]), 0), "at least one parameter"),
        (lambda: transition_time(np.array([1.0, 1.0]), np.zeros(2), 1.0, 1.0), "increasing"),
        (lambda: transition_time(np.array([0.0, 1.0]), np.zeros(2), 0.0, 1.0), "positive"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InputError, match=words):
        call()
