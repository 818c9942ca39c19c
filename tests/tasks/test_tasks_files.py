"""The readers of IDX and .npz files, whole and damaged."""

import gzip
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.tasks import mnist, npz
from learndyn.tasks.arrays import read_npz
from learndyn.tasks.mnist import FILES, read_idx

FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damage(whole, data):
    """Some bytes overwritten, and perhaps the end cut off."""
    content = bytearray(whole)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    return bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)


# --- MNIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("sub", ["", "MNIST/raw"])
def test_mnist_from_idx_files(tmp_path, grey, zipped, sub):
    grey.write_idx(tmp_path / sub, zipped)
    task = mnist(tmp_path, batch_size=10, image=True)
    torch.testing.assert_close(task.train.inputs, grey.scaled(), atol=3e-7, rtol=0)
    assert task.train.targets.tolist() == grey.labels.tolist()
    assert task.test.targets.tolist() == grey.test_labels.tolist()
    assert mnist(str(tmp_path), batch_size=10).input_shape == (63,)


def test_compression_is_told_by_content_and_dots_in_names_are_found(tmp_path, grey):
    grey.write_idx(tmp_path)
    for name in FILES:
        plain = tmp_path / name
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
        plain.unlink()
    assert len(mnist(tmp_path, batch_size=10).train.inputs) == 70


def test_a_missing_idx_file_is_named(tmp_path, grey):
    grey.write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"no t10k-labels-idx1-ubyte and no t10k-labels-idx1-ubyte.gz in .*; give"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"starts with the bytes \(none\)"),
        (b"\0\0\x08\x01" + b"\0\0\0\1", "starts with the bytes 00 00 08 01; an IDX file .* starts with 00 00 08 03"),
        (b"\0\0\x0d\x03", "starts with the bytes 00 00 0d 03"),
        (b"<html>", "starts with the bytes 3c 68 74 6d"),
        (b"\0\0\x08\x03" + b"\0\0\0\2\0\0", "ends inside its header, after 10 bytes"),
        (b"\0\0\x08\x03" + b"\0\0\0\2\0\0\0\2\0\0\0\1" + b"abc", "announces 2x2x1 = 4 values but holds 3; fetch"),
        (b"\0\0\x08\x03" + b"\0\0\0\2\0\0\0\2\0\0\0\1" + b"abcde", "announces 2x2x1 = 4 values but holds 5; fetch"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "announces 4294967295x4294967295x4294967295 = .* but holds 3"),
        (b"\x1f\x8bnothing", "cannot be read"),
        (gzip.compress(b"\0\0\x08\x03" + b"\0" * 50, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_broken_idx_file_is_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "file", 3)


def test_labels_and_images_of_different_sets_are_refused(tmp_path, grey):
    grey.write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes((tmp_path / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(
        InputError, match=r"train labels are uint8 of shape \(20,\); expected integers of shape \(70,\)"
    ):
        mnist(tmp_path)


@FUZZ
@given(data=st.data())
def test_a_damaged_idx_file_is_read_or_refused(tmp_path, data):
    whole = b"\0\0\x08\x03" + b"\0\0\0\2\0\0\0\3\0\0\0\4" + bytes(range(24))
    if data.draw(st.booleans()):
        whole = gzip.compress(whole, mtime=0)
    (tmp_path / "file").write_bytes(damage(whole, data))
    try:
        assert read_idx(tmp_path / "file", 3).ndim == 3
    except InputError as error:
        assert str(tmp_path / "file") in str(error)


# --- .npz -------------------------------------------------------------------------------------------------------------


def arrays(**changes):
    draw = np.random.default_rng(1)
    return {
        "train_images": draw.integers(0, 256, (12, 4, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(12) % 3,
        "test_images": draw.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    } | changes


def save(folder, **content):
    path = folder / "some.npz"
    np.savez_compressed(path, **content)
    return path


def test_images_of_an_npz_are_standardised_with_channels_first(tmp_path):
    content = arrays()
    task = npz(save(tmp_path, **content), batch_size=4)
    assert task.input_shape == (3, 4, 5) and task.classes == 3
    images = np.moveaxis(content["train_images"], 3, 1)
    mean, std = images.mean((0, 2, 3), keepdims=True), images.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(task.train.inputs.numpy(), (images - mean) / std, atol=3e-7)


def test_images_without_channels_get_one(tmp_path):
    content = arrays()
    content |= {name: content[name][..., 0] for name in ("train_images", "test_images")}
    assert npz(save(tmp_path, **content), batch_size=4).input_shape == (1, 4, 5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    content = arrays(
        train_images=np.arange(24.0).reshape(12, 2).astype(dtype),
        test_images=np.arange(12.0).reshape(6, 2).astype(dtype),
    )
    task = npz(str(save(tmp_path, **content)), batch_size=4, examples=8, test_examples=2, label_noise=0.5)
    assert task.train.inputs.tolist() == np.arange(16.0).reshape(8, 2).tolist()
    assert task.test.targets.tolist() == [0, 1] and task.classes == 3
    noisy = npz(save(tmp_path, **content), batch_size=4, pixel_noise=0.1)
    assert not torch.equal(noisy.train.inputs[:8], task.train.inputs)


def test_the_number_of_classes_can_be_given(tmp_path):
    path = save(tmp_path, **arrays(test_labels=np.arange(6)))
    with pytest.raises(InputError, match="test labels reach from 0 to 5; with 3 classes they must lie in 0 to 2"):
        npz(path, batch_size=4)
    assert npz(path, batch_size=4, classes=6).classes == 6
    with pytest.raises(InputError, match="train labels reach from 0 to 2; with 2 classes"):
        npz(path, batch_size=4, classes=2)


def floats(**changes):
    return arrays(train_images=np.zeros((12, 2)), test_images=np.zeros((6, 2))) | changes


@pytest.mark.parametrize(
    "content, message",
    [
        ({"train_images": np.zeros((2, 2))}, "has no array 'train_labels' .it has train_images"),
        ({}, "has no array 'train_images' .it has none"),
        (arrays(train_labels=np.array([None] * 12)), "cannot be read as a .npz file of plain arrays"),
        (arrays(train_images=np.zeros((12, 4, 5, 3), int)), "train_images is int64 .* expected uint8"),
        (arrays(train_images=np.zeros((12, 3, 4, 5), np.uint8)), r"train_images is uint8 of shape \(12, 3, 4, 5\)"),
        (arrays(test_images=np.zeros((6, 20), np.uint8)), r"test_images is uint8 of shape \(6, 20\)"),
        (arrays(test_images=np.zeros((6, 4, 5, 3))), "train_images is uint8 .* expected floats"),
        (arrays(train_labels=np.zeros((12, 3))), "train labels are float64"),
        (arrays(train_labels=np.int64(3)), r"train labels are int64 of shape \(\)"),
        (floats(train_labels=np.zeros((0,), int)), r"train labels are int64 of shape \(0,\)"),
        (floats(train_images=np.zeros(12)), r"train_images is float64 of shape \(12,\)"),
        (floats(train_images=np.float64(1)), r"train_images is float64 of shape \(\)"),
        (floats(test_images=np.zeros((6, 3))), r"test_images is float64 of shape \(6, 3\); expected .* alike"),
        (floats(train_images=np.full((12, 2), np.nan)), "train_images has values that are not finite"),
        (floats(test_images=np.full((6, 2), 1e300)), "test_images has values that are not finite as float32"),
        (
            floats(train_images=np.zeros((0, 2)), train_labels=np.zeros(0, int)),
            r"train_images is float64 of shape \(0, 2\); expected .* not empty",
        ),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        npz(save(tmp_path, **content), batch_size=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"augment": True}, {"shift": 1}])
def test_floats_are_not_augmented(tmp_path, options):
    with pytest.raises(InputError, match="augment and shift need 8-bit images"):
        npz(save(tmp_path, **floats()), batch_size=4, **options)


def test_no_file_and_no_npz_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no file .*some.npz; give the path"):
        npz(tmp_path / "some.npz")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "object.npz").write_bytes(pickle.dumps([1, 2]))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("bare.npy", "object.npz", "text.npz", ""):
        with pytest.raises(InputError, match="cannot be read as a .npz file"):
            npz(tmp_path / name)


@FUZZ
@given(data=st.data())
def test_a_damaged_npz_is_read_or_refused(tmp_path, data):
    if not (tmp_path / "some.npz").exists():
        save(tmp_path, **arrays())
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(damage((tmp_path / "some.npz").read_bytes(), data))
    try:
        read_npz(damaged)
    except InputError as error:
        assert str(damaged) in str(error)


def test_real_mnist(real_data):
    task = mnist(real_data("train-images-idx3-ubyte.gz").parent)
    assert task.train.inputs.shape == (60_000, 784)
    assert torch.bincount(task.test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("name", ["cifar10-lossless.npz", "mnist.npz"])
def test_real_npz(name, real_data):
    task = npz(real_data(name), examples=2000, test_examples=500)
    assert task.classes == 10 and len(task.input_shape) == 3
