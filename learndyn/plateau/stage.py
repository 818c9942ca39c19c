"""Plateau, drop or slide: what a live loss curve is doing, from its recent part (criteria derived here)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from learndyn.errors import InputError

FLAT = 0.05  # |d ln L / d ln t| of a plateau (arXiv:2506.06489, blind detection)
LOOK = math.log(6.0)  # how far back: to a sixth of the steps
BIN = 0.05  # of ln t
RECENT = 6  # bins
SUDDEN = 3.0  # times the usual slope of a drop
LEAST = 4  # bins in all


@dataclass(frozen=True)
class Stage:
    """What a loss curve is doing.

    Attributes:
        kind: "plateau", flat; "drop", falling much faster than before; "slide", falling as it has been; "rise".
        slope: −d ln L / d ln t over the last quarter of the steps: positive where it falls.
        error: Its standard error, from the scatter of the losses, taken as independent.
        usual: Median slope before that, back to a sixth of the steps; nan if there is too little.
        level: Loss now, geometric mean over the last quarter.
        since: Of a plateau: the step from which on the loss is within 5 % of it, as far as was looked; else the step
            at which what is happening now began to be looked at.
    """

    kind: str
    slope: float
    error: float
    usual: float
    level: float
    since: float

    def __str__(self) -> str:
        told = f"{self.kind} at {self.level:.4g} since step {self.since:.0f}"
        usual = "" if math.isnan(self.usual) else f", before {self.usual:.2g}"
        return f"{told} (-dlnL/dlnt = {self.slope:.2g} +- {self.error:.1g}{usual})"


def stage(steps: Sequence[float] | Any, loss: Sequence[float] | Any) -> Stage:
    """Classify a live loss curve.

    Slopes are taken by ln t, so that a power law slides with the same slope for ever, and a plateau is flat compared
    with the time that it has lasted. Losses in a bin of ln t are averaged, so noisy ones of minibatches will do.

    >>> t = np.arange(1, 2000)
    >>> stage(t, 1 + np.exp((1000 - t) / 50)).kind, stage(t, t**-0.5).kind, stage(t[:1000], 2 - t[:1000] / 1e3).kind
    ('plateau', 'slide', 'drop')

    Args:
        steps: Steps or times, increasing; those at 0 are left out.
        loss: Loss at each, positive.

    Raises:
        InputError: If they do not belong together, steps do not increase, losses are not positive and finite, or there
            are too few.
    """
    t, y = np.asarray(steps, np.float64), np.asarray(loss, np.float64)
    if t.shape != y.shape or t.ndim != 1:
        raise InputError(f"{t.shape} steps and {y.shape} losses do not belong together; give two vectors.")
    if not (np.isfinite(t).all() and (np.diff(t) > 0).all() and (t >= 0).all()):
        raise InputError("Steps must increase from 0 on and be finite.")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise InputError("Losses must be positive and finite; a run that has diverged has no stage.")
    seen = (t > 0) & (t >= t[-1] * math.exp(-LOOK)) if len(t) else np.zeros(0, bool)
    u, v = np.log(t[seen]), np.log(y[seen])
    where = np.ceil((u - u[-1]) / BIN - 1e-9).astype(int) if len(u) else np.zeros(0, int)
    kept = np.unique(where)
    if len(kept) < LEAST or len(u) < 2 * LEAST:
        raise InputError(
            f"{len(u)} losses in the last five sixths of the run, in {len(kept)} bins, are too few; give more of them."
        )
    at = np.array([u[where == b].mean() for b in kept])
    level = np.array([v[where == b].mean() for b in kept])
    recent = at >= at[-1] - RECENT * BIN
    late = u >= at[-1] - RECENT * BIN
    slope, error = _slope(u[late], v[late])
    earlier = -np.diff(level[~recent]) / np.diff(at[~recent])
    usual = float(np.median(earlier)) if len(earlier) >= RECENT else math.nan
    now = float(level[recent].mean())
    away = np.flatnonzero(np.abs(level - now) > FLAT)
    begin = 0 if not len(away) else min(int(away[-1]) + 1, len(at) - 1)
    if abs(slope) < max(FLAT, 2 * error) and abs(slope) < 4 * FLAT:
        kind = "plateau"
    elif slope < 0:
        kind = "rise"
    else:
        kind = "drop" if not slope - 2 * error < SUDDEN * max(usual, FLAT) else "slide"
    if math.isnan(usual) and kind == "drop":
        kind = "slide"
    since = math.exp(at[begin] if kind == "plateau" else at[recent][0])
    return Stage(kind, slope, error, usual, math.exp(now), since)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """−dy/dx by least squares, and its standard error."""
    dx = x - x.mean()
    slope = float(dx @ y / (dx @ dx))
    rest = y - y.mean() - slope * dx
    error = math.sqrt(float(rest @ rest) / max(len(x) - 2, 1) / float(dx @ dx))
    return -slope, error
