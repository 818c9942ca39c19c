"""A tree of quadratic units that composes neighbours, log₂ k layers deep (arXiv:2602.03655)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.models.blocks import check_at_least
from learndyn.models.quadratic_rnn import check_sequences
from learndyn.models.two_layer_power import small_linear


class TreeNet(nn.Module):
    """Every layer makes one state of two neighbours, (W_left a + W_right b)²; y = W_last of the one that is left."""

    def __init__(self, length: int, inputs: int, outputs: int, width: int, scale: float, shared: bool):
        super().__init__()
        self.left, self.right = nn.ParameterList(), nn.ParameterList()
        fan = inputs
        while length > 1:
            length //= 2
            for side in (self.left, self.right):
                side.append(nn.Parameter(scale / fan**0.5 * torch.randn(1 if shared else length, width, fan)))
            fan = width
        self.last = small_linear(width, outputs, scale)

    def forward(self, x: Float[Tensor, "*batch length inputs"]) -> Float[Tensor, "*batch outputs"]:  # noqa: D102
        for left, right in zip(self.left, self.right):
            a, b = x[..., 0::2, :, None], x[..., 1::2, :, None]
            x = (left @ a + right @ b)[..., 0].square()  # (..., nodes, width)
        return self.last(x[..., 0, :])


def tree_net(
    input_shape: tuple[int, ...], classes: int, width: int = 60, scale: float = 0.05, shared: bool = True
) -> TreeNet:
    """The tree for sequences of `input_shape` (k, N), k = 2, 4, 8 and so on; weights ~ scale·N(0, 1/fan-in).

    Other lengths are padded with the encoding of the identity (`group_composition(padded=True)`). Exact weights come
    from `learndyn.groups.tree_state`.

    Args:
        input_shape: (length, numbers of one encoding).
        classes: Outputs.
        width: Hidden units of one node.
        scale: Standard deviation of the weights, relative to 1/√fan-in.
        shared: Whether the nodes of a layer have the same weights.

    Raises:
        InputError: If an option is out of its range, or the length is no power of two.
    """
    check_at_least(1, classes=classes, width=width, input_shape=min(input_shape, default=0))
    check_sequences(input_shape, "tree_net")
    if input_shape[0] & (input_shape[0] - 1):
        raise InputError(
            f"tree_net needs sequences of 2, 4, 8, ..., not of {input_shape[0]} as in input_shape={input_shape}; "
            "group_composition(padded=True) pads them with the identity."
        )
    return TreeNet(input_shape[0], input_shape[1], classes, width, scale, shared)
