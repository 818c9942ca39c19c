"""A teacher network to learn from: Gaussian inputs, labelled by a random two-layer tanh network."""

import numpy as np
import torch

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.corruption import redraw_labels
from learndyn.tasks.supervised import Batch, Supervised


def teacher(
    examples: int = 2000,
    test_examples: int = 1000,
    inputs: int = 32,
    classes: int = 4,
    width: int = 16,
    label_noise: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Inputs x ~ N(0, 1) and labels argmax_k (V tanh(W x))_k, with W ~ N(0, 1/inputs) and V ~ N(0, 1/width).

    The scale of W puts every hidden unit at pre-activations of order 1, where tanh bends; the scale of V does not
    matter to the labels. Classes are equally frequent on average over teachers, not for one teacher.

    >>> task = teacher(inputs=8, classes=3)
    >>> task.input_shape, task.classes, task.train.targets.max().item()
    ((8,), 3, 2)

    Args:
        examples: Training examples.
        test_examples: Held-out examples; their labels are never noisy.
        inputs: Dimension of the inputs.
        classes: Number of classes.
        width: Hidden units of the teacher.
        label_noise: Share of the training labels that is redrawn uniformly over all classes.
        batch_size: Examples per step.
        seed: Order of the examples.
        data_seed: Teacher, inputs and label noise.

    Raises:
        InputError: If an option is out of its range.
    """
    for name, value, least in (
        ("examples", examples, 1),
        ("test_examples", test_examples, 1),
        ("inputs", inputs, 1),
        ("classes", classes, 2),
        ("width", width, 1),
    ):
        if value < least:
            raise InputError(f"{name}={value} is too small for a teacher; give at least {least}.")
    draw = generator(data_seed, "teacher")
    hidden = draw.standard_normal((inputs, width)) / inputs**0.5
    readout = draw.standard_normal((width, classes)) / width**0.5
    splits = []
    for split, n in (("train", examples), ("test", test_examples)):
        x = generator(data_seed, f"inputs, {split}").standard_normal((n, inputs), dtype=np.float32)
        splits.append((x, (np.tanh(x @ hidden) @ readout).argmax(axis=1)))
    (train, labels), (test, test_labels) = splits
    labels = redraw_labels(labels, label_noise, classes, data_seed)
    return Supervised(
        train=Batch(torch.from_numpy(train), torch.from_numpy(labels)),
        test=Batch(torch.from_numpy(test), torch.from_numpy(test_labels)),
        batch_size=batch_size,
        seed=seed,
        classes=classes,
    )
