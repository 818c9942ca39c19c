"""Transition times and verdicts on synthetic curves, and on the published means of a real experiment.

TIMES is the list of branching times of the scaled-down chaos experiment (steps; 12 values from 0 to 1000).

Simulated curves (`draw`): seed i falls at t*ᵢ = 300·exp(σ·z), z standard normal and σ = 0.3, from 0.3 to 0 with Hill
exponent s = 4; every value has independent Gaussian noise of 0.03, a tenth of the fall. Because ln t*ᵢ is symmetric
about ln 300, so is the mean curve, and 300 is the true answer. Measured, over 600 sets of curves each:

    seeds   coverage of the nominal 90 % interval   bias of ln t*
    3       0.91                                    +1.3 ± 0.8 %
    6       0.90                                    +0.6 ± 0.6 %
    12      0.92                                    +0.5 ± 0.4 %

The permutation test calls 4.7 ± 0.4 % of 3000 flat noise curves a fall, and finds every fall with noise of a tenth of
it (97 % with a third and one seed, 100 % with three seeds). Other scatter and steepness (σ = 0.5, s = 2; σ = 0.2,
s = 8) gave 0.90 to 0.95, and 0.99 for 12 seeds with σ = 0.2, where half a step of the times exceeds the jackknife.
"""

import math
import time

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn.compare import hill, ordering, transition
from learndyn.errors import InputError

TIMES = np.array([0, 50, 100, 150, 225, 300, 400, 500, 600, 700, 850, 1000.0])
TRUE = 300.0


def fall(middle, steepness=4.0, early=1.0, late=0.0, times=TIMES):
    return late + (early - late) / (1 + (times / middle) ** steepness)


def draw(rng, seeds, scatter=0.3, steepness=4.0, noise=0.03):
    middles = TRUE * np.exp(scatter * rng.standard_normal((seeds, 1)))
    return fall(middles, steepness, 0.3) + noise * rng.standard_normal((seeds, len(TIMES)))


@pytest.mark.parametrize("middle", [80.0, 137.0, 300.0, 555.0, 800.0])
@pytest.mark.parametrize("steepness", [2.0, 4.0, 8.0])
def test_a_hill_curve_is_recovered(middle, steepness):
    found = transition(TIMES, fall(middle, steepness, 0.7, 0.1), noise=0.01)
    assert found.verdict == "transition"
    # t* lies on a grid of 1.6 % refined by a parabola, which leaves less than a tenth of a step
    assert found.time == pytest.approx(middle, rel=2e-3)
    assert found.steepness == steepness
    assert found.r2 == pytest.approx(1, abs=1e-5)
    assert found.p_value < 0.01
    np.testing.assert_allclose(found.curve(TIMES), fall(middle, steepness, 0.7, 0.1), atol=2e-3)


def test_the_fit_is_the_least_squares_minimum():
    """Brute force over (t*, s) with a regression each, on a noisy curve."""
    curve = draw(np.random.default_rng(3), 1)[0]
    found = hill.fit(hill.shapes(TIMES), curve)
    best = min(
        (np.linalg.lstsq(np.stack([fall(m, s), np.ones(12)], 1), curve, rcond=None)[1][0], m, s)
        for m in np.geomspace(50, 1000 / 0.85, 2000)
        for s in hill.STEEPNESS
    )
    assert (found.time, found.steepness) == (pytest.approx(best[1], rel=3e-3), best[2])
    assert 1 - found.r2 == pytest.approx(best[0] / np.sum((curve - curve.mean()) ** 2), rel=1e-3)


@pytest.mark.parametrize(
    "curve, options, verdict",
    [
        (fall(300), {}, "transition"),
        (np.zeros(12), {}, "no transition: stable from the start"),
        (np.full(12, 1e-9), {"noise": 1e-6}, "no transition: stable from the start"),
        (np.full(12, -8.5), {"floor": -9.0, "noise": 1.0}, "no transition: stable from the start"),
        (np.full(12, 0.6), {"noise": 0.01}, "no transition: chaotic throughout"),
        (np.full(12, -0.1), {"floor": -8.5, "noise": 1.0}, "no transition: chaotic throughout"),
        (fall(300, late=0.6), {}, "no transition: chaotic throughout"),  # a significant fall to a high plateau
        (fall(300, late=0.4), {}, "transition"),
        (fall(300, late=-0.3, early=-0.01), {"floor": -8.5, "noise": 1.0}, "no transition: chaotic throughout"),
        (np.linspace(0.2, 0.5, 12), {}, "no transition: chaotic throughout"),  # it rises, but was never stable
        (fall(900, 12.0), {}, "window too short"),
        (fall(1000, 2.0, late=-0.1), {}, "window too short"),
        (1 - fall(300), {"noise": 0.01}, "undecided"),  # stable first, chaotic later
        (fall(300) - 8.5, {}, "undecided"),  # the floor is not 0
        (np.where(np.arange(12) == 2, 1.0, 0.01), {}, "undecided"),  # one high value
        (np.where(np.arange(12) == 3, np.nan, 1.0), {}, "undecided"),
        (np.where(np.arange(12) == 3, -np.inf, 1.0), {}, "undecided"),
    ],
)
def test_verdicts(curve, options, verdict):
    found = transition(TIMES, curve, **options)
    assert found.verdict == verdict
    assert math.isnan(found.time) == (verdict != "transition")
    assert bool(found.why) == (verdict == "undecided")


def test_a_verdict_says_what_stood_in_the_way():
    assert str(transition(TIMES[:3], [1.0, 0.5, 0.0])) == "undecided (3 times are too few, at least 4 are needed)"
    assert "1 of 12 values are not finite" in str(transition(TIMES, np.where(TIMES == 0, np.nan, 1)))
    assert "below floor=0" in str(transition(TIMES, fall(300) - 8.5))
    assert str(transition(TIMES, fall(900, 12.0))) == "window too short: t* beyond 850"
    late = transition(TIMES, fall(1100, 8.0))
    assert str(late) == "no transition: chaotic throughout (still falling at the last time)"


def test_four_times_are_enough_for_a_clean_fall():
    """All 24 orders are tried, and only the given one falls throughout: p = 1/24."""
    found = transition([0, 100, 200, 400], [1.0, 0.9, 0.2, 0.0])
    assert (found.verdict, found.p_value) == ("transition", 1 / 24)


@pytest.mark.parametrize("floor", [0.0, -8.5])
def test_one_seed_has_a_time_but_no_interval(floor):
    found = transition(TIMES, fall(300) + floor, floor=floor)
    assert math.isnan(found.low) and math.isnan(found.high) and found.without == ()
    assert str(found) == "t* 300 (one seed: no interval)"


def test_equal_seeds_leave_half_a_step():
    """The jackknife sees no scatter; what remains is the spacing of the times, here from 300 to 400."""
    found = transition(TIMES, [fall(340)] * 3)
    assert found.resolution == pytest.approx(math.log(400 / 300) / 2)
    assert (found.low, found.high) == pytest.approx(
        (found.time * math.sqrt(3 / 4), found.time * math.sqrt(4 / 3)), rel=1e-6
    )


def test_a_fall_before_the_first_positive_time_has_no_lower_end():
    found = transition(TIMES, [fall(30, 2.0)] * 3)
    assert (found.verdict, found.time, found.low) == ("transition", pytest.approx(50), 0)


def test_a_fall_of_one_seed_alone_has_an_endless_interval():
    found = transition(TIMES, [fall(300), np.zeros(12)])
    assert (found.low, found.high) == (0, math.inf)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_units_of_the_curves_do_not_matter(seed, scale, shift):
    """y → scale·y + shift, with floor and noise in the new unit, changes nothing but the levels."""
    curves = draw(np.random.default_rng(seed), 3)
    shift *= scale  # a shift far beyond the scale would only lose digits
    before = transition(TIMES, curves, noise=0.03)
    after = transition(TIMES, scale * curves + shift, floor=shift, noise=0.03 * scale)
    assert after.verdict == before.verdict
    assert (after.time, after.low, after.high) == pytest.approx((before.time, before.low, before.high), rel=1e-6)
    assert after.p_value == pytest.approx(before.p_value, abs=0.005)
    assert after.early == pytest.approx(scale * before.early + shift, rel=1e-6, abs=1e-6 * scale)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_units_of_time_do_not_matter(seed, scale):
    curves = draw(np.random.default_rng(seed), 3)
    before, after = (transition(times, curves) for times in (TIMES, scale * TIMES))
    assert (after.time, after.low, after.high) == pytest.approx(
        (scale * before.time, scale * before.low, scale * before.high), rel=1e-6
    )


@given(st.permutations(range(4)))
def test_the_order_of_seeds_does_not_matter(order):
    curves = draw(np.random.default_rng(1), 4)
    before, after = transition(TIMES, curves, permutations=100), transition(TIMES, curves[order], permutations=100)
    assert (after.time, after.low, after.high) == pytest.approx((before.time, before.low, before.high), rel=1e-9)


@given(st.floats(60, 700), st.floats(1.05, 1.2))
def test_a_later_fall_is_found_later(middle, factor):
    tried = hill.shapes(TIMES)
    assert hill.fit(tried, fall(middle)).time < hill.fit(tried, fall(factor * middle)).time


@pytest.mark.parametrize("wrap", [list, torch.tensor, lambda rows: xr.DataArray(rows, dims=("seed", "t0"))])
def test_any_array_will_do(wrap):
    curves = draw(np.random.default_rng(0), 3)
    assert transition(TIMES.astype(int), wrap(curves)) == transition(TIMES, curves)


@pytest.mark.parametrize(
    "times, curves, options, words",
    [
        ([0, 50, 50, 100], np.ones(4), {}, "increases from 0"),
        ([-1, 50, 60, 100], np.ones(4), {}, "increases from 0"),
        ([0, 50, np.nan, 100], np.ones(4), {}, "increases from 0"),
        (TIMES, np.ones(11), {}, r"shape \(11,\) do not fit 12 times"),
        (TIMES, np.ones((12, 3)), {}, r"give \(seeds, times\)"),
        (TIMES, np.ones((2, 3, 12)), {}, r"give \(seeds, times\)"),
        (TIMES, np.ones((0, 12)), {}, r"give \(seeds, times\)"),
        (TIMES, np.ones(12), {"level": 90.0}, "level=90"),
        (TIMES, np.ones(12), {"noise": -1}, "noise=-1"),
        (TIMES, np.ones(12), {"permutations": 10}, "permutations=10"),
    ],
)
def test_bad_input(times, curves, options, words):
    with pytest.raises(InputError, match=words):
        transition(times, curves, **options)


def test_it_is_fast():
    """6 seeds × 12 times × 1000 permutations: 10 ms on one core; the limit leaves room for a busy machine."""
    curves = draw(np.random.default_rng(0), 6)
    elapsed = []
    for _ in range(3):
        start = time.perf_counter()
        transition(TIMES, curves, permutations=1000)
        elapsed.append(time.perf_counter() - start)
    assert min(elapsed) < 0.2


# Means over 3 seeds × 2 directions of a batch-normalised MLP on noisy digits (SGD, cosine schedule to 1500 steps,
# ε = 1e-7), rounded, and the times found there from 6 and from 3 seeds, on a grid of t* of about 7.6 %.
MEANS = {
    "barrier": ([0.324, 0.220, 0.179, 0.183, 0.107, 0.058, 0.016, 0.011, 0.000, 0.006, 0, 0], (144, 180)),
    "dissimilarity": ([0.488, 0.313, 0.287, 0.269, 0.211, 0.149, 0.045, 0.031, 0.000, 0.015, 0, 0], (241, 241)),
    "disagreement": ([0.197, 0.177, 0.167, 0.169, 0.169, 0.139, 0.117, 0.069, 0.008, 0.025, 0, 0], (432, 465)),
    "log distance": ([-0.01, -0.10, -0.12, -0.14, -0.20, -0.27, -0.58, -1.39, -4.3, -5.5, -7.9, -8.5], (623, 623)),
}


@pytest.mark.parametrize("metric", MEANS)
def test_measured_means(metric):
    """Ours: 183, 241, 449, 638. Half a step of their grid is 4 % to either side."""
    means, (low, high) = MEANS[metric]
    found = transition(TIMES, means, **({"floor": -8.5, "noise": 1.0} if metric == "log distance" else {"noise": 0.01}))
    assert found.verdict == "transition"
    assert low / 1.04 < found.time < high * 1.04
    assert found.p_value < 0.01


def test_a_log_distance_with_floor_zero_is_refused():
    assert transition(TIMES, MEANS["log distance"][0]).verdict == "undecided"


def test_ordering_is_paired():
    """Seeds scatter by a factor 1.5, the second metric always falls 1.6 times later: unpaired intervals overlap."""
    middles = 200 * np.exp(0.4 * np.array([[-1.2], [-0.3], [0.4], [1.1]]))
    first, second = transition(TIMES, fall(middles)), transition(TIMES, fall(1.6 * middles))
    assert first.high > second.low
    claim = ordering(first, second, name="basin before function")
    assert claim.verdict == "holds" and claim.low < math.log(1.6) < claim.high
    assert ordering(second, first).verdict == "fails"
    assert ordering(second, first).measured == -claim.measured
    assert ordering(first, transition(TIMES, fall(1.02 * middles))).verdict == "undecided"


def test_no_order_without_two_transitions_or_with_one_seed():
    found, none = transition(TIMES, [fall(200)] * 3), transition(TIMES, np.zeros((3, 12)))
    assert ordering(found, none).verdict == ordering(none, found).verdict == "undecided"
    assert ordering(transition(TIMES, fall(100)), transition(TIMES, fall(600))).verdict == "undecided"


def test_an_order_needs_the_same_seeds():
    with pytest.raises(InputError, match="3 seeds at level 0.9 and 4 seeds at level 0.9"):
        ordering(transition(TIMES, [fall(200)] * 3), transition(TIMES, [fall(600)] * 4))


def test_flat_noise_is_rarely_a_transition():
    """200 flat curves of pure noise, with the least helpful options: floor and noise 0, level and scatter equal."""
    rng = np.random.default_rng(0)
    verdicts = [transition(TIMES, rng.normal(0.1, 0.1, 12), permutations=200).verdict for _ in range(200)]
    assert verdicts.count("transition") + verdicts.count("window too short") <= 0.08 * 200


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 6, 12])
def test_coverage_and_bias(seeds):
    """Standard errors with 400 sets: 0.015 for the coverage; 0.009 (3 seeds) for the bias."""
    rng = np.random.default_rng(seeds)
    found = [transition(TIMES, draw(rng, seeds), noise=0.03, permutations=100) for _ in range(400)]
    assert {each.verdict for each in found} == {"transition"}
    coverage = np.mean([each.low <= TRUE <= each.high for each in found])
    bias = np.mean([math.log(each.time / TRUE) for each in found])
    assert 0.85 < coverage < 0.96
    assert abs(bias) < 0.035


@pytest.mark.slow
def test_false_alarms_and_power():
    """Standard error with 1500 flat curves: 0.006."""
    rng, tried = np.random.default_rng(0), hill.shapes(TIMES)
    flat = [hill.p_value(tried, rng.standard_normal(12), 200, seed) <= 0.05 for seed in range(1500)]
    falls = [hill.p_value(tried, draw(rng, 3).mean(axis=0), 200, seed) <= 0.05 for seed in range(300)]
    assert 0.03 < np.mean(flat) < 0.07
    assert all(falls)


@pytest.mark.slow
def test_order_holds_where_it_should():
    """Second 1.6 times later: 86 % hold and none fails; equal times: 98 % undecided (300 sets of 3 seeds each)."""
    rng = np.random.default_rng(0)

    def verdicts(factor):
        for _ in range(150):
            middles = 200 * np.exp(0.3 * rng.standard_normal((3, 1)))
            curves = (fall(m) + 0.1 * rng.standard_normal((3, len(TIMES))) for m in (middles, factor * middles))
            yield ordering(*(transition(TIMES, each, noise=0.1, permutations=100) for each in curves)).verdict

    later, equal = list(verdicts(1.6)), list(verdicts(1.0))
    assert later.count("holds") > 0.75 * len(later) and "fails" not in later
    assert equal.count("undecided") > 0.9 * len(equal)
