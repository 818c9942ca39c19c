"""Noise that belongs to the data: drawn once from the data seed, the same in every epoch and for every tape seed."""

import numpy as np
from jaxtyping import Float32, Int64

from learndyn.errors import InputError
from learndyn.noise import generator


def redraw_labels(
    labels: Int64[np.ndarray, " n"], fraction: float, classes: int, data_seed: int
) -> Int64[np.ndarray, " n"]:
    """A copy in which round(fraction x n) labels, chosen at random, are drawn anew, uniformly over *all* classes.

    A redrawn label may come out as it was, so only (1 - 1/classes) x fraction of the labels are expected to be wrong.

    Args:
        labels: True labels in 0 .. classes - 1.
        fraction: Share of labels to redraw, in [0, 1].
        classes: Number of classes.
        data_seed: Seed of the choice and of the new labels.

    Raises:
        InputError: If `fraction` lies outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"label_noise={fraction:g} is no fraction of the labels; give a number from 0 to 1.")
    draw = generator(data_seed, "label noise")
    chosen = draw.permutation(len(labels))[: round(fraction * len(labels))]
    noisy = labels.copy()
    noisy[chosen] = draw.integers(0, classes, size=len(chosen))
    return noisy


def add_pixel_noise(inputs: Float32[np.ndarray, "n ..."], std: float, data_seed: int, split: str) -> None:
    """Add Gaussian noise of standard deviation `std` to the inputs, in place and piece by piece.

    In place, because CIFAR-10 as float32 fills 600 MB once already. The noise of the first n inputs does not depend on
    how many there are.

    Args:
        inputs: Standardised inputs; changed.
        std: Standard deviation in units of the standardised inputs, at least 0.
        data_seed: Seed of the noise.
        split: "train" or "test": the two get noise of their own.

    Raises:
        InputError: If `std` is negative or not finite.
    """
    if not 0 <= std < float("inf"):
        raise InputError(f"pixel_noise={std:g} is no standard deviation; give a finite number of at least 0.")
    if std == 0:
        return
    draw = generator(data_seed, f"pixel noise, {split}")
    for start in range(0, len(inputs), 1000):
        part = inputs[start : start + 1000]
        part += np.float32(std) * draw.standard_normal(part.shape, dtype=np.float32)
