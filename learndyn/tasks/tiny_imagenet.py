"""Tiny ImageNet from its folder; nothing is downloaded.

Stanford CS231n's selection of ImageNet: 200 classes, 100,000 + 10,000 images of 64x64x3 pixels. The experiments of
arXiv:2012.04728 and arXiv:2105.02716 train on it, with crops after padding by 4 and mirror images.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from learndyn.errors import InputError
from learndyn.tasks.images import RawImages, image_task, reason
from learndyn.tasks.supervised import Supervised

NAME = "tiny-imagenet-200"


def read_image(path: Path) -> np.ndarray:
    """One picture as uint8 (3, height, width); grey ones get three equal channels.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:  # PIL raises both for damaged files
        raise InputError(f"{path} cannot be read ({reason(error)}); unpack the archive again.") from error


def list_folder(folder: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]], int]:
    """Training and validation pictures with their classes, and how many classes there are.

    Classes are numbered in the order of wnids.txt. Training pictures lie in train/CLASS/images, those of validation in
    val/images with their classes in val/val_annotations.txt, or in val/CLASS or val/CLASS/images, where many put them.

    Raises:
        InputError: If a file or a class is missing, or a name does not fit.
    """
    root = folder / NAME if (folder / NAME).is_dir() else folder
    if not (root / "wnids.txt").is_file():
        raise InputError(
            f"There is no Tiny ImageNet in {folder}: wnids.txt is missing; give the folder that holds {NAME}."
        )
    names = (root / "wnids.txt").read_text().split()
    number = {name: i for i, name in enumerate(names)}
    train = [(path, number[name]) for name in names for path in _pictures(root / "train" / name)]
    lacking = sorted(set(range(len(names))) - {label for _, label in train})
    if lacking:
        raise InputError(
            f"{root / 'train'} has no picture of class {names[lacking[0]]} (of {len(lacking)} classes in all); unpack "
            "the archive again."
        )
    annotations = root / "val" / "val_annotations.txt"
    if annotations.is_file() and (root / "val" / "images").is_dir():
        rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines() if line.strip()]
        strange = [row for row in rows if len(row) < 2 or row[1] not in number]
        if strange:
            raise InputError(f"{annotations} has the line {strange[0]}, which names no class of wnids.txt.")
        validation = [(root / "val" / "images" / file, number[name]) for file, name in rows]
    else:
        validation = [(path, number[name]) for name in names for path in _pictures(root / "val" / name)]
    if not validation:
        raise InputError(f"{root / 'val'} has no pictures with classes; unpack the archive again.")
    return train, validation, len(names)


def _pictures(folder: Path) -> list[Path]:
    inside = folder / "images" if (folder / "images").is_dir() else folder
    return sorted(path for path in inside.glob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))


def read_pictures(listed: Sequence[tuple[Path, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, height, width) as uint8, and labels (n,).

    Raises:
        InputError: If one cannot be read, or has another shape than the first.
    """
    first = read_image(listed[0][0])
    images = np.empty((len(listed), *first.shape), np.uint8)

    def put(i: int) -> None:
        found = read_image(listed[i][0])
        if found.shape != first.shape:
            raise InputError(
                f"{listed[i][0]} has {found.shape[1]}x{found.shape[2]} pixels, the first picture "
                f"{first.shape[1]}x{first.shape[2]}; all must be alike."
            )
        images[i] = found

    with ThreadPoolExecutor() as pool:  # decoding lets go of Python's lock
        for _ in pool.map(put, range(len(listed)), chunksize=256):
            pass
    return images, np.array([label for _, label in listed])


def _spread(listed: list[tuple[Path, int]], count: int | None, name: str) -> list[tuple[Path, int]]:
    """The first `count`, taking turns among the classes."""
    turns: dict[int, int] = {}
    order = []
    for item in listed:
        turns[item[1]] = turns.get(item[1], 0) + 1
        order.append((turns[item[1]], item[1], item))
    if count is not None and not 1 <= count <= len(listed):
        raise InputError(f"{name}={count} must lie between 1 and the {len(listed)} pictures that there are.")
    return [item for *_, item in sorted(order, key=lambda entry: entry[:2])][:count]


def tiny_imagenet(
    data_dir: str | Path,
    batch_size: int = 256,
    augment: bool = True,
    label_noise: float = 0.0,
    keep_last: bool = False,
    examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Tiny ImageNet, each channel standardised over the training images; 5.4 GB as float32, 6.8 GB while it is read.

    Args:
        data_dir: Folder that holds tiny-imagenet-200, or that folder itself.
        batch_size: Examples per step.
        augment: Random crops with padding 4, and mirror images.
        label_noise: Share of the training labels that is redrawn uniformly over all classes.
        keep_last: Train on the partial batch at the end of an epoch, too.
        examples: Use only so many training pictures, the first of each class in turn; all when left out.
        test_examples: The same for the validation pictures, which serve as test split.
        seed: Order of the examples and augmentation.
        data_seed: Noise of the labels.

    Raises:
        InputError: If pictures are missing or damaged, or an option is out of its range.
    """
    train, validation, classes = list_folder(Path(data_dir).expanduser())
    raw = RawImages(
        *read_pictures(_spread(train, examples, "examples")),
        *read_pictures(_spread(validation, test_examples, "test_examples")),
    )
    return image_task(
        raw,
        classes=classes,
        origin=str(data_dir),
        batch_size=batch_size,
        seed=seed,
        data_seed=data_seed,
        label_noise=label_noise,
        crop_flip=augment,
        keep_last=keep_last,
    )
