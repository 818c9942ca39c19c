"""Two-layer piecewise-linear networks: how units turn and grow, and what moves the kernel (arXiv:2406.06158).

f(x) = Σ_k a_k σ(w_kᵀx), σ(z) = max(z, γz), loss L = ½ Σ_i (f(x_i) − y_i)² (a sum), learning rates η_a, η_w, time that
of θ' = −η_θ ∂L/∂θ. With the patterns c_ki = σ'(w_kᵀx_i) every unit sees its own data only, through
ξ_k = Σ_i c_ki x_i ρ_i, ρ = f − y, and moves as a linear one: β_k = a_kw_k, β_k' = −M_kξ_k with
M_k = η_w a_k² I + η_a w_kw_kᵀ. Its imbalance δ_k = η_w a_k² − η_a|w_k|² is conserved (`neuron.imbalance`). A bias
is a column of ones in X.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import finite
from learndyn.laws.neuron.start import number, rates, real

Units = Float[Tensor, " units"]
Vectors = Float[Tensor, "units d"]


class Spherical(NamedTuple):
    """Units in signed spherical coordinates, or their velocities.

    Attributes:
        mu: μ_k = sgn(a_k)|β_k| = a_k|w_k|, `(h,)`.
        direction: w_k/|w_k|, `(h, d)`; nan where w_k = 0.
    """

    mu: Tensor
    direction: Tensor


class Motion(NamedTuple):
    """How far a kernel has moved, S = 1 − cos, and what moved it.

    Attributes:
        total: All.
        by_weights: M_k moved, and the patterns stayed.
        by_patterns: Patterns moved, and the M_k stayed.
    """

    total: float
    by_weights: float
    by_patterns: float


def patterns(inputs: Tensor, w: Tensor, slope: float = 0.0) -> Float[Tensor, "units samples"]:
    """c_ki = σ'(w_kᵀx_i): 1 where a unit is active, else the slope γ, and at 0 too, as in torch.

    Args:
        inputs: X, `(n, d)`.
        w: Incoming weights, `(h, d)`.
        slope: γ, 0 for ReLU, 1 for a linear network.

    Raises:
        InputError: If the shapes do not fit or a value is not finite.
    """
    x, first = _fitting(inputs, w)
    reached = first @ x.mT
    return torch.where(reached > 0, 1.0, torch.full_like(reached, real("slope", slope)))


def outputs(inputs: Tensor, a: Tensor, w: Tensor, slope: float = 0.0) -> Float[Tensor, " samples"]:
    """f(x_i) = Σ_k a_k c_ki w_kᵀx_i.

    Args:
        inputs: X, `(n, d)`.
        a: Read-out weights, `(h,)`.
        w: Incoming weights, `(h, d)`.
        slope: γ.

    Raises:
        InputError: If the shapes do not fit or a value is not finite.
    """
    x, first = _fitting(inputs, w)
    return _per_unit("a", a, first) @ (patterns(x, first, slope) * (first @ x.mT))


def currents(inputs: Tensor, errors: Tensor, active: Tensor) -> Vectors:
    """ξ_k = Σ_i c_ki x_i ρ_i, the gradient of L in β_k (arXiv:2406.06158).

    Args:
        inputs: X, `(n, d)`.
        errors: ρ = f − y, `(n,)`.
        active: c, `(h, n)`.

    Raises:
        InputError: If the shapes do not fit or a value is not finite.
    """
    x, rho, c = finite("inputs", inputs), finite("errors", errors), finite("active", active)
    if x.ndim != 2 or rho.shape != x.shape[:1] or c.ndim != 2 or c.shape[1] != len(x):
        raise InputError(
            f"inputs {tuple(x.shape)}, errors {tuple(rho.shape)} and active {tuple(c.shape)} do not fit; expected "
            "(n, d), (n,) and (h, n)."
        )
    return (c * rho) @ x


def spherical(a: Tensor, w: Tensor) -> Spherical:
    """μ_k = a_k|w_k| and w_k/|w_k| of units a `(h,)`, w `(h, d)` (arXiv:2406.06158).

    Raises:
        InputError: If the shapes do not fit or a value is not finite.
    """
    first = finite("w", w)
    norm = torch.linalg.vector_norm(first, dim=-1)
    return Spherical(_per_unit("a", a, first) * norm, first / norm[:, None])


def velocities(
    mu: Tensor, direction: Tensor, delta: Tensor, current: Tensor, etas: tuple[float, float] = (1.0, 1.0)
) -> Spherical:
    """μ_k' = −κ_k b_kᵀξ_k and b_k' = −(κ_k + δ_k)/2μ_k · (I − b_kb_kᵀ)ξ_k, κ_k = √(δ_k² + 4η_aη_w μ_k²).

    arXiv:2406.06158, in signed spherical coordinates; it holds between kinks. For δ_k < 0 the factor is taken as
    2η_aη_w μ_k/(κ_k − δ_k), which neither cancels nor is singular at μ_k = 0.

    Args:
        mu: μ_k, `(h,)`.
        direction: b_k = w_k/|w_k|, `(h, d)`.
        delta: δ_k, `(h,)`.
        current: ξ_k, `(h, d)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or μ_k = 0 with δ_k ≥ 0, where w_k = 0.
    """
    b, xi = finite("direction", direction), finite("current", current)
    if b.ndim != 2 or b.shape != xi.shape:
        raise InputError(f"direction {tuple(b.shape)} and current {tuple(xi.shape)} must both be (h, d).")
    strength, level = _per_unit("mu", mu, b), _per_unit("delta", delta, b)
    bare = (strength == 0) & (level >= 0)
    if bool(bare.any()):
        raise InputError(f"Unit {int(bare.nonzero()[0])} has mu = 0 and delta >= 0, so w = 0, which has no direction.")
    turn, kappa = _turn(strength, level, *rates(etas))
    along = (b * xi).sum(-1)
    return Spherical(-kappa * along, -turn[:, None] * (xi - along[:, None] * b))


def turning_rate(
    mu: Tensor | float, delta: Tensor | float, etas: tuple[float, float] = (1.0, 1.0)
) -> Float[Tensor, "..."]:
    """|b'| for a unit force across b: (κ + δ)/2|μ|, in three speeds as μ → 0 (arXiv:2406.06158).

    Upstream δ/|μ|, which diverges (rapid); balanced √(η_aη_w), whatever the scale; downstream η_aη_w|μ|/|δ|, frozen.
    They part below √(η_aη_w)|μ| = |δ|.

    Args:
        mu: μ, any shape.
        delta: δ, broadcast against it.
        etas: Learning rates (η_a, η_w).

    Returns:
        The rate; inf at μ = 0 upstream.

    Raises:
        InputError: If a value is not finite or a rate not positive.
    """
    strength, level = torch.broadcast_tensors(number("mu", mu), number("delta", delta))
    return _turn(strength.abs(), level, *rates(etas))[0]


def three_speeds(mu: Tensor | float, delta: float, etas: tuple[float, float] = (1.0, 1.0)) -> Float[Tensor, "..."]:
    """The law for `turning_rate` as μ → 0: δ/|μ|, √(η_aη_w) or η_aη_w|μ|/|δ| by the sign of δ (arXiv:2406.06158).

    Its error is (√(η_aη_w) μ/δ)², relative.

    Args:
        mu: μ, any shape.
        delta: δ.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a value is not finite or a rate not positive.
    """
    eta_a, eta_w = rates(etas)
    size, level = number("mu", mu).abs(), real("delta", delta)
    if level > 0:
        return level / size
    return eta_a * eta_w * size / -level if level < 0 else torch.full_like(size, math.sqrt(eta_a * eta_w))


def kernel(
    inputs: Tensor, a: Tensor, w: Tensor, active: Tensor, etas: tuple[float, float] = (1.0, 1.0)
) -> Float[Tensor, "samples samples"]:
    """Tangent kernel K_ij = Σ_k c_ki c_kj x_iᵀM_kx_j, with the learning rates in it (arXiv:2406.06158).

    Patterns need not be those of w: K with patterns or M of another time says which has moved (`kernel_motion`).

    Args:
        inputs: X, `(n, d)`.
        a: Read-out weights, `(h,)`.
        w: Incoming weights, `(h, d)`.
        active: c, `(h, n)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a rate is not positive.
    """
    eta_a, eta_w = rates(etas)
    x, first = _fitting(inputs, w)
    last, c = _per_unit("a", a, first), finite("active", active)
    if c.shape != (len(first), len(x)):
        raise InputError(f"active {tuple(c.shape)} must be (h, n) = ({len(first)}, {len(x)}), units times samples.")
    seen = c * (first @ x.mT)
    weighted = last[:, None] * c
    return eta_w * (weighted.mT @ weighted) * (x @ x.mT) + eta_a * (seen.mT @ seen)


def kernel_motion(
    inputs: Tensor,
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    slope: float = 0.0,
    etas: tuple[float, float] = (1.0, 1.0),
) -> Motion:
    """S between two networks (a, w), and S with only the weights or only the patterns moved (derived here).

    The two do not add up: S is no sum of squares, and M and c act as a product.

    Args:
        inputs: X, `(n, d)`.
        before: a `(h,)` and w `(h, d)` of the first network.
        after: a and w of the second, unit by unit.
        slope: γ.
        etas: Learning rates (η_a, η_w).

    Returns:
        S in [0, 1] each; nan if a kernel is zero.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a rate is not positive.
    """
    if before[0].shape != after[0].shape or before[1].shape != after[1].shape:
        raise InputError(f"The networks differ in shape: {tuple(before[1].shape)} and {tuple(after[1].shape)}.")
    (first, second) = (patterns(inputs, w, slope) for _, w in (before, after))
    start = kernel(inputs, *before, first, etas)
    moved = ((after, second), (after, first), (before, second))
    return Motion(*(_distance(start, kernel(inputs, *weights, active, etas)) for weights, active in moved))


def hamming(first: Tensor, second: Tensor) -> float:
    """Units that have changed side, Σ_k mean_i [c_ki ≠ c'_ki], in [0, h]; over h it is the share of changed signs.

    Args:
        first: c, `(h, n)`.
        second: c', `(h, n)`.

    Raises:
        InputError: If the shapes differ.
    """
    if first.ndim != 2 or first.shape != second.shape or 0 in first.shape:
        raise InputError(f"Patterns {tuple(first.shape)} and {tuple(second.shape)} must both be (h, n).")
    return float((first != second).double().mean(1).sum())


def _turn(mu: Tensor, delta: Tensor, eta_a: float, eta_w: float) -> tuple[Tensor, Tensor]:
    """(κ + δ)/2μ and κ."""
    kappa = torch.hypot(delta, 2 * math.sqrt(eta_a * eta_w) * mu)
    below = 2 * eta_a * eta_w * mu / (kappa + delta.abs())
    still = torch.full_like(mu, math.sqrt(eta_a * eta_w)) * torch.where(mu < 0, -1.0, 1.0)
    turn = torch.where(delta < 0, below, torch.where(delta > 0, (kappa + delta) / (2 * mu), still))
    return turn, kappa


def _distance(first: Tensor, second: Tensor) -> float:
    """S as half the square of the distance of the normalised kernels, which keeps small ones."""
    return float((first / first.norm() - second / second.norm()).square().sum()) / 2


def _fitting(inputs: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    x, first = finite("inputs", inputs), finite("w", w)
    if x.ndim != 2 or first.ndim != 2 or x.shape[1] != first.shape[1] or 0 in (*x.shape, *first.shape):
        raise InputError(f"inputs {tuple(x.shape)} and w {tuple(first.shape)} do not fit; expected (n, d) and (h, d).")
    return x, first


def _per_unit(name: str, values: Tensor, w: Tensor) -> Tensor:
    made = finite(name, values)
    if w.ndim != 2 or made.shape != w.shape[:1]:
        raise InputError(f"{name} {tuple(made.shape)} does not fit units {tuple(w.shape)}; expected one number a unit.")
    return made
