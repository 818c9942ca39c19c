"""Plain `nn.Module`s, one file an architecture, each built by a factory of keyword arguments.

A factory takes `input_shape` (of one input) and `classes`, which a task fills in, and its own options; weights are
drawn from torch's global generator, which the caller seeds. To add one: write `learndyn/models/NAME.py` with a
function `NAME(input_shape, classes, ...)`, import it here and put its name into `BUILT_IN`. The contract tests then
see that it works in float64, under `torch.func.functional_call` and `vmap`, and repeats itself after the same seed.
"""

from learndyn.models.deep_linear import deep_linear
from learndyn.models.grokking_transformer import grokking_transformer
from learndyn.models.mlp import mlp
from learndyn.models.quadratic_rnn import quadratic_rnn
from learndyn.models.resnet import resnet, resnet8, resnet20
from learndyn.models.small_cnn import small_cnn
from learndyn.models.tree_net import tree_net
from learndyn.models.two_layer import alpha_from_delta, delta_from_alpha, two_layer
from learndyn.models.two_layer_power import two_layer_power
from learndyn.models.vgg import tiny_vgg, vgg16

BUILT_IN = (
    "deep_linear",
    "grokking_transformer",
    "mlp",
    "quadratic_rnn",
    "resnet",
    "resnet8",
    "resnet20",
    "small_cnn",
    "tiny_vgg",
    "tree_net",
    "two_layer",
    "two_layer_power",
    "vgg16",
)

__all__ = [
    "BUILT_IN",
    "alpha_from_delta",
    "deep_linear",
    "delta_from_alpha",
    "grokking_transformer",
    "mlp",
    "quadratic_rnn",
    "resnet",
    "resnet20",
    "resnet8",
    "small_cnn",
    "tiny_vgg",
    "tree_net",
    "two_layer",
    "two_layer_power",
    "vgg16",
]
