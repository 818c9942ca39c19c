"""What several architectures share: checks of their options, the start of their weights, and the global mean."""

from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError


class GlobalMean(nn.Module):
    """Mean over height and width: one number for each channel, whatever the size of the images."""

    def forward(self, x: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch channels"]:  # noqa: D102
        return x.mean((-2, -1))


def check_at_least(least: int, **options: int) -> None:
    """Refuse options below `least`.

    Raises:
        InputError: With the name and value of the first one.
    """
    for name, value in options.items():
        if value < least:
            raise InputError(f"{name}={value} is too small for a network; give at least {least}.")


def check_image(input_shape: tuple[int, ...], smallest: int, model: str) -> int:
    """The number of channels of `input_shape` = (channels, height, width), after checking it.

    Args:
        input_shape: Shape of one input.
        smallest: Least height and width that the architecture's poolings leave a pixel of.
        model: Name of the architecture, for the message.

    Raises:
        InputError: If the inputs are no images, or too small ones.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(
            f"{model} needs inputs of shape (channels, height, width), not input_shape={input_shape}; "
            "many tasks give them with image=True."
        )
    if min(input_shape[1:]) < smallest:
        raise InputError(
            f"{model} halves its images until none is left of {input_shape[1]}x{input_shape[2]} pixels; "
            f"give images of at least {smallest}x{smallest} or a smaller model."
        )
    return input_shape[0]


def conv(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    """A 3x3 convolution with biases that keeps the size, batch normalisation if wanted, and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
    return [*layers, nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [*layers, nn.ReLU()]


def start_kaiming(model: nn.Module, gain: float = 2**0.5, mode: str = "fan_in") -> None:
    """Draw all weights of linear and convolutional layers from N(0, gain²/fan), and set their biases to zero.

    K. He et al., arXiv:1502.01852, eq. 10: gain² = 2 keeps the second moment of the signal under ReLU. Batch
    normalisation keeps PyTorch's start, scale 1 and shift 0.

    Args:
        model: Its layers are changed.
        gain: Factor that makes up for what the activation takes away.
        mode: "fan_in" keeps the signal on the way forward, "fan_out" the gradient on the way back.
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            fan = layer.weight[0].numel() if mode == "fan_in" else layer.weight.numel() // layer.weight.shape[1]
            nn.init.normal_(layer.weight, 0.0, gain / fan**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
