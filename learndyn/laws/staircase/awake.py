"""Awake neurons: gradient flow of their loss to where it stands still (arXiv:2506.06489, cost minimisation).

Awake neurons are thousands of times faster than plateaus are short, and infima that no weights attain are approached
for ever. The flow is therefore stepped by the exponential Rosenbrock-Euler method, which is exact for the quadratic
part of the loss, whatever its curvatures and their signs: its steps grow without bound towards a stationary point.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import RK23
from torch import Tensor

from learndyn.neurons import with_slope

Loss = Callable[[Float[Tensor, "neurons weights"]], Float[Tensor, ""]]

TOLERANCE = 3e-3  # of a step, relative to the weights: a gradient flow forgets its errors, and its end is what is used
CHUNK = 64  # columns of a Hessian at once
MOST = 600  # steps
ROUGH = 1e-3  # relative tolerance of explicit steps
FALLS = 1e-3  # part of the whole drop, in half as long again


def settle(
    loss: Loss, theta: Float[Tensor, "neurons weights"], tolerance: float, time: float, asleep: float = 0.0
) -> tuple[Float[Tensor, "neurons weights"], str]:
    """Follow dθ/dt = −∇L until the largest entry of the gradient is below a tolerance.

    Args:
        loss: L.
        theta: Where the neurons are.
        tolerance: Of the gradient.
        time: Flow time after which it is left where it is.
        asleep: It is left as well as soon as a neuron is smaller than this part of the largest.

    Returns:
        The weights, and "still" if the gradient came below the tolerance, "asleep" if a neuron shrank, else "moving".
    """
    shape = theta.shape

    def value(y: Tensor) -> Tensor:
        return loss(y.view(shape))

    y, gone, h = theta.detach().flatten(), 0.0, 0.0
    g = with_slope(value, y)[1]
    for _ in range(MOST):
        if float(g.abs().max()) <= tolerance:
            return y.view(shape), "still"
        if gone >= time:
            break
        values, vectors = torch.linalg.eigh(_hessian(value, y))
        h = h or 0.1 / float(values.abs().max().clamp_min(1e-300))
        while True:
            h = min(h, time - gone)
            reach = _reach(values, h)
            new = y - vectors @ (reach * (vectors.T @ g))
            ahead = with_slope(value, new)[1]
            bent = ahead - g - vectors @ (values * (vectors.T @ (new - y)))
            error = float((vectors @ (reach * (vectors.T @ bent))).norm()) / (TOLERANCE * float(y.norm()))
            if error <= 1:
                break
            h *= max(0.1, 0.8 / error**0.5)
            if h < 1e-14 * float(1 / values.abs().max()):  # a kink that pushes from both sides
                return y.view(shape), "moving"
        y, g, gone = new, ahead, gone + h
        h *= min(10.0, 0.8 / max(error, 1e-4) ** 0.5)
        norms = y.view(shape).norm(dim=1)
        if float(norms.min()) < asleep * float(norms.max()):
            return y.view(shape), "asleep"
    return y.view(shape), "moving"


def settle_roughly(
    loss: Loss, theta: Float[Tensor, "neurons weights"], tolerance: float, time: float, asleep: float = 0.0
) -> tuple[Float[Tensor, "neurons weights"], str]:
    """The same for a loss whose gradient jumps, by explicit steps; at rest as well when the loss no longer falls.

    On a kink that pushes from both sides the gradient never vanishes.
    """
    shape = theta.shape

    def value(y: Tensor) -> Tensor:
        return loss(y.view(shape))

    def field(_: float, y: np.ndarray) -> np.ndarray:
        return -with_slope(value, torch.from_numpy(np.array(y)))[1].numpy()

    solver = RK23(field, 0.0, theta.detach().flatten().numpy(), time, rtol=ROUGH, atol=1e-3 * ROUGH)
    looked, before = 0.0, float(loss(theta))
    first = before
    while solver.status == "running":
        solver.step()
        y = torch.from_numpy(solver.y.copy())
        norms = y.view(shape).norm(dim=1)
        if float(norms.min()) < asleep * float(norms.max()):
            return y.view(shape), "asleep"
        if float(np.abs(solver.f).max()) <= tolerance:
            return y.view(shape), "still"
        if solver.t > 1.5 * looked:
            looked, now = solver.t, float(value(y))
            if before - now <= FALLS * (first - now):
                return y.view(shape), "still"
            before = now
    return torch.from_numpy(solver.y.copy()).view(shape), "moving"


def _hessian(value: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """By reverse over reverse, whose batched form is many times faster here than forward over reverse."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
        rows = [
            torch.autograd.grad(slope, leaf, some, retain_graph=True, is_grads_batched=True)[0]
            for some in torch.eye(len(y), dtype=y.dtype).split(CHUNK)
        ]
    found = torch.cat(rows)
    return 0.5 * (found + found.T)


def _reach(values: Tensor, h: float) -> Tensor:
    """∫₀ʰ e^(−λt) dt."""
    x = h * values
    return torch.where(x.abs() < 1e-8, h * torch.ones_like(x), -torch.expm1(-x.clamp_min(-50.0)) / values)
