"""MNIST, or any set in the same four IDX files (Fashion-MNIST, KMNIST), from a local folder; nothing is downloaded.

The IDX format, from the data set's original page: two zero bytes, one byte for the type (8: unsigned byte), one byte
for the number of dimensions, each dimension as a big-endian 32-bit integer, then the values, last dimension fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from learndyn.errors import InputError
from learndyn.tasks.images import RawImages, image_task, reason
from learndyn.tasks.supervised import Supervised

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, compressed by gzip or not: the content decides, not the name.

    Args:
        path: The file.
        dimensions: Number of dimensions that it must have: 3 for images, 1 for labels.

    Raises:
        InputError: If the file is no IDX file of unsigned bytes, has another number of dimensions, or is shorter or
            longer than its own header says.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            magic = file.read(4)
            if magic != bytes((0, 0, 8, dimensions)):
                raise InputError(
                    f"{path} starts with the bytes {magic.hex(' ') or '(none)'}; an IDX file of unsigned bytes in "
                    f"{dimensions} dimensions starts with 00 00 08 {dimensions:02x}. Is it the right file?"
                )
            header = file.read(4 * dimensions)
            if len(header) < 4 * dimensions:
                raise InputError(f"{path} ends inside its header, after {4 + len(header)} bytes; fetch it again.")
            shape = struct.unpack(f">{dimensions}I", header)
            values = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); fetch it again.") from error
    if len(values) != math.prod(shape):
        raise InputError(
            f"{path} announces {'x'.join(map(str, shape))} = {math.prod(shape)} values but holds {len(values)}; "
            "fetch it again."
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    dotted = name.replace("-idx", ".idx")  # the name that some copies carry
    places = [
        folder / sub / f"{base}{end}" for sub in ("", "MNIST/raw") for base in (name, dotted) for end in ("", ".gz")
    ]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"There is no {name} and no {name}.gz in {folder}; give the folder with the four IDX files.")


def mnist(
    data_dir: str | Path,
    batch_size: int = 64,
    pixel_noise: float = 0.0,
    label_noise: float = 0.0,
    shift: int = 0,
    image: bool = False,
    examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """MNIST from its four IDX files, standardised by the mean and standard deviation of all training pixels.

    Args:
        data_dir: Folder of the files, compressed (.gz) or not; a subfolder MNIST/raw is found, too.
        batch_size: Examples per step.
        pixel_noise: Standard deviation of fixed Gaussian noise, in units of the standardised pixels; on both splits.
        label_noise: Share of the training labels that is redrawn uniformly over all 10 classes.
        shift: Shift training images by up to so many pixels, anew each time; 0 for none.
        image: Inputs `(1, 28, 28)` for convolutional models; otherwise `(784,)`.
        examples: Use only the first training examples; all when left out.
        test_examples: Use only the first test examples; all when left out.
        seed: Order of the examples and shifts.
        data_seed: Noise of the data.

    Raises:
        InputError: If a file is missing or damaged, or an option is out of its range.
    """
    folder = Path(data_dir).expanduser()
    paths = [_find(folder, name) for name in FILES]
    images, labels, test_images, test_labels = (read_idx(path, n) for path, n in zip(paths, (3, 1, 3, 1)))
    return image_task(
        RawImages(images[:, None], labels, test_images[:, None], test_labels),
        classes=10,
        origin=str(folder),
        batch_size=batch_size,
        seed=seed,
        data_seed=data_seed,
        pixel_noise=pixel_noise,
        label_noise=label_noise,
        shift=shift,
        image=image,
        examples=examples,
        test_examples=test_examples,
    )
