"""Fully connected networks."""

import math

from torch import nn

from learndyn.errors import InputError, unknown
from learndyn.models.blocks import check_at_least, start_kaiming

# Activation and gain of the weights before it. For tanh, 1 is the edge between vanishing and saturated signals in deep
# nets without biases (B. Poole et al., arXiv:1606.05340), where PyTorch's own 5/3 saturates. The smooth relatives of
# ReLU take its gain.
ACTIVATIONS: dict[str, tuple[type[nn.Module], float]] = {
    "relu": (nn.ReLU, 2**0.5),
    "gelu": (nn.GELU, 2**0.5),
    "silu": (nn.SiLU, 2**0.5),
    "softplus": (nn.Softplus, 2**0.5),
    "leaky_relu": (nn.LeakyReLU, (2 / (1 + 0.01**2)) ** 0.5),
    "tanh": (nn.Tanh, 1.0),
    "linear": (nn.Identity, 1.0),
}


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    width: int | tuple[int, ...] = 128,
    depth: int | None = None,
    activation: str = "relu",
    batch_norm: bool = False,
    bias: bool = True,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Flatten, `depth` times (linear, batch normalisation if wanted, activation), linear.

    Weights start as N(0, gain²/fan_in), with the gain of the activation in every layer (√2 for relu, gelu, silu and
    softplus, √(2/1.0001) for leaky_relu, 1 for tanh and linear); biases start at zero.

    >>> model = mlp((64,), 10, width=128, depth=4, batch_norm=True)
    >>> sum(parameter.numel() for parameter in model.parameters())
    60170

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Outputs.
        width: Units of each hidden layer, or a tuple with the units of every hidden layer.
        depth: Hidden layers; 0 gives a linear model. When left out: 2, or as many as `width` lists.
        activation: relu, gelu, tanh, silu, softplus, leaky_relu or linear.
        batch_norm: Normalise before each activation.
        bias: Give linear layers biases.
        eps: What batch normalisation adds to variances, by which it is not quite blind to the scale of its inputs.

    Raises:
        InputError: If an option is out of its range, or `depth` and a tuple of widths contradict each other.
    """
    if not input_shape:
        raise InputError(f"input_shape={input_shape} has no dimension; give at least one, such as (64,).")
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    if isinstance(width, tuple):
        widths = width
        if depth is not None and depth != len(width):
            raise InputError(
                f"depth={depth} contradicts the {len(width)} hidden layers of width={width}; leave depth out."
            )
    else:
        depth = 2 if depth is None else depth
        check_at_least(0, depth=depth)
        widths = (width,) * depth
    if not 0 <= eps < math.inf:
        raise InputError(f"eps={eps:g} must be finite and not negative.")
    check_at_least(1, classes=classes, width=min(widths, default=1), input_shape=min(input_shape))
    nonlinearity, gain = ACTIVATIONS[activation]
    sizes = (math.prod(input_shape), *widths)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes, sizes[1:]):
        norm = [nn.BatchNorm1d(outputs, eps)] if batch_norm else []
        layers += [nn.Linear(inputs, outputs, bias=bias), *norm, nonlinearity()]
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], classes, bias=bias))
    start_kaiming(model, gain)
    return model
