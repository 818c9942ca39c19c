"""Times that are censored on the right: never averaged, and the median of Kaplan and Meier by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learndyn.compare import Crossing, steps_to_threshold, together
from learndyn.errors import InputError


def test_first_crossings():
    steps, values = [0, 10, 20, 30], [0.1, 0.99, 0.2, 1.0]
    assert steps_to_threshold(steps, values, 0.99) == Crossing(10, 30)
    assert steps_to_threshold(steps, values, 0.995) == Crossing(30, 30)
    assert steps_to_threshold(steps, values, 1.1) == Crossing(None, 30)
    assert steps_to_threshold(steps, values, 0.1).step == 0
    assert steps_to_threshold(steps, [3.0, 2.0, 0.5, 0.1], 0.5, above=False).step == 20
    assert not steps_to_threshold(steps, [math.nan] * 4, 0.0).reached
    assert str(Crossing(None, 1600)) == "not within 1600" and str(Crossing(340, 1600)) == "340"


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_without_censoring_the_median_is_the_median(steps):
    found = together([Crossing(float(step), 99) for step in steps])
    assert found.median == pytest.approx(np.median(steps)) and found.reached == found.runs == len(steps)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(0, 9), st.integers(51, 1000))
def test_one_length_for_all_puts_the_censored_last(steps, censored, within):
    """With runs of one length the median is that of a list in which censored runs are later than all others."""
    found = together([*(Crossing(float(s), within) for s in steps), *[Crossing(None, within)] * censored])
    expected = np.median([*steps, *[math.inf] * censored])
    assert found.median == (pytest.approx(expected) if math.isfinite(expected) else math.inf)
    assert (found.reached, found.runs) == (len(steps), len(steps) + censored)
    assert math.isfinite(found.median) or f"not within {within}" in str(found)


def test_runs_of_different_lengths():
    """At risk 5, 4, 2 at the crossings 1, 2, 4: 4/5, 3/5, 3/10. The run stopped at 3 is neither a 3 nor nothing."""
    runs = [Crossing(1, 9), Crossing(2, 9), Crossing(None, 3), Crossing(4, 9), Crossing(None, 9)]
    found = together(runs)
    assert found.median == 4 and found.reached == 3 and found.within == 9
    assert str(found) == "median 4, reached by 3 of 5"
    # A run that was stopped at a crossing was still at risk there: 1/2, and the next one seen is at 5.
    assert together([Crossing(2, 9), Crossing(None, 2), Crossing(5, 9), Crossing(5, 9)]).median == 5
    assert together([Crossing(2, 9), Crossing(None, 2)]).median == math.inf


def test_a_censored_time_changes_nothing_by_its_length():
    """Averaging the budget as if it were the time would."""
    for within in (1600, 16_000):
        runs = [Crossing(340, 400), Crossing(400, 400), Crossing(None, within)]
        assert together(runs).median == 400


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([0, 1], [1.0], 0.5), "do not fit"),
        (([], [], 0.5), "at least one"),
        (([1, 1], [0.0, 0.0], 0.5), "must be finite and increase"),
        (([0, 1], [0.0, 0.0], math.nan), "level=nan"),
    ],
)
def test_series_that_are_none_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        steps_to_threshold(*arguments)
    with pytest.raises(InputError, match="no crossings"):
        together([])
