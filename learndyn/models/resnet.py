"""Residual networks for small images (K. He et al., arXiv:1512.03385, section 4.2): depth 6n + 2, three stages."""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from learndyn.errors import InputError, unknown
from learndyn.models.blocks import GlobalMean, check_at_least, check_image, start_kaiming

SHORTCUTS = ("pad", "conv")


class PadShortcut(nn.Module):
    """Option A of the paper, without parameters: every second pixel, and zeros for the new channels, half in front."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.front = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.front

    def forward(self, x: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch wider half halfwidth"]:  # noqa: D102
        return F.pad(x[..., ::2, ::2], (0, 0, 0, 0, self.front, self.behind))


class Block(nn.Module):
    """relu(shortcut(x) + f(x)), with f = conv, norm, relu, conv, norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and shortcut == "pad":
            self.shortcut = PadShortcut(inputs, outputs)
        elif stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch c h w"]:  # noqa: D102
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(self.shortcut(x) + residual)


def resnet(
    input_shape: tuple[int, ...], classes: int, depth: int = 20, width: int = 16, shortcut: str = "pad"
) -> nn.Sequential:
    """A convolution, three stages of n blocks at 1, 1/2 and 1/4 of the size, global mean, linear.

    The stages have width, 2·width and 4·width channels. Convolutions have no biases. Kaiming-normal weights (fan in,
    gain √2) in convolutions and in the last layer, whose biases start at zero.

    Args:
        input_shape: (channels, height, width); odd sizes are rounded up where they are halved.
        classes: Outputs.
        depth: Layers with weights, 6n + 2.
        width: Channels of the first stage.
        shortcut: Where the size halves: "pad" with zeros, or "conv", a 1x1 convolution with batch normalisation.

    Raises:
        InputError: If an option is out of its range, or the inputs are no images.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise InputError(
            f"depth={depth} is no depth of a residual network with three stages; give 6n + 2: 8, 14, 20, 32, ..."
        )
    if shortcut not in SHORTCUTS:
        raise unknown("shortcut", shortcut, SHORTCUTS)
    check_at_least(1, classes=classes, width=width)
    channels = check_image(input_shape, 1, "resnet")
    blocks: list[nn.Module] = []
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for block in range(n):
            blocks.append(Block(inputs, outputs, 2 if stage and block == 0 else 1, shortcut))
            inputs = outputs
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
            blocks=nn.Sequential(*blocks),
            mean=GlobalMean(),
            classifier=nn.Linear(inputs, classes),
        )
    )
    start_kaiming(model)
    return model


def resnet20(input_shape: tuple[int, ...], classes: int, width: int = 16, shortcut: str = "pad") -> nn.Sequential:
    """ResNet-20: 269,722 parameters for CIFAR-10 with padded shortcuts, 272,474 with convolutions.

    >>> model = resnet20((3, 32, 32), 10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    269722

    Args:
        input_shape: (channels, height, width).
        classes: Outputs.
        width: Channels of the first stage.
        shortcut: "pad" or "conv", see `resnet`.

    Raises:
        InputError: As `resnet`.
    """
    return resnet(input_shape, classes, 20, width, shortcut)


def resnet8(input_shape: tuple[int, ...], classes: int, width: int = 8, shortcut: str = "pad") -> nn.Sequential:
    """ResNet-8 with 8, 16 and 32 channels: a residual network for images of 8x8 pixels and experiments of seconds.

    Args:
        input_shape: (channels, height, width).
        classes: Outputs.
        width: Channels of the first stage.
        shortcut: "pad" or "conv", see `resnet`.

    Raises:
        InputError: As `resnet`.
    """
    return resnet(input_shape, classes, 8, width, shortcut)
