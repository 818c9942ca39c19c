import numpy as np
import pytest
import torch

from learndyn.errors import InputError
from learndyn.tasks.corruption import add_pixel_noise, redraw_labels
from learndyn.tasks.images import RawImages, checked_labels, first, image_task, split, standardise

OPTIONS = {"classes": 10, "origin": "these data", "batch_size": 5, "seed": 0, "data_seed": 0}


def raw(n=30, test=10, shape=(3, 6, 5), **changes):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n + test, *shape), dtype=np.uint8)
    labels = draw.integers(0, 10, n + test)
    return RawImages(images[:n], labels[:n], images[n:], labels[n:])._replace(**changes)


def test_standardise_against_plain_arithmetic_in_float64():
    data = raw(2500, 700)  # more than two of the pieces in which it works
    train, test, background = standardise(data.train_images, data.test_images, "these data")
    mean = data.train_images.mean((0, 2, 3), keepdims=True, dtype=np.float64)
    std = data.train_images.std((0, 2, 3), keepdims=True, dtype=np.float64)
    # float32 rounds to 6e-8 of the value, and values stay below 2
    np.testing.assert_allclose(train, (data.train_images - mean) / std, atol=1.2e-7)
    np.testing.assert_allclose(test, (data.test_images - mean) / std, atol=1.2e-7)
    assert background == tuple(np.float32((0 - mean) / std).ravel().tolist())


def test_padding_is_exactly_the_black_of_the_data():
    data = raw()
    data.train_images[:, :, 0, 0] = 0
    task = image_task(data, crop_flip=True, **OPTIONS)
    assert torch.equal(torch.tensor(task.augment.background), task.train.inputs[0, :, 0, 0])
    double = task.to("cpu", torch.float64)
    assert torch.equal(torch.tensor(task.augment.background, dtype=torch.float64), double.train.inputs[0, :, 0, 0])


def test_the_first_examples_decide_the_scale():
    task = image_task(raw(), examples=12, test_examples=3, **OPTIONS)
    assert (len(task.train.inputs), len(task.test.inputs)) == (12, 3)
    torch.testing.assert_close(task.train.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(task.train.inputs.std((0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_label_noise_redraws_that_fraction_over_all_classes(fraction):
    n, classes = 40_000, 10
    labels = np.arange(n) % classes
    noisy = redraw_labels(labels, fraction, classes, data_seed=3)
    wrong = (noisy != labels).sum()
    # round(fraction n) labels are redrawn; each is wrong with probability 9/10
    drawn = fraction * n
    assert abs(wrong - 0.9 * drawn) <= 4 * np.sqrt(0.09 * drawn)
    new = np.bincount(noisy, minlength=classes) - np.bincount(labels, minlength=classes)
    assert np.abs(new).max() <= 5 * np.sqrt(0.2 * drawn + 1e-9)
    assert (labels == np.arange(n) % classes).all()
    assert (noisy == redraw_labels(labels, fraction, classes, data_seed=3)).all()


def test_exactly_the_rounded_number_of_labels_is_redrawn():
    labels = np.full(1001, 0)
    noisy = redraw_labels(labels, 0.25, 10**6, data_seed=0)  # hardly ever the old label again
    assert (noisy != labels).sum() == 250


def test_pixel_noise_has_its_deviation_and_does_not_depend_on_the_number_of_inputs():
    long, short, other = (np.zeros((n, 5, 7), dtype=np.float32) for n in (2300, 1200, 2300))
    add_pixel_noise(long, 0.3, 1, "train")
    add_pixel_noise(short, 0.3, 1, "train")
    add_pixel_noise(other, 0.3, 1, "test")
    assert (long[:1200] == short).all()
    assert abs(long.std() - 0.3) < 4 * 0.3 / np.sqrt(2 * long.size)
    assert abs(np.corrcoef(long.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(long.size)


def test_noise_is_fixed_and_test_labels_stay_clean():
    noisy = image_task(raw(), pixel_noise=0.5, label_noise=1.0, **OPTIONS)
    clean = image_task(raw(), **OPTIONS)
    assert torch.equal(noisy.test.targets, clean.test.targets)
    assert not torch.equal(noisy.train.targets, clean.train.targets)
    assert not torch.equal(noisy.test.inputs, clean.test.inputs)
    assert image_task(raw(), image=False, **OPTIONS).input_shape == (90,)


def test_a_split_is_a_partition():
    images, labels = np.arange(50)[:, None], np.arange(50)
    parts = split(images, labels, 12, data_seed=4)
    assert sorted([*parts.train_labels, *parts.test_labels]) == list(range(50)) and len(parts.test_labels) == 12
    assert (parts.train_images[:, 0] == parts.train_labels).all()
    assert (split(images, labels, 12, data_seed=5).test_labels != parts.test_labels).any()


@pytest.mark.parametrize("test_size", [0, -3, 50, 51])
def test_a_split_without_examples_is_refused(test_size):
    with pytest.raises(InputError, match=f"test_size={test_size} must lie between 1 and 49"):
        split(np.zeros((50, 1)), np.zeros(50), test_size, 0)


@pytest.mark.parametrize(
    "name, value", [("examples", 0), ("examples", 31), ("test_examples", -1), ("test_examples", 11)]
)
def test_more_examples_than_there_are_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name}={value} must lie between 1 and the [13]0 that there are"):
        image_task(raw(), **{name: value}, **OPTIONS)


def test_first_keeps_everything_by_default():
    assert all(a is b or (a == b).all() for a, b in zip(first(raw(), None, None), raw()))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_images": np.zeros((30, 3, 6, 5))}, "train images are float64 .* expected at least one 8-bit image"),
        ({"train_images": np.zeros((30, 6, 5), np.uint8)}, r"\(30, 6, 5\)"),
        ({"test_images": np.zeros((0, 3, 6, 5), np.uint8)}, "test images are uint8 .* expected at least one"),
        ({"test_images": np.zeros((10, 3, 6, 6), np.uint8)}, r"\(3, 6, 5\) but test images \(3, 6, 6\); both must be"),
        ({"train_labels": np.zeros(29, int)}, r"train labels are int64 of shape \(29,\); expected .* shape \(30,\)"),
        ({"train_labels": np.zeros(30)}, "train labels are float64"),
        ({"train_labels": np.arange(30)}, "train labels reach from 0 to 29; with 10 classes they must lie in 0 to 9"),
        ({"test_labels": -np.arange(10)}, "test labels reach from -9 to 0"),
        ({"train_images": np.full((30, 3, 6, 5), 7, np.uint8)}, "channel 0 of the training images has the same value"),
    ],
)
def test_wrong_data_are_refused_in_one_sentence(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        image_task(raw(**changes), **OPTIONS)
    assert str(caught.value).startswith("these data: ")
    assert "\n" not in str(caught.value)


def test_labels_beyond_int64_are_refused():
    with pytest.raises(InputError, match="reach from 1 to 18446744073709551615"):
        checked_labels(np.array([1, 2**64 - 1], dtype=np.uint64), 2, 10, "labels")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_noise": -0.1}, "label_noise=-0.1 is no fraction of the labels; give a number from 0 to 1"),
        ({"label_noise": float("nan")}, "label_noise=nan"),
        ({"pixel_noise": float("inf")}, "pixel_noise=inf is no standard deviation; give a finite number"),
        ({"pixel_noise": float("nan")}, "pixel_noise=nan"),
        ({"shift": 5}, "shift=5 does not fit images of 6x5 pixels"),
        ({"shift": 1, "crop_flip": True}, "shift=1 and crops .* choose one"),
        ({"batch_size": 31}, "batch_size=31"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        image_task(raw(), **(OPTIONS | options))
