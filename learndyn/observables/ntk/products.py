"""What the kernel says without being formed: products with vectors, ends of its spectrum, a sketch for many outputs.

And the Gram matrix of the gradients of single losses, which is the kernel of a network whose output is its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.observables.evaluate import looking
from learndyn.observables.ntk import jacobian
from learndyn.observables.ntk.gram import Kernel, call, chosen_names, kernel
from learndyn.observables.ntk.jacobian import Function
from learndyn.observables.spectrum import Spectrum, lanczos

ROWS = 2**28  # bytes of Jacobian rows at a time
Parameters = Sequence[str] | Callable[[str], bool] | None


def kernel_product(
    model: nn.Module, inputs: Tensor, v: Tensor, *, parameters: Parameters = None, function: Function = call
) -> Float[Tensor, "n c"]:
    """K v for the full kernel and a vector v `(n, c)`, as J (Jᵀ v): three backward passes, no matrix; in eval mode.

    Raises:
        InputError: If v does not fit the outputs, or a weight is not finite.
    """
    names = chosen_names(model, parameters)
    with looking(model, inputs.device):
        width = function(model, inputs[:1]).flatten(1).shape[1]
        if v.shape != (len(inputs), width):
            raise InputError(f"v has the shape {tuple(v.shape)}; the outputs ask for ({len(inputs)}, {width}).")
        gradient = jacobian.transposed_product(model, function, names, inputs, v)
        return jacobian.product(model, function, names, inputs, gradient)


def kernel_spectrum(
    model: nn.Module,
    inputs: Tensor,
    count: int = 5,
    tolerance: float = 1e-5,
    *,
    parameters: Parameters = None,
    function: Function = call,
    seed: int = 0,
) -> Spectrum:
    """The largest eigenpairs of the full kernel, by Lanczos on products with it; for kernels too large to be formed.

    Values that occur several times, such as those of an affine network, are found as often as they occur. Vectors are
    `(count, n·c)`.
    """
    with looking(model, inputs.device):
        like = function(model, inputs[:1]).flatten(1)
    shape = (len(inputs), like.shape[1])
    start = torch.from_numpy(generator(seed, "kernel spectrum").standard_normal(math.prod(shape))).to(like)

    def product(v: Tensor) -> Tensor:
        return kernel_product(model, inputs, v.view(shape), parameters=parameters, function=function).flatten()

    return lanczos(product, start, count, "largest", tolerance, multiple=True)


def gradient_gram(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor], **options: Any
) -> Kernel:
    """⟨∇L_i, ∇L_j⟩ between the gradients of single losses `(n, n)`: the scatter of which is the gradient noise.

    Args:
        model: Any network.
        inputs: `(n, ...)`.
        targets: `(n, ...)`.
        loss: (outputs, targets) -> losses `(m,)` of m samples, such as `partial(cross_entropy, reduction="none")`.
        **options: Of `kernel`: parameters, layers, memory, certificate, after.
    """
    if len(inputs) != len(targets):
        raise InputError(f"{len(inputs)} inputs and {len(targets)} targets do not fit together.")

    def losses(network: Callable[..., Tensor], where: Tensor) -> Tensor:
        return _column(loss(network(inputs[where]), targets[where]), len(where))

    return kernel(model, torch.arange(len(inputs), device=inputs.device), reduction="sum", function=losses, **options)


def _column(losses: Tensor, samples: int) -> Tensor:
    if losses.dim() == 0 or len(losses) != samples:
        raise InputError(
            f"The loss gave {tuple(losses.shape)} for {samples} samples; it must give one number for each."
        )
    return losses.reshape(samples, -1).sum(1, keepdim=True)


@dataclass(frozen=True)
class Sketch:
    """Rows of the Jacobian, folded at random into few columns (CountSketch): K ≈ F Fᵀ, right on average.

    Attributes:
        features: F `(n·c, width)`.
    """

    features: Tensor

    @cached_property
    def matrix(self) -> Tensor:
        """The estimate of the full kernel, `(n·c, n·c)`."""
        return self.features @ self.features.T

    @property
    def error(self) -> float:
        """Expected relative error of the matrix in the Frobenius norm, √(((tr K)² / ‖K‖² + 1) / width), from K̂."""
        square = float(self.matrix.double().square().sum())
        trace = float(self.matrix.diagonal().double().sum())
        width = self.features.shape[1]
        # E‖K̂‖² = ‖K‖² + ((tr K)² + ‖K‖²)/m, solved for ‖K‖²
        true = max((square - trace**2 / width) / (1 + 1 / width), 1e-300)
        return math.sqrt((trace**2 + true) / width / true)


def kernel_sketch(
    model: nn.Module,
    inputs: Tensor,
    width: int = 4096,
    *,
    parameters: Parameters = None,
    function: Function = call,
    seed: int = 0,
    after: Callable[[float], None] | None = None,
) -> Sketch:
    """A CountSketch of the full kernel, for more than some 10,000 outputs in all; else `kernel` is faster and exact.

    Every coordinate of θ goes with a random sign into one of `width` columns, the same for all rows; use one seed for
    all checkpoints of a series. The relative error is about √((tr K)² / ‖K‖² + 1) / √width.

    Raises:
        InputError: If `width` is not positive, there are no inputs, or a weight is not finite.
    """
    if width < 1 or len(inputs) == 0:
        raise InputError(f"A sketch needs inputs and a positive width; got {len(inputs)} inputs and width={width}.")
    names = chosen_names(model, parameters)
    own = dict(model.named_parameters())
    size = sum(own[name].numel() for name in names)
    draw = generator(seed, "sketch")
    with looking(model, inputs.device):
        like = function(model, inputs[:1]).flatten(1)
        columns = torch.from_numpy(draw.integers(0, width, size)).to(inputs.device)
        signs = torch.from_numpy(draw.integers(0, 2, size) * 2 - 1).to(like)
        directions = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        chunk = max(1, ROWS // (size * like.shape[1] * like.element_size()))
        parts = []
        for begin in range(0, len(inputs), chunk):
            rows = jacobian.jacobian(model, function, names, inputs[begin : begin + chunk], directions, chunk)
            rows = (rows * signs).flatten(0, 1)
            parts.append(rows.new_zeros(len(rows), width).index_add_(1, columns, rows))
            if after is not None:
                after(min(1.0, (begin + chunk) / len(inputs)))
    return Sketch(torch.cat(parts))
