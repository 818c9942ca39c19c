"""Your own data from one .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from learndyn.errors import InputError
from learndyn.tasks.corruption import add_pixel_noise, redraw_labels
from learndyn.tasks.images import RawImages, checked_labels, first, image_task, reason
from learndyn.tasks.supervised import Batch, Supervised

# What a damaged .npz file raises on the way through zipfile, zlib and NumPy. TypeError: a .npy file gives a bare array,
# which is no context manager.
DAMAGE = (OSError, EOFError, ValueError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> RawImages:
    """The four arrays of a .npz file, the channels of 8-bit images (n, height, width[, channels]) moved to the front.

    Pickled objects in the file are refused by NumPy, so that reading runs no code.

    Raises:
        InputError: If the file is missing, damaged, or lacks an array, or if 8-bit images are not of that shape.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in RawImages._fields if name not in stored]
            if missing:
                raise InputError(
                    f"{path} has no array {missing[0]!r} (it has {', '.join(stored) or 'none'}); "
                    f"save it with {', '.join(RawImages._fields)}."
                )
            raw = RawImages(*(stored[name] for name in RawImages._fields))
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; give the path of a .npz file.") from None
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{path} cannot be read as a .npz file of plain arrays ({reason(error)}); "
            "write it anew with numpy.savez, or fetch it again."
        ) from error
    return raw._replace(
        train_images=_channels_first(raw.train_images, f"{path}: train_images"),
        test_images=_channels_first(raw.test_images, f"{path}: test_images"),
    )


def _channels_first(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype.kind == "f":
        return images
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] > 4):
        raise InputError(
            f"{what} is {images.dtype} of shape {images.shape}; expected uint8 (n, height, width, channels) with "
            "at most 4 channels, or prepared inputs of any shape as floats."
        )
    return np.moveaxis(images, 3, 1) if images.ndim == 4 else images[:, None]


def npz(
    path: str | Path,
    batch_size: int = 64,
    classes: int | None = None,
    augment: bool = False,
    shift: int = 0,
    pixel_noise: float = 0.0,
    label_noise: float = 0.0,
    examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Classification of the arrays train_images, train_labels, test_images, test_labels of a .npz file.

    8-bit images `(n, height, width, channels)` or `(n, height, width)` become `(n, channels, height, width)`, each
    channel standardised over the training images. Arrays of floats of any shape `(n, ...)` are taken as they are, as
    float32.

    Args:
        path: The file.
        batch_size: Examples per step.
        classes: Number of classes; one more than the largest training label when left out.
        augment: Random crops with padding 4 and mirror images, for 8-bit images.
        shift: Shift training images by up to so many pixels, anew each time, for 8-bit images; 0 for none.
        pixel_noise: Standard deviation of fixed Gaussian noise on the (standardised) inputs of both splits.
        label_noise: Share of the training labels that is redrawn uniformly over all classes.
        examples: Use only the first training examples; all when left out.
        test_examples: Use only the first test examples; all when left out.
        seed: Order of the examples and augmentation.
        data_seed: Noise of the data.

    Raises:
        InputError: If the file or an option is not as described.
    """
    path = Path(path).expanduser()
    raw = read_npz(path)
    if classes is None:
        whole = raw.train_labels.dtype.kind in "iu" and raw.train_labels.size > 0  # other labels are refused below
        classes = int(raw.train_labels.max()) + 1 if whole else 1
    if raw.train_images.dtype == raw.test_images.dtype == np.uint8:
        return image_task(
            raw,
            classes=classes,
            origin=str(path),
            batch_size=batch_size,
            seed=seed,
            data_seed=data_seed,
            pixel_noise=pixel_noise,
            label_noise=label_noise,
            shift=shift,
            crop_flip=augment,
            examples=examples,
            test_examples=test_examples,
        )
    if augment or shift:
        raise InputError(
            f"{path} holds floats, which are taken as they are; augment and shift need 8-bit images (uint8)."
        )
    raw = first(_prepared(raw, classes, str(path)), examples, test_examples)
    add_pixel_noise(raw.train_images, pixel_noise, data_seed, "train")
    add_pixel_noise(raw.test_images, pixel_noise, data_seed, "test")
    labels = redraw_labels(raw.train_labels, label_noise, classes, data_seed)
    return Supervised(
        train=Batch(torch.from_numpy(raw.train_images), torch.from_numpy(labels)),
        test=Batch(torch.from_numpy(raw.test_images), torch.from_numpy(raw.test_labels)),
        batch_size=batch_size,
        seed=seed,
        classes=classes,
    )


def _prepared(raw: RawImages, classes: int, origin: str) -> RawImages:
    inputs, labels = [], []
    for split, x, y in (("train", raw.train_images, raw.train_labels), ("test", raw.test_images, raw.test_labels)):
        if x.dtype.kind != "f" or x.ndim < 2 or 0 in x.shape or x.shape[1:] != raw.train_images.shape[1:]:
            raise InputError(
                f"{origin}: {split}_images is {x.dtype} of shape {x.shape}; expected floats of shape (n, ...), "
                "alike in both splits and not empty."
            )
        with np.errstate(over="ignore"):  # refused below
            inputs.append(x.astype(np.float32))
        labels.append(checked_labels(y, len(x), classes, f"{origin}: the {split} labels"))
        if not np.isfinite(inputs[-1]).all():
            raise InputError(
                f"{origin}: {split}_images has values that are not finite as float32; remove or rescale them."
            )
    return RawImages(inputs[0], labels[0], inputs[1], labels[1])
