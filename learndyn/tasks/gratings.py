"""Oriented gratings in noise, for the filters that a first layer learns (arXiv:2406.06158, Fig. 6b, made synthetic)."""

import numpy as np
import torch
from jaxtyping import Float

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.supervised import Batch, Supervised


def gratings(
    examples: int = 2000,
    test_examples: int = 500,
    size: int = 24,
    bins: int = 8,
    noise: float = 1.0,
    wavelengths: tuple[float, float] = (4.0, 12.0),
    batch_size: int = 64,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Images √2·cos(2π (x cos θ + y sin θ)/λ + φ) plus 1/f noise; the class is the bin of orientations that θ lies in.

    Class k holds the orientations kπ/bins to (k + 1)π/bins, uniformly, where θ is the direction across the stripes.
    Phases are uniform, wavelengths uniform in their logarithm. Both parts of an image have unit mean square on average
    (times `noise`²); the amplitude of the noise falls as 1/frequency, as in photographs, and its mean is zero.

    >>> task = gratings(examples=64, test_examples=4)
    >>> task.input_shape, task.classes
    ((1, 24, 24), 8)

    Args:
        examples: Training examples.
        test_examples: Held-out examples.
        size: Height and width of the images, in pixels.
        bins: Number of classes.
        noise: Root mean square of the noise over that of the gratings.
        wavelengths: Shortest and longest wavelength λ, in pixels; at least 2, below which pixels cannot show a wave.
        batch_size: Examples per step.
        seed: Order of the examples.
        data_seed: Orientations, phases, wavelengths and noise.

    Raises:
        InputError: If an option is out of its range.
    """
    for name, value, least in (
        ("examples", examples, 1),
        ("test_examples", test_examples, 1),
        ("size", size, 4),
        ("bins", bins, 2),
    ):
        if value < least:
            raise InputError(f"{name}={value} is too small for gratings; give at least {least}.")
    if not 0 <= noise < np.inf:
        raise InputError(f"noise={noise:g} is no strength of a noise; give a finite number of at least 0.")
    if not 2 <= wavelengths[0] <= wavelengths[1] < np.inf:
        raise InputError(f"wavelengths={wavelengths} must be the shortest and the longest, of at least 2 pixels.")
    splits = []
    for split, n in (("train", examples), ("test", test_examples)):
        draw = generator(data_seed, f"gratings, {split}")
        labels = draw.integers(0, bins, n)
        theta = (labels + draw.random(n)) * np.pi / bins
        phase = 2 * np.pi * draw.random(n)
        wavelength = wavelengths[0] * (wavelengths[1] / wavelengths[0]) ** draw.random(n)
        y, x = np.mgrid[:size, :size]
        along = np.multiply.outer(np.cos(theta), x) + np.multiply.outer(np.sin(theta), y)  # (n, size, size)
        images = np.sqrt(2) * np.cos(2 * np.pi * along / wavelength[:, None, None] + phase[:, None, None])
        images += noise * pink_noise(draw, n, size)
        splits.append(Batch(torch.from_numpy(images[:, None].astype(np.float32)), torch.from_numpy(labels)))
    return Supervised(splits[0], splits[1], batch_size=batch_size, seed=seed, classes=bins)


def pink_noise(draw: np.random.Generator, count: int, size: int) -> Float[np.ndarray, "count size size"]:
    """Gaussian images whose amplitude falls as 1/frequency, periodic, of mean 0 and unit mean square on average."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = np.inf
    amplitude = 1 / frequency
    amplitude *= size / np.linalg.norm(amplitude)
    return np.fft.ifft2(np.fft.fft2(draw.standard_normal((count, size, size))) * amplitude).real
