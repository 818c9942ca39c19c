"""A two-layer ReLU teacher with few neurons, without noise: the student-teacher problem of arXiv:2406.06158, Fig. 1."""

import numpy as np
import torch
from jaxtyping import Float

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.supervised import Batch, Supervised, mean_squared_error


def relu_teacher(
    examples: int = 1000,
    test_examples: int = 10_000,
    inputs: int = 100,
    neurons: int = 3,
    dtype: str = "float32",
    batch_size: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Targets y = Σ_k s_k max(0, v_k·x), with unit vectors v_k, signs s_k = ±1 and x uniform on the unit sphere.

    A regression: targets `(n, 1)`, hence one output, and the mean squared error without ½.

    >>> task = relu_teacher(examples=50, inputs=10)
    >>> task.input_shape, task.classes, task.batch(0).targets.shape
    ((10,), 1, torch.Size([50, 1]))

    Args:
        examples: Training examples.
        test_examples: Fresh examples from the same sphere.
        inputs: Dimension of the inputs.
        neurons: Neurons of the teacher.
        dtype: "float32" or "float64". Inputs are rounded to it first and targets last, so that in float64 the teacher
            is met to the last digit.
        batch_size: Examples per step; all when left out.
        seed: Order of the examples.
        data_seed: Teacher and inputs.

    Raises:
        InputError: If an option is out of its range.
    """
    for name, value in (
        ("examples", examples),
        ("test_examples", test_examples),
        ("inputs", inputs),
        ("neurons", neurons),
    ):
        if value < 1:
            raise InputError(f"{name}={value} is too small for a teacher; give at least 1.")
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype={dtype!r} is no precision of data; give 'float32' or 'float64'.")
    draw = generator(data_seed, "relu teacher")
    weights = sphere(draw, neurons, inputs)
    signs = 2.0 * draw.integers(0, 2, neurons) - 1
    splits = []
    for split, n in (("train", examples), ("test", test_examples)):
        x = sphere(generator(data_seed, f"inputs, {split}"), n, inputs).astype(dtype)
        y = np.maximum(x @ weights.T, 0) @ signs  # float64, whatever the inputs
        splits.append(Batch(torch.from_numpy(x), torch.from_numpy(y.astype(dtype))[:, None]))
    return Supervised(
        splits[0],
        splits[1],
        batch_size=examples if batch_size is None else batch_size,
        seed=seed,
        criterion=mean_squared_error,
        classes=1,
    )


def sphere(draw: np.random.Generator, count: int, dimension: int) -> Float[np.ndarray, "count dimension"]:
    """Points uniform on the unit sphere, one a row, float64."""
    x = draw.standard_normal((count, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True)
