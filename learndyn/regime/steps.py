"""A learning rate that means the same in every regime: the curvature grows with the imbalance (arXiv:2406.06158)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.observables import gauss_newton_spectrum
from learndyn.tasks import cross_entropy


def learning_rate(
    model: nn.Module,
    inputs: Any,
    targets: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    c: float = 1.0,
) -> float:
    """η = c / λ_max of the Gauss-Newton matrix: gradient descent is stable below c = 2, where the network is lazy.

    For L = |f − y|²/(2n) the matrix has the spectrum of the tangent kernel over n. At a fixed learning rate an upstream
    network diverges and a downstream one crawls; at this one regimes are compared fairly.

    Args:
        model: Any network; it is left as it was, and looked at in evaluation mode.
        inputs: Its argument, a representative sample.
        targets: What it learns there.
        criterion: (outputs, targets) -> mean loss.
        c: How far to go, in (0, 2).

    Raises:
        InputError: If c is out of range, or the loss does not bend along any parameter.
    """
    if not 0 < c < 2:
        raise InputError(f"c={c:g} must lie between 0 and 2; beyond that gradient descent diverges.")
    return c / curvature(model, inputs, targets, criterion)


def curvature(model: nn.Module, inputs: Any, targets: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The largest eigenvalue of the Gauss-Newton matrix, to 1e-3.

    Raises:
        InputError: If the loss does not bend along any parameter.
    """
    found = gauss_newton_spectrum(model, lambda m: m(inputs), lambda f: criterion(f, targets), count=1, tolerance=1e-3)
    top = float(found.values[0])
    if not top > 0:
        raise InputError(f"The largest curvature is {top:g}: the outputs do not depend on any parameter here.")
    return top
