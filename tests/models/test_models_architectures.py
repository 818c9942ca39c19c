"""Numbers of parameters, starts of the weights, and refusals of each architecture."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.models import mlp, resnet, resnet8, resnet20, small_cnn, tiny_vgg, vgg16
from learndyn.models.mlp import ACTIVATIONS
from learndyn.models.resnet import Block, PadShortcut


def size(model):
    return sum(p.numel() for p in model.parameters())


def layers(model, kind):
    return [layer for layer in model.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(
    "build, expected",
    [
        (lambda: mlp((64,), 10, width=128, depth=4, batch_norm=True), 60_170),
        (lambda: tiny_vgg((1, 8, 8), 10), 18_594),
        (lambda: vgg16((3, 32, 32), 10), 33_646_666),
        (lambda: vgg16((3, 32, 32), 10, variant="linear"), 14_728_266),
        (lambda: vgg16((3, 64, 64), 200, variant="flatten"), 18_075_912),
        (lambda: vgg16((3, 64, 64), 200, variant="flatten", batch_norm=False), 18_067_464),
        (lambda: small_cnn((1, 8, 8), 10), 3_674),
        (lambda: resnet20((3, 32, 32), 10), 269_722),
        (lambda: resnet20((3, 32, 32), 10, shortcut="conv"), 272_474),
    ],
)
def test_parameter_counts_of_the_papers(build, expected):
    with torch.device("meta"):  # counts need no memory
        assert size(build()) == expected


def test_resnet8_has_8_16_32_channels_and_resnets_count_their_layers():
    assert [layer.out_channels for layer in layers(resnet8((1, 8, 8), 10), nn.Conv2d)] == [8, 8, 8, 16, 16, 32, 32]
    for depth in (8, 14, 20, 32):
        assert len(layers(resnet((1, 8, 8), 10, depth, 4), (nn.Conv2d, nn.Linear))) == depth


def test_tiny_vgg_is_the_documented_sequence():
    shown = []
    for layer in tiny_vgg((1, 8, 8), 10, batch_norm=False).features:
        shown += {nn.Conv2d: lambda c: [c.out_channels], nn.MaxPool2d: lambda _: ["M"]}.get(type(layer), lambda _: [])(
            layer
        )
    assert shown == [8, 8, "M", 16, 16, "M", 32, 32]


def spread(weight, expected):
    """Mean 0 and standard deviation `expected` up to five standard errors."""
    n = weight.numel()
    assert abs(weight.mean()) < 5 * expected / n**0.5
    assert abs(weight.std() / expected - 1) < 5 / (2 * n) ** 0.5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_weights_start_at_the_documented_scale(activation):
    torch.manual_seed(0)
    model = mlp((3, 5, 5), 7, width=(60, 90), activation=activation)
    gain = {"tanh": 1, "linear": 1, "leaky_relu": nn.init.calculate_gain("leaky_relu", 0.01)}.get(
        activation, math.sqrt(2)
    )
    for layer, fan in zip(layers(model, nn.Linear), (75, 60, 90)):
        assert layer.in_features == fan
        spread(layer.weight, gain / fan**0.5)
        assert not layer.bias.any()
    assert sum(isinstance(layer, ACTIVATIONS[activation][0]) for layer in model) == 2


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "linear"])
def test_the_gain_keeps_the_signal_through_fifty_layers(activation):
    torch.manual_seed(1)
    model = mlp((256,), 256, width=256, depth=50, activation=activation)
    with torch.no_grad():
        out = model(torch.randn(200, 256))
    gain = ACTIVATIONS[activation][1]
    # Behind relu the last linear layer doubles what relu halved. Width 256 lets the logarithm wander by about
    # sqrt(50 * 5 / 256) = 1.
    assert abs(math.log(out.square().mean())) < 2 + math.log(gain**2)


def test_batch_norm_stands_before_the_activation():
    kinds = [type(layer) for layer in mlp((64,), 10, depth=1, batch_norm=True, activation="gelu")]
    assert kinds == [nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.GELU, nn.Linear]


def test_widths_of_an_mlp():
    def units(*args, **options):
        return [layer.out_features for layer in layers(mlp((4,), 3, *args, **options), nn.Linear)]

    assert units() == [128, 128, 3]
    assert units(width=5, depth=3) == [5, 5, 5, 3]
    assert units(width=(5, 6, 7)) == units(width=(5, 6, 7), depth=3) == [5, 6, 7, 3]
    assert units(depth=0) == units(width=()) == [3]
    assert not any(layer.bias is not None for layer in layers(mlp((4,), 3, bias=False), nn.Linear))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": (5, 6), "depth": 3}, r"depth=3 contradicts the 2 hidden layers of width=\(5, 6\); leave depth out"),
        ({"width": 0}, "width=0 is too small"),
        ({"width": (5, -1)}, "width=-1 is too small"),
        ({"depth": -1}, "depth=-1 is too small for a network; give at least 0"),
        ({"activation": "rely"}, "no activation 'rely'; did you mean 'relu'"),
        ({"input_shape": ()}, r"input_shape=\(\) has no dimension"),
    ],
)
def test_a_wrong_mlp_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        mlp(**({"input_shape": (4,), "classes": 3} | options))


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: tiny_vgg((1, 3, 8), 10),
            "tiny_vgg halves its images until none is left of 3x8 pixels; .* at least 4x4",
        ),
        (lambda: tiny_vgg((1, 8, 8), 10, widths=()), "widths=0 is too small"),
        (lambda: tiny_vgg((1, 8, 8), 10, widths=(8, 0)), "widths=0 is too small"),
        (lambda: small_cnn((1, 3, 8), 10), "small_cnn halves .* at least 4x4"),
        (lambda: small_cnn((1, 8, 8), 10, hidden=0), "hidden=0 is too small"),
        (lambda: vgg16((3, 31, 32), 10), r"vgg16 \(classifier\) halves .* at least 32x32"),
        (lambda: vgg16((3, 8, 8), 10, "linear"), r"vgg16 \(linear\) halves .* at least 16x16"),
        (lambda: vgg16((3, 32, 32), 10, "linaer"), "no variant 'linaer'; did you mean 'linear'"),
        (lambda: resnet((3, 32, 32), 10, depth=18), r"depth=18 is no depth .* give 6n \+ 2: 8, 14, 20, 32"),
        (lambda: resnet((3, 32, 32), 10, depth=2), "depth=2 is no depth"),
        (lambda: resnet((3, 32, 32), 10, depth=-4), "depth=-4 is no depth"),
        (lambda: resnet20((3, 32, 32), 10, width=0), "width=0 is too small"),
        (lambda: resnet8((3, 32, 32), 10, shortcut="padd"), "no shortcut 'padd'; did you mean 'pad'"),
        (lambda: resnet8((3, 32), 10), r"resnet needs inputs of shape \(channels, height, width\)"),
    ],
)
def test_a_wrong_convolutional_model_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_smallest_images():
    assert tiny_vgg((1, 4, 4), 3).eval()(torch.randn(1, 1, 4, 4)).shape == (1, 3)
    assert resnet8((1, 1, 1), 3).eval()(torch.randn(1, 1, 1, 1)).shape == (1, 3)


def test_vgg16_classifier_starts_as_documented_and_runs():
    torch.manual_seed(0)
    model = vgg16((3, 32, 32), 10)
    for conv in layers(model, nn.Conv2d)[2:]:
        spread(conv.weight, (2 / (9 * conv.out_channels)) ** 0.5)
    for linear in layers(model, nn.Linear)[::2]:  # the one of 17 million weights is left out
        spread(linear.weight, 0.01)
    assert not any(layer.bias.any() for layer in layers(model, (nn.Conv2d, nn.Linear)))
    assert [layer.p for layer in layers(model, nn.Dropout)] == [0.5, 0.5]
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_vgg16_linear_ends_in_the_mean_of_2x2_pixels():
    torch.manual_seed(0)
    model = vgg16((3, 32, 32), 10, variant="linear").eval()
    inputs = torch.randn(1, 3, 32, 32)
    features = model.features(inputs)
    assert features.shape == (1, 512, 2, 2)
    torch.testing.assert_close(model(inputs), model.classifier(F.avg_pool2d(features, 2).flatten(1)))
    spread(model.classifier.weight, (2 / 512) ** 0.5)


def test_padded_shortcut_of_odd_widths():
    x = torch.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    out = PadShortcut(2, 5)(x)
    assert out.shape == (1, 5, 2, 2)
    assert not out[:, [0, 3, 4]].any()
    assert out[0, 1].tolist() == [[1, 3], [7, 9]] and out[0, 2].tolist() == [[10, 12], [16, 18]]


def test_a_block_whose_branch_is_silent_passes_its_input_on():
    block = Block(4, 4, 1, "pad").eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x.relu())


def test_resnet_weights_start_by_fan_in():
    torch.manual_seed(0)
    for layer in layers(resnet20((3, 32, 32), 10, shortcut="conv"), (nn.Conv2d, nn.Linear)):
        spread(layer.weight, (2 / layer.weight[0].numel()) ** 0.5)
