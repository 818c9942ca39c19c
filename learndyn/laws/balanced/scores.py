"""How much of the task a representation carries: cosines with the task's own (arXiv:2409.14623)."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.limits import split
from learndyn.laws.balanced.start import feasible, finite

Side = Literal["in", "out"]


class Scores(NamedTuple):
    """Cosines (Frobenius) of a representation with those that the task would give.

    Attributes:
        linear: With ṼS̃Ṽᵀ (input side) or ŨS̃Ũᵀ: 1 for λ = 0.
        quadratic: With ṼS̃²Ṽᵀ or ŨS̃²Ũᵀ: what the small layer of a lazy network tends to.
        specific: Task-specificness, the larger of the two.
    """

    linear: float
    quadratic: float
    specific: float


def representation_scores(representation: Tensor, sigma: Tensor, side: Side) -> Scores:
    """Scores of a measured W₁ᵀW₁ (side "in") or W₂W₂ᵀ ("out"); nan for a representation or a task that is zero.

    Args:
        representation: `(d, d)` or `(c, c)`.
        sigma: Σ, `(c, d)`.
        side: Which of the two it is.

    Raises:
        InputError: If the shapes do not fit, or a value is not finite.
    """
    found, target = finite("representation", representation), finite("sigma", sigma)
    size = _side(target, side)
    if found.shape != (size, size):
        raise InputError(
            f"The representation has shape {tuple(representation.shape)}; of side {side!r} expected is {(size, size)}."
        )
    u, s, vh = torch.linalg.svd(target, full_matrices=False)
    basis = vh.mT if side == "in" else u
    return _scores([float((found * ((basis * s**p) @ basis.mT)).sum()) for p in (1, 2)], float(found.norm()), s)


def steady_scores(sigma: Tensor, lam: float, hidden: int, side: Side) -> Scores:
    """The same at t = ∞ in closed form, from a generic λ-balanced start (arXiv:2409.14623).

    The representation has the eigenvalues a = (√(λ²+4s²) ∓ λ)/2 on the task's singular vectors, and |λ| on some
    directions without a task if the large layer has more units than the task has modes; so the cosine with S̃ᵖ is
    Σ a sᵖ / |a||sᵖ|.

    Args:
        sigma: Σ, `(c, d)`.
        lam: λ.
        hidden: Hidden units h.
        side: Input or output side.

    Raises:
        InputError: If λ is infeasible for the shape, the shapes do not fit, or a value is not finite.
    """
    target = finite("sigma", sigma)
    _side(target, side)
    feasible(target.shape[1], hidden, target.shape[0], lam)
    s = torch.linalg.svdvals(target)
    large, small = split(s[:hidden], lam)
    has_large = (lam >= 0) == (side == "out")
    a = large if has_large else small
    idle = max(0, hidden - len(s)) * lam**2 if has_large else 0.0  # units on directions without a task
    size = math.sqrt(float(a.square().sum()) + idle)
    return _scores([float((a * s[:hidden] ** p).sum()) for p in (1, 2)], size, s)


def _scores(products: list[float], size: float, s: Tensor) -> Scores:
    cosines = [
        product / (size * norm) if size * norm else float("nan")
        for product, norm in zip(products, (float(s.norm()), float(s.square().norm())), strict=True)
    ]
    return Scores(cosines[0], cosines[1], max(cosines))


def _side(sigma: Tensor, side: str) -> int:
    if sigma.ndim != 2 or side not in ("in", "out"):
        raise InputError(f"sigma {tuple(sigma.shape)} and side={side!r}: expected (c, d) and 'in' or 'out'.")
    return sigma.shape[1 if side == "in" else 0]
