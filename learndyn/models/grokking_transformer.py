"""The one-layer decoder that groks modular arithmetic, with its embeddings scaled down (arXiv:2406.06158, Fig. 6d).

Dividing the embeddings by α > 1 makes them learn faster than the rest, and the network grok sooner. It changes the
function: what the embeddings feed, attention and a norm, is not homogeneous, and no later layer makes up for it.
nn.Embedding starts from N(0, 1), which is already far "downstream" (slow embeddings) at α = 1.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.models.blocks import check_at_least


class Attention(nn.Module):
    """Causal multi-head self-attention without biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Float[Tensor, "*batch length width"]) -> Float[Tensor, "*batch length width"]:  # noqa: D102
        length, size = x.shape[-2], x.shape[-1] // self.heads
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, size)).transpose(-3, -2) for layer in (self.query, self.key, self.value)
        )  # (..., heads, length, size)
        scores = q @ k.transpose(-1, -2) / size**0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(later, -math.inf).softmax(-1) @ v
        return self.out(mixed.transpose(-3, -2).flatten(-2))


class Decoder(nn.Module):
    """Embedding, attention and feed-forward with a norm after each, and the head at the last position."""

    def __init__(self, length: int, tokens: int, width: int, heads: int, tau: float):
        super().__init__()
        self.tau = tau
        self.tokens = nn.Embedding(tokens, width)
        self.positions = nn.Embedding(length, width)
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.relu = nn.ReLU()
        self.down = nn.Linear(4 * width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch tokens"]:  # noqa: D102
        x = self.tokens(x) + self.positions.weight[: x.shape[-1]]
        x = self.norm1(x + self.attention(x))
        x = self.norm2(x + self.down(self.relu(self.up(x))))
        return self.tau * self.head(x[..., -1, :])


def grokking_transformer(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 128,
    heads: int = 4,
    alpha: float = 1.0,
    tau: float = 1.0,
) -> Decoder:
    """Logits of the token after a sentence, such as the result after "x op y =" of the task `modular`.

    Token and position embeddings from N(0, 1/α²), causal attention, ReLU feed-forward four times as wide, layer norms
    with weights and biases after each of the two, linear maps without biases in PyTorch's start.

    >>> model = grokking_transformer((4,), 99)
    >>> sum(parameter.numel() for parameter in model.parameters())
    222976

    Args:
        input_shape: (length,) of a sentence.
        classes: Tokens, of the inputs and of the outputs.
        width: Dimension of the residual stream.
        heads: Attention heads; must divide the width.
        alpha: What the embeddings are divided by at the start.
        tau: Factor on the logits. The paper divides the learning rate by its square.

    Raises:
        InputError: If an option is out of its range, or inputs are not sentences of tokens.
    """
    check_at_least(1, classes=classes, width=width, heads=heads)
    if len(input_shape) != 1 or input_shape[0] < 1:
        raise InputError(
            f"grokking_transformer reads sentences of tokens, inputs of shape (length,), not input_shape={input_shape}."
        )
    if width % heads:
        raise InputError(f"width={width} cannot be shared by heads={heads}; give a multiple of the heads.")
    for name, value in (("alpha", alpha), ("tau", tau)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value:g} is no scale; give a finite number above 0.")
    model = Decoder(input_shape[0], classes, width, heads, tau)
    with torch.no_grad():
        model.tokens.weight /= alpha
        model.positions.weight /= alpha
    return model
