"""Handwritten digits of 8x8 pixels (UCI optical recognition of handwritten digits), as bundled with scikit-learn.

1,797 examples, 10 classes. Small enough for experiments of seconds; label noise makes it hard enough to have loss
barriers.
"""

import numpy as np

from learndyn.tasks.images import image_task, split
from learndyn.tasks.supervised import Supervised


def digits(
    batch_size: int = 64,
    pixel_noise: float = 0.0,
    label_noise: float = 0.0,
    shift: int = 0,
    image: bool = False,
    test_size: int = 360,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Scikit-learn's digits, standardised by the mean and standard deviation of all training pixels.

    The data's pixels run from 0 to 16; dividing them by 16 first would change nothing after standardisation.

    >>> task = digits(label_noise=0.2, pixel_noise=0.3)
    >>> task.input_shape, task.classes, len(task.train.inputs), task.steps_per_epoch
    ((64,), 10, 1437, 22)

    Args:
        batch_size: Examples per step.
        pixel_noise: Standard deviation of fixed Gaussian noise, in units of the standardised pixels; on both splits.
        label_noise: Share of the training labels that is redrawn uniformly over all 10 classes.
        shift: Shift training images by up to so many pixels, anew each time; 0 for none.
        image: Inputs `(1, 8, 8)` for convolutional models; otherwise `(64,)`.
        test_size: Test examples; the others are for training.
        seed: Order of the examples and shifts.
        data_seed: Split and noise of the data.

    Raises:
        InputError: If an option is out of its range.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]  # whole numbers 0 .. 16
    return image_task(
        split(images, bunch.target, test_size, data_seed),
        classes=10,
        origin="digits",
        batch_size=batch_size,
        seed=seed,
        data_seed=data_seed,
        pixel_noise=pixel_noise,
        label_noise=label_noise,
        shift=shift,
        image=image,
    )
