"""A linear teacher: Gaussian inputs, targets from one matrix; the task of which linear networks have exact curves."""

import numpy as np
import torch

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.supervised import Batch, Supervised, half_squared_error


def linear_teacher(
    examples: int = 100,
    test_examples: int = 100,
    inputs: int = 8,
    outputs: int = 4,
    singular_values: tuple[float, ...] | None = None,
    scale: float = 1.0,
    white: bool = True,
    spread: float = 1.0,
    noise: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Targets y = Ax + noise, and the mean over examples of ½|y − f(x)|² as the loss, as the laws have it.

    With `white`, XᵀX/P = I to rounding over the P training examples (X has them in rows), so that Σ = E[yxᵀ] is A up to
    the noise. The test inputs are drawn from the same distribution and not whitened. Data are in float64, which
    `learndyn.tasks.place` casts.

    >>> task = linear_teacher(inputs=5, outputs=3, examples=20)
    >>> x = task.train.inputs
    >>> bool(torch.allclose(x.T @ x / 20, torch.eye(5, dtype=torch.float64), atol=1e-14))
    True

    Args:
        examples: Training examples P; at least as many as inputs if they are to be white.
        test_examples: Held-out examples, without noise.
        inputs: Dimension of the inputs.
        outputs: Dimension of the targets, which is `classes` of the task.
        singular_values: Of A, one for each of the fewer of inputs and outputs, with random singular vectors. By default
            A is Gaussian with entries of variance 1/max(inputs, outputs).
        scale: Factor on A.
        white: Whiten the training inputs exactly.
        spread: Without `white`: ratio of the largest to the smallest standard deviation of the inputs, along random
            directions, with geometric steps in between and a mean variance of 1.
        noise: Standard deviation of Gaussian noise on the training targets.
        batch_size: Examples per step; all by default, which is gradient descent.
        seed: Order of the examples.
        data_seed: Teacher, inputs and noise.

    Raises:
        InputError: If an option is out of its range.
    """
    for name, value in (
        ("examples", examples),
        ("test_examples", test_examples),
        ("inputs", inputs),
        ("outputs", outputs),
    ):
        if value < 1:
            raise InputError(f"{name}={value} is too small for a teacher; give at least 1.")
    if white and examples < inputs:
        raise InputError(
            f"{examples} examples cannot be white in {inputs} inputs; give at least as many or white=False."
        )
    if spread < 1 or not (np.isfinite(spread) and np.isfinite(scale)):
        raise InputError(f"spread={spread:g} must be at least 1, and scale={scale:g} finite.")
    if white and spread != 1:
        raise InputError(f"White inputs have no spread={spread:g}; give white=False.")
    if not 0 <= noise < np.inf:
        raise InputError(f"noise={noise:g} is a standard deviation; give 0 or more.")
    least = min(inputs, outputs)
    teacher = generator(data_seed, "linear teacher").standard_normal((outputs, inputs)) / max(inputs, outputs) ** 0.5
    if singular_values is not None:
        if len(singular_values) != least or not np.isfinite(singular_values).all() or min(singular_values) < 0:
            raise InputError(
                f"singular_values={singular_values}: a teacher of {inputs} inputs and {outputs} outputs has {least} "
                "of them, none negative."
            )
        u, _, vt = np.linalg.svd(teacher, full_matrices=False)
        teacher = (u * np.asarray(singular_values, dtype=float)) @ vt
    teacher = scale * teacher
    draws = [generator(data_seed, f"linear teacher, {split}") for split in ("train", "test")]
    x, test = (draw.standard_normal((n, inputs)) for draw, n in zip(draws, (examples, test_examples), strict=True))
    if white:
        for _ in range(2):  # once leaves 1e-15 times the condition number
            u, _, vt = np.linalg.svd(x, full_matrices=False)
            x = examples**0.5 * u @ vt
    elif spread > 1:
        deviations = np.geomspace(1, spread, inputs) if inputs > 1 else np.ones(1)
        turn, _ = np.linalg.qr(generator(data_seed, "linear teacher, directions").standard_normal((inputs, inputs)))
        mix = (turn * deviations / np.sqrt(np.mean(deviations**2))) @ turn.T
        x, test = x @ mix, test @ mix
    y = x @ teacher.T
    y = y + noise * generator(data_seed, "linear teacher, noise").standard_normal(y.shape)
    return Supervised(
        train=Batch(torch.from_numpy(x), torch.from_numpy(y)),
        test=Batch(torch.from_numpy(test), torch.from_numpy(test @ teacher.T)),
        batch_size=examples if batch_size is None else batch_size,
        seed=seed,
        criterion=half_squared_error,
        classes=outputs,
    )
