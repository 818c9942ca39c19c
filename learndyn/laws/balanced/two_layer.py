"""Function, representations and loss of a balanced two-layer linear network at any time (arXiv:2409.14623)."""

import math
import warnings
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.riccati import EPS, Riccati
from learndyn.laws.balanced.start import balance, clock, finite, layers

#: Largest |W₂ᵀW₂ − W₁W₁ᵀ − λI|, relative to max(|λ|, |Q|²), at which a start counts as balanced.
BALANCED = 1e-10


@dataclass(frozen=True)
class Exact:
    """A balanced network at all times.

    The weights are those of gradient flow up to one rotation of the hidden units (at every time another one), on which
    nothing else here depends; they may be the start of another task.

    Attributes:
        times: Times, `(T,)`.
        w1: First layer, up to rotation, `(T, h, d)`.
        w2: Second layer, up to rotation, `(T, c, h)`.
        loss: Loss above its floor, (k/2)|W₂W₁ − Σ/k|², `(T,)`.
        lam: λ used.
        defect: |W₂ᵀW₂ − W₁W₁ᵀ − λI| at the start, relative to max(|λ|, |Q|²).
        trust: Time from which on rounding decides (inf if never): a component that is zero to rounding has grown then.
        missed: Task modes (0 is the strongest) that the start has no component on: never learned in exact arithmetic.
        remarks: Sentences on what is not exact, each of them also a Python warning.
    """

    times: Float[Tensor, " times"]
    w1: Float[Tensor, "times hidden inputs"]
    w2: Float[Tensor, "times outputs hidden"]
    loss: Float[Tensor, " times"]
    lam: float
    defect: float
    trust: float
    missed: tuple[int, ...]
    remarks: tuple[str, ...]

    @property
    def function(self) -> Float[Tensor, "times outputs inputs"]:
        """W₂W₁."""
        return self.w2 @ self.w1

    @property
    def rep_in(self) -> Float[Tensor, "times inputs inputs"]:
        """Input representation W₁ᵀW₁."""
        return _symmetric(self.w1.mT @ self.w1)

    @property
    def rep_out(self) -> Float[Tensor, "times outputs outputs"]:
        """Output representation W₂W₂ᵀ."""
        return _symmetric(self.w2 @ self.w2.mT)


def exact(
    w1: Tensor,
    w2: Tensor,
    sigma: Tensor,
    times: Tensor,
    lam: float | None = None,
    k: float = 1.0,
    etas: tuple[float, float] = (1.0, 1.0),
) -> Exact:
    """Solve W₁' = η₁ W₂ᵀ(Σ − k W₂W₁), W₂' = η₂ (Σ − k W₂W₁) W₁ᵀ from a λ-balanced start (arXiv:2409.14623).

    The loss is the mean over examples of ½|y − W₂W₁x|², inputs are white, E[xxᵀ] = k I, and Σ = E[yxᵀ] (see `moments`).
    Time is that of gradient flow: GD with learning rate η is at t = η · steps with the default `etas`, with an error
    O(η); a loss without the ½ runs at twice, a sum over P examples at P times this speed. With learning rates of their
    own, what is conserved is η₁W₂ᵀW₂ − η₂W₁W₁ᵀ = √(η₁η₂) λ I.

    Every width, rank, sign of λ and time is allowed, infinity too. Errors are some 1e-14 of the largest entry, unless a
    component of the start on a growing mode is tiny, p|Q|: then rounding moves the time of that mode by 1e-16/(pμ).

    Args:
        w1: First layer at time 0, `(h, d)`.
        w2: Second layer at time 0, `(c, h)`.
        sigma: Σ, `(c, d)`.
        times: Times in any order, `(T,)`.
        lam: λ; by default the one that fits the start best.
        k: Second moment of the inputs; 1/d for one-hot inputs.
        etas: Learning rates of the first and the second layer, relative to the one in the time.

    Raises:
        InputError: If a shape does not fit, a value is not finite, a time is negative, or k or a rate not positive.

    Warns:
        UserWarning: If the start is not balanced, or has no component on a growing mode.
    """
    first, second = layers(w1, w2)
    target, t = finite("sigma", sigma), clock(times)
    if target.shape != (len(second), first.shape[1]):
        expected = (len(second), first.shape[1])
        raise InputError(f"sigma has shape {tuple(sigma.shape)}; expected (c, d) = {expected}, outputs times inputs.")
    if not (all(0 < v < math.inf for v in (k, *etas)) and (lam is None or math.isfinite(lam))):
        raise InputError(f"k={k} and etas={etas} must be positive and finite, and lam={lam} finite or None.")
    # in Ŵ₁ = W₁(η₂/η₁)^¼ and Ŵ₂ = W₂(η₁/η₂)^¼ both layers have the rate √(η₁η₂)
    stretch, speed = (etas[1] / etas[0]) ** 0.25, k * math.sqrt(etas[0] * etas[1])
    first, second, target = first * stretch, second / stretch, target / k
    found = balance(first, second)
    if lam is None:
        lam = found.lam if abs(found.lam) > 4 * EPS * found.size else 0.0
    off = math.hypot(found.defect, math.sqrt(len(first)) * (found.lam - lam))
    defect = off / max(abs(lam), found.size) if off else 0.0
    flow = Riccati(first, second, target, lam)
    end = flow.horizon()
    remarks = [end.remark.format(time=end.time / speed)] if end.remark else []
    if defect > BALANCED:
        remarks.append(
            f"The start is not balanced (W2'W2 - W1W1' is off lambda = {lam:.4g} by {defect:.1e} of |Q|^2), so the "
            "curves are approximate. Of Gaussian starts, off by 0.1 to 1, errors of 0.1 to 11 % in the function and of "
            "1 to 47 % in the representations were measured."
        )
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    w1_t, w2_t = flow.at(t * speed)
    loss = k / 2 * (w2_t @ w1_t - target).square().sum((-2, -1))
    return Exact(t, w1_t / stretch, w2_t * stretch, loss, lam, defect, end.time / speed, end.missed, tuple(remarks))


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2
