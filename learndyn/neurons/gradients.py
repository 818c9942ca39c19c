"""Values and their gradient, for everything that climbs a utility or descends a loss."""

from collections.abc import Callable

import torch
from torch import Tensor


def with_slope(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """A function's values and the gradient of their sum: of each value where rows do not mix, as utilities.

    >>> with_slope(lambda theta: theta.square().sum(1), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    (tensor([5., 9.]), tensor([[2., 4.],
            [0., 6.]]))

    Args:
        function: Differentiable, of a tensor of any shape.
        at: Where; nothing is recorded of it.
    """
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        values = function(leaf)
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), slope
