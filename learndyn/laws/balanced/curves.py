"""Curves of any two-layer linear network on any data: exact where that is possible, else the flow, integrated."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.riccati import EPS
from learndyn.laws.balanced.start import WHITE, balance, clock, finite, layers, moments
from learndyn.laws.balanced.two_layer import BALANCED, exact


@dataclass(frozen=True)
class Curves:
    """What gradient flow makes of a two-layer linear network.

    Attributes:
        times: Times, `(T,)`.
        w1: First layer, `(T, h, d)`; by the exact engine up to a rotation of the hidden units.
        w2: Second layer, `(T, c, h)`, likewise.
        loss: Mean over examples of ½|y − W₂W₁x|², as training sees it, with its floor, `(T,)`.
        floor: Least loss that any linear map has.
        sigma: Σ = E[yxᵀ], `(c, d)`.
        engine: "exact" or "integrated".
        why: The reason, in a sentence.
        drift: How far W₂ᵀW₂ − W₁W₁ᵀ, which the flow conserves, has moved, relative to |Q|²: an error bar.
    """

    times: Float[Tensor, " times"]
    w1: Float[Tensor, "times hidden inputs"]
    w2: Float[Tensor, "times outputs hidden"]
    loss: Float[Tensor, " times"]
    floor: float
    sigma: Float[Tensor, "outputs inputs"]
    engine: str
    why: str
    drift: float

    @property
    def function(self) -> Float[Tensor, "times outputs inputs"]:
        """W₂W₁."""
        return self.w2 @ self.w1

    @property
    def rep_in(self) -> Float[Tensor, "times inputs inputs"]:
        """Input representation W₁ᵀW₁."""
        return self.w1.mT @ self.w1

    @property
    def rep_out(self) -> Float[Tensor, "times outputs outputs"]:
        """Output representation W₂W₂ᵀ."""
        return self.w2 @ self.w2.mT


def curves(w1: Tensor, w2: Tensor, inputs: Tensor, targets: Tensor, times: Tensor, rtol: float = 1e-10) -> Curves:
    """The curves of W₁' = W₂ᵀ(Σ − W₂W₁Σxx), W₂' = (Σ − W₂W₁Σxx)W₁ᵀ by the engine that fits (arXiv:2409.14623).

    Exact if |Σxx − kI| ≤ 1e-8 k and the start is balanced to 1e-10 of max(|λ|, |Q|²); else there is no closed form, and
    both layers are integrated by DOP853. Time is learning rate times steps of gradient descent.

    Args:
        w1: First layer at time 0, `(h, d)`.
        w2: Second layer at time 0, `(c, h)`.
        inputs: All training inputs, `(P, d)`.
        targets: All targets, `(P, c)`.
        times: Times in any order, `(T,)`; infinity for the exact engine only.
        rtol: Relative tolerance of the integration.

    Raises:
        InputError: If a shape does not fit, a value is not finite, a time is negative, or the flow cannot be followed.

    Warns:
        UserWarning: As `exact`.
    """
    first, second = layers(w1, w2)
    x, y, t = finite("inputs", inputs), finite("targets", targets), clock(times)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or (x.shape[1], y.shape[1]) != (first.shape[1], len(second)):
        raise InputError(
            f"inputs {tuple(x.shape)} and targets {tuple(y.shape)} do not fit layers {tuple(first.shape)} and "
            f"{tuple(second.shape)}; expected rows (P, d) and (P, c)."
        )
    second_moment, sigma = x.mT @ x / len(x), y.mT @ x / len(x)
    k = float(second_moment.trace()) / x.shape[1]
    off = float((second_moment - k * torch.eye(x.shape[1], dtype=torch.float64)).abs().max())
    found = balance(first, second)
    defect = found.defect / max(abs(found.lam), found.size) if found.size else 0.0
    if 0 < k and off <= WHITE * k and defect <= BALANCED:
        data = moments(x, y)
        solved = exact(first, second, data.sigma, t, None, data.k)
        why = f"exact: the inputs are white (k = {k:.4g}) and the start is balanced (lambda = {solved.lam:.4g})"
        loss, floor, (w1_t, w2_t) = solved.loss + data.floor, data.floor, (solved.w1, solved.w2)
        drift = _drift(w1_t, w2_t, first, second)
        return Curves(t, w1_t, w2_t, loss, floor, sigma, "exact", why, drift)
    reasons = [f"E[xx'] differs from {k:.3g} times the identity by {off / k if k else 0:.1e} of it"] * (
        k == 0 or off > WHITE * k
    )
    reasons += [f"the start is off balance by {defect:.1e} of |Q|^2"] * (defect > BALANCED)
    why = f"integrated: {' and '.join(reasons)}, so there is no closed form"
    w1_t, w2_t = _integrated(first, second, sigma, second_moment, t, rtol)
    # ½E|y − Wx|² = floor + ½ tr (W − W*) Σxx (W − W*)ᵀ with a best map W*
    best = torch.linalg.lstsq(x, y, driver="gelsd").solution.mT
    floor = float((y - x @ best.mT).square().sum()) / (2 * len(x))
    away = w2_t @ w1_t - best
    loss = floor + ((away @ second_moment) * away).sum((-2, -1)) / 2
    return Curves(t, w1_t, w2_t, loss, floor, sigma, "integrated", why, _drift(w1_t, w2_t, first, second))


def _integrated(
    w1: Tensor, w2: Tensor, sigma: Tensor, second_moment: Tensor, t: Tensor, rtol: float
) -> tuple[Tensor, Tensor]:
    """Both layers at times `(T,)` by DOP853."""
    if not bool(t.isfinite().all()):
        raise InputError("Only the exact engine knows t = inf, and it is not the one that fits; give finite times.")
    (h, d), c = w1.shape, len(w2)
    target, white = sigma.numpy(), second_moment.numpy()

    def slope(_: float, q: np.ndarray) -> np.ndarray:
        first, second = q[: h * d].reshape(h, d), q[h * d :].reshape(c, h)
        error = target - second @ first @ white
        return np.concatenate([(second.T @ error).ravel(), (error @ first.T).ravel()])

    start = torch.cat([w1.flatten(), w2.flatten()]).numpy()
    increasing, place = np.unique(t.numpy(), return_inverse=True)
    if not len(increasing):
        return w1.new_empty(0, h, d), w2.new_empty(0, c, h)
    scale = max(float(np.abs(start).max()), math.sqrt(float(np.abs(target).max())), EPS)
    end = max(float(increasing[-1]), 1e-300)
    solved = solve_ivp(slope, (0.0, end), start, "DOP853", t_eval=increasing, rtol=rtol, atol=rtol * scale * 1e-2)
    if not solved.success:
        raise InputError(f"The flow could not be followed to t={end:g}: {solved.message.rstrip('.')}.")
    path = torch.from_numpy(solved.y.T[place].copy())
    return path[:, : h * d].reshape(-1, h, d), path[:, h * d :].reshape(-1, c, h)


def _drift(w1_t: Tensor, w2_t: Tensor, w1: Tensor, w2: Tensor) -> float:
    """Largest change of an eigenvalue of B = W₂ᵀW₂ − W₁W₁ᵀ, which no rotation of hidden units moves, over |Q|²."""
    if not len(w1_t):
        return 0.0
    size = float(w1.square().sum() + w2.square().sum())
    before = torch.linalg.eigvalsh(w2.mT @ w2 - w1 @ w1.mT)
    after = torch.linalg.eigvalsh(w2_t.mT @ w2_t - w1_t @ w1_t.mT)
    return float((after - before).abs().max()) / size if size else 0.0
