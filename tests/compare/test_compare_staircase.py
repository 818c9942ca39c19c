"""Drops, plateaus and scores on made staircases whose answers are known; noise, ties, runs that are too short."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn.compare import drops, half_power, plateaus, staircase_score, towards_zero
from learndyn.errors import InputError

LEVELS = [6.5625, 1.5625, 0.3125, 0.0]
AT = [20.0, 200.0, 1700.0]


def smooth_staircase(times, levels=LEVELS, at=AT, sharpness=30.0):
    """Sigmoids in ln t: half of drop k is at at[k] up to exp(−sharpness·gap)."""
    clock = np.log(times)[:, None]
    fallen = 1 / (1 + np.exp(-sharpness * (clock - np.log(at))))
    return levels[0] + fallen @ np.diff(levels)


TIMES = np.geomspace(0.1, 1e4, 500)


def test_drops_and_levels_of_a_smooth_staircase():
    found = drops(TIMES, smooth_staircase(TIMES), LEVELS)
    np.testing.assert_allclose(found.times, AT, rtol=2e-4)
    np.testing.assert_allclose(found.levels[:3], LEVELS[:3], rtol=1e-5)
    assert found.levels[3] < 1e-12 and found.early == 0 and found.reached.all() and found.within == pytest.approx(1e4)
    # 1 % of a sigmoid is left ln(99)/sharpness after its middle.
    assert found.end == pytest.approx(1700 * math.exp(math.log(99) / 30), rel=1e-3)
    assert math.isnan(drops(TIMES, smooth_staircase(TIMES), LEVELS[:3]).end)


def test_interpolation_is_linear_in_the_clock_of_the_records():
    """A drop of which one record is in the middle: half way in ln t, in t, and in t after a record at 0."""
    log, even = np.array([1.0, 4, 16, 64, 256]), np.arange(5.0)
    loss = [3.0, 3.0, 1.0, 1.0, 1.0]
    assert drops(log, loss, [3.0, 1.0]).times[0] == pytest.approx(8)
    assert drops(log, loss, [3.0, 1.0], log=False).times[0] == pytest.approx(10)
    assert drops(even, loss, [3.0, 1.0]).times[0] == pytest.approx(1.5)
    assert drops(np.append(0, log[:4]), [3.0, 1, 1, 1, 1], [3.0, 1.0]).times[0] == pytest.approx(0.5)
    # Two drops between two records: both inside, in order.
    both = drops(even, [4.0, 4.0, 1.0, 1.0, 1.0], [4.0, 3.0, 1.0]).times
    np.testing.assert_allclose(both, [1 + 0.5 / 3, 1 + 2 / 3])


def test_what_was_not_seen_has_no_time():
    short = TIMES[TIMES < 1000]
    found = drops(short, smooth_staircase(short), LEVELS)
    assert found.reached.tolist() == [True, True, False] and math.isnan(found.end) and math.isnan(found.levels[3])
    assert str(found).endswith(f"1 not within {short[-1]:g}")
    flat = drops(TIMES, np.full(500, 6.5625), LEVELS)
    assert not flat.reached.any() and flat.levels[0] == 6.5625 and np.isnan(flat.levels[1:]).all()
    assert str(flat) == "no drop seen; 3 not within 10000"
    late = TIMES[TIMES > 100]  # the first drop was before
    found = drops(late, smooth_staircase(late), LEVELS)
    assert found.early == 1 and math.isnan(found.times[0]) and math.isnan(found.levels[0])
    np.testing.assert_allclose(found.times[1:], AT[1:], rtol=1e-3)
    np.testing.assert_allclose(found.levels[1:3], LEVELS[1:3], rtol=1e-4)
    assert "1 before the first time" in str(found)
    assert drops([1.0], [5.0], [5.0, 1.0]).early == 0 and drops([1.0], [0.0], [5.0, 1.0]).early == 1


def test_levels_that_are_equal_have_no_drop_between_them():
    found = drops(TIMES, smooth_staircase(TIMES), [6.5625, 6.5625, 1.5625, 0.3125, 0.3125, 0.0])
    assert found.visible.tolist() == [False, True, True, False, True]
    np.testing.assert_allclose(found.times[found.visible], AT, rtol=2e-4)
    np.testing.assert_allclose(found.levels[:5], [6.5625, 6.5625, 1.5625, 0.3125, 0.3125], rtol=1e-5)
    assert str(drops([1.0, 2, 3], [1.0, 1, 1], [1.0, 1.0])) == "no drop seen"


def test_noise_that_dips_below_the_middle():
    rng = np.random.default_rng(0)
    loss = smooth_staircase(TIMES) * np.exp(0.1 * rng.standard_normal(500))
    loss[40] = 0.1  # a batch that happened to be easy
    assert drops(TIMES, loss, LEVELS).times[0] < 1
    found = drops(TIMES, loss, LEVELS, hold=3)
    np.testing.assert_allclose(found.times, AT, rtol=0.04)
    np.testing.assert_allclose(found.levels[:3], LEVELS[:3], rtol=0.05)
    levels = [p.level for p in plateaus(TIMES, loss, smooth=0.4, slope=0.1)]
    np.testing.assert_allclose(levels[:3], LEVELS[:3], rtol=0.06)
    loss[100] = np.nan
    np.testing.assert_allclose(drops(TIMES, loss, LEVELS, hold=3).times, AT, rtol=0.04)


def test_blind_plateaus():
    found = plateaus(TIMES, smooth_staircase(TIMES))
    np.testing.assert_allclose([p.level for p in found], LEVELS, rtol=1e-3)
    assert all(a.end < t < b.start for a, t, b in zip(found, AT, found[1:]))
    assert len(plateaus(TIMES, np.ones(500))) == 1 and plateaus(TIMES, np.ones(500))[0].start == pytest.approx(0.1)
    assert plateaus(TIMES, np.zeros(500))[0].level == 0
    assert plateaus(TIMES, 1 / TIMES) == () and plateaus([0.0], [1.0]) == () and plateaus([0.0, 1.0], [1.0, 1.0]) == ()
    assert plateaus([1.0, 1.1], [1.0, 1.0]) == ()  # 0.04 decades
    # A last level of rounding is 0, whatever the rounding is; a floor can be given.
    rounding = smooth_staircase(TIMES) + 1e-17 * (1 + np.sin(np.arange(500)))
    assert plateaus(TIMES, rounding)[-1].level == 0
    high = smooth_staircase(TIMES, (*LEVELS[:3], 1e-6))
    assert plateaus(TIMES, high)[-1].level == pytest.approx(1e-6) and plateaus(TIMES, high, floor=1e-5)[-1].level == 0


def test_a_blip_does_not_make_two_plateaus():
    loss = np.ones(400)
    loss[200:204] = 1.3
    times = np.geomspace(1, 100, 400)
    assert len(plateaus(times, loss)) == 1 and len(plateaus(times, loss, merge=0.0)) == 2


@settings(max_examples=25, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_units_of_time_and_loss_do_not_matter(time, size):
    """Scaling both by powers: the same drops and levels in the new units."""
    time, size = 10**time, 10**size
    one = drops(TIMES, smooth_staircase(TIMES), LEVELS)
    other = drops(time * TIMES, size * smooth_staircase(TIMES), size * np.array(LEVELS))
    np.testing.assert_allclose(other.times, time * one.times, rtol=1e-9)
    np.testing.assert_allclose(other.levels[:3], size * one.levels[:3], rtol=1e-9)
    blind = plateaus(time * TIMES, size * smooth_staircase(TIMES))
    np.testing.assert_allclose([p.level for p in blind], size * np.array(LEVELS), rtol=1e-3)
    score = staircase_score(time * TIMES, size * smooth_staircase(TIMES), time * np.array(AT), size * np.array(LEVELS))
    assert score.log_ratio == pytest.approx(
        staircase_score(TIMES, smooth_staircase(TIMES), AT, LEVELS).log_ratio, rel=1e-4
    )


def test_half_of_the_power():
    """a = 3t from 0 to 1: a² is half of 9 at t = 1/√2, for either sign."""
    times = np.linspace(0, 1, 1001)
    for sign in (1, -1):
        assert half_power(times, sign * 3 * times).step == pytest.approx(math.sqrt(0.5), abs=1e-6)
        assert half_power(times, sign * 3 * times, final=sign * 6).step is None
        assert half_power(times, sign * 3 * times, final=sign * 3.3).step == pytest.approx(1.1 * math.sqrt(0.5))
    there_and_back = np.sin(2 * np.pi * times) - 3 * times  # positive first, which is the wrong side
    assert half_power(times, there_and_back).step > 0.5
    assert half_power([1.0, 2.0], [1.0, 1.0]).step == 1 and half_power([1.0, 2.0], [1.0, 1.0], 5.0).within == 2
    with pytest.raises(InputError, match="has no half"):
        half_power([1.0, 2.0], [1.0, 0.0])


def test_towards_zero_finds_the_line_and_says_what_is_left():
    sizes = np.array([1e-4, 1e-8, 1e-16, 1e-300])
    far = -np.log(sizes)[:, None]
    times = np.array([0.25, 1.25]) + np.array([0.1, -0.3]) / far
    found = towards_zero(sizes, times)
    np.testing.assert_allclose(found.times, [0.25, 1.25], rtol=1e-12)
    np.testing.assert_allclose(found.shifts, [0.1, -0.3], rtol=1e-10)
    assert (found.residuals < 1e-14).all()
    bent = towards_zero(sizes, times + 1 / far**2)
    assert (bent.residuals > 1e-4).all()
    times[1:, 1] = np.nan  # seen at one start only
    times[2:, 0] = np.nan  # at two
    part = towards_zero(sizes, times)
    assert part.times[0] == pytest.approx(0.25) and math.isnan(part.times[1]) and np.isnan(part.residuals).all()


def test_a_perfect_score_and_what_spoils_it():
    loss = smooth_staircase(TIMES)
    fine = staircase_score(TIMES, loss, AT, LEVELS, features=[3.0, 1, 2], predicted_features=[30.0, 10, 20])
    assert fine.order == 1 and fine.missing == fine.later == fine.extra == 0
    assert np.abs(fine.time_errors).max() < 2e-4 and np.nanmax(np.abs(fine.level_errors)) < 1e-5
    assert math.isnan(fine.level_errors[3]) and str(fine).startswith("3 of 3 drops seen, times off by at most 0.0")
    far = staircase_score(TIMES, loss, 2 * np.array(AT), LEVELS)
    assert far.log_ratio > 5 * fine.log_ratio
    late = staircase_score(TIMES, loss, 1.1 * np.array(AT), LEVELS)
    np.testing.assert_allclose(late.time_errors, 1 / 1.1 - 1, atol=2e-4)
    assert math.isnan(late.order)
    low = staircase_score(TIMES, loss, AT, [6.5625, 1.42, 0.3125, 0.0])
    assert low.level_errors[1] == pytest.approx(1.5625 / 1.42 - 1, rel=1e-4)


def test_the_log_ratio_is_an_integral_over_log_time():
    """Measured stays at 4, predicted falls to 1 half way through the decades: half of ln 4."""
    times = np.geomspace(1, 100, 50)
    score = staircase_score(times, np.full(50, 4.0), [10.0], [4.0, 1.0])
    assert score.log_ratio == pytest.approx(math.log(4) / 2, rel=1e-3) and score.missing == 1


def test_missing_later_and_extra_drops():
    short = TIMES[TIMES < 1000]
    score = staircase_score(short, smooth_staircase(short), AT, LEVELS)
    assert (score.missing, score.later) == (0, 1) and "1 due later" in str(score)
    score = staircase_score(short, smooth_staircase(short), [20.0, 200.0, 900.0], LEVELS)
    assert (score.missing, score.later) == (1, 0) and "1 missing" in str(score)
    inside = smooth_staircase(TIMES, (6.5625, 1.5625, 0.3125, 0.2347, 0.0), (20.0, 200.0, 900.0, 3000.0))
    score = staircase_score(TIMES, inside, [20.0, 200.0, 3000.0], LEVELS)
    assert score.extra == 1 and score.missing == 0 and "1 extra" in str(score)
    late = TIMES[TIMES > 100]
    assert staircase_score(late, smooth_staircase(late), AT, LEVELS).missing == 0  # it was before the first time


def test_order_by_pairs():
    def order(measured, predicted):
        return staircase_score(TIMES, smooth_staircase(TIMES), AT, LEVELS, measured, predicted).order

    assert order([1.0, 2, 3, 4], [4.0, 3, 2, 1]) == -1
    assert order([2.0, 1, 3, 4], [1.0, 2, 3, 4]) == pytest.approx(4 / 6)
    assert order([2.0, 1, 3], [1.0, 1, 3]) == 1  # a predicted tie may come either way
    assert order([1.0, math.nan, math.nan], [1.0, 2, 3]) == pytest.approx(2 / 3)  # two that never came have no order
    assert order([1.0, math.nan], [2.0, 1.0]) == -1
    assert math.isnan(order([1.0, 2.0], [1.0, 1.0])) and math.isnan(order([1.0], [1.0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drops([1, 2], [1.0], [1.0, 0.0]), "do not fit"),
        (lambda: drops([2, 1], [1.0, 1.0], [1.0, 0.0]), "increase"),
        (lambda: drops([-1, 1], [1.0, 1.0], [1.0, 0.0]), "not negative"),
        (lambda: drops([1, 2], [1.0, 1.0], [1.0]), "at least two"),
        (lambda: drops([1, 2], [1.0, 1.0], [1.0, 2.0]), "levels rise"),
        (lambda: drops([1, 2], [1.0, 1.0], [1.0, 0.0], hold=0), "hold=0"),
        (lambda: plateaus([1, 2], [1.0, math.nan]), "finite and not negative"),
        (lambda: plateaus([1, 2], [1.0, 1.0], width=0), "above 0"),
        (lambda: towards_zero([0.1], [[1.0]]), "at least two different"),
        (lambda: towards_zero([0.1, 2.0], [[1.0], [1.0]]), "between 0 and 1"),
        (lambda: towards_zero([0.1, 0.2], [1.0, 1.0]), "give \\(starts, drops\\)"),
        (lambda: staircase_score([1, 2], [1.0, 1.0], [1.0, 2.0], [1.0, 0.0]), "2 levels and 2 predicted"),
        (lambda: staircase_score([1, 2], [1.0, 1.0], [1.0], [1.0, 0.0], [1.0], [1.0, 2.0]), "features"),
    ],
)
def test_bad_staircases_are_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
