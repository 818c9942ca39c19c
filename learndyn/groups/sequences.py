"""Sequences of elements and their encodings: inputs (x_{g_1}, …, x_{g_k}) and targets x_{g_1 g_2 … g_k}."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.group import FiniteGroup
from learndyn.groups.transform import translates

MANY = 1_000_000  # sequences that are still enumerated


class Encoded(NamedTuple):
    """Encoded sequences.

    Attributes:
        inputs: `(batch, k, N)`.
        targets: `(batch, N)`.
    """

    inputs: Tensor
    targets: Tensor


def compose(group: FiniteGroup, elements: Int64[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """Products of all beginnings of a sequence, g_1, g_1 g_2, …, the whole one last."""
    products = [elements[:, 0]]
    for j in range(1, elements.shape[1]):
        products.append(group.mul[products[-1], elements[:, j]])
    return torch.stack(products, 1)


def all_sequences(group: FiniteGroup, length: int) -> Int64[Tensor, "sequences length"]:
    """All N^k sequences, the last place the fastest.

    Raises:
        InputError: If the length is below 1 or there are more than a million.
    """
    if length < 1:
        raise InputError(f"length={length} is no length of a sequence; give at least 1.")
    if group.order**length > MANY:
        raise InputError(
            f"{group.order}^{length} = {group.order**length} sequences are more than {MANY}; draw samples instead, or "
            "use groups.population_loss, which needs none."
        )
    numbers = torch.arange(group.order**length)
    places = [numbers // group.order ** (length - 1 - j) % group.order for j in range(length)]
    return torch.stack(places, 1)


def encode(group: FiniteGroup, x: Float[Tensor, " elements"], elements: Int64[Tensor, "batch length"]) -> Encoded:
    """Encodings of sequences and of their products."""
    table = translates(group, x)
    return Encoded(table[elements], table[compose(group, elements)[:, -1]])
