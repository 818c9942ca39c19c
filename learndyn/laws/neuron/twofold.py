"""Sums and products that keep twice the digits of float64, as pairs (high, low) whose sum is the value.

The distance of a start from the separatrix is a polynomial of weights and task that cancels there; it decides when
and where a run ends, so it is worth the digits. Error-free sums after Knuth, products after Dekker and Veltkamp.
"""

import torch
from torch import Tensor

Twofold = tuple[Tensor, Tensor]

_SPLITTER = 2.0**27 + 1


def product(x: Tensor, y: Tensor) -> Twofold:
    """The product x·y without error."""
    high = x * y
    (x1, x2), (y1, y2) = _halves(x), _halves(y)
    return high, ((x1 * y1 - high) + x1 * y2 + x2 * y1) + x2 * y2


def times(x: Twofold, y: Twofold) -> Twofold:
    """The product x·y to some 1e-31."""
    high, low = product(x[0], y[0])
    return _settle(high, low + (x[0] * y[1] + x[1] * y[0]))


def scaled(x: Twofold, factor: Tensor | float) -> Twofold:
    """The product x·factor to some 1e-31."""
    second = torch.as_tensor(factor, dtype=torch.float64)
    return times(x, (second, torch.zeros_like(second)))


def plus(x: Twofold, y: Twofold) -> Twofold:
    """The sum x + y to some 1e-31 of |x| + |y|."""
    high = x[0] + y[0]
    part = high - x[0]
    return _settle(high, (x[0] - (high - part)) + (y[0] - part) + (x[1] + y[1]))


def dot(x: Tensor, y: Tensor) -> Twofold:
    """Σ x·y over the last dimension, which may be empty."""
    high, low = product(x, y)
    while (size := high.shape[-1]) > 1:
        half = size // 2
        first, second = ((high[..., s], low[..., s]) for s in (slice(0, half), slice(half, 2 * half)))
        summed = plus(first, second)
        high, low = (torch.cat([v, rest[..., 2 * half :]], -1) for v, rest in zip(summed, (high, low)))
    return (high[..., 0], low[..., 0]) if size else (high.sum(-1), low.sum(-1))


def _settle(high: Tensor, low: Tensor) -> Twofold:
    total = high + low
    return total, low - (total - high)


def _halves(x: Tensor) -> Twofold:
    big = _SPLITTER * x
    first = big - (big - x)
    return first, x - first
