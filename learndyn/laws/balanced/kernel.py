"""The tangent kernel of a two-layer linear network from its two representations, and the regime that a shape is in."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.limits import spans
from learndyn.laws.balanced.start import feasible, finite


class Regime(NamedTuple):
    """How a two-layer linear network learns.

    Attributes:
        name: "rich", "lazy" or "delayed rich".
        laziness: |λ| / 2s_max: the rate of a mode is √(λ² + 4s²), so above 1 all modes move at the layers' own rate.
        spans: Whether the large layer spans its side (h = c for λ > 0, h = d for λ < 0), so that it need not turn.
    """

    name: str
    laziness: float
    spans: bool


def kernel_distance(
    in_first: Tensor, out_first: Tensor, in_second: Tensor, out_second: Tensor, inputs: Tensor | None = None
) -> Float[Tensor, "..."]:
    """S = 1 − cos between two tangent kernels of x → W₂W₁x, without building them (arXiv:2409.14623; derived here).

    The kernel on examples X (columns) is I ⊗ XᵀW₁ᵀW₁X + W₂W₂ᵀ ⊗ XᵀX, so that with A = W₁ᵀW₁, C = W₂W₂ᵀ and white
    inputs ⟨K₁, K₂⟩ = c⟨A₁, A₂⟩ + tr A₁ tr C₂ + tr A₂ tr C₁ + d⟨C₁, C₂⟩, up to a factor: O(d² + c²). Taken as half the
    square of the distance of the normalised kernels, which does not cancel when S is small. With learning rates of
    their own for the layers, multiply A by that of the second and C by that of the first.

    Args:
        in_first: W₁ᵀW₁ of the first network, `(..., d, d)`.
        out_first: W₂W₂ᵀ of the first, `(..., c, c)`.
        in_second: W₁ᵀW₁ of the second; leading dimensions broadcast.
        out_second: W₂W₂ᵀ of the second.
        inputs: Examples in rows, `(P, d)`, where they are not white.

    Returns:
        S in [0, 1], in the leading dimensions; nan if a kernel is zero.

    Raises:
        InputError: If a shape does not fit, or a value is not finite.
    """
    named = {"in_first": in_first, "out_first": out_first, "in_second": in_second, "out_second": out_second}
    a1, c1, a2, c2 = (finite(name, value) for name, value in named.items())
    d, c = (m.shape[-1] if m.ndim > 1 else 0 for m in (a1, c1))
    if {a1.shape[-2:], a2.shape[-2:]} != {(d, d)} or {c1.shape[-2:], c2.shape[-2:]} != {(c, c)} or 0 in (d, c):
        raise InputError(
            f"Representations of shapes {', '.join(str(tuple(v.shape)) for v in named.values())} do not fit: expected "
            "(..., d, d), (..., c, c), and again."
        )
    gram = torch.eye(d, dtype=torch.float64)
    if inputs is not None:
        x = finite("inputs", inputs)
        if x.ndim != 2 or x.shape[1] != d:
            raise InputError(f"inputs {tuple(x.shape)} do not fit representations of {d} inputs; expected (P, {d}).")
        a1, a2, gram = x @ a1 @ x.mT, x @ a2 @ x.mT, x @ x.mT

    def square(a: Tensor, out: Tensor) -> Tensor:
        crossed = (a * gram).sum((-2, -1)) * out.diagonal(dim1=-2, dim2=-1).sum(-1)
        return c * a.square().sum((-2, -1)) + 2 * crossed + gram.square().sum() * out.square().sum((-2, -1))

    norm1, norm2 = (square(a, out).sqrt()[..., None, None] for a, out in ((a1, c1), (a2, c2)))
    return square(a1 / norm1 - a2 / norm2, c1 / norm1 - c2 / norm2).clamp_min(0) / 2


def regime(inputs: int, hidden: int, outputs: int, lam: float, strength: float) -> Regime:
    """Which regime a λ-balanced network of this shape is in (arXiv:2409.14623; the boundary is derived here).

    Large |λ| is lazy only where the large layer spans its side: elsewhere it is |λ| times a projector that has to turn
    towards the task, at a rate ∝ s²/|λ|, so the kernel moves as much as in the rich regime, later.

    Args:
        inputs: d.
        hidden: h.
        outputs: c.
        lam: λ.
        strength: Largest singular value s_max of Σ (k = 1).

    Raises:
        InputError: If λ is infeasible for the shape, a width is below 1, or the strength not positive.
    """
    if min(inputs, hidden, outputs) < 1 or not 0 < strength < float("inf") or not abs(lam) < float("inf"):
        raise InputError(
            f"(d, h, c) = ({inputs}, {hidden}, {outputs}) must be at least 1, strength={strength:g} positive "
            f"and finite, and lam={lam:g} finite."
        )
    feasible(inputs, hidden, outputs, lam)
    laziness, whole = abs(lam) / (2 * strength), spans(inputs, hidden, outputs, lam)
    return Regime("rich" if laziness <= 1 else "lazy" if whole else "delayed rich", laziness, whole)
