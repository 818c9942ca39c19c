"""Deep linear networks that start λ-balanced: the models of which theory has exact curves (arXiv:2409.14623)."""

import math

import numpy as np
import torch
from torch import nn

from learndyn.errors import InputError
from learndyn.models.balanced import sample_balanced
from learndyn.models.blocks import check_at_least


def deep_linear(
    input_shape: tuple[int, ...],
    classes: int,
    width: int | tuple[int, ...] | None = None,
    depth: int = 1,
    lam: float | tuple[float, ...] | None = 0.0,
    scale: float = 1.0,
    dtype: str | None = None,
) -> nn.Sequential:
    """Flatten, then `depth` hidden layers without biases or activations: x → W_L···W_1 x.

    The layers start λ-balanced, W_{l+1}ᵀW_{l+1} − W_lW_lᵀ = λ_l I, with random rotations and a Gaussian product
    (`models.balanced.sample_balanced`); or, with lam=None, as independent Gaussian matrices. The theory wants balance
    to 1e-10, which weights drawn in float32 have not: give dtype="float64".

    >>> model = deep_linear((4,), 3, width=3, lam=0.5, dtype="float64")
    >>> w1, w2 = (layer.weight.detach() for layer in list(model)[1:])
    >>> bool(torch.allclose(w2.T @ w2 - w1 @ w1.T, 0.5 * torch.eye(3, dtype=torch.float64)))
    True

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Outputs.
        width: Units of each hidden layer, or a tuple with the units of every one; by default as many as the fewer of
            inputs and outputs, which every λ fits.
        depth: Hidden layers; left out where `width` is a tuple.
        lam: λ of each hidden layer, or a tuple; None for Gaussian weights.
        scale: About the singular values of the product; of Gaussian weights the standard deviation is scale/√fan_in.
        dtype: "float32" or "float64"; by default torch's.

    Raises:
        InputError: If an option is out of its range, or no balanced network of these widths and λ exists.
    """
    if not input_shape:
        raise InputError(f"input_shape={input_shape} has no dimension; give at least one, such as (64,).")
    check_at_least(1, classes=classes, input_shape=min(input_shape))
    inputs = math.prod(input_shape)
    hidden = width if isinstance(width, tuple) else (min(inputs, classes) if width is None else width,) * depth
    check_at_least(1, depth=len(hidden), width=min(hidden, default=1))
    if not 0 <= scale < math.inf:
        raise InputError(f"scale={scale:g} must be at least 0 and finite.")
    if dtype not in (None, "float32", "float64"):
        raise InputError(f"dtype={dtype!r} must be 'float32' or 'float64'.")
    widths = (inputs, *hidden, classes)
    # torch's generator, which the caller has seeded, decides all
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    if lam is None:
        weights = [torch.from_numpy(rng.standard_normal((n, m)) * (scale / m**0.5)) for m, n in zip(widths, widths[1:])]
    else:
        lams = lam if isinstance(lam, tuple) else (lam,) * len(hidden)
        weights = sample_balanced(widths, lams, rng, scale=scale)
    kind = torch.get_default_dtype() if dtype is None else getattr(torch, dtype)
    layers = [nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=kind) for weight in weights]
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)
    return nn.Sequential(nn.Flatten(), *layers)
