"""A small convolutional network with a symmetry of every kind."""

from collections import OrderedDict

from torch import nn

from learndyn.models.blocks import check_at_least, check_image


def small_cnn(
    input_shape: tuple[int, ...],
    classes: int,
    widths: tuple[int, int] = (8, 16),
    hidden: int = 32,
    batch_norm: bool = True,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU and pooling, the first with batch normalisation, and two linear layers.

    Its filters before the norm have scale symmetries, all other units rescale symmetries, one of them through the
    flattening, its class weights translations (arXiv:2012.04728). Weights and biases start as PyTorch's layers do.

    >>> model = small_cnn((1, 8, 8), 10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    3674

    Args:
        input_shape: (channels, height, width).
        classes: Outputs.
        widths: Channels of the convolutions.
        hidden: Units of the hidden linear layer.
        batch_norm: Normalise after the first convolution; its bias is then dead.
        eps: Of the normalisation; what breaks the scale symmetries. Must be positive.

    Raises:
        InputError: If an option is out of its range, or the images are too small to be halved twice.
    """
    check_at_least(1, classes=classes, hidden=hidden, widths=min(widths))
    channels = check_image(input_shape, 4, "small_cnn")
    norm = [("norm", nn.BatchNorm2d(widths[0], eps=eps))] if batch_norm else []
    layers = [
        ("conv1", nn.Conv2d(channels, widths[0], 3, padding=1)), *norm,
        ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(widths[0], widths[1], 3, padding=1)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(widths[1] * (input_shape[1] // 4) * (input_shape[2] // 4), hidden)), ("relu3", nn.ReLU()),
        ("linear2", nn.Linear(hidden, classes)),
    ]  # fmt: skip
    return nn.Sequential(OrderedDict(layers))
