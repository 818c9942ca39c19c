"""Plain convolutional networks of the VGG kind (K. Simonyan & A. Zisserman, arXiv:1409.1556) for small images."""

from collections import OrderedDict

from torch import nn

from learndyn.errors import unknown
from learndyn.models.blocks import GlobalMean, check_at_least, check_image, conv, start_kaiming


def tiny_vgg(
    input_shape: tuple[int, ...], classes: int, batch_norm: bool = True, widths: tuple[int, ...] = (8, 16, 32)
) -> nn.Sequential:
    """Two convolutions of each width with ReLU, halving the image between widths; global mean; linear.

    Kaiming-normal weights (fan in, gain √2), zero biases.

    >>> model = tiny_vgg((1, 8, 8), 10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    18594

    Args:
        input_shape: (channels, height, width).
        classes: Outputs.
        batch_norm: Normalise before each ReLU.
        widths: Channels of the pairs of convolutions.

    Raises:
        InputError: If an option is out of its range, or the images are too small to be halved so often.
    """
    check_at_least(1, classes=classes, widths=min(widths, default=0))
    channels = check_image(input_shape, 2 ** (len(widths) - 1), "tiny_vgg")
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        pool = [nn.MaxPool2d(2)] if i else []
        layers += [*pool, *conv(channels, width, batch_norm), *conv(width, width, batch_norm)]
        channels = width
    model = nn.Sequential(
        OrderedDict(features=nn.Sequential(*layers), mean=GlobalMean(), classifier=nn.Linear(channels, classes))
    )
    start_kaiming(model)
    return model


def vgg16(
    input_shape: tuple[int, ...], classes: int, variant: str = "classifier", batch_norm: bool = True
) -> nn.Sequential:
    """The VGG-16 for small images in use: 13 convolutions with biases, batch normalisation and ReLU, and one of

    - "classifier": a fifth pooling, then three linear layers of 4096, 4096 and `classes` with ReLU and dropout ½;
      convolutions kaiming-normal by fan out, linear layers N(0, 0.01²). 33,646,666 parameters for CIFAR-10.
    - "linear": the mean of the remaining 2x2 pixels and one linear layer; kaiming-normal by fan in (the form of the
      lottery-ticket experiments). 14,728,266 parameters for CIFAR-10.
    - "flatten": a fifth pooling, all that is left of the image flattened, then three linear layers of 1024, 1024 and
      `classes` with ReLU and dropout ½ (Tiny ImageNet in arXiv:2012.04728); kaiming-normal by fan out.

    Biases start at zero. For images larger than 32x32 the first two take the mean over what the poolings leave.

    Args:
        input_shape: (channels, height, width).
        classes: Outputs.
        variant: "classifier", "linear" or "flatten".
        batch_norm: Normalise before each ReLU of the convolutions.

    Raises:
        InputError: If the images are too small for the poolings (below 32 or 16 pixels a side), or the
            variant is unknown.
    """
    if variant not in ("classifier", "linear", "flatten"):
        raise unknown("variant", variant, ("classifier", "linear", "flatten"))
    check_at_least(1, classes=classes)
    full = variant != "linear"
    channels = check_image(input_shape, 32 if full else 16, f"vgg16 ({variant})")
    layers: list[nn.Module] = []
    for i, (width, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2)] if i else []
        for _ in range(repeats):
            layers += conv(channels, width, batch_norm)
            channels = width
    features = nn.Sequential(*layers, *([nn.MaxPool2d(2)] if full else []))
    head: nn.Module = nn.Linear(512, classes)
    if full:
        inputs, hidden = 512, 4096
        if variant == "flatten":
            inputs, hidden = 512 * (input_shape[1] // 32) * (input_shape[2] // 32), 1024
        head = nn.Sequential(
            *(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(hidden, classes),
        )
    between: nn.Module = nn.Flatten() if variant == "flatten" else GlobalMean()
    model = nn.Sequential(OrderedDict(features=features, mean=between, classifier=head))
    start_kaiming(features if variant == "classifier" else model, mode="fan_out" if full else "fan_in")
    for layer in head.modules() if variant == "classifier" else ():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            nn.init.zeros_(layer.bias)
    return model
