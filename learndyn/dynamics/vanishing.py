"""Gradient flow from vanishing starts, in coordinates in which nothing is too small for a float (arXiv:2506.06489).

Coordinates of a diagonal network are held by their logarithms; linear networks and linear attention by their joint
eigenvectors, where entries of different size do not mix. Expectations over data are done by hand: no sampling noise.
"""

import math
from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from torch import Tensor

from learndyn.dynamics.flow import increasing
from learndyn.errors import InputError

CLIP = 60.0  # of exponents: e^60 is beyond any coefficient, and its square no overflow
ABSOLUTE = 1e-6  # tolerance of weights relative to the start
SMALLEST = 1e-14  # start from which on weights that mix are lost in rounding
#: β = scale · α² sinh(2 s ln(1/α)), and how fast s = rate · G / ln(1/α) is.
FORMS = {"product": (1.0, 1.0), "difference": (2.0, 2.0)}


def diagonal_flow(
    inputs: Tensor, targets: Tensor, decades: float, times: Tensor, form: str = "product", rtol: float = 1e-8
) -> xr.Dataset:
    """Gradient flow of a diagonal network on 1/(2n) |y − Xβ|², from any α down to 1e-300 and below.

    β = u∘v from u = √2 α, v = 0 is α² sinh 2G with G = ∫g dt, g = Xᵀ(y − Xβ)/n; β = u∘u − v∘v from u = v = α is
    2α² sinh 4G. In s = G/ln(1/α), twice that for the latter, it is stiff but of size 1: BDF with its Jacobian and steps
    of at most 1/ln(1/α), beyond which it would miss the drops.

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`.
        decades: ln(1/α), above 1: 690 is α = 1e-300.
        times: When to look, in units of ln(1/α), from 0 on, increasing.
        form: "product" or "difference".
        rtol: Relative tolerance.

    Returns:
        `s`, `beta` by (time, coordinate) and `loss` by time.

    Raises:
        InputError: If shapes do not fit, a value is not finite, times do not increase, α is not below 1/e, or the
            solver gives up.
    """
    x, y = (values.detach().cpu().double().numpy() for values in (inputs, targets))
    if x.ndim != 2 or y.shape != x.shape[:1] or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise InputError(f"inputs {x.shape} and targets {y.shape} must be finite, (n, d) and (n,).")
    if form not in FORMS:
        raise InputError(f"form={form!r} is none of {', '.join(FORMS)}.")
    if not 1 < decades < np.inf:
        raise InputError(f"decades={decades:g} is ln(1/α); it must be above 1, such as {math.log(1e8):.3g} for 1e-8.")
    size, rate = FORMS[form]
    square, towards = x.T @ x / len(x), x.T @ y / len(x)

    def beta(s: np.ndarray) -> np.ndarray:
        high, low = (np.exp(np.minimum(2 * decades * (sign * s - 1), CLIP)) for sign in (1, -1))
        return size * (high - low) / 2

    def velocity(_: float, s: np.ndarray) -> np.ndarray:
        return rate * (towards - square @ beta(s))

    def jacobian(_: float, s: np.ndarray) -> np.ndarray:
        high, low = (np.exp(np.minimum(2 * decades * (sign * s - 1), CLIP)) for sign in (1, -1))
        return -rate * square * (size * decades * (high + low))

    s = _solve(
        velocity,
        np.zeros(x.shape[1]),
        times,
        method="BDF",
        jac=jacobian,
        max_step=1 / decades,
        first_step=1e-3 / decades,
        rtol=rtol,
        atol=rtol * 1e-2,
    )
    betas = beta(s)
    loss = ((y - betas @ x.T) ** 2).sum(1) / (2 * len(x))
    over = ("time", "coordinate")
    return xr.Dataset({"s": (over, s), "beta": (over, betas), "loss": ("time", loss)}, {"time": increasing(times)})


def linear_flow(
    inner: Tensor,
    outer: Tensor,
    covariance: Tensor,
    correlation: Tensor,
    times: Tensor,
    power: float | None = None,
    rtol: float = 1e-9,
) -> xr.Dataset:
    """Population gradient flow of f(x) = A W x on ½E|y − AWx|²: W' = AᵀE, A' = E Wᵀ with E = Σyx − AWΣxx.

    If Σxx commutes with ΣyxᵀΣyx, in the joint eigenvectors of both, where the start may be 1e-100. Otherwise starts
    below 1e-14 would be lost in the rounding of what is learned.

    Args:
        inner: W(0), `(H, d)`.
        outer: A(0), `(c, H)`.
        covariance: Σxx, `(d, d)`.
        correlation: Σyx, `(c, d)`.
        times: When to look, flow times from 0 on, increasing.
        power: E|y|²; without it, the outputs are a linear function of the inputs.
        rtol: Relative tolerance.

    Returns:
        `loss`; `modes` by (time, mode), u_kᵀAWv_k of the singular vectors of Σyx; `singular_values` of AW by (time, k);
        `defect`, the largest change of the conserved AᵀA − WWᵀ, relative to |A|² + |W|².

    Raises:
        InputError: If shapes do not fit, a value is not finite, times do not increase, the start is 0, or too small for
            modes that mix, or the solver gives up.
    """
    w, a, cov, corr = (v.detach().cpu().double().numpy() for v in (inner, outer, covariance, correlation))
    _fitting(w, a, cov, corr)
    hidden, d = w.shape
    size = max(np.abs(w).max(), np.abs(a).max())
    left, right, commuting = _axes(cov, corr)
    if not commuting and size < SMALLEST:
        raise InputError(
            f"The start is {size:g}, and modes mix: rounding of what is learned would be larger; start above "
            f"{SMALLEST:g}."
        )
    seen, spread = left.T @ corr @ right, right.T @ cov @ right
    if commuting:  # what is 0 is 0
        seen = np.where(np.eye(*seen.shape) > 0, seen, 0.0)
        spread = np.diag(np.diag(spread))
    best = seen @ np.linalg.pinv(spread, rcond=1e-12, hermitian=True)

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        w, a = state[: hidden * d].reshape(hidden, d), state[hidden * d :].reshape(-1, hidden)
        error = seen - a @ w @ spread
        return np.concatenate([(a.T @ error).ravel(), (error @ w.T).ravel()])

    start = np.concatenate([(w @ right).ravel(), (left.T @ a).ravel()])
    found = _solve(velocity, start, times, method="LSODA", rtol=rtol, atol=size * ABSOLUTE)
    w_all, a_all = found[:, : hidden * d].reshape(-1, hidden, d), found[:, hidden * d :].reshape(len(found), -1, hidden)
    maps = a_all @ w_all
    explained = float((best * seen).sum())
    rest = maps - best
    loss = np.einsum("tcd,de,tce->t", rest, spread, rest) + max((explained if power is None else power) - explained, 0)
    charge = a_all.transpose(0, 2, 1) @ a_all - w_all @ w_all.transpose(0, 2, 1)
    norms = (a_all**2).sum((1, 2)) + (w_all**2).sum((1, 2))
    defect = np.abs(charge - charge[:1]).max((1, 2)) / norms
    modes = np.diagonal(maps, axis1=1, axis2=2)
    return xr.Dataset(
        {
            "loss": ("time", loss / 2),
            "modes": (("time", "mode"), modes.copy()),
            "singular_values": (("time", "k"), np.linalg.svd(maps, compute_uv=False)),
            "defect": ("time", defect),
        },
        {"time": increasing(times)},
    )


def attention_flow(
    v: Tensor, k: Tensor, q: Tensor, covariance: Tensor, examples: int, times: Tensor, rtol: float = 1e-9
) -> xr.Dataset:
    """Population gradient flow of linear attention on prompts of linear regression, M = Σ_i v_i k_i q_iᵀ.

    v' = kᵀGq, k' = vGq, q' = vGᵀk for every head, with G = NΣ² − E[S²]MΣ, in the eigenvectors of Σ.

    Args:
        v: v(0), `(H,)`.
        k: k(0), `(H, D)`.
        q: q(0), `(H, D)`.
        covariance: Σ, `(D, D)`.
        examples: N, pairs in a prompt.
        times: When to look, flow times from 0 on, increasing.
        rtol: Relative tolerance.

    Returns:
        `loss`; `modes` by (time, mode), e_lᵀMe_l of the eigenvectors of Σ by decreasing eigenvalue; `singular_values`
        of M by (time, k); `norm` of the heads by (time, head).

    Raises:
        InputError: If shapes do not fit, a value is not finite, times do not increase, or the solver gives up.
    """
    v0, k0, q0, sigma = (t.detach().cpu().double().numpy() for t in (v, k, q, covariance))
    heads, d = k0.shape if k0.ndim == 2 else (0, 0)
    if v0.shape != (heads,) or q0.shape != k0.shape or sigma.shape != (d, d) or not heads:
        raise InputError(
            f"v {v0.shape}, k {k0.shape}, q {q0.shape}, Σ {sigma.shape}: give (H,), (H, D), (H, D), (D, D)."
        )
    if not all(np.isfinite(t).all() for t in (v0, k0, q0, sigma)) or not np.allclose(sigma, sigma.T) or examples < 1:
        raise InputError("The heads and Σ must be finite, Σ symmetric, and a prompt have at least one example.")
    values, vectors = np.linalg.eigh(sigma)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    trace = values.sum()
    linear = examples * values**2
    square = examples * (examples + 1) * values**2 + examples * trace * values

    def parts(state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = state.reshape(-1, heads, 2 * d + 1)
        return rows[..., 0], rows[..., 1 : d + 1], rows[..., d + 1 :]

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        v, k, q = (part[0] for part in parts(state))
        slope = np.diag(linear) - square[:, None] * ((v[:, None] * k).T @ q) * values
        forward, back = q @ slope.T, k @ slope
        return np.concatenate([(k * forward).sum(1)[:, None], v[:, None] * forward, v[:, None] * back], 1).ravel()

    start = np.concatenate([v0[:, None], k0 @ vectors, q0 @ vectors], 1).ravel()
    size = float(np.abs(start).max())
    found = _solve(velocity, start, times, method="LSODA", rtol=rtol, atol=max(size, 1e-300) * ABSOLUTE)
    vs, ks, qs = parts(found)
    maps = np.einsum("th,thi,thj->tij", vs, ks, qs)
    modes = np.diagonal(maps, axis1=1, axis2=2)
    loss = (trace - 2 * modes @ linear + np.einsum("tij,i,j->t", maps**2, square, values)) / 2
    norm = np.sqrt(vs**2 + (ks**2).sum(2) + (qs**2).sum(2))
    return xr.Dataset(
        {
            "loss": ("time", loss),
            "modes": (("time", "mode"), modes.copy()),
            "singular_values": (("time", "k"), np.linalg.svd(maps, compute_uv=False)),
            "norm": (("time", "head"), norm),
        },
        {"time": increasing(times)},
    )


def _solve(
    velocity: Callable[[float, np.ndarray], np.ndarray], start: np.ndarray, times: Tensor, **options: object
) -> np.ndarray:
    """States at the times, `(times, parameters)`."""
    looked = increasing(times)
    if not looked[-1]:
        return np.repeat(start[None], len(looked), 0)
    solved = solve_ivp(velocity, (0.0, looked[-1]), start, t_eval=looked, **options)  # type: ignore[call-overload]
    if solved.status < 0:
        reached = solved.t[-1] if len(solved.t) else 0.0
        raise InputError(f"The flow could not be followed beyond t={reached:g}: {solved.message}")
    return solved.y.T


def _fitting(w: np.ndarray, a: np.ndarray, cov: np.ndarray, corr: np.ndarray) -> None:
    shapes = [v.shape for v in (w, a, cov, corr)]
    if any(len(s) != 2 for s in shapes) or a.shape[1] != len(w) or corr.shape != (len(a), w.shape[1]):
        raise InputError(f"W, A, Σxx, Σyx of shapes {shapes} must be (H, d), (c, H), (d, d), (c, d).")
    if cov.shape != (w.shape[1], w.shape[1]) or not np.allclose(cov, cov.T):
        raise InputError(f"Σxx of shape {cov.shape} must be symmetric, (d, d) with d = {w.shape[1]}.")
    if not all(np.isfinite(v).all() for v in (w, a, cov, corr)):
        raise InputError("The weights, Σxx and Σyx must be finite.")
    if not (w.any() or a.any()):
        raise InputError("A network at 0 stays there; give a start.")


def _axes(cov: np.ndarray, corr: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Orthogonal matrices in which Σyx is diagonal, and Σxx too if they commute; and whether they do."""
    square = corr.T @ corr
    product = np.linalg.norm(cov) * np.linalg.norm(square)
    commuting = np.linalg.norm(cov @ square - square @ cov) <= 1e-8 * product
    left, sigma, right = np.linalg.svd(corr)
    right = right.T
    if not commuting:
        return left, right, False
    sigma = np.append(sigma, np.zeros(len(right) - len(sigma)))
    first = 0
    for k in range(1, len(sigma) + 1):
        if k == len(sigma) or sigma[k] < sigma[first] - 1e-7 * max(sigma[0], 1e-300):
            turn = np.linalg.eigh(right[:, first:k].T @ cov @ right[:, first:k])[1][:, ::-1]
            right[:, first:k] = right[:, first:k] @ turn
            if sigma[first] > 1e-7 * sigma[0]:
                left[:, first:k] = left[:, first:k] @ turn
            first = k
    return left, right, True
