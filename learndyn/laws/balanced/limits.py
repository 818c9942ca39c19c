"""Where balanced two-layer linear networks end, and what they do when one layer is much larger (arXiv:2409.14623).

Time, loss and Σ are those of `exact` at k = 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.riccati import EPS
from learndyn.laws.balanced.start import clock, feasible, finite


def steady_state(sigma: Tensor, lam: float, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """W₂W₁, W₁ᵀW₁ and W₂W₂ᵀ at t = ∞ from a generic λ-balanced start (arXiv:2409.14623).

    The best approximation of Σ of rank h, and its singular vectors with the eigenvalues (√(λ²+4s²) ∓ λ)/2. Hidden units
    beyond the singular values put |λ| on other directions of the side that the large layer is on. `exact` at t = ∞
    knows starts that are not generic.

    Args:
        sigma: Σ, `(c, d)`.
        lam: λ.
        hidden: Hidden units h.

    Returns:
        `(c, d)`, `(d, d)`, `(c, c)`.

    Raises:
        InputError: If λ is infeasible for the shape, a value is not finite, or the h fastest modes are not unique, so
            that the limit depends on the start.
    """
    target = finite("sigma", sigma)
    if target.ndim != 2 or 0 in target.shape or hidden < 1 or not math.isfinite(lam):
        raise InputError(f"sigma {tuple(target.shape)}, hidden={hidden}, lam={lam:g}: expected (c, d), h >= 1, finite.")
    outputs, inputs = target.shape
    feasible(inputs, hidden, outputs, lam)
    u, s, vh = torch.linalg.svd(target)
    # with the large layer's side the larger one, all of its directions grow, those beyond the pairs at |λ|/2
    growing = max(len(s), outputs if lam > 0 else inputs if lam < 0 else 0)
    s = torch.cat([s, s.new_zeros(growing - len(s))])
    rates = torch.hypot(s, s.new_tensor(abs(lam) / 2))
    tiny = max(target.shape) * EPS * float(rates[0])
    if hidden < growing and float(rates[hidden]) > tiny and float(rates[hidden - 1] - rates[hidden]) <= tiny:
        raise InputError(
            f"With {hidden} hidden units the limit depends on the start, as modes {hidden} and {hidden + 1} are "
            "equally fast; ask exact(...) at t = inf."
        )
    s = s[:hidden]
    large, small = split(s, lam)
    in_values, out_values = (small, large) if lam >= 0 else (large, small)
    v, left, right = vh.mT, min(len(s), outputs), min(len(s), inputs)
    both = min(left, right)
    product = (u[:, :both] * s[:both]) @ vh[:both]
    return (
        product,
        (v[:, :right] * in_values[:right]) @ v[:, :right].mT,
        (u[:, :left] * out_values[:left]) @ u[:, :left].mT,
    )


def plateau(product: Tensor, sigma: Tensor) -> float:
    """Loss above its floor on which a square network with λ = 0 ends: ½ s_min² if det(W₂W₁) and det(Σ) differ in sign.

    For λ = 0 the determinant cannot change sign, so the flow ends in the saddle that misses the weakest mode, for any
    h ≥ d = c (derived here). Half of all random starts are of this kind. Any λ ≠ 0 removes the plateau, and so do the
    steps of GD, which let λ drift.

    Args:
        product: W₂W₁ at the start, `(n, n)`.
        sigma: Σ, `(n, n)`.

    Returns:
        The plateau, 0 if the network learns all.

    Raises:
        InputError: If a matrix is not square, the shapes differ, or a matrix is singular: the sign says nothing then.
    """
    start, target = finite("product", product), finite("sigma", sigma)
    if start.ndim != 2 or start.shape != target.shape or start.shape[0] != start.shape[1]:
        raise InputError(
            f"Only square maps have a determinant, not {tuple(start.shape)} and {tuple(target.shape)}; others learn."
        )
    for name, matrix in (("product", start), ("sigma", target)):
        values = torch.linalg.svdvals(matrix)
        if not float(values[-1]) > len(values) * EPS * float(values[0]):
            raise InputError(f"{name} is singular to rounding, so the sign of its determinant says nothing.")
    differ = torch.linalg.slogdet(start).sign != torch.linalg.slogdet(target).sign
    return float(values[-1]) ** 2 / 2 if differ else 0.0


def lazy_function(
    product: Tensor, sigma: Tensor, lam: float, hidden: int, times: Tensor
) -> Float[Tensor, "times outputs inputs"]:
    """Limit |λ| → ∞: W₂W₁ = Σ + (W₂W₁(0) − Σ) e^{−|λ|t}, with an error that falls as λ⁻² (arXiv:2409.14623).

    Only where the large layer spans its side: λ > 0 and h = c, or λ < 0 and h = d. Elsewhere that layer is √|λ| times
    an isometry that has to turn, the delayed rich regime.

    Args:
        product: W₂W₁ at the start, `(c, d)`.
        sigma: Σ, `(c, d)`.
        lam: λ.
        hidden: Hidden units h.
        times: Times, `(T,)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or the large layer does not span its side.
    """
    start, target, t = finite("product", product), finite("sigma", sigma), clock(times)
    if target.ndim != 2 or start.shape != target.shape:
        raise InputError(f"product {tuple(start.shape)} and sigma {tuple(target.shape)} must both be (c, d).")
    outputs, inputs = target.shape
    feasible(inputs, hidden, outputs, lam)
    if not spans(inputs, hidden, outputs, lam):
        raise InputError(
            f"lambda={lam:g} at (d, h, c) = ({inputs}, {hidden}, {outputs}) has no lazy limit, which needs h = c for "
            "lambda > 0 or h = d for lambda < 0; use exact."
        )
    return target + (start - target) * (-abs(lam) * t).exp()[:, None, None]


def spans(inputs: int, hidden: int, outputs: int, lam: float) -> bool:
    """Whether the layer that λ makes large spans its side: h = c for λ > 0, h = d for λ < 0."""
    return lam != 0 and hidden == (outputs if lam > 0 else inputs)


def split(strength: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Squares of the two layers' strengths on a mode, (√(λ²+4a²) ± |λ|)/2, larger first, from their product a ≥ 0.

    The smaller is a²/larger, which does not cancel.
    """
    half = strength.new_tensor(abs(lam) / 2)
    large = torch.hypot(half, strength) + half
    return large, torch.where(large > 0, strength * (strength / large), 0.0)
