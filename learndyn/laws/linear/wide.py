"""Wide two-layer linear networks with several outputs, in function space (arXiv:2406.06158).

f(x) = AᵀW x, W `(h, d)`, A `(h, c)`, β = WᵀA `(d, c)`, loss L = ½ |Xβ − Y|² (a sum), G = Xᵀ(Xβ − Y), W' = −η_w A Gᵀ,
A' = −η_a W G. Conserved is the matrix Δ = η_w AAᵀ − η_a WWᵀ, and always β' = −(left G + G right) with left = η_a WᵀW
and right = η_w AᵀA. What these are in terms of β depends on Δ: here of every unit alone, or isotropic, Δ = δI.
δ > 0: the second layer is larger (upstream).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import clock, feasible, finite
from learndyn.laws.linear.single import followed
from learndyn.laws.neuron.start import EPS, number, rates, real


class Preconditioner(NamedTuple):
    """What β' = −(left G + G right) is made of.

    Attributes:
        left: η_a WᵀW, `(d, d)`.
        right: η_w AᵀA, `(c, c)`.
    """

    left: Tensor
    right: Tensor


class Limits(NamedTuple):
    """How a shape learns far from δ = 0: "lazy" or "delayed rich". All shapes are rich as δ → 0."""

    upstream: str
    downstream: str


def of_units(betas: Tensor, deltas: Tensor, etas: tuple[float, float] = (1.0, 1.0)) -> Preconditioner:
    """From the units' own β_k = w_k a_kᵀ and δ_k = η_w|a_k|² − η_a|w_k|², for any Δ (arXiv:2406.06158).

    left = Σ_k (κ_k − δ_k)/2 · β_kβ_kᵀ/|β_k|² and right = Σ_k (κ_k + δ_k)/2 · β_kᵀβ_k/|β_k|² with κ_k = √(δ_k² +
    4η_aη_w|β_k|²).

    Args:
        betas: β_k, of rank one and not 0, `(h, d, c)`.
        deltas: δ_k, `(h,)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a β_k is 0 or not of rank one.
    """
    eta_a, eta_w = rates(etas)
    made, levels = finite("betas", betas), finite("deltas", deltas)
    if made.ndim != 3 or levels.shape != made.shape[:1]:
        raise InputError(f"betas {tuple(made.shape)} and deltas {tuple(levels.shape)}: expected (h, d, c) and (h,).")
    size = torch.linalg.matrix_norm(made)
    if bool((size == 0).any()):
        raise InputError(f"Unit {int((size == 0).nonzero()[0])} has beta = 0, which does not tell its directions.")
    unit = made / size[:, None, None]
    spread = 1 - torch.linalg.matrix_norm(unit, 2)
    if bool((spread > 1e-8).any()):
        raise InputError(f"The beta of unit {int(spread.argmax())} is not of rank one, as w a' is.")
    kappa = torch.hypot(levels, 2 * math.sqrt(eta_a * eta_w) * size)
    large = (kappa + levels.abs()) / 2
    small = eta_a * eta_w * size * (size / large)
    of_w, of_a = torch.where(levels > 0, small, large), torch.where(levels > 0, large, small)
    left = torch.einsum("k,kic,kjc->ij", of_w, unit, unit)
    return Preconditioner(left, torch.einsum("k,kdi,kdj->ij", of_a, unit, unit))


def isotropic(beta: Tensor, delta: float, etas: tuple[float, float] = (1.0, 1.0)) -> Preconditioner:
    """For Δ = δI left = √(η_aη_w ββᵀ + δ²/4) − δ/2, right = √(η_aη_w βᵀβ + δ²/4) + δ/2 (arXiv:2406.06158).

    Right only for the widths that `self_consistent` lets pass.

    Args:
        beta: β, `(d, c)`.
        delta: δ.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If β is no matrix or a value is not finite.
    """
    eta_a, eta_w = rates(etas)
    made, level = finite("beta", beta), real("delta", delta)
    if made.ndim != 2 or 0 in made.shape:
        raise InputError(f"beta {tuple(made.shape)} must be a matrix (d, c), inputs times outputs.")
    return Preconditioner(*(torch.from_numpy(m) for m in _isotropic(made.numpy(), level, math.sqrt(eta_a * eta_w))))


def self_consistent(inputs: int, hidden: int, outputs: int, delta: float) -> None:
    """Refuse shapes for which β alone does not tell left and right at Δ = δI (derived here).

    They do at δ = 0, at δ > 0 if h = c, and at δ < 0 if h = d: else the larger layer leaves a part of its side out, and
    which one β does not say.

    Raises:
        InputError: If no network of this shape has Δ = δI, or β does not determine the flow.
    """
    feasible(inputs, hidden, outputs, delta)
    side, size = ("c", outputs) if delta > 0 else ("d", inputs)
    if delta and hidden != size:
        raise InputError(
            f"h={hidden} < {side}={size} with delta {'>' if delta > 0 else '<'} 0 is not self-consistent: the flow of "
            "beta depends on the weights. Integrate them, or use laws.balanced.exact where the data are white."
        )


def isotropic_flow(
    inputs: Tensor,
    targets: Tensor,
    beta: Tensor,
    delta: float,
    hidden: int,
    times: Tensor,
    etas: tuple[float, float] = (1.0, 1.0),
    method: str = "DOP853",
    most: int = 200_000,
) -> Float[Tensor, "times d c"]:
    """Integrate β' = −(left G + G right) of a network with Δ = δI, for any data (arXiv:2406.06158).

    Args:
        inputs: X, `(n, d)`.
        targets: Y, `(n, c)`.
        beta: β at time 0, `(d, c)`, of rank h at most.
        delta: δ.
        hidden: Hidden units h.
        times: Finite times in any order, `(T,)`.
        etas: Learning rates (η_a, η_w).
        method: A method of SciPy's `solve_ivp`.
        most: Gradients that it may take.

    Raises:
        InputError: If a shape does not fit, β alone does not determine the flow (`self_consistent`), a value is out of
            its range, or it takes too many gradients.
    """
    eta_a, eta_w = rates(etas)
    x, y, first = finite("inputs", inputs), finite("targets", targets), finite("beta", beta)
    t, level, k = clock(finite("times", times)), real("delta", delta), math.sqrt(eta_a * eta_w)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or first.shape != (x.shape[1], y.shape[1]) or 0 in first.shape:
        raise InputError(
            f"inputs {tuple(x.shape)}, targets {tuple(y.shape)} and beta {tuple(first.shape)} do not fit; expected "
            "(n, d), (n, c) and (d, c)."
        )
    self_consistent(first.shape[0], hidden, first.shape[1], level)
    values = torch.linalg.svdvals(first)
    rank = int((values > max(first.shape) * EPS * values[0]).sum())
    if rank > hidden:
        raise InputError(f"beta has rank {rank}, more than {hidden} hidden units can make.")
    second, cross, shape = (x.mT @ x).numpy(), (x.mT @ y).numpy(), tuple(first.shape)

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        now = flat.reshape(shape)
        left, right = _isotropic(now, level, k)
        gradient = second @ now - cross
        return -(left @ gradient + gradient @ right).ravel()

    increasing, place = np.unique(t.numpy(), return_inverse=True)
    if len(increasing) == 0 or increasing[-1] == 0:
        return first.repeat(len(t), 1, 1)
    scale = max(float(first.abs().max()), float(np.abs(np.linalg.pinv(second) @ cross).max()))
    end = float(increasing[-1])
    solution, _ = followed(slope, first.numpy().ravel(), end, lambda *_: 1.0, method, 1e-13 * scale, most)
    return torch.from_numpy(solution(increasing).T[place].reshape(-1, *shape))


def limit_regimes(inputs: int, hidden: int, outputs: int) -> Limits:
    """Lazy or delayed rich at δ → ∞ and δ → −∞, for the δ of all units (arXiv:2406.06158).

    The large layer that spans its side, h ≥ c or h ≥ d, need not turn: funnels (d > c) with c ≤ h < d are lazy upstream
    and rich with a delay downstream, inverted funnels the reverse, and h ≥ max(d, c) is lazy at both ends.

    Args:
        inputs: d.
        hidden: h.
        outputs: c.

    Raises:
        InputError: If a width is below 1, or h < min(d, c): a bottleneck spans neither side and cannot fit all tasks.
    """
    if min(inputs, hidden, outputs) < 1 or hidden < min(inputs, outputs):
        raise InputError(
            f"(d, h, c) = ({inputs}, {hidden}, {outputs}) must be at least 1, with h >= min(d, c); for a bottleneck "
            "see laws.balanced.regime."
        )
    return Limits(*("lazy" if hidden >= side else "delayed rich" for side in (outputs, inputs)))


def hyperbolic_entropy(values: Tensor | float, delta: float) -> Float[Tensor, "..."]:
    """The potential of singular values of β: q(x) = ¼(2x asinh(2x/|δ|) − √(4x² + δ²) + |δ|), q'' = 1/√(4x² + δ²).

    Under Δ = δI and equal rates 1 they follow a mirror flow in it, d q'(x)/dt = −∂L/∂x (arXiv:2406.06158); with other
    rates, d q'/dt = −√(η_aη_w) ∂L/∂x at δ/√(η_aη_w).

    Args:
        values: x, any shape.
        delta: δ, not 0.

    Raises:
        InputError: If δ is 0, where the potential is x ln x up to a line that diverges, or a value is not finite.
    """
    x, level = number("values", values), abs(real("delta", delta))
    if level == 0:
        raise InputError("delta = 0 has no hyperbolic entropy; there q' is ln(x)/2 up to a constant.")
    rise = 4 * x * (x / (torch.hypot(2 * x, x.new_tensor(level)) + level))  # √(4x² + δ²) − |δ|
    return (2 * x * torch.asinh(2 * x / level) - rise) / 4


def _isotropic(beta: np.ndarray, delta: float, k: float) -> tuple[np.ndarray, np.ndarray]:
    u, s, vt = np.linalg.svd(beta)
    half, pairs = abs(delta) / 2, len(s)
    large = np.hypot(k * s, half) + half
    small = np.divide((k * s) ** 2, large, out=np.zeros_like(s), where=large > 0)
    sides = [(u, small, 0.0), (vt.T, large, 2 * half)] if delta >= 0 else [(u, large, 2 * half), (vt.T, small, 0.0)]
    made = [np.concatenate([values, np.full(len(basis) - pairs, beyond)]) for basis, values, beyond in sides]
    return (u * made[0]) @ u.T, (vt.T * made[1]) @ vt
