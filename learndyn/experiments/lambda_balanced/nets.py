"""Many two-layer linear networks at once, by gradient descent or along the flow: what theory is laid over.

Plain tensors with a leading dimension of networks; `overlay.py` has real modules in torch's own optimizer, and checks
that both are the same to rounding.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def field(sigma: Tensor, second: Tensor | None = None) -> Slope:
    """W₂ᵀ(Σ − W₂W₁Σxx) and (Σ − W₂W₁Σxx)W₁ᵀ of networks `(B, h, d)`, `(B, c, h)`; white inputs by default."""

    def slope(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
        product = w2 @ w1
        error = sigma - (product if second is None else product @ second)
        return w2.mT @ error, error @ w1.mT

    return slope


def descend(w1: Tensor, w2: Tensor, slope: Slope, rates: Tensor, steps: int, looks: list[int]) -> tuple[Tensor, Tensor]:
    """Gradient descent with a learning rate of each network's own.

    Args:
        w1: First layers, `(B, h, d)`.
        w2: Second layers, `(B, c, h)`.
        slope: From `field`.
        rates: Learning rates, `(B,)`.
        steps: Updates.
        looks: Steps to look at, increasing.

    Returns:
        Both layers at the looks, `(looks, B, h, d)` and `(looks, B, c, h)`.
    """
    eta = rates[:, None, None]

    def step(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        da, db = slope(a, b)
        return a + eta * da, b + eta * db

    return _go(w1, w2, step, steps, looks)


def follow(w1: Tensor, w2: Tensor, slope: Slope, width: Tensor, steps: int, looks: list[int]) -> tuple[Tensor, Tensor]:
    """The flow by the classical Runge-Kutta method, in steps of time `width` `(B,)`; otherwise as `descend`."""
    h = width[:, None, None]

    def step(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        k1 = slope(a, b)
        k2 = slope(a + h / 2 * k1[0], b + h / 2 * k1[1])
        k3 = slope(a + h / 2 * k2[0], b + h / 2 * k2[1])
        k4 = slope(a + h * k3[0], b + h * k3[1])
        new = [x + h / 6 * (p + 2 * q + 2 * r + s) for x, p, q, r, s in zip((a, b), k1, k2, k3, k4)]
        return new[0], new[1]

    return _go(w1, w2, step, steps, looks)


def _go(w1: Tensor, w2: Tensor, step: Slope, steps: int, looks: list[int]) -> tuple[Tensor, Tensor]:
    seen1, seen2, wanted = [], [], set(looks)
    for n in range(steps + 1):
        if n in wanted:
            seen1.append(w1)
            seen2.append(w2)
        if n < steps:
            w1, w2 = step(w1, w2)
    return torch.stack(seen1), torch.stack(seen2)


def looks(steps: int, count: int) -> list[int]:
    """Steps from 0 to the last, about half of them evenly and half by factors."""
    even = torch.linspace(0, steps, count // 2)
    by_factors = torch.logspace(0, torch.tensor(float(steps)).log10().item(), count - count // 2)
    return sorted({min(steps, round(float(n))) for n in torch.cat([even, by_factors])})
