"""What a single neuron starts from: its data, its conserved imbalance, and where it is relative to the separatrix.

f(x) = a wᵀx with β = a w, loss L = ½ Σ_i (f(x_i) − y_i)² (a sum), white inputs XᵀX = c I, β* = Xᵀy/c, r = |β*|, and
learning rates η_a, η_w (arXiv:2406.06158). In â = a(η_w/η_a)^¼, ŵ = w(η_a/η_w)^¼ both layers have the rate
k = √(η_aη_w), and δ = η_w a² − η_a|w|², which is conserved, is k(â² − |ŵ|²): δ > 0 upstream (the last layer is larger,
the first learns faster), δ = 0 balanced, δ < 0 downstream.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import WHITE, finite
from learndyn.laws.neuron import twofold

EPS = torch.finfo(torch.float64).eps


class White(NamedTuple):
    """All that the laws need of white data.

    Attributes:
        target: β* = Xᵀy/c, `(d,)`.
        c: XᵀX = c I.
        floor: Least ½ Σ (y − xᵀβ)², which no β changes.
    """

    target: Tensor
    c: float
    floor: float


def whitened(inputs: Tensor, targets: Tensor) -> White:
    """β*, c and the floor of the loss from examples in rows; sums over the n examples, not means.

    Args:
        inputs: X, `(n, d)`.
        targets: y, `(n,)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or XᵀX is no multiple of the identity (to 1e-8).
    """
    x, y = rows(inputs, targets)
    second = x.mT @ x
    c = float(second.diagonal().mean())
    off = float((second - c * torch.eye(x.shape[1], dtype=torch.float64)).abs().max())
    if c == 0 or off > WHITE * c:
        raise InputError(
            f"The data are not whitened: X'X differs from {c:.4g} times the identity by up to {off:.1e}. There is no "
            "closed form for the run; integrate it with laws.linear.function_flow."
        )
    target = x.mT @ y / c
    return White(target, c, float((y - x @ target).square().sum()) / 2)


def rows(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Examples X `(n, d)` and y `(n,)` in float64.

    Raises:
        InputError: If the shapes do not fit or a value is not finite.
    """
    x, y = finite("inputs", inputs), finite("targets", targets)
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        raise InputError(
            f"inputs {tuple(x.shape)} and targets {tuple(y.shape)} do not fit; expected rows (n, d) and (n,)."
        )
    return x, y


def rates(etas: tuple[float, float]) -> tuple[float, float]:
    """η_a and η_w.

    Raises:
        InputError: If one is not positive and finite.
    """
    if len(etas) != 2 or not all(0 < eta < math.inf for eta in etas):
        raise InputError(f"etas={tuple(etas)} must be two positive finite learning rates, (eta_a, eta_w).")
    return float(etas[0]), float(etas[1])


def number(name: str, value: Tensor | float) -> Tensor:
    """A number or a tensor of them, in float64.

    Raises:
        InputError: If one is not finite.
    """
    return finite(name, value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64))


def weights(a: Tensor | float, w: Tensor) -> tuple[Tensor, Tensor]:
    """Starts a `(...,)` and w `(..., d)` in float64, broadcast against each other.

    Raises:
        InputError: If the shapes do not fit or a weight is not finite.
    """
    last, first = number("a", a), finite("w", w)
    if first.ndim == 0 or first.shape[-1] == 0 or not _fit(last.shape, first.shape[:-1]):
        raise InputError(f"a {tuple(last.shape)} and w {tuple(first.shape)} do not fit; expected (...,) and (..., d).")
    shape = torch.broadcast_shapes(last.shape, first.shape[:-1])
    return last.expand(shape), first.expand(*shape, first.shape[-1])


def imbalance(a: Tensor | float, w: Tensor, etas: tuple[float, float] = (1.0, 1.0)) -> Float[Tensor, "..."]:
    """δ = η_w a² − η_a |w|², which gradient flow conserves, to the last digits also of nearly balanced weights.

    Args:
        a: Read-out weights, `(...,)`.
        w: Incoming weights, `(..., d)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a shape does not fit, a value is not finite, or a rate is not positive.
    """
    last, first = weights(a, w)
    up = _power(torch.maximum(last.abs(), first.abs().amax(-1)))
    return _charge(last / up, first / up[..., None], *rates(etas))[0] * up * up


def factors(
    beta: Tensor, delta: Tensor | float, etas: tuple[float, float] = (1.0, 1.0)
) -> tuple[Float[Tensor, "..."], Float[Tensor, "... d"]]:
    """The neuron a > 0, w with a w = β and the imbalance δ: η_w a² = (κ + δ)/2, κ = √(δ² + 4η_aη_w|β|²).

    The other one is −a, −w, with the same β at all times.

    Args:
        beta: β ≠ 0, `(..., d)`.
        delta: δ, broadcast against `(...,)`.
        etas: Learning rates (η_a, η_w).

    Raises:
        InputError: If a β is 0, where the direction of w is not determined, or an argument is out of its range.
    """
    eta_a, eta_w = rates(etas)
    product, level = finite("beta", beta), number("delta", delta)
    size = torch.linalg.vector_norm(product, dim=-1)
    if bool((size == 0).any()):
        raise InputError("beta = 0 does not determine the direction of w; give a and w themselves.")
    kappa = torch.hypot(level, 2 * math.sqrt(eta_a * eta_w) * size)
    small = 2 * eta_a * eta_w * size * (size / (kappa + level.abs()))
    a = (torch.where(level >= 0, (kappa + level) / 2, small) / eta_w).sqrt()
    return a, product / a[..., None]


@dataclass(frozen=True)
class Frame:
    """A start in the plane of (x, â), x the component of ŵ along the task, and what is across it.

    The plane's matrix [[−d̂/2, r], [r, d̂/2]], d̂ = δ/k, has the eigenvalues ±K/2, K = √(d̂² + 4r²), and the eigenvectors
    p₊ = (far, near), p₋ = (near, −far) with far² = (K − d̂)/2K, near² = (K + d̂)/2K: no numbers are subtracted.

    Attributes:
        a: â, `(...,)`.
        x: ŵᵀβ*/r; 0 without a task.
        across: ŵ less its component along the task, `(..., d)`.
        unit: β*/r, `(..., d)`.
        r: |β*|.
        d: d̂.
        width: K.
        small: K − |d̂|.
        near: √((K + d̂)/2K).
        far: √((K − d̂)/2K).
        plus: g₊ = p₊·(x, â), the signed distance to the separatrix; its digits survive cancellation.
        minus: g₋ = p₋·(x, â).
    """

    a: Tensor
    x: Tensor
    across: Tensor
    unit: Tensor
    r: Tensor
    d: Tensor
    width: Tensor
    small: Tensor
    near: Tensor
    far: Tensor
    plus: Tensor
    minus: Tensor


def frame(a: Tensor, w: Tensor, target: Tensor, eta_a: float, eta_w: float) -> Frame:
    """Take starts a `(...,)`, w `(..., d)` on tasks `(..., d)` apart."""
    k, stretch = math.sqrt(eta_a * eta_w), (eta_w / eta_a) ** 0.25
    # powers of two, so that squares neither overflow nor vanish
    up, down = _power(torch.maximum(a.abs(), w.abs().amax(-1))), _power(target.abs().amax(-1))
    last, first, task = a / up, w / up[..., None], target / down[..., None]
    overlap, charge = twofold.dot(first, task), _charge(last, first, eta_a, eta_w)
    square = twofold.dot(task, task)
    r = square[0].sqrt() * down
    d = charge[0] * (up * up / k)
    if not bool(d.isfinite().all()):
        raise InputError("The square of a weight overflows; a and w must be below 1e150.")
    width = torch.hypot(d, 2 * r)
    whole = torch.where(width > 0, width, 1.0)
    large = width + d.abs()
    small = torch.where(width > 0, 2 * r * (2 * r / large), 0.0)
    small = torch.where((r > 0) & (small == 0), torch.finfo(torch.float64).smallest_normal, small)
    more = (large / (2 * whole)).sqrt()
    less = 2 * r / (2 * whole).sqrt() / torch.where(width > 0, large, 1.0).sqrt()
    more, less = torch.where(width > 0, more, 0.5**0.5), torch.where(width > 0, less, 0.5**0.5)
    near, far = torch.where(d >= 0, more, less), torch.where(d >= 0, less, more)
    alpha = a * stretch
    x = torch.where(r > 0, overlap[0] * (up * (down / r)) / stretch, 0.0)
    unit = torch.where(r[..., None] > 0, target / r[..., None], 0.0)
    across = w / stretch - x[..., None] * unit
    across = across - (across * unit).sum(-1, keepdim=True) * unit
    plus = far * x + near * alpha
    # Where â and x differ in sign g₊ cancels. But with X = ŵᵀβ*, g₊ (X − â(K − d̂)/2) = (far/r)(X² + â d̂ X − â²r²):
    # nothing cancels in that factor, and k times the bracket is a polynomial of weights, task and rates.
    bracket = twofold.plus(
        twofold.times(
            overlap,
            twofold.plus(
                twofold.scaled(overlap, eta_a), twofold.scaled(twofold.scaled(charge, last), up * (up / down))
            ),
        ),
        twofold.scaled(twofold.times(twofold.product(last, last), square), -eta_w),
    )
    gap = torch.where(d >= 0, small, large) / down  # K − d̂
    factor = overlap[0] / stretch - last * stretch * gap / 2
    exact = far * (down / r) * (bracket[0] / k) / factor * up
    plus = torch.where((alpha * x < 0) & exact.isfinite(), exact, plus)
    return Frame(alpha, x, across, unit, r, d, width, small, near, far, plus, near * x - far * alpha)


def cosine(phi: Tensor | float) -> Tensor:
    """φ in [−1, 1], in float64.

    Raises:
        InputError: If it is no cosine.
    """
    made = number("phi", phi)
    if bool((made.abs() > 1).any()):
        raise InputError(f"phi={float(made[made.abs() > 1].flatten()[0]):g} is a cosine; it must be in [-1, 1].")
    return made


def real(name: str, value: float) -> float:
    """A finite number.

    Raises:
        InputError: If it is not finite.
    """
    if not math.isfinite(value):
        raise InputError(f"{name}={value} must be finite.")
    return float(value)


def nonnegative(name: str, value: float) -> float:
    """A finite number that is not negative.

    Raises:
        InputError: If it is.
    """
    if not 0 <= value < math.inf:
        raise InputError(f"{name}={value} must be at least 0 and finite.")
    return float(value)


def _charge(a: Tensor, w: Tensor, eta_a: float, eta_w: float) -> twofold.Twofold:
    return twofold.plus(twofold.scaled(twofold.product(a, a), eta_w), twofold.scaled(twofold.dot(w, w), -eta_a))


def _power(size: Tensor) -> Tensor:
    """The power of two next to a size; 1 for 0."""
    return torch.where(size > 0, torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent), 1.0)


def _fit(first: torch.Size, second: torch.Size) -> bool:
    """Whether two shapes broadcast."""
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(first), reversed(second)))
