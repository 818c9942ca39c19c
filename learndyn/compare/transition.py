"""When does a curve fall? Transition times with intervals, and the verdict that there is none.

Made for curves over the branching time t0 of perturbed twins (loss barrier, disagreement, parameter dissimilarity, log
distance: high while the run is chaotic, nothing once it is stable), but it takes any curve that may fall from one level
to another. The times of the two-phase papers (arXiv:2505.13900, arXiv:2503.16316) were read off pictures; here

    t*          half-way point of a Hill curve through the mean over seeds (`learndyn.compare.hill`),
    interval    delete-one-seed jackknife of ln t*, never narrower than half a step of the times to either side,
    existence   permutation test at 5 %: shuffle the times of the mean curve, compare R².

What was tried on synthetic curves is in tests/compare/test_transition.py: coverage, bias, false alarms.
"""

from dataclasses import dataclass, replace
from typing import Literal, SupportsFloat

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from learndyn.compare import hill
from learndyn.compare.intervals import Estimate, half_width, left_out
from learndyn.errors import InputError

Verdict = Literal[
    "transition",
    "no transition: chaotic throughout",
    "no transition: stable from the start",
    "window too short",
    "undecided",
]

SIGNIFICANCE = 0.05
FEWEST = 4  # times: as many as the Hill curve has parameters, and the fewest whose orders (24) can reach 5 %


@dataclass(frozen=True)
class Transition:
    """What a set of curves says about a transition.

    Attributes:
        verdict: One of `Verdict`; only "transition" comes with a time.
        time: Transition time t*, in the unit of the times; nan if there is none.
        low: Lower end of its interval; nan with one seed. With "window too short", the time that t* lies beyond.
        high: Upper end of its interval; nan with one seed, inf if the curve without some seed does not fall.
        level: Probability of the interval.
        early: Level at the first time, in the unit of the curves: of the fitted curve if it falls significantly,
            else the mean over the first third of the times. Never extrapolated.
        late: Level at the last time, likewise.
        steepness: Hill exponent s; the slope in ln t at t* is −s/4 of the whole fall.
        r2: Share of the variance of the mean curve that the Hill curve explains; 0 if it nowhere falls.
        p_value: Of the permutation test; nan if it was not needed.
        seeds: Number of curves.
        window: First and last time.
        without: t* without each seed in turn, as `ordering` needs them.
        resolution: Half a step of the times around t*, in ln t.
        why: What stood in the way of a verdict, or a remark on it; may be empty.
    """

    verdict: Verdict
    time: float
    low: float
    high: float
    level: float
    early: float
    late: float
    steepness: float
    r2: float
    p_value: float
    seeds: int
    window: tuple[float, float]
    without: tuple[float, ...] = ()
    resolution: float = float("nan")
    why: str = ""

    def __str__(self) -> str:
        if self.verdict == "transition":
            interval = "(one seed: no interval)" if self.seeds == 1 else f"[{_short(self.low)}, {_short(self.high)}]"
            return f"t* {_short(self.time)} {interval}"
        if self.verdict == "window too short":
            return f"window too short: t* beyond {_short(self.low)}"
        return self.verdict + (f" ({self.why})" if self.why else "")

    @property
    def estimate(self) -> Estimate:
        """The transition time as a number for a claim; nan, and so undecided, if there is none."""
        low, high = (self.low, self.high) if self.verdict == "transition" else (float("nan"), float("nan"))
        method = f"{100 * self.level:g} % jackknife of ln t* over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        return Estimate(self.time, low, high, method if self.verdict == "transition" else str(self))

    def curve(self, times: ArrayLike) -> Float[np.ndarray, " times"]:
        """The fitted Hill curve, for a figure; nan if there is no transition."""
        inside, ends = (
            hill.shape(np.asarray(t, dtype=float), float(np.log(self.time)), self.steepness)
            for t in (times, self.window)
        )
        return self.late + (self.early - self.late) * (inside - ends[1]) / (ends[0] - ends[1])


def transition(
    times: ArrayLike,
    curves: ArrayLike,
    *,
    level: float = 0.9,
    floor: SupportsFloat = 0.0,
    noise: SupportsFloat = 0.0,
    permutations: int = 1000,
    seed: int = 0,
) -> Transition:
    """Find the time at which curves fall, or say why there is none.

    The verdict is the first that fits, read off the mean curve over seeds:

    1. `undecided`: fewer than 4 times, or a value is nan or infinite.
    2. `undecided`: the curve goes further below `floor` than half its height above it, so the floor is wrong.
    3. `no transition: stable from the start`: nowhere more than `noise` above `floor`.
    4. `undecided`: within the noise at the first time but not later, so it is not a single fall.
    5. `no transition: chaotic throughout`: at the end it is still above `noise`, and at more than half the height above
       `floor` that it had at the beginning. If it had begun to fall, `why` says so.
    6. `undecided`: the permutation test finds no significant fall.
    7. `window too short`: it falls, but t* lies beyond the last time but one.
    8. `transition`.

    `floor` and `noise` only choose the verdict; t*, its interval and the p-value do not depend on them, nor on a shift
    or positive scale of the curves. Loss barriers, disagreement and dissimilarity have floor 0 and as noise their size
    where twins agree (one test sample for a disagreement). A log distance log10(‖δ‖/‖θ‖) is negative and has no zero;
    its floor is that of the perturbation, log10(ε/‖θ‖), and its noise the growth that still counts as none, such as one
    decade. A log growth factor has floor 0 and noise ln 2; clip contraction (negative values) first.

    Args:
        times: Increasing times, the first may be 0; shape (times,), any unit.
        curves: Values over seeds and times, shape (seeds, times), or (times,) for one seed. Average directions first:
            they are not independent, and a seed is what is left out.
        level: Probability of the interval, in (0, 1).
        floor: The value that means "nothing left", in the unit of the curves.
        noise: Smallest height above `floor` that counts, same unit.
        permutations: Random orders in the permutation test (all n! of them if they are no more than this).
        seed: Of these random orders.

    Raises:
        InputError: If times do not increase from 0 or later, shapes do not match, or an option is out of range.

    >>> times = [0, 50, 100, 150, 200, 300, 400, 600, 800]
    >>> print(transition(times, [1 / (1 + (t / 200) ** 4) for t in times]))
    t* 200 (one seed: no interval)
    >>> print(transition(times, [0.3, 0.4, 0.3, 0.5, 0.4, 0.4, 0.3, 0.4, 0.5], noise=0.05))
    no transition: chaotic throughout
    """
    floor, noise = float(floor), float(noise)
    at, values = _checked(times, curves, level, noise, permutations)
    third = max(1, len(at) // 3)
    with np.errstate(invalid="ignore"):
        mean = values.mean(axis=0)
        levels = float(mean[:third].mean()), float(mean[-third:].mean())
    height = mean - floor
    nan, window = float("nan"), (float(at[0]), float(at[-1]))
    seen = Transition("undecided", nan, nan, nan, level, *levels, nan, 0.0, nan, len(values), window)
    if obstacle := _obstacle(values, floor, noise):
        return replace(seen, why=obstacle)
    if height.max() <= noise:
        return replace(seen, verdict="no transition: stable from the start")
    if height[0] <= noise:
        return replace(seen, why="within the noise at the first time but not later, so it is not a single fall")

    tried = hill.shapes(at)
    best = hill.fit(tried, mean)
    p = hill.p_value(tried, mean, permutations, seed)
    falls = p <= SIGNIFICANCE and best.r2 > 0
    seen = replace(seen, r2=best.r2, p_value=p)
    if falls:
        seen = replace(seen, early=best.first, late=best.last, steepness=best.steepness)
    beyond = falls and best.time > at[-2]
    if seen.late - floor > max(noise, (seen.early - floor) / 2):
        why = "still falling at the last time" if beyond else ""
        return replace(seen, verdict="no transition: chaotic throughout", why=why)
    if not falls:
        return replace(seen, why=f"no significant fall (p = {p:.2g})")
    if beyond:
        return replace(seen, verdict="window too short", low=float(at[-2]), high=float("inf"))

    without = left_out(lambda kept: hill.fit(tried, kept.mean(axis=0)).time, values)
    low, high, resolution = _interval(at, best.time, without, level)
    found = replace(seen, verdict="transition", time=best.time, low=low, high=high)
    return replace(found, without=tuple(without.tolist()), resolution=resolution)


def _checked(
    times: ArrayLike, curves: ArrayLike, level: float, noise: float, permutations: int
) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "seeds times"]]:
    at, values = np.asarray(times, dtype=float), np.atleast_2d(np.asarray(curves, dtype=float))
    if at.ndim != 1 or not np.isfinite(at).all() or np.any(np.diff(at) <= 0) or np.any(at < 0):
        raise InputError(f"times={np.array2string(at, threshold=12)} must be one list that increases from 0 or later.")
    if values.ndim != 2 or values.shape[1] != len(at) or values.size == 0:
        raise InputError(
            f"curves of shape {np.shape(curves)} do not fit {len(at)} times; give (seeds, times) or (times,)."
        )
    if not 0 < level < 1:
        raise InputError(f"level={level:g} must lie between 0 and 1, for example 0.9.")
    if not noise >= 0:
        raise InputError(f"noise={noise:g} must be 0 or more; it is a height above the floor.")
    if permutations < 100:
        raise InputError(f"permutations={permutations} cannot settle a test at 5 %; give at least 100, better 1000.")
    return at, values


def _obstacle(values: Float[np.ndarray, "seeds times"], floor: float, noise: float) -> str:
    """Why these curves cannot be judged at all; empty if they can."""
    seeds, times = values.shape
    if times < FEWEST:
        return f"{times} times are too few, at least {FEWEST} are needed"
    if not np.isfinite(values).all():
        return f"{np.sum(~np.isfinite(values))} of {values.size} values are not finite"
    mean = values.mean(axis=0)
    if floor - mean.min() > max(noise, (mean.max() - floor) / 2):
        return f"values down to {mean.min():.3g} are below floor={floor:g}; give the value that means nothing left"
    return ""


def _interval(
    at: Float[np.ndarray, " times"], time: float, without: Float[np.ndarray, " left_out"], level: float
) -> tuple[float, float, float]:
    """Ends of the interval of t*, and half a step of the times around it in ln t."""
    positive = at[at > 0]
    below = max(int(np.searchsorted(positive, time, side="right")) - 1, 0)
    resolution = float(np.log(positive[below + 1] / positive[below])) / 2
    if len(without) == 0:
        return float("nan"), float("nan"), resolution
    half = max(half_width(np.log(without), level), resolution)
    # at the first positive time the fall is over before it could be seen: it may have happened at any earlier time
    low = 0.0 if time <= positive[0] else time * float(np.exp(-half))
    return low, time * float(np.exp(half)), resolution


def _short(time: float) -> str:
    return f"{time:.0f}" if time >= 100 else f"{time:.3g}"
