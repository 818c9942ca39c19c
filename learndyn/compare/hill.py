"""The Hill curve, a fall from one plateau to another, fitted by profile least squares on a grid.

    y(t) = late + (early − late) · h(t),    h(t) = 1 / (1 + (t/t*)ˢ),    early > late

In ln t it is a logistic fall, half-way at t*, with slope −s/4. For given t* and s the plateaus are a linear regression
of y on h, and the share of variance explained is R² = corr(h, y)² where the correlation is positive (early > late) and
0 elsewhere. So a matrix of centred, normalised shapes h turns the search over all (t*, s), for any number of curves at
once, into one matrix product; R² does not change when y is shifted or scaled.
"""

from dataclasses import dataclass
from itertools import permutations as orders
from math import factorial

import numpy as np
from jaxtyping import Float
from scipy.special import expit

STEEPNESS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
POINTS = 200  # of ln t*; a parabola through the best three then makes t* continuous


@dataclass(frozen=True)
class Hill:
    """A fitted fall.

    Attributes:
        time: Half-way point t*, in the unit of the times.
        steepness: Exponent s.
        r2: Share of the variance explained; 0 if the curve nowhere falls.
        first: The fitted curve at the first time.
        last: The fitted curve at the last time.
    """

    time: float
    steepness: float
    r2: float
    first: float
    last: float


@dataclass(frozen=True)
class Shapes:
    """All falls that are tried on one set of times.

    Attributes:
        times: Where the curves are known.
        log_time: The tried ln t*.
        unit: Every h(t), centred and of norm 1, for each steepness and ln t*.
    """

    times: Float[np.ndarray, " times"]
    log_time: Float[np.ndarray, " points"]
    unit: Float[np.ndarray, "steepness points times"]


def shape(
    times: Float[np.ndarray, "*any"], log_time: Float[np.ndarray, "*grid"] | float, steepness: float
) -> Float[np.ndarray, "*out"]:
    """The fall h = 1 / (1 + (t/t*)ˢ), as a logistic function of ln t: it cannot overflow, and h(0) = 1."""
    with np.errstate(divide="ignore"):
        return expit(steepness * (log_time - np.log(times)))


def shapes(times: Float[np.ndarray, " times"]) -> Shapes:
    """The tried falls: t* from the first positive time to one step beyond the last, even in ln t*."""
    end = 2 * np.log(times[-1]) - np.log(times[-2])
    log_time = np.linspace(np.log(times[times > 0][0]), end, POINTS)
    tried = np.stack([shape(times, log_time[:, None], steepness) for steepness in STEEPNESS])
    tried -= tried.mean(axis=-1, keepdims=True)
    return Shapes(times, log_time, tried / np.linalg.norm(tried, axis=-1, keepdims=True))


def fit(tried: Shapes, curve: Float[np.ndarray, " times"]) -> Hill:
    """The best fall for one curve; all nan, with R² = 0, if it is constant or nowhere falls."""
    centred = curve - curve.mean()
    norm = float(np.linalg.norm(centred))
    # a constant curve is one up to the rounding of its mean
    score = tried.unit @ (centred / norm) if norm > 1e-12 * np.abs(curve).max() else np.zeros(tried.unit.shape[:2])
    which, where = np.unravel_index(score.argmax(), score.shape)
    if score[which, where] <= 0:
        return Hill(np.nan, np.nan, 0.0, np.nan, np.nan)
    log_time = _peak(tried.log_time, score[which], int(where))
    h = shape(tried.times, log_time, STEEPNESS[which])
    drop = float(centred @ (h - h.mean()) / np.sum((h - h.mean()) ** 2))
    fitted = curve.mean() + drop * (h - h.mean())
    r2 = 1 - float(np.sum((curve - fitted) ** 2)) / norm**2
    return Hill(float(np.exp(log_time)), STEEPNESS[which], r2, float(fitted[0]), float(fitted[-1]))


def p_value(tried: Shapes, curve: Float[np.ndarray, " times"], permutations: int, seed: int) -> float:
    """Probability that a curve whose values came in random order would be explained as well by a Hill curve.

    All n! orders are used where there are no more than `permutations` of them, else that many random ones and the
    given order itself, so that the test is exact at any level for exchangeable values.
    """
    centred = curve - curve.mean()
    n, norm = len(curve), float(np.linalg.norm(centred))
    if norm <= 1e-12 * np.abs(curve).max():
        return 1.0
    if factorial(n) <= permutations:
        index = np.array(list(orders(range(n))))
    else:
        random = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
        index = np.vstack([np.arange(n), random])
    score = (tried.unit.reshape(-1, n) @ (centred / norm)[index].T).max(axis=0)  # (orders,)
    given = score[np.all(index == np.arange(n), axis=1)].max()
    # equal up to rounding counts as equal: curves that end in exact zeros have many equivalent orders
    return float(np.mean(np.maximum(score, 0) >= max(given, 0) - 1e-12))


def _peak(log_time: Float[np.ndarray, " points"], score: Float[np.ndarray, " points"], where: int) -> float:
    """The top of the parabola through the best point of the grid and its neighbours; the point itself at an edge."""
    if where in (0, len(score) - 1):
        return float(log_time[where])
    left, top, right = score[where - 1 : where + 2]
    bend = left - 2 * top + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float(log_time[where] + offset * (log_time[1] - log_time[0]))
