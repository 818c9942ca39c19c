"""Arithmetic modulo a number as a language, on which networks grok (A. Power et al., arXiv:2201.02177)."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int64

from learndyn.errors import InputError, unknown
from learndyn.noise import generator
from learndyn.tasks.supervised import Batch, Supervised

Numbers = Int64[np.ndarray, " pairs"]


def _inverse(y: Numbers, p: int) -> Numbers:
    """1 / y modulo a prime, and 0 of 0."""
    table = np.array([0, *(pow(i, -1, p) for i in range(1, p))])
    return table[y]


def _odd_or_even(x: Numbers, y: Numbers, p: int) -> Numbers:
    return np.where(y % 2 == 1, x * _inverse(y, p), x - y)


#: Operation of x and y, before it is taken modulo p, by the name that the field gives it.
OPERATIONS: dict[str, Callable[[Numbers, Numbers, int], Numbers]] = {
    "x+y": lambda x, y, p: x + y,
    "x-y": lambda x, y, p: x - y,
    "x*y": lambda x, y, p: x * y,
    "x/y": lambda x, y, p: x * _inverse(y, p),
    "x/y if y is odd, otherwise x-y": _odd_or_even,
    "x^2+y^2": lambda x, y, p: x**2 + y**2,
    "x^2+xy+y^2": lambda x, y, p: x**2 + x * y + y**2,
    "x^2+xy+y^2+x": lambda x, y, p: x**2 + x * y + y**2 + x,
    "x^3+xy": lambda x, y, p: x**3 + x * y,
    "x^3+xy^2+y": lambda x, y, p: x**3 + x * y**2 + y,
}
LARGEST = 4096  # modulus: x³ stays far inside 64 bits, and the table of all pairs below 1 GiB


def modular(
    operation: str = "x/y",
    modulus: int = 97,
    fraction: float = 0.5,
    batch_size: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """All pairs of numbers modulo p as sentences of four tokens, "x op y ="; the target is the result.

    Tokens are 0 to p − 1 for the numbers, p for the operation and p + 1 for the equals sign. `classes` is p + 2, the
    whole vocabulary, which a transformer's head covers; the last two are never right. Division leaves out y = 0 and
    needs a prime p, as does its mixture with subtraction.

    >>> task = modular("x+y", modulus=5, fraction=0.6)
    >>> task.input_shape, task.classes, len(task.train.inputs), len(task.test.inputs)
    ((4,), 7, 15, 10)

    Args:
        operation: A name in `OPERATIONS`: "x+y", "x-y", "x*y", "x/y", "x^2+y^2" and so on.
        modulus: p, at least 2.
        fraction: Share of the pairs that is for training, between 0 and 1; the others are the test set.
        batch_size: Examples per step, the rest of an epoch in a smaller batch; all when left out.
        seed: Order of the examples.
        data_seed: Which pairs are for training.

    Raises:
        InputError: If an option is out of its range, a division has a modulus that is not prime, or a split is empty.
    """
    if operation not in OPERATIONS:
        raise unknown("operation", operation, OPERATIONS)
    if not 2 <= modulus <= LARGEST:
        raise InputError(f"modulus={modulus} must lie between 2 and {LARGEST}.")
    if "/" in operation and any(modulus % i == 0 for i in range(2, int(modulus**0.5) + 1)):
        raise InputError(f"modulus={modulus} is not prime, so {operation!r} is not defined; give a prime such as 97.")
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction:g} of the pairs for training must lie between 0 and 1.")
    x, y = np.divmod(np.arange(modulus**2), modulus)
    if operation == "x/y":
        x, y = x[y > 0], y[y > 0]
    results = OPERATIONS[operation](x, y, modulus) % modulus
    tokens = np.stack([x, np.full_like(x, modulus), y, np.full_like(x, modulus + 1)], 1)
    count = round(fraction * len(x))
    if not 0 < count < len(x):
        raise InputError(
            f"fraction={fraction:g} leaves {count} of {len(x)} pairs for training; both splits need one at least."
        )
    order = generator(data_seed, "pairs").permutation(len(x))
    train, test = (
        Batch(torch.from_numpy(tokens[chosen]), torch.from_numpy(results[chosen]))
        for chosen in (order[:count], order[count:])
    )
    return Supervised(
        train,
        test,
        batch_size=count if batch_size is None else batch_size,
        seed=seed,
        keep_last=True,
        classes=modulus + 2,
    )
