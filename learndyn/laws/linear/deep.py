"""Deep linear networks with one output, in the rich limit: f(x) = aᵀW_L … W₁x, all layers balanced (arXiv:2406.06158).

W_{l+1}ᵀW_{l+1} − W_lW_lᵀ and aaᵀ − W_LW_Lᵀ are conserved; where all are 0, as for W_l = s u_{l+1}u_lᵀ with
s = |β|^{1/(L+1)}, β = W₁ᵀ…W_Lᵀa follows an equation of its own. Loss L = ½ Σ_i (f(x_i) − y_i)² (a sum), time that of
θ' = −∂L/∂θ.
"""

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import finite
from learndyn.laws.linear.data import solvable, start


def deep_velocity(beta: Tensor, gradient: Tensor, hidden: int) -> Float[Tensor, "... d"]:
    """β' = −|β|^{2L/(L+1)} (I + L ββᵀ/|β|²) Xᵀρ, ρ = Xβ − y (arXiv:2406.06158).

    Args:
        beta: β, `(..., d)`.
        gradient: Xᵀρ, in its shape.
        hidden: Hidden layers L ≥ 0.

    Returns:
        β', 0 at β = 0 for L > 0.

    Raises:
        InputError: If the shapes differ, a value is not finite, or L is negative.
    """
    product, slope = finite("beta", beta), finite("gradient", gradient)
    if product.shape != slope.shape or product.ndim == 0 or _layers(hidden) < 0:
        raise InputError(f"beta {tuple(product.shape)} and gradient {tuple(slope.shape)} must both be (..., d).")
    size = torch.linalg.vector_norm(product, dim=-1, keepdim=True)
    unit = torch.where(size > 0, product / size, 0.0)
    along = (unit * slope).sum(-1, keepdim=True) * unit
    return -(size ** (2 * hidden / (hidden + 1))) * (slope + hidden * along)


def deep_bias(inputs: Tensor, targets: Tensor, beta: Tensor, hidden: int) -> Float[Tensor, " d"]:
    """β(∞) = argmin (L+1)/(L+2) |β|^{(L+2)/(L+1)} − |β₀|^{−L/(L+1)} β₀ᵀβ with Xβ = y (arXiv:2406.06158).

    The conditions say that v = β|β|^{−L/(L+1)} keeps its part v⊥ across the row space, so β(∞) = β_ls + |v|^L v⊥, where
    N = |v|² is the one positive root of N = |v⊥|² + |β_ls|² N^{−L} (derived here; a quadratic equation for L = 1).

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`, in the range of X.
        beta: β₀, not 0, `(d,)`.
        hidden: Hidden layers L ≥ 0; 0 is linear regression.

    Raises:
        InputError: If a shape does not fit, a value is not finite, β₀ is 0, L negative, or no β fits the targets.

    Warns:
        UserWarning: If β₀ is in the row space and no better than β = 0: then the flow may end in the saddle there.
    """
    depth, data = _layers(hidden), solvable(inputs, targets)
    first = start(beta, len(data.v))
    across = data.across(first)
    inside = data.s * (data.v.mT @ first)
    size, rest = float(torch.linalg.vector_norm(first)), float(torch.linalg.vector_norm(across))
    if depth and rest <= 1e-14 * size and float(inside @ (data.seen - inside / 2)) <= 0:
        warnings.warn("beta is in the row space and no better than 0, a saddle where the flow may end.", stacklevel=2)
    kept = across * size ** (-depth / (depth + 1))
    square = _root(float(kept.square().sum()), float(data.least.square().sum()), depth)
    return data.least + square ** (depth / 2) * kept


def _root(kept: float, fitted: float, hidden: int) -> float:
    """N of N = kept + fitted N^{−L}: Newton from below in a concave function, which does not overshoot."""
    low = max(kept, fitted ** (1 / (hidden + 1)))
    if low == 0 or fitted == 0:
        return kept
    for _ in range(100):
        term = fitted * low**-hidden
        step = (kept + term - low) / (1 + hidden * term / low)
        low += step
        if abs(step) <= 1e-16 * low:
            break
    return low


def _layers(hidden: int) -> int:
    if hidden < 0 or not math.isfinite(hidden):
        raise InputError(f"hidden={hidden} must be a number of hidden layers, at least 0.")
    return hidden
