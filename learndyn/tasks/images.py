"""From raw 8-bit images to a task: checks, standardisation, noise and augmentation, for all image readers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.augment import CropFlip, Shift
from learndyn.tasks.corruption import add_pixel_noise, redraw_labels
from learndyn.tasks.supervised import Batch, Supervised


class RawImages(NamedTuple):
    """Images (n, channels, height, width) of 8-bit pixels, or inputs (n, ...) of floats, with integer labels (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def reason(error: Exception) -> str:
    """What a library said, on one line, for the middle of a sentence of ours."""
    return " ".join(str(error).split()) or type(error).__name__


def checked_labels(labels: np.ndarray, count: int, classes: int, what: str) -> np.ndarray:
    """The labels as int64, after making sure that there is one in 0 .. classes - 1 for each of `count` images.

    Raises:
        InputError: If they are not that; `what` names them in the message.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(
            f"{what} are {labels.dtype} of shape {labels.shape}; expected integers of shape ({count},), one an image."
        )
    low, high = (int(labels.min()), int(labels.max())) if count else (0, 0)
    if low < 0 or high >= classes:
        raise InputError(
            f"{what} reach from {low} to {high}; with {classes} classes they must lie in 0 to {classes - 1}. "
            "Is this the right file?"
        )
    return labels.astype(np.int64)


def checked_images(raw: RawImages, classes: int, origin: str) -> RawImages:
    """The same with int64 labels, after making sure that the pixels are 8-bit images of one shape and the labels fit.

    Raises:
        InputError: If a shape, a type or a label is wrong; `origin` names the data in the message.
    """
    for split, images in (("train", raw.train_images), ("test", raw.test_images)):
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise InputError(
                f"{origin}: the {split} images are {images.dtype} of shape (n, channels, height, width) = "
                f"{images.shape}; expected at least one 8-bit image (uint8)."
            )
    if raw.train_images.shape[1:] != raw.test_images.shape[1:]:
        raise InputError(
            f"{origin}: training images have shape {raw.train_images.shape[1:]} but test images "
            f"{raw.test_images.shape[1:]}; both must be alike."
        )
    train_labels, test_labels = (
        checked_labels(labels, len(images), classes, f"{origin}: the {split} labels")
        for split, images, labels in (
            ("train", raw.train_images, raw.train_labels),
            ("test", raw.test_images, raw.test_labels),
        )
    )
    return raw._replace(train_labels=train_labels, test_labels=test_labels)


def first(raw: RawImages, examples: int | None, test_examples: int | None) -> RawImages:
    """Only the first examples of each split; None keeps all.

    Raises:
        InputError: If there are not that many, or fewer than one is asked for.
    """
    for name, wanted, have in (
        ("examples", examples, len(raw.train_images)),
        ("test_examples", test_examples, len(raw.test_images)),
    ):
        if wanted is not None and not 1 <= wanted <= have:
            raise InputError(
                f"{name}={wanted} must lie between 1 and the {have} that there are; leave it out to use all."
            )
    return RawImages(
        raw.train_images[:examples],
        raw.train_labels[:examples],
        raw.test_images[:test_examples],
        raw.test_labels[:test_examples],
    )


def split(images: np.ndarray, labels: np.ndarray, test_size: int, data_seed: int) -> RawImages:
    """A random split, decided by the data seed alone.

    Raises:
        InputError: If `test_size` leaves a split empty.
    """
    if not 1 <= test_size < len(images):
        raise InputError(
            f"test_size={test_size} must lie between 1 and {len(images) - 1}, to leave examples for both splits."
        )
    order = generator(data_seed, "split").permutation(len(images))
    test, train = order[:test_size], order[test_size:]
    return RawImages(images[train], labels[train], images[test], labels[test])


def standardise(
    train_images: np.ndarray, test_images: np.ndarray, origin: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Both splits as float32, each channel with mean 0 and standard deviation 1 over the training images.

    An 8-bit pixel has 256 values: their counts give mean and deviation without a rounding that depends on the order of
    the images, and a table of 256 standardised values per channel replaces arithmetic on a float copy of everything.

    Args:
        train_images: uint8 `(n, channels, height, width)`.
        test_images: uint8, the same shape but for n.
        origin: Names the data in an error.

    Returns:
        Training inputs, test inputs, and the standardised value of a black pixel for each channel: the background.

    Raises:
        InputError: If a channel is the same everywhere, so that it has no scale.
    """
    channels = train_images.shape[1]
    counts = np.zeros((channels, 256))
    for start in range(0, len(train_images), 1000):
        for channel in range(channels):
            part = train_images[start : start + 1000, channel]
            counts[channel] += np.bincount(part.ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256.0)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    if not std.all():
        flat = int(np.flatnonzero(std == 0)[0])
        raise InputError(
            f"{origin}: channel {flat} of the training images has the same value in every pixel and cannot be "
            "standardised; leave that channel out, or use more examples."
        )
    table = ((values - mean[:, None]) / std[:, None]).astype(np.float32)
    train, test = (_look_up(images, table) for images in (train_images, test_images))
    return train, test, tuple(float(black) for black in table[:, 0])


def _look_up(images: np.ndarray, table: np.ndarray) -> np.ndarray:
    out = np.empty(images.shape, dtype=np.float32)
    for start in range(0, len(images), 1000):
        for channel, row in enumerate(table):
            out[start : start + 1000, channel] = row[images[start : start + 1000, channel]]
    return out


def image_task(
    raw: RawImages,
    classes: int,
    origin: str,
    *,
    batch_size: int,
    seed: int,
    data_seed: int,
    pixel_noise: float = 0.0,
    label_noise: float = 0.0,
    shift: int = 0,
    crop_flip: bool = False,
    image: bool = True,
    keep_last: bool = False,
    examples: int | None = None,
    test_examples: int | None = None,
) -> Supervised:
    """The task that every image reader ends in.

    Args:
        raw: 8-bit images and their labels.
        classes: Number of classes.
        origin: Names the data in an error.
        batch_size: Examples per step.
        seed: Tape seed: order and augmentation.
        data_seed: Seed of pixel and label noise.
        pixel_noise: Standard deviation of fixed Gaussian noise on the standardised pixels of both splits.
        label_noise: Share of the training labels that is redrawn uniformly over all classes.
        shift: Augment by shifts of up to so many pixels; 0 for none.
        crop_flip: Augment by crops with padding 4 and mirror images.
        image: Inputs `(n, channels, height, width)`; otherwise flat `(n, pixels)`.
        keep_last: Train on the partial batch at the end of an epoch, too.
        examples: Use only the first training examples, also for the standardisation; None for all.
        test_examples: Use only the first test examples; None for all.

    Raises:
        InputError: If the images or an option are wrong.
    """
    raw = first(checked_images(raw, classes, origin), examples, test_examples)
    if shift and crop_flip:
        raise InputError(f"shift={shift} and crops with padding 4 both move the images; choose one of them.")
    train, test, background = standardise(raw.train_images, raw.test_images, origin)
    shape = (train.shape[1], train.shape[2], train.shape[3])
    augment: Callable[[Tensor, np.random.Generator], Tensor] | None = None
    if shift:
        augment = Shift(shift, shape, background)
    elif crop_flip:
        augment = CropFlip(background=background)
    add_pixel_noise(train, pixel_noise, data_seed, "train")
    add_pixel_noise(test, pixel_noise, data_seed, "test")
    labels = redraw_labels(raw.train_labels, label_noise, classes, data_seed)
    train, test = (x if image else x.reshape(len(x), -1) for x in (train, test))
    return Supervised(
        train=Batch(torch.from_numpy(train), torch.from_numpy(labels)),
        test=Batch(torch.from_numpy(test), torch.from_numpy(raw.test_labels)),
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        keep_last=keep_last,
        classes=classes,
    )
