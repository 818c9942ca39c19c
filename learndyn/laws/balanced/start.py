"""What a start and its data have to be for the closed form: balanced layers, white inputs, a feasible shape."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from learndyn.errors import InputError

#: Largest entry of |Σxx − kI|, relative to k, at which inputs count as white.
WHITE = 1e-8


class Balance(NamedTuple):
    """How balanced two layers are.

    Attributes:
        lam: λ* = tr(B)/h of B = W₂ᵀW₂ − W₁W₁ᵀ, the best λ in least squares; positive if the second layer is larger.
        ratio: |B − λ*I| / |B|, Frobenius: 0 for a balanced pair, near 1 for a Gaussian one (`expected_lambda`).
        defect: |B − λ*I|, Frobenius.
        size: |Q|² = |W₁|² + |W₂|², Frobenius, to compare the defect with.
    """

    lam: float
    ratio: float
    defect: float
    size: float


class Moments(NamedTuple):
    """All that the laws need of data with white inputs.

    Attributes:
        sigma: Σ = mean of y xᵀ, `(c, d)`.
        k: Mean of x xᵀ is k I.
        floor: Least mean of ½|y − Wx|², which is the part of the loss that no W changes.
    """

    sigma: Tensor
    k: float
    floor: float


def balance(w1: Tensor, w2: Tensor) -> Balance:
    """λ* and how far B = W₂ᵀW₂ − W₁W₁ᵀ, which gradient flow conserves, is from λ*I (arXiv:2409.14623).

    Args:
        w1: First layer, `(h, d)`.
        w2: Second layer, `(c, h)`.

    Raises:
        InputError: If the shapes do not fit, or a weight is not finite.
    """
    first, second = layers(w1, w2)
    difference = second.mT @ second - first @ first.mT
    lam = float(difference.trace()) / len(first)
    whole = float(difference.norm())
    difference.diagonal().sub_(lam)
    rest = float(difference.norm())
    return Balance(lam, rest / whole if whole else 0.0, rest, float(first.square().sum() + second.square().sum()))


def moments(inputs: Tensor, targets: Tensor) -> Moments:
    """Σ = E[yxᵀ], k of E[xxᵀ] = kI, and the floor of the loss, from examples in rows; means over the P examples.

    Args:
        inputs: Inputs, `(P, d)`.
        targets: Targets, `(P, c)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or the inputs are not white up to a factor.
    """
    x, y = finite("inputs", inputs), finite("targets", targets)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, y.shape[1]):
        raise InputError(
            f"inputs {tuple(x.shape)} and targets {tuple(y.shape)} do not fit; expected rows (P, d) and (P, c)."
        )
    second, sigma = x.mT @ x / len(x), y.mT @ x / len(x)
    k = float(second.trace()) / x.shape[1]
    off = float((second - k * torch.eye(x.shape[1], dtype=torch.float64)).abs().max())
    if k == 0 or off > WHITE * k:
        raise InputError(
            f"The inputs are not white: E[xx'] differs from {k:.4g} times the identity by up to {off:.1e}. Multiply "
            "them by the inverse root of E[xx'], or integrate the flow; it has no closed form."
        )
    return Moments(sigma, k, float(y.square().sum()) / (2 * len(y)) - float(sigma.square().sum()) / (2 * k))


def feasible(inputs: int, hidden: int, outputs: int, lam: float) -> None:
    """Refuse shapes of which no pair is λ-balanced: W₂ᵀW₂ = λI + W₁W₁ᵀ has rank h, so λ > 0 needs h ≤ c (derived here).

    Raises:
        InputError: If λ > 0 and h > c, or λ < 0 and h > d.
    """
    if lam > 0 and hidden > outputs:
        raise InputError(f"lambda > 0 needs h <= c (h={hidden}, c={outputs}); take lambda <= 0 or fewer hidden units.")
    if lam < 0 and hidden > inputs:
        raise InputError(f"lambda < 0 needs h <= d (h={hidden}, d={inputs}); take lambda >= 0 or fewer hidden units.")


def layers(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Two layers that follow each other, `(h, d)` and `(c, h)`, in float64 on the CPU.

    Raises:
        InputError: If they do not, or a weight is not finite.
    """
    if w1.ndim != 2 or w2.ndim != 2 or w2.shape[1] != w1.shape[0] or 0 in (*w1.shape, *w2.shape):
        raise InputError(
            f"Layers of shape {tuple(w1.shape)} and {tuple(w2.shape)} do not fit; expected (h, d) and (c, h)."
        )
    return finite("w1", w1), finite("w2", w2)


def clock(times: Tensor) -> Tensor:
    """Times in float64, `(T,)`.

    Raises:
        InputError: If they are no vector, or one is negative or nan.
    """
    t = times.detach().cpu().double()
    if t.ndim != 1:
        raise InputError(f"times has shape {tuple(times.shape)}; expected (T,).")
    if not bool((t >= 0).all()):
        raise InputError(f"times must be at least 0, not {float(t[~(t >= 0)][0]):g}.")
    return t


def finite(name: str, values: Tensor) -> Tensor:
    """Detached, in float64 on the CPU.

    Raises:
        InputError: If a value is not finite.
    """
    made = values.detach().cpu().double()
    if not math.isfinite(float(made.sum())) and not bool(made.isfinite().all()):
        raise InputError(f"{name} is not finite at {tuple((~made.isfinite()).nonzero()[0].tolist())}.")
    return made
