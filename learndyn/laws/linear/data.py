"""Data of any rank in their own coordinates: what a linear model sees of them, and the least-squares solution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.neuron.start import EPS, rows

#: Largest part of y outside the range of X, relative to |y|, at which data count as solvable.
SOLVABLE = 1e-8


@dataclass(frozen=True)
class Rows:
    """X = U diag(s) Vᵀ of rank ρ, and y.

    Attributes:
        s: Singular values, `(rank,)`, those that are not zero to rounding.
        v: Basis of the row space, `(d, rank)`.
        seen: Uᵀy, `(rank,)`.
        least: The minimum-norm solution V diag(1/s) Uᵀy, `(d,)`.
        outside: |y − UUᵀy| relative to |y|.
    """

    s: Tensor
    v: Tensor
    seen: Tensor
    least: Tensor
    outside: float

    def across(self, beta: Tensor) -> Tensor:
        """The part of `(d,)` vectors in the null space."""
        rest = beta - self.v @ (self.v.mT @ beta)
        return rest - self.v @ (self.v.mT @ rest)


def decomposed(inputs: Tensor, targets: Tensor) -> Rows:
    """Examples X `(n, d)` and y `(n,)` in their own coordinates.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or all inputs are zero.
    """
    x, y = rows(inputs, targets)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    if s[0] == 0:
        raise InputError("All inputs are zero; nothing can be learnt from them.")
    rank = int((s > max(x.shape) * EPS * s[0]).sum())
    u, s, v = u[:, :rank], s[:rank], vh[:rank].mT
    seen, size = u.mT @ y, float(torch.linalg.vector_norm(y))
    left = float(torch.linalg.vector_norm(y - u @ seen))
    return Rows(s, v, seen, v @ (seen / s), left / size if size else 0.0)


def solvable(inputs: Tensor, targets: Tensor) -> Rows:
    """The same, for data that some β fits.

    Raises:
        InputError: As `decomposed`, and if y is not in the range of X.
    """
    found = decomposed(inputs, targets)
    if found.outside > SOLVABLE:
        raise InputError(
            f"No linear map fits the targets: {found.outside:.1e} of y is outside the range of X. Project y on the "
            "range; the run is the same, as it depends on X'y only."
        )
    return found


def start(beta: Tensor, inputs: int) -> Tensor:
    """β at time 0, `(d,)`, in float64.

    Raises:
        InputError: If it has another shape, is 0 or not finite.
    """
    made = beta.detach().cpu().double()
    if made.shape != (inputs,) or not bool(made.isfinite().all()) or not bool(made.any()):
        raise InputError(f"beta {tuple(beta.shape)} must be finite, not 0, and of shape ({inputs},) to fit the inputs.")
    return made
