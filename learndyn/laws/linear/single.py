"""Function space of one neuron f(x) = a wᵀx, β = a w, on data that need not be white (arXiv:2406.06158).

Loss L = ½ Σ_i (xᵢᵀβ − yᵢ)² (a sum); time is that of θ' = −η_θ ∂L/∂θ; δ = η_w a² − η_a|w|² is conserved, κ = √(δ² +
4η_aη_w|β|²). There is no closed form for the run, but one for its end (`bias`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from learndyn.errors import InputError, unknown
from learndyn.laws.balanced.start import clock
from learndyn.laws.linear.data import Rows, decomposed
from learndyn.laws.neuron.start import factors, number, rates, weights

METHODS = ("DOP853", "LSODA", "Radau")
RTOL = 1e-11
#: Distance of a w from its end, relative to it, from which on the flow is linear.
LINEAR = 1e-6


class Path(NamedTuple):
    """One neuron at all times.

    Attributes:
        times: Times, `(T,)`.
        beta: β = a w, `(T, d)`.
        a: Read-out weight, `(T,)`.
        w: Incoming weights, `(T, d)`.
    """

    times: Float[Tensor, " times"]
    beta: Float[Tensor, "times d"]
    a: Float[Tensor, " times"]
    w: Float[Tensor, "times d"]


def metric(beta: Tensor, delta: Tensor | float, etas: tuple[float, float] = (1.0, 1.0)) -> Float[Tensor, "... d d"]:
    """M of β' = −M Xᵀ(Xβ − y): M = (κ + δ)/2 I + (κ − δ)/2 ββᵀ/|β|² = η_w a² I + η_a wwᵀ (arXiv:2406.06158).

    Its eigenvalues are κ along β and (κ + δ)/2 across.

    Args:
        beta: β ≠ 0, `(..., d)`.
        delta: δ, broadcast against `(...,)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a β is 0, where M is not defined, or an argument is out of its range.
    """
    a, w = factors(beta, delta, etas)
    eye = torch.eye(w.shape[-1], dtype=torch.float64)
    return etas[1] * a.square()[..., None, None] * eye + etas[0] * w[..., :, None] * w[..., None, :]


def function_flow(
    inputs: Tensor,
    targets: Tensor,
    beta: Tensor,
    delta: float,
    times: Tensor,
    etas: tuple[float, float] = (1.0, 1.0),
    method: str = "DOP853",
    most: int = 200_000,
) -> Path:
    """Integrate β' = −M Xᵀ(Xβ − y) for any data, from β and δ (arXiv:2406.06158).

    In the coordinates a, w, where the field is smooth also as β passes 0, and M is not defined. The null space of X
    takes no part. Next to the end the flow is linear and is taken in closed form.

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`.
        beta: β at time 0, not 0, `(d,)`.
        delta: δ.
        times: Times in any order, infinity too, `(T,)`.
        etas: Learning rates (η_a, η_w).
        method: "DOP853"; "LSODA" or "Radau" for a δ far below 0, whose two phases differ in speed by δ²/r².
        most: Gradients that it may take.

    Returns:
        The path, with a relative error of some 1e-10; a > 0 at time 0.

    Raises:
        InputError: If a shape does not fit, β is 0, a value is out of its range, or it takes too many gradients.
    """
    if beta.ndim != 1:
        raise InputError(f"beta {tuple(beta.shape)} must be one start, (d,).")
    a, w = factors(beta, number("delta", float(delta)), etas)
    return parameter_flow(inputs, targets, a, w, times, etas, method, most)


def parameter_flow(
    inputs: Tensor,
    targets: Tensor,
    a: Tensor | float,
    w: Tensor,
    times: Tensor,
    etas: tuple[float, float] = (1.0, 1.0),
    method: str = "DOP853",
    most: int = 200_000,
) -> Path:
    """The same from a and w, of which one may be 0: a' = η_a wᵀg, w' = η_w a g, g = Xᵀ(y − a X w).

    Arguments and errors are those of `function_flow`.
    """
    data, t = decomposed(inputs, targets), clock(times)
    eta_a, eta_w = rates(etas)
    last, first = weights(a, w)
    if first.shape != data.v.shape[:1]:
        raise InputError(f"w {tuple(first.shape)} does not fit inputs of {len(data.v)} dimensions; expected one start.")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    rest, p = data.across(first), data.v.mT @ first
    increasing, place = np.unique(t.numpy(), return_inverse=True)
    found = _integrate(data, float(last), p, eta_a, eta_w, increasing, method, most)
    a_t, p_t = found[place, 0], found[place, 1:]
    w_t = rest + p_t @ data.v.mT
    return Path(t, a_t[:, None] * w_t, a_t, w_t)


def final_scale(q: float, size: float, eta_a: float, eta_w: float) -> float:
    """The size of a at the end (derived here).

    w keeps its part w⊥ across the row space, and a w ends with the least-squares solution β_ls in it. So
    η_w a² = δ + η_a(|w⊥|² + |β_ls|²/a²), and a² = (q + √(q² + 4η_aη_w|β_ls|²))/2η_w with q = δ + η_a|w⊥|².

    Args:
        q: δ + η_a|w⊥|².
        size: |β_ls|.
        eta_a: η_a.
        eta_w: η_w.
    """
    width = math.hypot(q, 2 * math.sqrt(eta_a * eta_w) * size)
    if q >= 0:
        return math.sqrt((q + width) / (2 * eta_w))
    return size * math.sqrt(2 * eta_a / (width - q))


def _integrate(
    data: Rows, a: float, p: Tensor, eta_a: float, eta_w: float, t: np.ndarray, method: str, most: int
) -> Tensor:
    """Weights a and p = Vᵀw at increasing times, `(T, 1 + rank)`."""
    s, seen, least = data.s.numpy(), data.seen.numpy(), (data.seen / data.s).numpy()
    q = eta_w * a**2 - eta_a * float(p.square().sum())  # δ + η_a|w⊥|²
    scale = final_scale(q, float(np.linalg.norm(least)), eta_a, eta_w)
    start = np.concatenate([[a], p.numpy()])
    near = LINEAR * (float(np.linalg.norm(least)) or float(np.linalg.norm(a * p.numpy())))

    def slope(_: float, now: np.ndarray) -> np.ndarray:
        g = s * (seen - s * (now[0] * now[1:]))
        return np.concatenate([[eta_a * (now[1:] @ g)], eta_w * now[0] * g])

    def settled(_: float, now: np.ndarray) -> float:
        return float(np.linalg.norm(now[0] * now[1:] - least)) - near if scale > 0 else 1.0

    settled.terminal = True  # type: ignore[attr-defined]
    found = np.tile(start, (len(t), 1))
    if len(t) == 0 or t[-1] == 0 or not slope(0.0, start).any():
        return torch.from_numpy(found)
    size = max(float(np.abs(start).max()), math.sqrt(float(np.linalg.norm(least))))
    stop = 0.0
    if settled(0.0, start) > 0:
        solution, stop = followed(slope, start, min(float(t[-1]), 1e300), settled, method, 1e-3 * RTOL * size, most)
        during = t <= stop
        if during.any():
            found[during] = solution(t[during]).T
        start = solution(stop)
    late = t > stop
    if scale == 0 or not late.any():
        return torch.from_numpy(found)
    # the miss e = a p − β_ls obeys e' = −M s² e from here on, to a relative LINEAR² of β
    sign = math.copysign(1.0, start[0])
    end = least / scale
    rates, modes = np.linalg.eigh(eta_w * scale**2 * np.diag(s**2) + eta_a * np.outer(s * end, s * end))
    with np.errstate(invalid="ignore"):
        falls = np.where(rates > 0, np.exp(-rates * (t[late, None] - stop)), 1.0)
    miss = (modes @ (falls * (modes.T @ (s * (start[0] * start[1:] - least)))).T).T / s
    product = least + miss
    scales = np.array([final_scale(q, float(np.linalg.norm(v)), eta_a, eta_w) for v in product])
    found[late] = sign * np.concatenate([scales[:, None], product / scales[:, None]], 1)
    return torch.from_numpy(found)


def followed(
    slope: Callable[[float, np.ndarray], np.ndarray],
    start: np.ndarray,
    end: float,
    event: Callable[[float, np.ndarray], float],
    method: str,
    atol: float,
    most: int,
) -> tuple[Callable[[float | np.ndarray], np.ndarray], float]:
    """Integrate until `end` or the event: the solution as a function of time, and when it stopped.

    Raises:
        InputError: If it takes more gradients than allowed, or the solver gives up.
    """
    taken = 0

    def counted(t: float, q: np.ndarray) -> np.ndarray:
        nonlocal taken
        taken += 1
        if taken > most:
            raise InputError(
                f"After {most} gradients the flow has come to t={t:.3g} of {end:.3g}: ask for earlier times, allow "
                'more gradients (most), or, far downstream, take method="LSODA".'
            )
        return slope(t, q)

    with np.errstate(over="ignore", invalid="ignore"):  # trial steps that are too long
        found = solve_ivp(counted, (0.0, end), start, method, dense_output=True, events=event, rtol=RTOL, atol=atol)
    if found.status < 0:
        raise InputError(f"The flow could not be followed beyond t={found.t[-1]:.3g}: {found.message}")
    return found.sol, float(found.t[-1])
