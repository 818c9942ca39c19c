"""How far the tangent kernel of a single neuron has moved (arXiv:2406.06158)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.neuron.start import rates, weights


def kernel_distance(
    a_first: Tensor | float,
    w_first: Tensor,
    a_second: Tensor | float,
    w_second: Tensor,
    etas: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, "..."]:
    """S = 1 − cos between two tangent kernels XMXᵀ of f(x) = a wᵀx on white data, M = η_w a² I + η_a wwᵀ.

    ⟨M₁, M₂⟩ = η_w² d a₁²a₂² + η_aη_w(a₁²|w₂|² + a₂²|w₁|²) + η_a²(w₁ᵀw₂)² (arXiv:2406.06158). S is taken as half the
    square of M₁/|M₁| − M₂/|M₂|, whose part v₁v₁ᵀ − v₂v₂ᵀ = ½(pqᵀ + qpᵀ), p = v₁ + v₂, q = v₁ − v₂, keeps its digits
    when S is small (derived here); cost O(d).

    Args:
        a_first: Read-out weight of the first neuron, `(...,)`.
        w_first: Its incoming weights, `(..., d)`.
        a_second: Read-out weight of the second; all broadcast.
        w_second: Its incoming weights.
        etas: Learning rates (η_a, η_w).

    Returns:
        S in [0, 1]; nan if a kernel is zero.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a rate is not positive.
    """
    eta_a, eta_w = rates(etas)
    (a1, w1), (a2, w2) = weights(a_first, w_first), weights(a_second, w_second)
    d = w1.shape[-1]
    if w2.shape[-1] != d:
        raise InputError(f"Neurons of {d} and of {w2.shape[-1]} inputs have no kernels to compare.")
    (flat1, v1), (flat2, v2) = (_normalised(a, w, eta_a, eta_w) for a, w in ((a1, w1), (a2, w2)))
    v2 = torch.where((v1 * v2).sum(-1, keepdim=True) < 0, -v2, v2)
    p, q, change = v1 + v2, v1 - v2, flat1 - flat2
    cross = (p * q).sum(-1)
    turned = (p.square().sum(-1) * q.square().sum(-1) + cross.square()) / 2
    return (d * change.square() + 2 * change * cross + turned).clamp_min(0) / 2


def _normalised(a: Tensor, w: Tensor, eta_a: float, eta_w: float) -> tuple[Tensor, Tensor]:
    """M/|M| as a multiple of the identity `(...,)` and vvᵀ, v `(..., d)`."""
    big = torch.maximum(a.abs(), w.abs().amax(-1))  # so that fourth powers do not vanish
    flat, v = eta_w * (a / big).square(), math.sqrt(eta_a) * (w / big[..., None])
    square = v.square().sum(-1)
    norm = (w.shape[-1] * flat.square() + 2 * flat * square + square.square()).sqrt()
    return flat / norm, v / norm.sqrt()[..., None]
