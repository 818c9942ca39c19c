"""A recurrent network with quadratic units that composes one element after the other (arXiv:2602.03655)."""

from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.models.blocks import check_at_least
from learndyn.models.two_layer_power import small_linear


class QuadraticRNN(nn.Module):
    """h = (W_first x_1 + W_drive x_2)², then h ← (W_mix h + W_drive x_t)² for t = 3 to k, and y = W_last h.

    The multiplicative one has products in place of squares of sums: h ← W_mix h · W_drive x_t.
    """

    def __init__(self, inputs: int, outputs: int, width: int, scale: float, multiplicative: bool):
        super().__init__()
        self.first = small_linear(inputs, width, scale)
        self.drive = small_linear(inputs, width, scale)
        self.mix = small_linear(width, width, scale)
        self.last = small_linear(width, outputs, scale)
        self.multiplicative = multiplicative

    def forward(self, x: Float[Tensor, "*batch length inputs"]) -> Float[Tensor, "*batch outputs"]:  # noqa: D102
        h = self.first(x[..., 0, :])
        for t in range(1, x.shape[-2]):
            drive = self.drive(x[..., t, :])
            h = h * drive if self.multiplicative else (h + drive).square()
            if t < x.shape[-2] - 1:
                h = self.mix(h)
        return self.last(h)


def quadratic_rnn(
    input_shape: tuple[int, ...], classes: int, width: int = 60, scale: float = 0.05, multiplicative: bool = False
) -> QuadraticRNN:
    """The recurrent network for sequences of `input_shape` (k, N), k at least 2; weights ~ scale·N(0, 1/fan-in).

    With the width of a two-layer solution for pairs it composes sequences of any length exactly
    (`learndyn.groups.recurrent_state`).

    Args:
        input_shape: (length, numbers of one encoding).
        classes: Outputs.
        width: Hidden units.
        scale: Standard deviation of the weights, relative to 1/√fan-in.
        multiplicative: Products in place of squares of sums.

    Raises:
        InputError: If an option is out of its range, or inputs are no sequences of two or more.
    """
    check_at_least(1, classes=classes, width=width, input_shape=min(input_shape, default=0))
    check_sequences(input_shape, "quadratic_rnn")
    return QuadraticRNN(input_shape[1], classes, width, scale, multiplicative)


def check_sequences(input_shape: tuple[int, ...], model: str) -> None:
    """Refuse inputs that are no sequences of at least two vectors."""
    if len(input_shape) != 2 or input_shape[0] < 2:
        raise InputError(
            f"{model} needs sequences of shape (length, numbers) with a length of at least 2, not "
            f"input_shape={input_shape}; group_composition gives them."
        )
