"""When a series first reaches a level, or that it did not within its length: times that are censored on the right.

A run that did not reach the level has no time, and its length is not one: it is never averaged with the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from learndyn.errors import InputError


@dataclass(frozen=True)
class Crossing:
    """The first step at which a level was reached.

    Attributes:
        step: That step; None if it was not reached.
        within: Last step that was looked at.
    """

    step: float | None
    within: float

    @property
    def reached(self) -> bool:
        """Whether there is a step."""
        return self.step is not None

    def __str__(self) -> str:
        return f"not within {self.within:g}" if self.step is None else f"{self.step:g}"


@dataclass(frozen=True)
class Crossings:
    """What several runs, some of them censored, say together.

    Attributes:
        median: Kaplan–Meier median of the steps; inf if half of the runs have not been seen to reach the level.
        reached: Runs that reached it.
        runs: All runs.
        within: Up to where the median was looked for: the last step of the longest run.
    """

    median: float
    reached: int
    runs: int
    within: float

    def __str__(self) -> str:
        median = f"not within {self.within:g}" if math.isinf(self.median) else f"{self.median:g}"
        return f"median {median}, reached by {self.reached} of {self.runs}"


def steps_to_threshold(steps: ArrayLike, values: ArrayLike, level: float, above: bool = True) -> Crossing:
    """The first of some steps at which a series is at a level or beyond.

    >>> print(steps_to_threshold([10, 20, 30], [0.5, 0.99, 1.0], 0.99))
    20
    >>> print(steps_to_threshold([10, 20, 30], [0.5, 0.6, 0.7], 0.99))
    not within 30

    Args:
        steps: Increasing steps, `(times,)`.
        values: The series, `(times,)`; nan never reaches anything.
        level: What is to be reached.
        above: From below, value >= level; otherwise from above, value <= level.

    Raises:
        InputError: If the steps do not increase, do not fit the values, or the level is nan.
    """
    at, series = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if at.ndim != 1 or at.shape != series.shape or not len(at):
        raise InputError(f"{series.shape} values do not fit {at.shape} steps; give one value a step, at least one.")
    if not np.isfinite(at).all() or np.any(np.diff(at) <= 0):
        raise InputError("steps must be finite and increase.")
    if math.isnan(level):
        raise InputError("level=nan is never reached; give a number.")
    there = np.flatnonzero(series >= level if above else series <= level)
    return Crossing(float(at[there[0]]) if len(there) else None, float(at[-1]))


def together(crossings: Sequence[Crossing]) -> Crossings:
    """Median and count of several crossings (E. L. Kaplan & P. Meier, 1958, J. Am. Stat. Assoc. 53, 457).

    The median is where the share of runs that have not reached the level falls to one half; a run that was stopped
    counts up to there. Where the share is exactly one half, it lies between this crossing and the next one, and is put
    in the middle; it is unknown, inf, if no next one was seen.

    >>> print(together([Crossing(340, 340), Crossing(160, 160), Crossing(None, 1600)]))
    median 340, reached by 2 of 3
    >>> print(together([Crossing(340, 340), Crossing(None, 1600)]))
    median not within 1600, reached by 1 of 2

    Raises:
        InputError: If there are none.
    """
    if not crossings:
        raise InputError("There are no crossings; give at least one.")
    reached = sorted(c.step for c in crossings if c.step is not None)
    ends = np.array([c.within if c.step is None else c.step for c in crossings])
    share, median, half = 1.0, math.inf, None
    for step in dict.fromkeys(reached):
        if half is not None:
            median = (half + step) / 2
            break
        share *= 1 - reached.count(step) / int((ends >= step).sum())
        if share < 0.5 - 1e-12:
            median = step
            break
        half = step if share < 0.5 + 1e-12 else None
    return Crossings(median, len(reached), len(crossings), max(c.within for c in crossings))
