"""The staircase in a measured loss: when it drops, on which levels it stays (staircases of arXiv:2506.06489).

Matched detection asks when the loss falls through the middle of two predicted levels; blind detection looks for flat
parts and knows of no prediction. Drops that a run was too short to show have no time, and its length is not one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import savgol_filter

from learndyn.compare.crossing import Crossing
from learndyn.errors import InputError

ONE_PERCENT = 0.01
WINDOW = 1 / 3  # of a plateau: its flattest part, on which the level is read
SMALLEST = 1e-10  # of the largest loss: from here on down a loss is rounding


@dataclass(frozen=True)
class Drops:
    """Where a measured loss follows a staircase of given levels.

    Attributes:
        times: When the loss falls through the middle of two levels, `(drops,)`; nan if it was not seen to.
        levels: Median of the loss on the flattest part of every plateau, `(drops + 1,)`; nan if there are fewer than
            two records on it.
        visible: Whether the levels before and after differ at all, `(drops,)`; if not, no drop can be seen.
        early: How many had happened by the first time; their times are nan.
        end: When 1 % of the last level but one is left, if the last level is 0; else nan.
        within: Last time that was looked at.
    """

    times: np.ndarray
    levels: np.ndarray
    visible: np.ndarray
    early: int
    end: float
    within: float

    @property
    def reached(self) -> np.ndarray:
        """Which drops have a time, `(drops,)`."""
        return np.isfinite(self.times)

    def __str__(self) -> str:
        seen = ", ".join(f"{t:g}" for t in self.times[self.reached])
        late = int(self.visible.sum()) - int(self.reached.sum()) - self.early
        parts = [f"drops at {seen}" if seen else "no drop seen"]
        parts += [f"{self.early} before the first time"] * bool(self.early)
        parts += [f"{late} not within {self.within:g}"] * bool(late)
        return "; ".join(parts)


def drops(times: ArrayLike, loss: ArrayLike, levels: ArrayLike, hold: int = 1, log: bool | None = None) -> Drops:
    """Drop k is where the loss first falls below the middle of levels k−1 and k.

    The time is interpolated between two records, linearly in the loss and in ln t or t.

    >>> print(drops([1, 2, 3, 4, 5], [4.0, 4.0, 2.0, 2.0, 2.0], [4.0, 2.0, 1.0]))
    drops at 2.5; 1 not within 5

    Args:
        times: Increasing, from 0 on, `(times,)`.
        loss: The series, `(times,)`; nan is below nothing.
        levels: Of the plateaus, `(drops + 1,)`, not rising. Equal neighbours have no drop to be seen between them.
        hold: Records in a row that must be below, more than 1 for a noisy loss.
        log: Interpolate, and look for flat parts, in ln t; by default if the times are more evenly spaced so.

    Raises:
        InputError: If times and loss do not fit each other, or the levels rise, are negative or fewer than two.
    """
    at, series = _series(times, loss)
    steps = np.asarray(levels, float)
    if steps.ndim != 1 or len(steps) < 2 or not np.isfinite(steps).all() or (steps < 0).any():
        raise InputError("levels must be at least two finite numbers, none negative: one before and one after a drop.")
    if (np.diff(steps) > 0).any():
        raise InputError("levels rise; a staircase of the loss only falls: give the level before and after each drop.")
    if hold < 1:
        raise InputError(f"hold={hold} records cannot be below a level; give at least 1.")
    clock = _clock(at, log)
    visible = np.diff(steps) < 0
    found = np.full(len(visible), np.nan)
    early, begin = 0, 0
    where: list[tuple[int, int]] = []  # plateaus and the records at which they begin
    for k in np.flatnonzero(visible):
        time, index = _fall(at, series, clock, (steps[k] + steps[k + 1]) / 2, hold)
        if index is None:
            break
        early += math.isnan(time)
        found[k] = time
        where.append((int(k) + 1, index))
    read = np.full(len(steps), np.nan)
    plateau = 0
    for after, index in [*where, (0, len(at))]:
        read[plateau] = _flattest(clock[begin:index], series[begin:index])
        begin, plateau = index, after
    for k in np.flatnonzero(~visible):
        read[k + 1] = read[k]
    end = math.nan
    if steps[-1] == 0 and steps[-2] > 0:
        end = _fall(at, series, clock, ONE_PERCENT * steps[-2], hold)[0]
    return Drops(found, read, visible, early, end, float(at[-1]))


@dataclass(frozen=True)
class Plateau:
    """A flat part of a loss.

    Attributes:
        level: Median of the loss on it; 0 if that is rounding.
        start: When it begins.
        end: When it ends.
    """

    level: float
    start: float
    end: float


def plateaus(
    times: ArrayLike,
    loss: ArrayLike,
    slope: float = 0.05,
    width: float = 0.08,
    points: int = 400,
    smooth: float = 0.0,
    merge: float = 0.01,
    floor: float | None = None,
) -> tuple[Plateau, ...]:
    """Flat parts of a loss, without any prediction: |d ln L / d ln t| is small on a long enough interval.

    The loss is resampled on times that are even in ln t; a record at time 0 is left out.

    >>> [f"{p.level:g}" for p in plateaus([1, 10, 11, 100], [4.0, 4.0, 1.0, 1.0])]
    ['4', '1']

    Args:
        times: Increasing, from 0 on, `(times,)`.
        loss: The series, `(times,)`, finite and not negative.
        slope: Largest |d ln L / d ln t| of a flat part.
        width: Shortest flat part, in decades of time.
        points: Times of the resampling.
        smooth: Decades over which a slope is fitted; for a noisy loss about as much as `width`.
        merge: Neighbours whose levels differ by less than this part of the larger are one plateau.
        floor: Losses at or below it are 0 to rounding; 1e-10 of the largest by default.

    Raises:
        InputError: If times and loss do not fit each other, the loss is negative or not finite, or an option is not
            positive.
    """
    at, series = _series(times, loss)
    if not np.isfinite(series).all() or (series < 0).any():
        raise InputError("The loss must be finite and not negative; cut a run that diverged before it did.")
    if min(slope, width) <= 0 or points < 3 or min(smooth, merge) < 0 or (floor is not None and floor < 0):
        raise InputError(
            f"slope={slope:g}, width={width:g}, points={points}, smooth={smooth:g}, merge={merge:g}: the first two "
            "must be above 0, the points at least 3, the others not negative."
        )
    at, series = at[at > 0], series[at > 0]
    if not len(at):
        return ()
    low = max(SMALLEST * series.max() if floor is None else floor, np.finfo(float).tiny)
    if len(at) < 2 or math.log10(at[-1] / at[0]) < width:
        return ()
    clock = np.linspace(math.log(at[0]), math.log(at[-1]), points)
    curve = np.interp(clock, np.log(at), np.log(np.maximum(series, low)))
    delta = clock[1] - clock[0]
    window = min(round(smooth * math.log(10) / delta) // 2 * 2 + 1, (points - 1) // 2 * 2 + 1)
    rate = savgol_filter(curve, window, 1, deriv=1, delta=delta) if window > 2 else np.gradient(curve, delta)
    parts: list[tuple[int, int]] = []
    for first, last in _runs(np.abs(rate) < slope):
        if (clock[last] - clock[first]) / math.log(10) < width:
            continue
        before = np.median(curve[slice(parts[-1][0], parts[-1][1] + 1)]) if parts else np.inf
        if parts and abs(np.median(curve[first : last + 1]) - before) < merge:
            parts[-1] = (parts[-1][0], last)
        else:
            parts.append((first, last))
    found = []
    for first, last in parts:
        level = math.exp(float(np.median(curve[first : last + 1])))
        found.append(Plateau(0.0 if level <= low * 1.001 else level, math.exp(clock[first]), math.exp(clock[last])))
    return tuple(found)


def half_power(times: ArrayLike, amplitude: ArrayLike, final: float | None = None, log: bool | None = None) -> Crossing:
    """When the power a² of a feature is first half of its last: a/a_end ≥ 1/√2, interpolated.

    The sign counts: a coordinate that grew to the wrong side has none of its power.

    Args:
        times: Increasing, from 0 on, `(times,)`.
        amplitude: Of the feature, `(times,)`: a coefficient, a singular value, a Fourier amplitude.
        final: a_end; the last value by default, which is too small in a run that was stopped early.
        log: Interpolate in ln t; by default if the times are more evenly spaced so.

    Raises:
        InputError: If times and amplitudes do not fit each other, or the last amplitude is 0 or not finite.
    """
    at, series = _series(times, amplitude)
    end = float(series[-1]) if final is None else float(final)
    if not math.isfinite(end) or end == 0:
        raise InputError(f"A feature that ends at {end:g} has no half; give final, the amplitude it is to reach.")
    time, index = _fall(at, -series / end, _clock(at, log), -math.sqrt(0.5), 1)
    return Crossing(None if index is None else float(at[0]) if math.isnan(time) else time, float(at[-1]))


def _series(times: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    at, series = np.asarray(times, float), np.asarray(values, float)
    if at.ndim != 1 or at.shape != series.shape or not len(at):
        raise InputError(f"{series.shape} values do not fit {at.shape} times; give one value a time, at least one.")
    if not np.isfinite(at).all() or at[0] < 0 or (np.diff(at) <= 0).any():
        raise InputError("times must be finite, not negative, and increase.")
    return at, series


def _clock(at: np.ndarray, log: bool | None) -> np.ndarray:
    """Either ln t, if that is the more even spacing, or t; a time 0 has no logarithm: one step earlier."""
    positive = at[at > 0]
    if len(positive) < 3 and log is None or not len(positive):
        return at
    if log is None:
        spread = [np.std(d) / np.mean(d) for d in (np.diff(positive), np.diff(np.log(positive)))]
        log = bool(spread[1] < spread[0])
    if not log:
        return at
    clock = np.log(positive)
    step = clock[1] - clock[0] if len(clock) > 1 else 1.0
    return clock if len(clock) == len(at) else np.append(clock[0] - step, clock)


def _fall(at: np.ndarray, series: np.ndarray, clock: np.ndarray, level: float, hold: int) -> tuple[float, int | None]:
    """When a series first falls below a level, and the record; nan with record 0 if it begins there."""
    below = series < level
    held = np.convolve(below, np.ones(hold), "valid") > hold - 0.5 if len(below) >= hold else np.array([])
    if not held.any():
        return math.nan, None
    i = int(np.argmax(held))
    if i == 0:
        return math.nan, 0
    before, after = series[i - 1], series[i]
    share = (before - level) / (before - after) if np.isfinite(before) and np.isfinite(after) else 1.0
    if at[i - 1] == 0 or clock is at:
        return float(at[i - 1] + share * (at[i] - at[i - 1])), i
    return float(math.exp(clock[i - 1] + share * (clock[i] - clock[i - 1]))), i


def _flattest(clock: np.ndarray, series: np.ndarray) -> float:
    """Median on the third of an interval on which the fitted slope is least."""
    seen = np.isfinite(series)
    if seen.sum() < 2:
        return math.nan
    even = np.linspace(clock[seen][0], clock[seen][-1], 120)
    values = np.interp(even, clock[seen], series[seen])
    window = round(WINDOW * len(even)) // 2 * 2 + 1
    rate = np.abs(savgol_filter(values, window, 1, deriv=1))
    middle = window // 2 + int(np.argmin(rate[window // 2 : len(even) - window // 2]))
    return float(np.median(values[middle - window // 2 : middle + window // 2 + 1]))


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last of every stretch of True."""
    edges = np.flatnonzero(np.diff([False, *flags, False]))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
