"""A particle in three dimensions under a potential that knows only its direction: equation (1) of the law itself.

And which kinetic energy has which symmetry, by differentiation along the symmetry (arXiv:2105.02716).
"""

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from learndyn.laws import inertia
from learndyn.noise import generator

SETTINGS = {"lr": 0.1, "decay": 0.01, "momentum": 0.9}
MATRIX = torch.tensor([[1.0, 0.4, -0.3], [0.4, -0.6, 0.2], [-0.3, 0.2, 0.3]], dtype=torch.float64)
SLOPE = torch.tensor([0.5, -1.0, 0.7], dtype=torch.float64)


def potential(q: Tensor) -> Tensor:
    """A function of degree 0: q̂ᵀAq̂ + a·q̂."""
    unit = q / q.norm()
    return unit @ MATRIX @ unit + SLOPE @ unit


def trajectory(step: float, steps: int) -> tuple[Tensor, Tensor]:
    """Positions and velocities of m q̈ + μ q̇ = −∇f − λq by the classical Runge-Kutta method, `(steps + 1, 3)` each."""
    m, mu = inertia.mass(SETTINGS["lr"], SETTINGS["momentum"]), inertia.friction(SETTINGS["momentum"])
    slope = grad(potential)

    def rate(x: Tensor) -> Tensor:
        q, v = x
        return torch.stack([v, (-slope(q) - SETTINGS["decay"] * q - mu * v) / m])

    x = torch.tensor([[1.0, 0.3, -0.5], [0.2, 0.5, 0.1]], dtype=torch.float64)
    path = [x]
    for _ in range(steps):
        a = rate(x)
        b = rate(x + step / 2 * a)
        c = rate(x + step / 2 * b)
        d = rate(x + step * c)
        x = x + step / 6 * (a + 2 * b + 2 * c + d)
        path.append(x)
    made = torch.stack(path)
    return made[:, 0], made[:, 1]


def residual(step: float = 0.01, time: float = 1.5) -> float:
    """Largest residual of d𝒬/dt + (μ/m)𝒬 = δT − λ|q|² for scale along a trajectory, over the largest term.

    The derivative is by five points; the residual falls as step⁴.
    """
    q, v = trajectory(step, round(time / step))
    m, mu = inertia.mass(SETTINGS["lr"], SETTINGS["momentum"]), inertia.friction(SETTINGS["momentum"])
    kinetic = inertia.euclidean(m)
    charge = torch.stack([inertia.momentum_along(kinetic, lambda x: x, a, b) for a, b in zip(q, v)])
    asymmetry = torch.stack([inertia.kinetic_asymmetry(kinetic, lambda x: x, a, b) for a, b in zip(q, v)])
    change = (charge[:-4] - 8 * charge[1:-3] + 8 * charge[3:-1] - charge[4:]) / (12 * step)
    inside = slice(2, -2)
    drive = asymmetry[inside] - SETTINGS["decay"] * q[inside].square().sum(1)
    off = change + mu / m * charge[inside] - drive
    return float(off.abs().max() / asymmetry.abs().max())


def asymmetries() -> dict[tuple[str, str], float]:
    """κ of kinetic energies and symmetries at a random point: 0 where T has the symmetry, 1 for scale and Euclid."""
    numbers = generator(0, "kinetic energies").standard_normal((3, 6))
    q, velocity, spread = (torch.from_numpy(np.ascontiguousarray(row)) for row in numbers)
    half = torch.arange(6) < 3
    turn = torch.zeros(6, 6, dtype=torch.float64)
    turn[0, 1], turn[1, 0] = -1.0, 1.0
    kinetics = {
        "SGD: G = 1": inertia.euclidean(),
        "layer rates: G = 1/η": inertia.layerwise(torch.where(half, 0.1, 0.3).double()),
        "Adam, frozen: G = √v": inertia.adam(spread.square()),
        "multiplicative: G = 1/q²": inertia.multiplicative(),
    }
    generators = {
        "translation": torch.ones_like,
        "rotation": lambda x: turn @ x,
        "scale": lambda x: x,
        "rescale": lambda x: torch.where(half, x, -x),
    }
    return {
        (rule, name): float(inertia.relative_asymmetry(kinetic, generator_, q, velocity))
        for rule, kinetic in kinetics.items()
        for name, generator_ in generators.items()
    }
