"""Intervals, and the claims decided by them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from learndyn.compare import Claim, Estimate, at_least, at_most, exact, from_json, jackknife, mean_interval, to_json
from learndyn.compare import within as inside
from learndyn.compare.intervals import half_width
from learndyn.errors import InputError

numbers = st.floats(-1e6, 1e6)


def test_mean_interval_is_the_textbook_one():
    values = [3.1, 2.7, 3.6, 2.9, 3.3]
    low, high = stats.t.interval(0.9, df=4, loc=np.mean(values), scale=stats.sem(values))
    found = mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high), rel=1e-12)
    assert found.method == "90 % Student t over 5 seeds"


@given(st.lists(numbers, min_size=2, max_size=8), st.sampled_from([0.5, 0.9, 0.99]))
def test_jackknife_of_a_mean_is_the_mean_interval(values, level):
    left, right = jackknife(np.mean, values, level), mean_interval(values, level)
    # leaving one out of n loses some digits of values that are far larger than their scatter
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert (left.value, left.low, left.high) == pytest.approx((right.value, right.low, right.high), abs=slack)


def test_jackknife_against_a_loop():
    rows = np.random.default_rng(0).normal(3, 1, (6, 4))
    found = jackknife(lambda kept: np.log(kept.mean()), rows)
    without = [np.log(np.mean([rows[j] for j in range(6) if j != i])) for i in range(6)]
    error = math.sqrt(5 / 6 * sum((w - np.mean(without)) ** 2 for w in without))
    assert found.value == np.log(rows.mean())
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.95, 5) * error, rel=1e-12)


def test_one_replicate_has_no_interval():
    for found in (mean_interval([2.0]), jackknife(np.mean, [2.0])):
        assert found.value == 2
        assert math.isnan(found.low) and math.isnan(found.high)
        assert "no interval" in str(found)


def test_an_estimate_that_hangs_on_one_replicate_has_an_endless_interval():
    assert half_width(np.array([1.0, np.nan, 1.1]), 0.9) == math.inf


@pytest.mark.parametrize("call", [mean_interval, lambda values: jackknife(np.mean, values)])
def test_nothing_to_average(call):
    with pytest.raises(InputError, match="at least one"):
        call([])


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0])
def test_level_is_a_probability(level):
    with pytest.raises(InputError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], level)


@pytest.mark.parametrize(
    "low, high, least, most, within",
    [
        (7.0, 8.0, "holds", "fails", "fails"),
        (6.0, 6.5, "holds", "undecided", "undecided"),  # touching the bound satisfies it
        (5.0, 5.5, "fails", "holds", "holds"),
        (5.5, 6.0, "undecided", "holds", "holds"),
        (5.5, 7.0, "undecided", "undecided", "undecided"),
        (1.0, 2.0, "fails", "holds", "fails"),
        (3.0, 5.0, "fails", "holds", "undecided"),
        (math.nan, math.nan, "undecided", "undecided", "undecided"),
        (7.0, math.inf, "undecided", "undecided", "undecided"),
    ],
)
def test_verdicts(low, high, least, most, within):
    measured = Estimate(low, low, high, "by hand")
    assert at_least("a", "A.", measured, 6).verdict == least
    assert at_most("a", "A.", measured, 6).verdict == most
    assert inside("a", "A.", measured, 4, 6).verdict == within


@given(numbers, st.floats(0, 1e6), st.floats(0, 1e6), numbers)
def test_at_least_and_at_most_mirror_each_other(value, below, above, bound):
    measured = Estimate(value, value - below, value + above, "by hand")
    mirrored = Estimate(-value, -value - above, -value + below, "by hand")
    assert at_least("a", "A.", measured, bound).verdict == at_most("a", "A.", mirrored, -bound).verdict


@given(numbers, st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1), numbers)
def test_a_narrower_interval_never_overturns_a_verdict(value, below, above, shrink, bound):
    wide = at_least("a", "A.", Estimate(value, value - below, value + above, ""), bound)
    narrow = at_least("a", "A.", Estimate(value, value - shrink * below, value + shrink * above, ""), bound)
    assert wide.verdict in (narrow.verdict, "undecided")


def test_a_bare_number_decides_nothing_but_an_exact_one_does():
    assert at_most("error", "It vanishes.", 1e-14, 1e-9).verdict == "undecided"
    assert at_most("error", "It vanishes.", exact(1e-14), 1e-9).verdict == "holds"


def test_empty_range():
    with pytest.raises(InputError, match="'a'.*low < high"):
        inside("a", "A.", exact(1.0), 2, 2)


def claims() -> list[Claim]:
    estimates = [exact(1 / 3), Estimate(math.nan, math.nan, math.nan, ""), Estimate(2.0, -math.inf, math.inf, "½ [é]")]
    return [at_least(f"c{i}", "Größer.", e, 0.1, unit="nats", paper="≈ 3 (Fig. 2)") for i, e in enumerate(estimates)]


def test_json_is_strict_and_comes_back():
    text = to_json(claims())
    rows = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert rows[1]["measured"] is None and rows[2]["low"] == "-inf"
    # nan differs from itself, so compare what is written
    assert repr(from_json(text)) == repr(claims())


@given(st.lists(st.tuples(st.text(), st.floats(), st.floats(), st.floats()), max_size=3))
def test_json_round_trip(rows):
    wanted = [at_most(word, word, Estimate(value, low, high, word), 1) for word, value, low, high in rows]
    assert repr(from_json(to_json(wanted))) == repr(wanted)


@pytest.mark.parametrize("text", ["", "5", '{"a": 1}', "[1]", '[{"name": "a"}]', "[[]]"])
def test_what_is_not_a_list_of_claims(text):
    with pytest.raises(InputError, match="not a list of claims"):
        from_json(text)


def test_a_claim_says_it_in_one_line():
    claim = at_least("growth", "It grows.", Estimate(7.25, 6.5, 8.0, ""), 6, unit="nats")
    assert str(claim) == "holds: growth = 7.25 [6.5, 8] nats, expected >= 6"
    assert str(at_least("growth", "It grows.", 7.25, 6)) == "undecided: growth = 7.25, expected >= 6"
