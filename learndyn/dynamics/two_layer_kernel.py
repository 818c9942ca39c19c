"""Tangent kernel of two layers with a ReLU between them, with its patterns and its weights apart (arXiv:2406.06158).

    K_ij = Σ_k c_ki c_kj x_iᵀ M_k x_j,    M_k = η_w |a_k|² I + η_a w_k w_kᵀ,    c_ki = σ'(w_k·x_i + b_k)

It moves for two reasons, which are measured one at a time: the weights M move, or the activation patterns C do.
Σ_k is done by two products of `(n, units)` matrices and one of the inputs, not by features of all parameters.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def two_layer_kernel(
    inputs: Float[Tensor, "n d"],
    first: Float[Tensor, "units d"],
    last: Float[Tensor, "*outputs units"],
    slopes: Float[Tensor, "n units"] | None = None,
    bias: Float[Tensor, " units"] | None = None,
    last_bias: bool = False,
    gamma: float = 0.0,
    rates: tuple[float, float] = (1.0, 1.0),
    gram: Float[Tensor, "n n"] | None = None,
) -> Float[Tensor, "n n"]:
    """The kernel of the weights and of all biases, traced over the outputs.

    Args:
        inputs: x_i, one a row.
        first: w_k, one a row.
        last: a_k, one a column; `(units,)` for one output.
        slopes: σ'(w_k·x_i + b_k) of another time; those of these weights when left out.
        bias: b_k, trained as w_k is.
        last_bias: Whether the outputs have biases, trained as a_k is.
        gamma: Slope of σ below zero: 0 for ReLU.
        rates: Learning rates η_w of the first and η_a of the last layer.
        gram: Inner products x_i·x_j, if they are known.
    """
    before = inputs @ first.T if bias is None else torch.addmm(bias, inputs, first.T)
    if slopes is None:
        slopes = activation_slopes(before, gamma)
    hidden = slopes * before
    outputs = last.numel() // last.shape[-1]
    squares = last.reshape(outputs, -1).square().sum(0)
    gram = inputs @ inputs.T if gram is None else gram
    kernel = (slopes * (rates[0] * squares)) @ slopes.T
    kernel *= gram if bias is None else gram + 1
    kernel.addmm_(hidden, hidden.T, alpha=rates[1] * outputs)
    return kernel.add_(rates[1] * outputs) if last_bias else kernel


def activation_slopes(before: Float[Tensor, "*any"], gamma: float = 0.0) -> Float[Tensor, "*any"]:
    """σ'(z): 1 above zero and γ elsewhere, also at zero, as torch has it."""
    return torch.where(before > 0, before.new_ones(()), before.new_tensor(gamma))


def direction_distance(first: Tensor, second: Tensor) -> Float[Tensor, ""]:
    """S = 1 − ⟨K, K'⟩/(‖K‖‖K'‖) as ½‖K/‖K‖ − K'/‖K'‖‖², which is 0 of a kernel and itself; nan if one has no direction.

    The observable `kernel_distance` refuses in that case; here one dead network of many shall not end the others.
    """
    return 0.5 * (first / first.norm() - second / second.norm()).square().sum()
