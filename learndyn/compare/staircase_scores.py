"""How well a predicted staircase fits a measured one, and what its times become as the start vanishes."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from learndyn.compare.staircase import ONE_PERCENT, Drops, drops, plateaus
from learndyn.errors import InputError

NOTHING = 1e-8  # of the first level: lower levels are not scored
POINTS = 2000  # times, even in ln t, at which the two curves are compared


@dataclass(frozen=True)
class StaircaseScore:
    """A measured loss against a predicted staircase.

    Attributes:
        order: Kendall's τ of the order in which features are learned, over pairs that the prediction does not tie; nan
            without two such features.
        time_errors: Measured over predicted time, minus 1, `(drops,)`; nan for a drop that was not seen.
        level_errors: Measured over predicted level, minus 1, `(drops + 1,)`; nan for a plateau that was not seen or
            lies below 1e-8 of the first.
        log_ratio: Mean |ln (step curve / measured)| over ln t, both cut off at 1 % of the lowest level
            above 1e-8 of the first: how fast the rest goes to 0 is not what a staircase predicts.
        missing: Drops that were due within the run and did not come.
        later: Drops predicted after the end of the run, which did not come either.
        extra: Plateaus that no prediction knows of.
        drops: What was measured.
    """

    order: float
    time_errors: np.ndarray
    level_errors: np.ndarray
    log_ratio: float
    missing: int
    later: int
    extra: int
    drops: Drops = field(repr=False)

    def __str__(self) -> str:
        visible, reached = int(self.drops.visible.sum()), int(self.drops.reached.sum())
        parts = [f"{reached} of {visible} drops seen"]
        for name, errors in (("times", self.time_errors), ("levels", self.level_errors)):
            if np.isfinite(errors).any():
                parts.append(f"{name} off by at most {100 * np.nanmax(np.abs(errors)):.2g} %")
        if math.isfinite(self.order):
            parts.append(f"order {self.order:.2f}")
        parts.append(f"mean |ln ratio| {self.log_ratio:.2g}")
        parts += [f"{n} {what}" for n, what in ((self.missing, "missing"), (self.later, "due later")) if n]
        parts += [f"{self.extra} extra"] * bool(self.extra)
        return ", ".join(parts) + "."


def staircase_score(
    times: ArrayLike,
    loss: ArrayLike,
    predicted_times: ArrayLike,
    levels: ArrayLike,
    features: ArrayLike | None = None,
    predicted_features: ArrayLike | None = None,
    hold: int = 1,
    smooth: float = 0.0,
) -> StaircaseScore:
    """Score a predicted staircase on a run.

    >>> times = np.geomspace(0.1, 100, 200)
    >>> loss = np.where(times < 1.02, 4.0, np.where(times < 10, 1.0, 0.25))
    >>> print(staircase_score(times, loss, [1.0, 10.0], [4.0, 1.0, 0.25]))
    2 of 2 drops seen, times off by at most 0.58 %, levels off by at most 0 %, mean |ln ratio| 0.0038.

    Args:
        times: Increasing, from 0 on, at least two above 0, in the unit of the predicted ones, `(times,)`.
        loss: The series, `(times,)`, finite and not negative.
        predicted_times: Of the drops, above 0 and not falling, `(drops,)`.
        levels: Of the plateaus, `(drops + 1,)`, not rising.
        features: When each feature was learned, `(features,)`; nan if it was not, which is later than all times.
        predicted_features: When it should be, `(features,)`; nan if never.
        hold: As in `drops`.
        smooth: As in `plateaus`.

    Raises:
        InputError: If the levels do not fit the predicted times or the features each other, or as `drops` and
            `plateaus` do.
    """
    due, steps = np.asarray(predicted_times, float), np.asarray(levels, float)
    if due.ndim != 1 or len(steps) != len(due) + 1 or not (due > 0).all() or (np.diff(due) < 0).any():
        raise InputError(
            f"{len(steps)} levels and {due.size} predicted times: give times above 0 that do not fall, and a level "
            "before the first and after each."
        )
    at, series = np.asarray(times, float), np.asarray(loss, float)
    measured = drops(at, series, steps, hold)
    least = NOTHING * steps[0]
    flat = plateaus(at, series, smooth=smooth, floor=least)
    absent = measured.visible & ~measured.reached
    absent[np.flatnonzero(absent)[: measured.early]] = False
    with np.errstate(divide="ignore", invalid="ignore"):
        level_errors = np.where(steps > least, measured.levels / steps - 1, np.nan)
    return StaircaseScore(
        order=_order(features, predicted_features),
        time_errors=measured.times / due - 1,
        level_errors=level_errors,
        log_ratio=_log_ratio(at, series, due, steps),
        missing=int((absent & (due <= measured.within)).sum()),
        later=int((absent & (due > measured.within)).sum()),
        extra=_extra(measured, [math.sqrt(part.start * part.end) for part in flat]),
        drops=measured,
    )


def _order(measured: ArrayLike | None, predicted: ArrayLike | None) -> float:
    if measured is None or predicted is None:
        return math.nan
    found, due = (np.nan_to_num(np.asarray(values, float), nan=np.inf) for values in (measured, predicted))
    if found.ndim != 1 or found.shape != due.shape:
        raise InputError(f"{found.shape} measured features do not fit {due.shape} predicted ones; give one time each.")
    i, j = np.triu_indices(len(due), 1)
    want, have = (np.sign(np.where(v[i] == v[j], 0.0, v[i] - v[j])) for v in _finite_order(due, found))
    return float((want * have)[want != 0].mean()) if (want != 0).any() else math.nan


def _finite_order(*times: np.ndarray) -> list[np.ndarray]:
    """Times with inf replaced by something later than all: inf − inf has no sign."""
    return [np.where(np.isinf(v), np.max(v[np.isfinite(v)], initial=0.0) + 1, v) for v in times]


def _log_ratio(at: np.ndarray, series: np.ndarray, due: np.ndarray, steps: np.ndarray) -> float:
    seen = at > 0
    if seen.sum() < 2 or steps[0] == 0:
        return math.nan
    least = ONE_PERCENT * steps[steps > NOTHING * steps[0]].min()
    clock = np.linspace(math.log(at[seen][0]), math.log(at[-1]), POINTS)
    curve = np.interp(clock, np.log(at[seen]), np.log(np.maximum(series[seen], least)))
    predicted = np.log(np.maximum(steps, least))[np.searchsorted(np.log(due), clock, side="right")]
    return float(np.abs(predicted - curve).mean())


def _extra(measured: Drops, middles: list[float]) -> int:
    """Flat parts beyond one between two seen drops."""
    where = np.searchsorted(measured.times[measured.reached], middles)
    return len(middles) - len(np.unique(where))


@dataclass(frozen=True)
class Limit:
    """Times of drops, extrapolated to vanishing starts.

    Attributes:
        times: τ, in units of ln(1/α), `(drops,)`; nan where fewer than two starts showed the drop.
        shifts: C, in flow time, `(drops,)`.
        residuals: Largest |J − τ − C/L| over the starts, `(drops,)`; nan with fewer than three.
    """

    times: np.ndarray
    shifts: np.ndarray
    residuals: np.ndarray


def towards_zero(sizes: ArrayLike, times: ArrayLike) -> Limit:
    """Fit J = τ + C/L over L = ln(1/α): for neurons of degree 2 the time of a drop is t = J·L = τ·L + C.

    >>> found = towards_zero([1e-4, 1e-8], [[0.25 + 0.1 / np.log(1e4)], [0.25 + 0.1 / np.log(1e8)]])
    >>> print(f"{found.times[0]:.3f} {found.shifts[0]:.3f}")
    0.250 0.100

    Args:
        sizes: α of the starts, or the norms of their neurons, in (0, 1), `(starts,)`.
        times: J, the times of the drops over ln(1/α), `(starts, drops)`; nan where a drop was not seen.

    Raises:
        InputError: If there are fewer than two different starts, or the times do not fit them.
    """
    starts, found = np.asarray(sizes, float), np.asarray(times, float)
    if starts.ndim != 1 or found.ndim != 2 or len(starts) != len(found):
        raise InputError(f"times of shape {found.shape} do not fit {starts.shape} sizes; give (starts, drops).")
    if not ((starts > 0) & (starts < 1)).all() or len(np.unique(starts)) < 2:
        raise InputError("An extrapolation needs at least two different sizes, all between 0 and 1.")
    inverse = -1 / np.log(starts)
    tau, shift, residual = (np.full(found.shape[1], np.nan) for _ in range(3))
    for k, column in enumerate(found.T):
        there = np.isfinite(column)
        if len(np.unique(starts[there])) < 2:
            continue
        x, y = inverse[there], column[there]
        shift[k] = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        tau[k] = y.mean() - shift[k] * x.mean()
        if there.sum() > 2:
            residual[k] = np.abs(y - tau[k] - shift[k] * x).max()
    return Limit(tau, shift, residual)
