"""A two-layer network with the activation z^k (arXiv:2602.03655; k = 2 is the network of arXiv:2506.06489)."""

from collections import OrderedDict
from math import inf, prod

from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.models.blocks import check_at_least


class Power(nn.Module):
    """z^k, one number at a time."""

    def __init__(self, degree: int):
        super().__init__()
        self.degree = degree

    def forward(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:  # noqa: D102
        return z**self.degree

    def extra_repr(self) -> str:  # noqa: D102
        return f"degree={self.degree}"


def two_layer_power(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 180,
    degree: int | None = None,
    scale: float = 1e-3,
) -> nn.Sequential:
    """The network W_out (W_in x)^k on flattened inputs, without biases, weights ~ scale·N(0, 1/fan-in).

    For sequences of k encodings of a group's elements, `input_shape` is (k, N). Weights of exact solutions come from
    `learndyn.groups.two_layer_state`.

    >>> two_layer_power((2, 6), 6, width=18).power
    Power(degree=2)

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Outputs.
        width: Hidden units.
        degree: k; the first number of `input_shape`, the length of the sequences, when left out.
        scale: Standard deviation of the weights, relative to 1/√fan-in.

    Raises:
        InputError: If an option is out of its range.
    """
    check_at_least(1, classes=classes, width=width, input_shape=min(input_shape, default=0))
    degree = input_shape[0] if degree is None else degree
    check_at_least(1, degree=degree)
    first = small_linear(prod(input_shape), width, scale)
    last = small_linear(width, classes, scale)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), first=first, power=Power(degree), last=last))


def small_linear(inputs: int, outputs: int, scale: float) -> nn.Linear:
    """A linear map without bias, weights ~ scale·N(0, 1/inputs).

    Raises:
        InputError: If the scale is not a finite number above 0.
    """
    if not 0 < scale < inf:
        raise InputError(f"scale={scale:g} is no scale of weights; give a finite number above 0.")
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, 0.0, scale / inputs**0.5)
    return layer
