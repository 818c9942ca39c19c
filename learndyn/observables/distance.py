"""How far apart two networks are in parameter space (arXiv:2505.13900, eq. 1).

Trainable parameters, float64, whatever the precision of the networks.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.dynamics.state import State, vector


def _directions(a: State, b: State) -> tuple[Tensor, Tensor]:
    return tuple(v / v.norm() for v in (vector(a.model), vector(b.model)))  # type: ignore[return-value]


def dissimilarity(a: State, b: State) -> Float[Tensor, ""]:
    """C = 1 − cos(θ, θ′), computed as ½ ‖θ/‖θ‖ − θ′/‖θ′‖‖².

    The difference form keeps all digits of twins: at a relative distance of 1e-9 it gives 5e-19, where 1 − cos gives
    1e-16.
    """
    first, second = _directions(a, b)
    return 0.5 * (first - second).square().sum()


def distance(a: State, b: State) -> Float[Tensor, ""]:
    """‖θ − θ′‖₂."""
    return (vector(a.model) - vector(b.model)).norm()


def relative_distance(a: State, b: State) -> Float[Tensor, ""]:
    """‖θ − θ′‖ / ‖θ‖."""
    return distance(a, b) / vector(a.model).norm()


def log_growth(a: State, b: State, size: float) -> Float[Tensor, ""]:
    """ln(‖θ − θ′‖ / size): how much a perturbation of norm `size` has grown; −inf for identical twins, nan for size
    0.
    """
    return (distance(a, b) / size).log() if size > 0 else torch.tensor(torch.nan, dtype=torch.float64)
