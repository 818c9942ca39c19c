"""CIFAR-10 from a local folder, in any of its usual forms; nothing is downloaded.

A. Krizhevsky, Learning multiple layers of features from tiny images (2009): 50,000 + 10,000 images of 32x32x3 pixels
in 10 classes. The training recipe's augmentation (crops with padding 4, mirror images) and 391 steps an epoch at batch
size 128 are those of the two-phase experiments (arXiv:2505.13900) and of most work on this data set.
"""

from pathlib import Path

import numpy as np

from learndyn.errors import InputError
from learndyn.tasks.arrays import read_npz
from learndyn.tasks.images import RawImages, image_task
from learndyn.tasks.safe_pickle import read_arrays
from learndyn.tasks.supervised import Supervised

SHAPE = (3, 32, 32)
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,) of one .bin file: records of a label byte and 3,072 pixels, channel by
    channel.

    Raises:
        InputError: If the file is not a whole number of records.
    """
    values = np.fromfile(path, dtype=np.uint8)
    if len(values) == 0 or len(values) % 3073:
        raise InputError(f"{path} has {len(values)} bytes, which is no multiple of 3073, one record; fetch it again.")
    records = values.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0]


def read_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,) of one file of the Python form, read without running any code in it.

    Raises:
        InputError: If the file contains more than arrays and plain containers, is damaged, or lacks the two entries.
    """
    content = read_arrays(path)
    entries = content if isinstance(content, dict) else {}
    data, labels = (entries.get(name.encode(), entries.get(name)) for name in ("data", "labels"))
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072):
        raise InputError(f"{path} has no entry 'data' of uint8 (n, 3072); is it a batch file of CIFAR-10 for Python?")
    if not (
        isinstance(labels, list)
        and len(labels) == len(data)
        and all(type(label) is int and 0 <= label < 256 for label in labels)
    ):
        raise InputError(
            f"{path} has no entry 'labels', a list of {len(data)} classes; is it a batch file of CIFAR-10?"
        )
    return data.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


def read_folder(folder: Path) -> RawImages:
    """The images in the folder: binary form, else Python form, else cifar10.npz.

    Raises:
        InputError: If there is none of them, or the one that is there lacks a file.
    """
    for sub, end, read in (("cifar-10-batches-bin", ".bin", read_binary), ("cifar-10-batches-py", "", read_pickled)):
        for place in (folder, folder / sub):
            paths = [place / f"{name}{end}" for name in BATCHES]
            lacking = [path.name for path in paths if not path.is_file()]
            if len(lacking) == len(paths):
                continue
            if lacking:
                raise InputError(f"{place} lacks {', '.join(lacking)}; unpack the archive of CIFAR-10 again.")
            *train, (test_images, test_labels) = (read(path) for path in paths)
            images, labels = (np.concatenate(parts) for parts in zip(*train))
            return RawImages(images, labels, test_images, test_labels)
    if (folder / "cifar10.npz").is_file():
        return read_npz(folder / "cifar10.npz")
    raise InputError(
        f"There is no CIFAR-10 in {folder}: looked for data_batch_1.bin, data_batch_1 (also in cifar-10-batches-bin or "
        "-py) and cifar10.npz; give the folder that holds the unpacked archive."
    )


def cifar10(
    data_dir: str | Path,
    batch_size: int = 128,
    augment: bool = True,
    pixel_noise: float = 0.0,
    label_noise: float = 0.0,
    keep_last: bool = True,
    examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """CIFAR-10, each channel standardised over the training images; 720 MB as float32, 1.1 GB while it is read.

    Padding is black, as when the crop comes before the standardisation.

    Args:
        data_dir: Folder with the binary files (data_batch_1.bin ... test_batch.bin), the Python files (data_batch_1 ...
            test_batch), their unpacked archive, or cifar10.npz; the first of these that is found is used.
        batch_size: Examples per step.
        augment: Random 32x32 crops with padding 4 and mirror images.
        pixel_noise: Standard deviation of fixed Gaussian noise, in units of the standardised pixels; on both splits.
        label_noise: Share of the training labels that is redrawn uniformly over all 10 classes.
        keep_last: Train on the partial batch at the end of an epoch: 391 steps instead of 390 at batch size 128.
        examples: Use only the first training examples; all when left out.
        test_examples: Use only the first test examples; all when left out.
        seed: Order of the examples and augmentation.
        data_seed: Noise of the data.

    Raises:
        InputError: If the data are missing or damaged, or an option is out of its range.
    """
    folder = Path(data_dir).expanduser()
    raw = read_folder(folder)
    for images in (raw.train_images, raw.test_images):
        if images.dtype != np.uint8 or images.shape[1:] != SHAPE:
            raise InputError(
                f"{folder}: images are {images.dtype} of shape (n, channels, height, width) = {images.shape}; CIFAR-10 "
                "has uint8 (n, 3, 32, 32)."
            )
    return image_task(
        raw,
        classes=10,
        origin=str(folder),
        batch_size=batch_size,
        seed=seed,
        data_seed=data_seed,
        pixel_noise=pixel_noise,
        label_noise=label_noise,
        crop_flip=augment,
        keep_last=keep_last,
        examples=examples,
        test_examples=test_examples,
    )
