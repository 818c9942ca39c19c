"""Exclusive or in the plane: the smallest problem that no linear network learns (as in arXiv:2406.06158, Fig. 5a)."""

import numpy as np
import torch

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.corruption import redraw_labels
from learndyn.tasks.supervised import Batch, Supervised, cross_entropy, mean_squared_error


def xor(
    examples: int = 200,
    test_examples: int = 1000,
    spread: float = 0.3,
    signs: bool = False,
    label_noise: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Gaussian clouds around the corners (±1, ±1); the class is 1 where the corner's coordinates have opposite signs.

    The paper gives no details of its data; clouds and numbers here are ours. Corners take turns, so that the four
    clouds are of the same size to within one example. Points of broad clouds keep the class of their corner.

    >>> task = xor(examples=8)
    >>> task.input_shape, task.classes, task.train.targets.tolist()
    ((2,), 2, [0, 1, 1, 0, 0, 1, 1, 0])

    Args:
        examples: Training examples.
        test_examples: Held-out examples; their labels are never noisy.
        spread: Standard deviation of a cloud in each coordinate, more than 0.
        signs: A regression on targets ±1 `(n, 1)` with mean squared error, +1 for class 1; otherwise two classes with
            cross-entropy.
        label_noise: Share of the training labels that is redrawn uniformly over both classes.
        batch_size: Examples per step; all when left out.
        seed: Order of the examples.
        data_seed: Clouds and label noise.

    Raises:
        InputError: If an option is out of its range.
    """
    for name, value in (("examples", examples), ("test_examples", test_examples)):
        if value < 1:
            raise InputError(f"{name}={value} is too small for a task; give at least 1.")
    if not 0 < spread < np.inf:
        raise InputError(f"spread={spread:g} is no standard deviation of a cloud; give a finite number above 0.")
    splits = []
    for split, n in (("train", examples), ("test", test_examples)):
        corner = np.arange(n) % 4
        second, first = divmod(corner, 2)
        centres = np.stack([2 * first - 1, 2 * second - 1], 1)
        x = centres + spread * generator(data_seed, f"inputs, {split}").standard_normal((n, 2))
        labels = first ^ second
        if split == "train":
            labels = redraw_labels(labels, label_noise, 2, data_seed)
        y = torch.from_numpy(labels)
        splits.append(Batch(torch.from_numpy(x.astype(np.float32)), (2.0 * y - 1)[:, None] if signs else y))
    return Supervised(
        splits[0],
        splits[1],
        batch_size=examples if batch_size is None else batch_size,
        seed=seed,
        criterion=mean_squared_error if signs else cross_entropy,
        classes=1 if signs else 2,
    )
