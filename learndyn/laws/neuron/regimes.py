"""What a single neuron does far from δ = 0, at δ = 0 and near zero, and which basin it is in (arXiv:2406.06158).

Predictions to lay over runs, with the errors measured for them; loss, time, δ and k = √(η_aη_w) are those of `exact`
with white data (c = 1; otherwise time is ct).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import clock, finite
from learndyn.laws.neuron.solution import ends, starts
from learndyn.laws.neuron.start import cosine, frame, nonnegative, number, rates, real

Etas = tuple[float, float]


def separatrix_distance(a: Tensor | float, w: Tensor, target: Tensor, etas: Etas = (1.0, 1.0)) -> Float[Tensor, "..."]:
    """g₊, which has the sign of wᵀβ* + (a/2)(δ + √(δ² + 4r²)), in the plane of (ŵᵀβ*/r, â) (arXiv:2406.06158).

    Zero on the separatrix, whose flow ends in the saddles a = 0, wᵀβ* = 0; negative where a ends negative.

    Args:
        a: Read-out weights, `(...,)`.
        w: Incoming weights, `(..., d)`.
        target: β*, `(d,)` or `(..., d)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a shape does not fit, a value is not finite, or a rate is not positive.
    """
    return frame(*starts(a, w, target), *rates(etas)).plus


def basin(a: Tensor | float, w: Tensor, target: Tensor, etas: Etas = (1.0, 1.0)) -> Float[Tensor, "..."]:
    """Sign of a at t = ∞: that of a if δ > 0, else that of `separatrix_distance`; 0 if a tends to 0.

    Arguments and errors are those of `separatrix_distance`.
    """
    return ends(frame(*starts(a, w, target), *rates(etas)))


def upstream(beta: Tensor, target: Tensor, delta: float, times: Tensor) -> Float[Tensor, "times d"]:
    """δ ≫ kr: β(t) ≈ β* + (β₀ − β*) e^{−δt}, lazy (arXiv:2406.06158).

    The error is ∝ δ⁻²: 2.0e-3, 2.3e-4 and 2.1e-5 at δ = 10, 30, 100 for |β₀| = 0.5, r = 1 and any direction
    (to 10 %).

    Args:
        beta: β₀, `(d,)`.
        target: β*, `(d,)`.
        delta: δ > 0; the rates are in it.
        times: Times, `(T,)`.

    Raises:
        InputError: If the shapes differ, a value is not finite, or δ is not positive.
    """
    first, last = finite("beta", beta), finite("target", target)
    if first.ndim != 1 or first.shape != last.shape:
        raise InputError(f"beta {tuple(first.shape)} and target {tuple(last.shape)} must both be (d,).")
    if not 0 < delta < math.inf:
        raise InputError(f"delta={delta:g} is not upstream; it must be positive (use exact for any delta).")
    return last + torch.outer((-delta * clock(times)).exp(), first - last)


def fast_fit(mu: float, phi: float, r: float, delta: float, times: Tensor) -> Float[Tensor, " times"]:
    """δ ≪ −kr, first phase: μ ≈ φr + (μ₀ − φr) e^{−|δ|t} at a direction that stays (arXiv:2406.06158).

    Args:
        mu: μ at time 0.
        phi: φ at time 0.
        r: |β*|.
        delta: δ < 0; the rates are in it.
        times: Times, `(T,)`.

    Raises:
        InputError: If a value is out of its range.
    """
    fitted = float(cosine(phi)) * nonnegative("r", r)
    return fitted + (real("mu", mu) - fitted) * (-_downstream(delta) * clock(times)).exp()


def slow_turn(phi: float, r: float, delta: float, times: Tensor, etas: Etas = (1.0, 1.0)) -> Float[Tensor, " times"]:
    """δ ≪ −kr, second phase: φ' = (η_aη_w r²/|δ|) φ(1 − φ²), so φ = φ₀/√(φ₀² + (1 − φ₀²)e^{−2k²r²t/|δ|}).

    arXiv:2406.06158. That is for φμ > 0, which the first phase brings about.

    Args:
        phi: φ at time 0.
        r: |β*|.
        delta: δ < 0.
        times: Times since then, `(T,)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a value is out of its range.
    """
    turned, (eta_a, eta_w) = float(cosine(phi)), rates(etas)
    rate = eta_a * eta_w * nonnegative("r", r) ** 2 / _downstream(delta)
    if turned == 0:
        return torch.zeros_like(clock(times))
    left = (1 - turned) * (1 + turned) / turned**2
    return math.copysign(1.0, turned) / (1 + left * (-2 * rate * clock(times)).exp()).sqrt()


def delay(
    phi_first: Tensor | float, phi_last: Tensor | float, r: float, delta: float, etas: Etas = (1.0, 1.0)
) -> Float[Tensor, "..."]:
    """δ ≪ −kr: time from φ₁ to φ₂, (|δ|/2η_aη_w r²) ln[φ₂²(1 − φ₁²)/φ₁²(1 − φ₂²)] (arXiv:2406.06158).

    Exact over law, φ from 0.3 to 0.9 on the way from a smaller φ, r = 1: 1.0099, 1.0011, 1.0001, 1.0000 at δ = −10,
    −30, −100, −300 (from |β₀| = 0.5 at φ = 0.3 itself: 1.0064, 1.0007, 1.0001, 1.0000).

    Args:
        phi_first: φ at the beginning, not 0, any shape.
        phi_last: φ at the end, of the same sign; 1 is reached at infinity.
        r: |β*|, positive.
        delta: δ < 0.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a value is out of its range, or φ would have to pass 0.
    """
    eta_a, eta_w = rates(etas)
    first, last = torch.broadcast_tensors(cosine(phi_first), cosine(phi_last))
    if bool((first * last <= 0).any()) or not 0 < r < math.inf:
        raise InputError(
            f"r={r:g} must be positive, and phi_first and phi_last not 0 and of one sign: phi does not pass 0."
        )
    scale = _downstream(delta) / (2 * eta_a * eta_w * r**2)

    def odds(x: Tensor) -> Tensor:
        return 2 * x.abs().log() - torch.log1p(-x.abs()) - torch.log1p(x.abs())

    return scale * (odds(last) - odds(first))


def alignment(phi: float, r: float, times: Tensor, etas: Etas = (1.0, 1.0)) -> Float[Tensor, " times"]:
    """δ = 0, a > 0: φ = tanh(artanh φ₀ + krt), whatever the scale (arXiv:2406.06158); for a < 0 −φ obeys this.

    Args:
        phi: φ at time 0.
        r: |β*|.
        times: Times, `(T,)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a value is out of its range.
    """
    k = math.sqrt(math.prod(rates(etas)))
    return torch.tanh(cosine(phi).atanh() + k * nonnegative("r", r) * clock(times))


def onset(
    mu: Tensor | float, phi: float, r: float, level: float = 0.5, etas: Etas = (1.0, 1.0)
) -> Float[Tensor, "..."]:
    """δ = 0, small start, a > 0: time at which μ is `level`·r, (½ ln[4ℓ/(1 − ℓ) · r/(μ₀(1 − φ₀²))] − artanh φ₀)/kr.

    After the alignment μ is a sigmoid of rate 2kr, later by ln(10)/2kr for every decade of |β₀| = μ₀. The leading order
    of `balanced_curves` in μ₀ (derived here): 3.884 against 3.886, 7.338 against 7.339 at μ₀ = 1e-3, 1e-6, φ₀ = 0.3.

    Args:
        mu: |β₀|, positive, any shape.
        phi: φ at time 0, in (−1, 1).
        r: |β*|, positive.
        level: ℓ in (0, 1).
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a value is out of its range.
    """
    k, strength, turned = math.sqrt(math.prod(rates(etas))), number("mu", mu), float(cosine(phi))
    if not (bool((strength > 0).all()) and abs(turned) < 1 and 0 < r < math.inf and 0 < level < 1):
        raise InputError(f"mu and r={r:g} must be positive, phi={phi:g} in (-1, 1) and level={level:g} in (0, 1).")
    grown = 4 * level / (1 - level) * r / (strength * (1 - turned) * (1 + turned))
    return (grown.log() / 2 - math.atanh(turned)) / (k * r)


def _downstream(delta: float) -> float:
    """|δ|."""
    if not -math.inf < delta < 0:
        raise InputError(f"delta={delta:g} is not downstream; it must be negative (use exact for any delta).")
    return -float(delta)
