"""First weights by logarithm of norm and direction, so that they may be as small as 1e-1000."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.noise import generator


class Start(NamedTuple):
    """Neurons in polar coordinates.

    Attributes:
        log_norms: ln ‖θ_i‖.
        directions: θ_i/‖θ_i‖.
    """

    log_norms: Float[Tensor, " neurons"]
    directions: Float[Tensor, "neurons weights"]

    def weights(self) -> Float[Tensor, "neurons weights"]:
        """θ; zero where it is below 1e-308."""
        return self.log_norms.exp()[:, None] * self.directions

    def scaled(self, log_factor: float) -> "Start":
        """The same directions, all norms times e^log_factor."""
        return Start(self.log_norms + log_factor, self.directions)


def polar(theta: Float[Tensor, "neurons weights"]) -> Start:
    """First weights in polar coordinates.

    Raises:
        InputError: If a neuron is zero or not finite, or the weights are not float64.
    """
    if theta.dtype != torch.float64:
        raise InputError(f"First weights are {theta.dtype}: vanishing starts need float64; call .double().")
    norms = torch.linalg.vector_norm(theta, dim=1)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise InputError("A first neuron is zero or not finite; a neuron that starts at zero never leaves it.")
    return Start(norms.log(), theta / norms[:, None])


def gaussian(count: int, parts: Sequence[int], size: float = 1.0, log_size: float = 0.0, seed: int = 0) -> Start:
    """Neurons with Gaussian weights, E‖θ‖² = α², every part of θ with the same share (arXiv:2506.06489).

    α is size · e^log_size. For θ = (w, a) with inputs of d and outputs of c numbers: w ~ N(0, α²/2d), a ~ N(0, α²/2c).

    Args:
        count: Neurons.
        parts: Numbers in each part of θ: (d, c) for incoming and outgoing weights.
        size: α.
        log_size: Logarithm of a further factor, for α below 1e-308.
        seed: Which draw.

    Raises:
        InputError: If a count is below 1 or the size is not positive.
    """
    if count < 1 or not parts or min(parts) < 1:
        raise InputError(f"count={count} and parts={tuple(parts)} must be at least 1.")
    if not 0 < size < math.inf:
        raise InputError(f"size={size:g} of the first weights must be a finite number above 0.")
    draws = generator(seed, "first neurons").standard_normal((count, sum(parts)))
    scales = torch.cat([torch.full((n,), (n * len(parts)) ** -0.5, dtype=torch.float64) for n in parts])
    return polar(torch.from_numpy(draws) * scales).scaled(math.log(size) + log_size)
