"""Numbers with an interval: Student-t over replicates, and the delete-one jackknife for anything else.

The jackknife is that of Efron & Stein (1981, Ann. Statist. 9, 586): leave each of n replicates out in turn,
se² = (n − 1)/n · Σᵢ (θ₍ᵢ₎ − θ₍·₎)², and take θ ± t(n − 1)·se around the estimate from all n. For a mean it is exactly
the Student-t interval. It is preferred here to the percentile bootstrap, whose nominal 90 % interval of a Gaussian mean
covers 0.61, 0.80 and 0.86 with 3, 6 and 12 replicates (4000 simulated sets).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import stdtrit  # scipy.stats gives the same and takes a second to import

from learndyn.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A measured number and how far it may be off.

    Attributes:
        value: The number, from all replicates.
        low: Lower end of its interval; nan if there is none.
        high: Upper end of its interval; nan if there is none.
        method: How the interval was made, for example "90 % jackknife over 3 seeds".
    """

    value: float
    low: float
    high: float
    method: str

    def __str__(self) -> str:
        interval = "no interval" if np.isnan([self.low, self.high]).any() else f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g} {interval} ({self.method})"


def exact(value: SupportsFloat, method: str = "exact") -> Estimate:
    """A number without sampling error, such as the error of an identity: its interval is the number itself."""
    return Estimate(float(value), float(value), float(value), method)


def mean_interval(values: ArrayLike, level: float = 0.9, over: str = "seeds") -> Estimate:
    """Mean of replicates with its Student-t interval.

    Args:
        values: One number per replicate.
        level: Probability that the interval shall contain the true mean, in (0, 1).
        over: What the replicates are, for the sentence about the method.

    Returns:
        The mean; with one replicate an interval of nan.

    Raises:
        InputError: If there are no values, more than one axis, or `level` is outside (0, 1).

    >>> print(mean_interval([1.0, 2.0, 3.0]))
    2 [0.3141, 3.686] (90 % Student t over 3 seeds)
    """
    samples = np.asarray(values, dtype=float)
    if samples.ndim != 1 or len(samples) == 0:
        raise InputError(f"values have shape {samples.shape}; give one number per replicate, at least one.")
    half = student(level, len(samples)) * _scatter(samples) / len(samples) ** 0.5
    mean = float(samples.mean())
    return Estimate(mean, mean - half, mean + half, _method("Student t", level, len(samples), over))


def finite_mean(values: ArrayLike, level: float = 0.9, over: str = "seeds") -> Estimate:
    """`mean_interval` of those values that are finite; nan, which decides nothing, if none is.

    Args:
        values: Of any shape; what could not be measured is nan.
        level: As in `mean_interval`.
        over: As in `mean_interval`.
    """
    flat = np.asarray(values, dtype=float).ravel()
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return Estimate(math.nan, math.nan, math.nan, "nothing to measure")
    return mean_interval(flat, level, over)


def jackknife(
    statistic: Callable[[Any], SupportsFloat], samples: ArrayLike, level: float = 0.9, over: str = "seeds"
) -> Estimate:
    """Any statistic of replicates with its delete-one jackknife interval.

    Args:
        statistic: Maps an array of some replicates, shape (k, ...), to one number; smooth in every replicate (the
            jackknife is wrong for a median or a maximum).
        samples: All replicates along the first axis, shape (n, ...).
        level: Probability that the interval shall contain the true value, in (0, 1).
        over: What the replicates are, for the sentence about the method.

    Returns:
        The statistic of all replicates; with one replicate an interval of nan.

    Raises:
        InputError: If there are no replicates or `level` is outside (0, 1).

    >>> print(jackknife(lambda kept: kept.mean(), [1.0, 2.0, 3.0]))
    2 [0.3141, 3.686] (90 % jackknife over 3 seeds)
    """
    array = np.asarray(samples, dtype=float)
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"samples have shape {array.shape}; give at least one replicate along the first axis.")
    value = float(statistic(array))
    half = half_width(left_out(statistic, array), level)
    return Estimate(value, value - half, value + half, _method("jackknife", level, len(array), over))


def left_out(
    statistic: Callable[[Any], SupportsFloat], samples: Float[np.ndarray, " n *shape"]
) -> Float[np.ndarray, " left_out"]:
    """The statistic without each replicate in turn; empty if there is only one."""
    if len(samples) == 1:
        return np.empty(0)
    return np.array([float(statistic(np.delete(samples, i, axis=0))) for i in range(len(samples))])


def half_width(without: Float[np.ndarray, " left_out"], level: float) -> float:
    """Half the jackknife interval, from the statistic without each replicate.

    It is nan if there is only one replicate, and inf if without some replicate there is no statistic (nan): the
    estimate then hangs on that replicate alone.
    """
    n = max(len(without), 1)
    if np.isnan(without).any():
        return float("inf")
    # the standard deviation has n − 1 below, hence (n − 1)/√n in front to make it (n − 1)/n · Σ(…)²
    return student(level, n) * _scatter(without) * (n - 1) / n**0.5


def student(level: float, n: int) -> float:
    """Two-sided Student-t quantile for n replicates; nan for one, which says nothing about its own scatter."""
    if not 0 < level < 1:
        raise InputError(f"level={level:g} must lie between 0 and 1, for example 0.9.")
    return float(stdtrit(n - 1, (1 + level) / 2)) if n > 1 else float("nan")


def _scatter(values: Float[np.ndarray, " n"]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _method(name: str, level: float, n: int, over: str) -> str:
    return f"{100 * level:g} % {name} over {n} {over}" if n > 1 else f"no interval: 1 replicate ({over})"
