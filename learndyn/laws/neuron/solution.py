"""A single neuron at any time, in closed form (arXiv:2406.06158; this form, for all δ and rates, is derived here).

    f(x) = a wᵀx,   a' = η_a c wᵀ(β* − a w),   w' = η_w c a (β* − a w)

is the matrix Riccati flow of `laws.balanced` with one hidden unit, and there the weights themselves come out, not up to
a rotation: in the notation of `Frame` and with s = kct,

    (x, â)(t) = (g₊ p₊ + g₋ e^{−Ks} p₋)/√D,    ŵ across the task: e^{−(d̂+K)s/2}/√D of what it was,
    D = e^{−Ks} + g₊² ψ(K/2) + g₋² ψ(−K/2) + g₀² ψ(−d̂/2),    ψ(m) = e^{−Ks} ∫₀ˢ e^{2mτ} dτ.

No exponential grows. The published formula for δ ≠ 0 loses the sign of a where a changes it, and overflows when late.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws import balanced
from learndyn.laws.balanced.start import clock, finite
from learndyn.laws.neuron.kernel import kernel_distance
from learndyn.laws.neuron.start import EPS, Frame, frame, rates, weights


@dataclass(frozen=True)
class Neuron:
    """A neuron, or a batch of them, at all times.

    Attributes:
        times: Times, `(T,)`.
        a: Read-out weight, `(..., T)`.
        w: Incoming weights, `(..., T, d)`.
        target: β*, `(..., d)`.
        start: Weights at time 0, `(...,)` and `(..., d)`.
        delta: δ = η_w a² − η_a|w|², conserved, `(...,)`.
        distance: g₊, the signed distance to the separatrix in the plane of (ŵᵀβ*/r, â), `(...,)`.
        basin: Sign of a at t = ∞, 0 if it tends to 0: on the separatrix, or without a task and δ ≤ 0; `(...,)`.
        laziness: |δ|/2kr, above 1 if the layers' own rate beats the task's; inf without a task; `(...,)`.
        c: XᵀX = c I.
        etas: Learning rates (η_a, η_w).
        remarks: Sentences on starts that are fixed points or on the separatrix, each of them also a Python warning.
    """

    times: Float[Tensor, " times"]
    a: Float[Tensor, "... times"]
    w: Float[Tensor, "... times d"]
    target: Float[Tensor, "... d"]
    start: tuple[Float[Tensor, "..."], Float[Tensor, "... d"]]
    delta: Float[Tensor, "..."]
    distance: Float[Tensor, "..."]
    basin: Float[Tensor, "..."]
    laziness: Float[Tensor, "..."]
    c: float
    etas: tuple[float, float]
    remarks: tuple[str, ...]

    @property
    def beta(self) -> Float[Tensor, "... times d"]:
        """β = a w."""
        return self.a[..., None] * self.w

    @property
    def mu(self) -> Float[Tensor, "... times"]:
        """μ = a|w|, signed."""
        return self.a * torch.linalg.vector_norm(self.w, dim=-1)

    @property
    def phi(self) -> Float[Tensor, "... times"]:
        """Cosine of w with β*; nan where one of them is 0."""
        size = torch.linalg.vector_norm(self.target, dim=-1)[..., None]
        unit, norm = self.target[..., None, :] / size[..., None], torch.linalg.vector_norm(self.w, dim=-1)
        return (self.w * unit).sum(-1) / norm

    @property
    def rho(self) -> Float[Tensor, "... times"]:
        """Imbalance δ/κ in [−1, 1], κ = η_w a² + η_a|w|²: 1 upstream, −1 downstream; nan at a = 0, w = 0."""
        kappa = self.etas[1] * self.a.square() + self.etas[0] * self.w.square().sum(-1)
        return self.delta[..., None] / kappa

    @property
    def loss(self) -> Float[Tensor, "... times"]:
        """½ Σ (f − y)² above its floor, (c/2)|β − β*|²."""
        return self.c / 2 * (self.beta - self.target[..., None, :]).square().sum(-1)

    @property
    def kernel_distance(self) -> Float[Tensor, "... times"]:
        """S(0, t) between the tangent kernels at the start and at t."""
        a, w = self.start
        return kernel_distance(a[..., None], w[..., None, :], self.a, self.w, self.etas)

    @property
    def side(self) -> str:
        """Of one neuron: "upstream", "balanced" or "downstream" (δ = 0 to rounding)."""
        a, w = self.start
        delta = _one(self.delta)
        if abs(delta) <= 8 * EPS * float(self.etas[1] * a.square() + self.etas[0] * w.square().sum(-1)):
            return "balanced"
        return "upstream" if delta > 0 else "downstream"

    @property
    def regime(self) -> str:
        """Of one neuron: "rich", "lazy" or "delayed rich", and "no task" if β* = 0 (boundaries: `balanced.regime`)."""
        r = _one(torch.linalg.vector_norm(self.target, dim=-1))
        if r == 0:
            return "no task"
        k = math.sqrt(self.etas[0] * self.etas[1])
        return balanced.regime(self.w.shape[-1], 1, 1, _one(self.delta) / k, r).name


def exact(
    a: Tensor | float,
    w: Tensor,
    target: Tensor,
    times: Tensor,
    etas: tuple[float, float] = (1.0, 1.0),
    c: float = 1.0,
) -> Neuron:
    """Gradient flow of f(x) = a wᵀx on white data, at any times, infinity too (arXiv:2406.06158).

    The loss is L = ½ Σ_i (f(x_i) − y_i)², a sum, XᵀX = c I and β* = Xᵀy/c (`whitened` makes both of X and y). Time is
    that of θ' = −η_θ ∂L/∂θ: k steps of GD with learning rate η are at t = kη with the default `etas`, at t = kη/n for
    a mean over n examples with the ½, and at t = 2kη/n for one without.

    Errors are some 1e-15 of |w| and |a|, next to the separatrix too, which is decided with twice the digits.

    Args:
        a: Read-out weight at time 0, `(...,)`.
        w: Incoming weights at time 0, `(..., d)`.
        target: β*, `(d,)` or `(..., d)`.
        times: Times in any order, `(T,)`.
        etas: Learning rates (η_a, η_w), relative to the one in the time.
        c: Factor of XᵀX.

    Raises:
        InputError: If a shape does not fit, a value is not finite, a time is negative, or c or a rate not positive.

    Warns:
        UserWarning: If a start is a fixed point that is no minimum, or is on the separatrix to rounding.
    """
    eta_a, eta_w = rates(etas)
    if not 0 < c < math.inf:
        raise InputError(f"c={c:g} must be positive and finite: it is the factor of the identity in X'X.")
    last, first, task = starts(a, w, target)
    t, part = clock(times), frame(last, first, task, eta_a, eta_w)
    k, stretch = math.sqrt(eta_a * eta_w), (eta_w / eta_a) ** 0.25
    alpha, first_t = _at(part, t * (k * c))
    laziness = torch.where(part.r > 0, part.d.abs() / (2 * part.r), math.inf)
    remarks = tuple(_remarks(part))
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return Neuron(
        times=t,
        a=alpha / stretch,
        w=first_t * stretch,
        target=task,
        start=(last, first),
        delta=k * part.d,
        distance=part.plus,
        basin=ends(part),
        laziness=laziness,
        c=float(c),
        etas=(eta_a, eta_w),
        remarks=remarks,
    )


def starts(a: Tensor | float, w: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Starts a `(...,)`, w and tasks β* `(..., d)` in float64, broadcast.

    Raises:
        InputError: If the shapes do not fit or a value is not finite.
    """
    last, first = weights(a, w)
    task = finite("target", target)
    if task.ndim not in (1, first.ndim) or task.shape[-1:] != first.shape[-1:] or not _same(task, first):
        raise InputError(f"target {tuple(task.shape)} does not fit w {tuple(first.shape)}; expected (d,) or (..., d).")
    return last, first, task.expand(first.shape)


def ends(part: Frame) -> Tensor:
    """Sign of a at t = ∞, 0 if it tends to 0 (arXiv:2406.06158: that of a if δ > 0, else that of g₊)."""
    alone = torch.where(part.d > 0, part.a.sign(), 0.0)
    return torch.where(part.r > 0, part.plus.sign(), alone)


def _at(part: Frame, s: Tensor) -> tuple[Tensor, Tensor]:
    """â `(..., T)` and ŵ `(..., T, d)`."""
    a, x, r, d, width, small, near, far, plus, minus = (
        v[..., None]
        for v in (
            part.a, part.x, part.r, part.d, part.width, part.small, part.near, part.far, part.plus, part.minus,
        )
    )  # fmt: skip
    zero = torch.zeros_like(d)
    # on the separatrix everything shrinks: D is divided by its slowest exponential, e^{−λs} with λ = K − max(0, −d̂)
    on, down = plus == 0, (-d).clamp_min(0)
    up = d.clamp_min(0)
    decay = _fall(torch.where(on, down, width) / 2, s)  # of √(e^{−Ks}/D)
    beside = torch.where(d < 0, _fall(torch.where(on, zero, small) / 2, s), decay)
    size = torch.linalg.vector_norm(part.across, dim=-1)[..., None]
    grown = _integral(width, s)
    root = torch.hypot(decay, _product(minus, decay * grown.sqrt()))
    root = torch.hypot(root, _product(plus, grown.sqrt()))
    root = torch.hypot(root, _product(size, _product(beside, _integral(d.abs(), s).sqrt())))

    # two forms of the same: one without a difference where â and x agree in sign, one without at late times
    e = _fall(width, s)
    mean, rise = near * near + e * far * far, torch.where(width > 0, r * grown, zero)
    other = far * far + e * near * near
    tail = _product(minus, _fall(torch.where(on, (width + down) / 2, width), s))
    by_time = _better((a * mean, rise * x), (plus * near, -tail * far), on, a * x >= 0)
    along = _better((x * other, rise * a), (plus * far, tail * near), on, a * x >= 0)
    across = _fall(torch.where(on, up, torch.where(d < 0, small, width + d)) / 2, s)
    found = (along / root)[..., None] * part.unit[..., None, :]
    found = found + torch.where(root > 0, across / root, 0.0)[..., None] * part.across[..., None, :]
    return by_time / root, found


def _better(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], never: Tensor, always: Tensor) -> Tensor:
    """The sum whose terms are smaller, so that less is lost if they cancel."""
    sizes = [one.abs() + two.abs() for one, two in (first, second)]
    return torch.where(~never & (always | (sizes[0] <= sizes[1])), first[0] + first[1], second[0] + second[1])


def _fall(rate: Tensor, s: Tensor) -> Tensor:
    """e^{−rate·s}, 1 for rate 0 at s = ∞ too."""
    return torch.where(rate > 0, (-rate * s).exp(), 1.0)


def _integral(rate: Tensor, s: Tensor) -> Tensor:
    """∫₀ˢ e^{−rate·τ} dτ for rates ≥ 0."""
    return torch.where(rate > 0, -torch.expm1(-rate * s) / rate, s)


def _product(size: Tensor, factor: Tensor) -> Tensor:
    """The product, 0 where one of them is, also against infinity."""
    return torch.where((size == 0) | (factor == 0), 0.0, size * factor)


def _remarks(part: Frame) -> list[str]:
    still = (part.a == 0) & (part.x == 0) & (part.r > 0)
    size = torch.hypot(part.a, torch.hypot(part.x, torch.linalg.vector_norm(part.across, dim=-1)))
    edge = (part.plus.abs() <= 8 * EPS * size) & (part.r > 0) & ~still
    found = []
    if bool(still.any()):
        found.append(f"{_count(still)} a fixed point (a = 0, and w is 0 or across the task): nothing moves.")
    if bool(edge.any()):
        found.append(
            f"{_count(edge)} on the separatrix to rounding (|g+| = {float(part.plus[edge].abs().max()):.1e}): the flow "
            "comes to the saddle a = 0, and the last digits of the weights decide the sign of a after it."
        )
    return found


def _count(which: Tensor) -> str:
    return "The start is" if which.ndim == 0 else f"{int(which.sum())} of {which.numel()} starts are each"


def _one(value: Tensor) -> float:
    if value.numel() != 1:
        raise InputError(f"This is a word for one neuron, not for a batch of {value.numel()}; use delta and laziness.")
    return float(value)


def _same(task: Tensor, first: Tensor) -> bool:
    return all(m in (1, n) for m, n in zip(reversed(task.shape), reversed(first.shape)))
