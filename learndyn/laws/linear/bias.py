"""Where one neuron f(x) = a wᵀx ends on data that many β fit: its implicit bias (arXiv:2406.06158).

Of all β with Xβ = y gradient flow takes argmin Ψ_δ(β) − ψ_δ β̂₀ᵀβ, with ∇Ψ_δ = √2|w| β/|β|: the mirror map is w itself,
as w' = −η_w a Xᵀρ stays in the row space of X. So the part w⊥ of w across it never changes, and a w ends with the
minimum-norm solution β_ls in it:

    β(∞) = β_ls + a w⊥,    η_w a² = ½(q + √(q² + 4η_aη_w|β_ls|²)),    q = δ + η_a|w⊥|²,

for data of any size and rank (derived here; arXiv:2406.06158 has it for d = 2 and one example). Only the sign of a is
left: for δ > 0 it is that of a₀, and below the loss ½|y|² of a = 0 no flow changes it. Loss L = ½ Σ (f − y)², a sum.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import finite
from learndyn.laws.linear.data import Rows, solvable, start
from learndyn.laws.linear.single import final_scale, followed
from learndyn.laws.neuron.start import imbalance, nonnegative, number, rates, weights


@dataclass(frozen=True)
class Interpolant:
    """The end of a run.

    Attributes:
        beta: β(∞), `(d,)`.
        a: Read-out weight.
        w: Incoming weights, `(d,)`.
        residual: The larger of |Xβ − y|/|y| and of the part of ∇Ψ_δ(β) − √2 ŵ₀ outside the row space over √2|ŵ₀|: what
            the conditions of the minimum are violated by.
        crossed: Whether a changes sign on the way, so that ψ_δ has the other sign.
        success: Whether the sign of a could be told; if not, β is the end if a keeps its sign.
        remarks: Sentences on what is special, each of them also a Python warning.
    """

    beta: Float[Tensor, " d"]
    a: float
    w: Float[Tensor, " d"]
    residual: float
    crossed: bool
    success: bool
    remarks: tuple[str, ...]


def implicit_bias(
    inputs: Tensor,
    targets: Tensor,
    a: Tensor | float,
    w: Tensor,
    etas: tuple[float, float] = (1.0, 1.0),
    most: int = 20_000,
) -> Interpolant:
    """β(∞) of gradient flow from a and w (`neuron.factors` makes them of β₀ and δ), in closed form.

    Where the start does not tell the sign of a (a loss of ½|y|² or more, and δ < 0, or δ = 0 and w in the row space),
    the flow is integrated until its loss is below, and the result says so.

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`, in the range of X.
        a: a at time 0, a number.
        w: w at time 0, `(d,)`.
        etas: Learning rates (η_a, η_w).
        most: Gradients that the search for the sign may take.

    Raises:
        InputError: If a shape does not fit, a value is not finite, no β fits the targets, or the start is a saddle.

    Warns:
        UserWarning: If X has full column rank (the solution is unique then), or the sign of a is integrated or unknown.
    """
    eta_a, eta_w = rates(etas)
    data = solvable(inputs, targets)
    last, first = weights(a, w)
    if first.shape != data.v.shape[:1]:
        raise InputError(f"w {tuple(first.shape)} does not fit inputs of {len(data.v)} dimensions; expected one start.")
    delta = float(imbalance(last, first, etas))
    remarks = []
    if len(data.s) == len(data.v):
        remarks.append(f"The solution is unique, as X has rank d = {len(data.v)}; delta has no part in it.")
    rest = data.across(first)
    sign, told, searched = _sign(data, float(last), data.v.mT @ first, rest, delta, (eta_a, eta_w), most)
    if searched:
        before = "a start above the loss of a = 0"
        remarks.append(
            f"The sign of a at the end of {before} was integrated: it is {'+' if sign > 0 else '-'}."
            if told
            else f"The sign of a at the end of {before} could not be told in {most} gradients: the flow stays close to "
            "the saddle a = 0."
        )
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    q = delta + eta_a * float(rest.square().sum())
    scale = final_scale(q, float(torch.linalg.vector_norm(data.least)), eta_a, eta_w)
    end = sign * scale
    beta = data.least + end * rest
    w_end = rest + data.least / end if end else rest
    residual = _violation(data, inputs, targets, beta, first, delta, sign, (eta_a, eta_w))
    crossed = float(last) * sign < 0
    return Interpolant(beta, end, w_end, residual, crossed, told, tuple(remarks))


def potential(beta: Tensor, delta: float, etas: tuple[float, float] = (1.0, 1.0)) -> Float[Tensor, "..."]:
    """Ψ_δ(β) = ⅓ (κ − 2δ) √(κ + δ), κ = √(δ² + 4|β|²), with δ/√(η_aη_w) in the place of δ (arXiv:2406.06158).

    Args:
        beta: β, `(..., d)`.
        delta: δ.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a value is not finite or a rate not positive.
    """
    size, level, kappa = _kappa(beta, delta, etas)
    root = (kappa + level).sqrt() if level >= 0 else 2 * size / (kappa - level).sqrt()
    return (kappa - 2 * level) * root / 3


def mirror(beta: Tensor, delta: float, etas: tuple[float, float] = (1.0, 1.0)) -> Float[Tensor, "... d"]:
    """∇Ψ_δ(β) = √(κ − δ) β/|β|, which is √2 ŵ for a > 0 (arXiv:2406.06158).

    Args and errors as `potential`; nan at β = 0 for δ < 0, where Ψ_δ has a kink.
    """
    size, level, kappa = _kappa(beta, delta, etas)
    over = 2 / (kappa + level).sqrt() if level > 0 else (kappa - level).sqrt() / size
    return torch.where((size == 0) & (level == 0), 0.0, over)[..., None] * finite("beta", beta)


def upstream_end(inputs: Tensor, targets: Tensor, beta: Tensor) -> Float[Tensor, " d"]:
    """δ → ∞: β₀ corrected in the row space, as by linear regression (arXiv:2406.06158).

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`, in the range of X.
        beta: β₀, not 0, `(d,)`.

    Raises:
        InputError: If a shape does not fit, a value is not finite, β₀ is 0, or no β fits the targets.
    """
    data = solvable(inputs, targets)
    return data.least + data.across(start(beta, len(data.v)))


def downstream_end(inputs: Tensor, targets: Tensor, beta: Tensor) -> Float[Tensor, " d"]:
    """δ → −∞: β_ls ± |β_ls| P⊥β₀/|P β₀| with the sign of β₀ᵀXᵀy, P on the row space, P⊥ across (derived here).

    For one example this is the point of the solution set on the line of β₀, β₀|β_ls|²/(β_lsᵀβ₀) (arXiv:2406.06158).
    After a has been fitted w turns, and keeps its length and its part across the row space.

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`, in the range of X.
        beta: β₀, not 0, `(d,)`.

    Raises:
        InputError: As `upstream_end`, and if β₀ᵀXᵀy = 0, where the sign is not determined.
    """
    data = solvable(inputs, targets)
    first = start(beta, len(data.v))
    inside = data.v.mT @ first
    overlap = float(inside @ (data.s * data.seen))
    if overlap == 0:
        raise InputError(
            "beta is orthogonal to X'y, so that its sign does not decide where a neuron with delta = -inf ends."
        )
    size = torch.linalg.vector_norm(data.least) / torch.linalg.vector_norm(inside)
    return data.least + math.copysign(1.0, overlap) * size * data.across(first)


def _kappa(beta: Tensor, delta: float, etas: tuple[float, float]) -> tuple[Tensor, float, Tensor]:
    """|β|, δ/k and κ/k."""
    eta_a, eta_w = rates(etas)
    level = float(number("delta", float(delta))) / math.sqrt(eta_a * eta_w)
    size = torch.linalg.vector_norm(finite("beta", beta), dim=-1)
    return size, level, torch.hypot(size.new_tensor(level), 2 * size)


def _sign(
    data: Rows, a: float, p: Tensor, rest: Tensor, delta: float, etas: tuple[float, float], most: int
) -> tuple[float, bool, bool]:
    """Sign of a at the end, whether it is certain, and whether it had to be integrated."""
    s, seen, p0 = data.s.numpy(), data.seen.numpy(), p.numpy()

    def below(_: float, q: np.ndarray) -> float:
        """How far the loss is below ½|y|², where a = 0."""
        made = s * q[0] * q[1:]
        return float(made @ (seen - made / 2))

    def slope(_: float, q: np.ndarray) -> np.ndarray:
        g = s * (seen - s * (q[0] * q[1:]))
        return np.concatenate([[etas[0] * (q[1:] @ g)], etas[1] * q[0] * g])

    q0 = np.concatenate([[a], p0])
    pull = float(p0 @ (s * seen))
    if a == 0 and (pull == 0 or not p0.any()):
        raise InputError("The start is a saddle (a = 0, and w is 0 or orthogonal to X'y); nothing moves.")
    if a == 0:
        return math.copysign(1.0, pull), True, False
    keeps = (
        delta > 0
        or (delta == 0 and float(rest.norm()) > 1e-14 * math.hypot(float(rest.norm()), float(p.norm())))
        or not seen.any()
    )
    if keeps or below(0.0, q0) > 0:
        return math.copysign(1.0, a), True, False
    goal = 1e-9 * float(seen @ seen)

    def event(t: float, q: np.ndarray) -> float:
        return below(t, q) - goal

    event.terminal = True  # type: ignore[attr-defined]
    fastest = max(etas) * float(s[0]) * (float(np.linalg.norm(seen)) + float(s[0] * (q0 @ q0)))
    try:
        solution, stop = followed(slope, q0, 1e8 / fastest, event, "LSODA", 1e-14 * float(np.abs(q0).max()), most)
    except InputError:
        return math.copysign(1.0, a), False, True
    last = solution(stop)
    return math.copysign(1.0, last[0]), below(stop, last) > 0, True


def _violation(
    data: Rows,
    inputs: Tensor,
    targets: Tensor,
    beta: Tensor,
    w: Tensor,
    delta: float,
    sign: float,
    etas: tuple[float, float],
) -> float:
    """By what the conditions of the constrained minimum are violated."""
    x, y = finite("inputs", inputs), finite("targets", targets)
    size = float(torch.linalg.vector_norm(y))
    misfit = float(torch.linalg.vector_norm(x @ beta - y)) / size if size else 0.0
    if not bool(beta.any()):
        return misfit
    hatted = math.sqrt(2) * (etas[0] / etas[1]) ** 0.25 * w
    off = data.across(sign * mirror(beta, delta, etas) - hatted)
    return max(misfit, float(torch.linalg.vector_norm(off)) / nonnegative("w", float(torch.linalg.vector_norm(hatted))))
