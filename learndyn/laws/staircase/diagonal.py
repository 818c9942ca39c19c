"""Staircases of diagonal linear networks, exact as the start vanishes (arXiv:2506.06489; Pesme & Flammarion 2023).

β = u∘v from u = √2 α, v = 0, or β = u∘u − v∘v from u = v = α, on L = 1/(2n) |y − Xβ|². With g = Xᵀ(y − Xβ)/n and
G = ∫g dt, β = α² sinh 2G or 2α² sinh 4G: a coordinate is nothing until |s| = 1, s = G/ln(1/α) or twice that, and what
is there minimises L at once, on its side of 0.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.bounds import TIE, together
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing

#: How fast s = rate · G / ln(1/α) is.
FORMS = {"product": 1, "difference": 2}


@dataclass(frozen=True)
class DiagonalPath:
    """The path of a diagonal network through its saddles.

    Attributes:
        staircase: Drops and levels; the neurons of its events are coordinates.
        times: 0 and when a coordinate comes to |s| = 1, `(rounds + 1,)`, in the unit of the staircase.
        s: ∫g dt over its threshold at these times, `(rounds + 1, d)`, in [−1, 1]; straight lines between.
        betas: β from each of these times on, `(rounds + 1, d)`.
    """

    staircase: Staircase
    times: Float[Tensor, " rounds"]
    s: Float[Tensor, "rounds d"]
    betas: Float[Tensor, "rounds d"]

    def beta(self, times: Float[Tensor, " times"]) -> Float[Tensor, "times d"]:
        """β at any times from 0 on, continuous from the right."""
        return self.betas[(torch.searchsorted(self.times, times.to(self.times), right=True) - 1).clamp(min=0)]

    def accumulated(self, times: Float[Tensor, " times"]) -> Float[Tensor, "times d"]:
        """The signed accumulated utility s at any times from 0 on; what it was at the last drop after that."""
        at = times.to(self.times)
        columns = [np.interp(at, self.times, self.s[:, i]) for i in range(self.s.shape[1])]
        return torch.as_tensor(np.stack(columns, 1))


def diagonal_time(alpha: float, form: str = "product") -> float:
    """Flow time in which s goes from 0 to 1 at g = 1: until the norm of a neuron is 1, arccosh(1/(2α²))/2 or half that.

    Both are ln(1/α), or half of it, up to α⁴. Written such that α = 1e-300 does not overflow.

    Raises:
        InputError: If α is not in (0, 0.3) or there is no such form.
    """
    if form not in FORMS:
        raise InputError(f"form={form!r} is none of {', '.join(FORMS)}.")
    check_vanishing(alpha, "alpha")
    return (-math.log(alpha) + 0.5 * math.log((1 + math.sqrt(1 - 4 * alpha**4)) / 2)) / FORMS[form]


def diagonal_staircase(
    inputs: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"],
    alpha: float | None = None,
    form: str = "product",
    tolerance: float = 1e-10,
    most: int = 10_000,
) -> DiagonalPath:
    """Which coordinates of a diagonal network wake and fall asleep, when, and where β is between (arXiv:2506.06489).

    Round by round: s moves with g, the first coordinate that comes to |s| = 1 is allowed to have the sign of s, and β
    becomes the minimum of L over the allowed orthant of these coordinates (nonnegative least squares). The optimality
    conditions there say that g is 0 where β is not, and points back inside where β is 0 at the boundary.

    Args:
        inputs: X.
        targets: y.
        alpha: Start; times are flow times then, to which waking is when a norm is 1. Otherwise α → 0 and times are in
            units of ln(1/α).
        form: "product" for β = u∘v, "difference" for u∘u − v∘v, which is twice as fast.
        tolerance: Gradients below this part of the largest first one are 0.
        most: Rounds.

    Raises:
        InputError: If X is not a matrix that fits y, not finite, has a column of zeros, or the path needs more rounds.
    """
    x, y = _problem(inputs, targets)
    if form not in FORMS:
        raise InputError(f"form={form!r} is none of {', '.join(FORMS)}.")
    unit = 1 / FORMS[form] if alpha is None else diagonal_time(alpha, form)
    n, d = x.shape
    s, beta = np.zeros(d), np.zeros(d)
    slope = x.T @ y / n
    least = tolerance * np.abs(slope).max()
    now, level = 0.0, float(y @ y / (2 * n))
    times, levels, drop_times = [0.0], [level], []
    path, betas, events = [s.copy()], [beta.copy()], []
    sentences: list[str] = []
    while (moving := np.abs(slope) > least).any():
        if len(times) > most:
            raise InputError(f"The path has more than {most} rounds; give a larger tolerance or more rounds.")
        need = np.full(d, np.inf)
        need[moving] = (np.sign(slope[moving]) - s[moving]) / slope[moving]
        need[need <= 1e-14] = np.inf
        step = need.min()
        hit = need <= step * (1 + TIE)
        utility = np.abs(slope) / 2
        s[moving] += step * slope[moving]
        s[hit] = np.sign(slope[hit])
        s = s.clip(-1, 1)
        now += float(step)
        before, beta = beta, _minimum(x, y, s)
        if hit.sum() > 1:
            sentences.append(together(np.flatnonzero(hit).tolist(), "coordinate"))
            used = hit | (beta != 0)
            if np.linalg.matrix_rank(x[:, used]) < used.sum():
                sentences.append("Their inputs depend on each other: β is one of several with this loss.")
        residual = y - x @ beta
        slope, level = x.T @ residual / n, float(residual @ residual / (2 * n))
        times.append(now)
        path.append(s.copy())
        betas.append(beta.copy())
        changed = [(i, "deactivation") for i in np.flatnonzero((before != 0) & (beta == 0))]
        changed += [(i, "activation") for i in np.flatnonzero((before == 0) & (beta != 0))]
        for i, kind in changed:
            towards = torch.tensor([1.0, s[i]], dtype=torch.float64) / math.sqrt(2) if kind == "activation" else None
            size = float(utility[i]) if kind == "activation" else math.nan
            events.append(Event(now * unit, int(i), kind, level, size, towards))
        if changed:
            drop_times.append(now)
            levels.append(level)
    made = [torch.as_tensor(np.array(v, float)) for v in (drop_times, levels, times, path, betas)]
    reason = "The gradient is 0: what is left cannot be learned."
    staircase = Staircase(made[0] * unit, made[1], tuple(events), reason, tuple(dict.fromkeys(sentences)))
    return DiagonalPath(staircase, made[2] * unit, made[3], made[4])


def _problem(inputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    x, y = (values.detach().cpu().double().numpy() for values in (inputs, targets))
    if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
        raise InputError(f"inputs {x.shape} and targets {y.shape} must be (n, d) and (n,), not empty.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("inputs and targets must be finite.")
    if (silent := np.flatnonzero((x == 0).all(0))).size:
        raise InputError(f"Column {silent[0]} of the inputs is 0, so that its coordinate never learns; leave it out.")
    return x, y


def _minimum(x: np.ndarray, y: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Least squares with β_i ≥ 0 where s_i = 1, ≤ 0 where s_i = −1, and 0 elsewhere."""
    allowed = np.flatnonzero(np.abs(s) == 1)
    signs = s[allowed]
    beta = np.zeros(x.shape[1])
    size = np.linalg.norm(x[:, allowed], axis=0)
    found = nnls(x[:, allowed] * signs / size, y)[0] / size
    there = found > 1e-12 * found.max(initial=0.0)
    beta[allowed[there]] = found[there] * signs[there]
    return beta
