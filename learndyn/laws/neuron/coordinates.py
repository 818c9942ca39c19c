"""The paper's own coordinates of a single neuron, for plots and to check `exact` by (arXiv:2406.06158).

μ = a|w| (signed), φ = wᵀβ*/(|w|r), ν = ŵᵀβ*/â, and the hyperbolic angle along the level set of δ. Loss, time, δ and
k = √(η_aη_w) are those of `exact` with white data, c = 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import clock
from learndyn.laws.neuron.start import cosine, nonnegative, number, rates, real, weights

Pair = tuple[Float[Tensor, "..."], Float[Tensor, "..."]]


def slopes(
    mu: Tensor | float, phi: Tensor | float, r: float, delta: float, etas: tuple[float, float] = (1.0, 1.0)
) -> Pair:
    """μ' = κ(φr − μ) and φ' = 2η_aη_w μr/(κ − δ) · (1 − φ²), κ = √(δ² + 4η_aη_w μ²) (arXiv:2406.06158).

    κ − δ is 2η_a|w|² and cancels for δ > 0; there 2η_aη_w μ/(κ − δ) is (κ + δ)/2μ.

    Args:
        mu: μ, any shape.
        phi: φ in [−1, 1], broadcast against it.
        r: |β*|.
        delta: δ.
        etas: Learning rates (η_a, η_w).

    Returns:
        (μ', φ'); φ' is infinite or nan at w = 0.

    Raises:
        InputError: If a value is not finite or out of its range.
    """
    eta_a, eta_w = rates(etas)
    level, length = real("delta", delta), nonnegative("r", r)
    strength, turned = torch.broadcast_tensors(number("mu", mu), cosine(phi))
    squared = eta_a * eta_w
    kappa = torch.hypot(strength.new_tensor(level), 2 * math.sqrt(squared) * strength)
    turn = (kappa + level) / (2 * strength) if level > 0 else 2 * squared * strength / (kappa - level)
    return kappa * (turned * length - strength), turn * length * (1 - turned.square())


def ratio(nu: Tensor | float, r: float, delta: float, times: Tensor, k: float = 1.0) -> Float[Tensor, "... times"]:
    """ν = ŵᵀβ*/â, which obeys ν' = k(r² − δ̂ν − ν²) with δ̂ = δ/k.

    arXiv:2406.06158 writes ν = ½(−δ̂ + K tanh(Kkt/2 + artanh((δ̂ + 2ν₀)/K))), K = √(δ̂² + 4r²), with coth where
    |δ̂ + 2ν₀| > K. Here it is a fraction in e^{−Kkt}, which has no branches and does not overflow (derived here).

    Args:
        nu: ν at time 0, `(...,)`; inf where a = 0.
        r: |β*|.
        delta: δ.
        times: Times, `(T,)`.
        k: √(η_aη_w).

    Returns:
        ν(t); infinite where a changes its sign.

    Raises:
        InputError: If r or k is out of its range, δ or a ν is not a number, or a time is negative.
    """
    level, length = real("delta", delta) / k if k > 0 else math.nan, nonnegative("r", r)
    first = nu.detach().cpu().double() if isinstance(nu, Tensor) else torch.tensor(nu, dtype=torch.float64)
    if not 0 < k < math.inf or bool(first.isnan().any()):
        raise InputError(f"k={k:g} must be positive and finite, and nu no nan.")
    s, start = clock(times) * k, first[..., None]
    width = math.hypot(level, 2 * length)
    if width == 0:
        return torch.where(start.isinf(), 1 / s, start / (1 + start * s))
    large, small = (width + abs(level)) / (2 * width), 2 * length**2 / (width * (width + abs(level)))
    plus, minus = (large, small) if level >= 0 else (small, large)
    e = (-width * s).exp()
    grown = -torch.expm1(-width * s) / width
    above, below = start * (minus + e * plus) + grown * length**2, plus + e * minus + grown * start
    return torch.where(start.isinf(), (minus + e * plus) / grown, above / below)


def hyperbolic_angle(a: Tensor | float, w: Tensor, etas: tuple[float, float] = (1.0, 1.0)) -> Float[Tensor, "..."]:
    """θ of the level set: â = ±√δ̂ cosh θ, |ŵ| = √δ̂ sinh θ for δ > 0, â = √−δ̂ sinh θ, |ŵ| = √−δ̂ cosh θ for δ < 0.

    δ̂ = δ/k; then μ = ±(|δ̂|/2) sinh 2θ. θ is artanh(|ŵ|/|â|) with the sign of â, or artanh(â/|ŵ|) (arXiv:2406.06158).

    Args:
        a: Read-out weights, `(...,)`.
        w: Incoming weights, `(..., d)`.
        etas: Learning rates (η_a, η_w).

    Returns:
        θ, signed as μ is; infinite for δ = 0.

    Raises:
        InputError: If a shape does not fit, a value is not finite, or a rate is not positive.
    """
    eta_a, eta_w = rates(etas)
    last, first = weights(a, w)
    alpha, norm = math.sqrt(eta_w) * last, math.sqrt(eta_a) * torch.linalg.vector_norm(first, dim=-1)
    sign = torch.where(last < 0, -1.0, 1.0)
    small, big = torch.minimum(alpha.abs(), norm), torch.maximum(alpha.abs(), norm)
    # artanh(q) = ½ ln((1 + q)/(1 − q)), which keeps its digits next to 1
    return sign * torch.log1p(2 * small / (big - small)) / 2


def on_hyperbola(
    theta: Tensor | float, delta: float, sign: float = 1.0, etas: tuple[float, float] = (1.0, 1.0)
) -> Pair:
    """The weights a and |w| at an angle θ of the level set δ ≠ 0; the inverse of `hyperbolic_angle`.

    Args:
        theta: θ, any shape; with the sign of a.
        delta: δ, not 0.
        sign: Sign of a at θ = 0 for δ > 0, where there are two branches.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If δ is 0 or a value is not finite.
    """
    eta_a, eta_w = rates(etas)
    angle, level = number("theta", theta), real("delta", delta)
    if level == 0:
        raise InputError("delta = 0 is a cone, which has no hyperbolic angle; use balanced_curves.")
    root, (cosh, sinh) = math.sqrt(abs(level)), (angle.cosh(), angle.sinh())
    branch = torch.where(angle == 0, math.copysign(1.0, sign), angle.sign())
    a, norm = (branch * cosh, sinh.abs()) if level > 0 else (sinh, cosh)
    return root / math.sqrt(eta_w) * a, root / math.sqrt(eta_a) * norm


def balanced_curves(
    mu: float, phi: float, r: float, times: Tensor, k: float = 1.0
) -> tuple[Float[Tensor, " times"], Float[Tensor, " times"]]:
    """μ(t) and φ(t) of a balanced neuron, δ = 0: φ = tanh z, μ = r(cosh 2z + 1)/(2z + sinh 2z + C).

    z = z₀ + krt, z₀ = artanh φ₀ (arXiv:2406.06158, a > 0; with a < 0 both change sign). In terms of μ₀ its denominator
    is 2krt + (sinh 2z − sinh 2z₀) + r(cosh 2z₀ + 1)/μ₀, all positive; the largest exponential is divided out.

    Args:
        mu: μ at time 0, not 0.
        phi: φ at time 0, in (−1, 1).
        r: |β*|, positive.
        times: Times, `(T,)`, finite.
        k: √(η_aη_w).

    Raises:
        InputError: If a value is out of its range.
    """
    turned, length = float(cosine(phi)), nonnegative("r", r)
    if real("mu", mu) == 0 or length == 0 or abs(turned) == 1 or not 0 < k < math.inf:
        raise InputError(
            f"mu={mu:g} and r={r:g} must not be 0, phi={phi:g} must be in (-1, 1), and k={k:g} positive; use exact."
        )
    sign = math.copysign(1.0, mu)
    z0, t = math.atanh(sign * turned), clock(times)
    path = k * length * t
    z = z0 + path
    top = torch.maximum(2 * z.abs(), t.new_tensor(2 * abs(z0)))

    def raised(x: Tensor | float) -> Tensor:
        """(2 cosh 2x + 2) e^{−top}."""
        return (2 * x - top).exp() + (-2 * x - top).exp() + 2 * (-top).exp()

    climb = ((2 * z - top).exp() + (-2 * z0 - top).exp()) * -torch.expm1(-2 * path)
    below = 4 * path * (-top).exp() + climb + length / abs(mu) * raised(z0)
    return sign * length * raised(z) / below, sign * torch.tanh(z)
