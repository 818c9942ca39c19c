"""The two tasks of linear networks: moments, singular values and the matrix of the tree."""

import numpy as np
import pytest
import torch

from learndyn import laws
from learndyn.errors import InputError
from learndyn.models.balanced import sample_balanced
from learndyn.tasks import half_squared_error, linear_teacher, semantic


@pytest.mark.parametrize(("examples", "inputs", "outputs"), [(10, 3, 3), (7, 7, 2), (50, 4, 9), (5, 1, 1)])
def test_white_inputs_are_white_to_rounding_and_the_teacher_is_sigma(examples, inputs, outputs):
    values = tuple(np.linspace(2.0, 0.5, min(inputs, outputs)))
    task = linear_teacher(examples, inputs=inputs, outputs=outputs, singular_values=values, scale=3.0)
    x, y = task.train
    assert (x.T @ x / examples - torch.eye(inputs, dtype=torch.float64)).abs().max() < 1e-14
    found = laws.balanced.moments(x, y)
    assert found.k == pytest.approx(1, abs=1e-14) and abs(found.floor) < 1e-13
    assert torch.linalg.svdvals(found.sigma).tolist() == pytest.approx([3 * v for v in values], rel=1e-12)


def test_correlated_inputs_have_the_asked_spread_and_noise_the_asked_size():
    task = linear_teacher(20_000, inputs=4, outputs=3, white=False, spread=5.0, noise=0.3)
    x, y = task.train
    variances = torch.linalg.eigvalsh(x.T @ x / len(x))
    assert float((variances[-1] / variances[0]).sqrt()) == pytest.approx(5, rel=0.05)
    assert float(variances.mean()) == pytest.approx(1, rel=0.05)
    clean = linear_teacher(20_000, inputs=4, outputs=3, white=False, spread=5.0)
    assert torch.equal(clean.train.inputs, x) and float((y - clean.train.targets).std()) == pytest.approx(0.3, rel=0.02)
    teacher = torch.linalg.lstsq(clean.train.inputs, clean.train.targets).solution
    assert torch.allclose(task.test.inputs @ teacher, task.test.targets, atol=1e-12)


def test_the_default_teacher_is_gaussian_over_the_larger_side():
    sigmas = [
        laws.balanced.moments(*linear_teacher(9, inputs=8, outputs=5, data_seed=s).train).sigma for s in range(300)
    ]
    entries = torch.stack(sigmas)
    assert float(entries.square().mean()) == pytest.approx(1 / 8, rel=0.05)


def test_the_loss_is_that_of_the_laws():
    task = linear_teacher(12, inputs=4, outputs=3, noise=0.5)
    x, y = task.train
    w1, w2 = sample_balanced((4, 3, 3), (0.7,), np.random.default_rng(0))
    data = laws.balanced.moments(x, y)
    exact = laws.balanced.exact(w1, w2, data.sigma, torch.zeros(1))
    measured = float(task.loss(lambda inputs: inputs @ (w2 @ w1).T, task.evaluation("train")))
    assert measured == pytest.approx(float(exact.loss) + data.floor, rel=1e-12)
    assert float(half_squared_error(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))) == 1.25


def test_the_tree_is_the_papers():
    rows = [[1, 1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 0, -1, 0, 0, 0], [1, 1, -1, 0, 0, 1, 0, 0], [1, 1, -1, 0, 0, -1, 0, 0]]
    rows += [[1, -1, 0, 1, 0, 0, 1, 0], [1, -1, 0, 1, 0, 0, -1, 0], [1, -1, 0, -1, 0, 0, 0, 1]]
    task = semantic()
    assert task.train.targets.tolist() == [*rows, [1, -1, 0, -1, 0, 0, 0, -1]]
    assert task.input_shape == (8,) and task.classes == 8 and task.steps_per_epoch == 1
    assert laws.balanced.moments(*task.train).k == pytest.approx(1 / 8)


@pytest.mark.parametrize("depth", [1, 2, 4, 5])
def test_a_tree_of_any_depth_has_its_singular_values(depth):
    values = [2 ** (depth / 2)] + [2 ** ((depth - level) / 2) for level in range(depth) for _ in range(2**level)]
    assert torch.linalg.svdvals(semantic(depth).train.targets).tolist() == pytest.approx(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 3, "inputs": 5}, "3 examples cannot be white in 5 inputs"),
        ({"inputs": 0}, "inputs=0 is too small"),
        ({"spread": 2.0}, r"White inputs have no spread=2; give white=False"),
        ({"white": False, "spread": 0.5}, "spread=0.5 must be at least 1"),
        ({"noise": -1.0}, "noise=-1 is a standard deviation"),
        ({"singular_values": (1.0,)}, "has 4 of them, none negative"),
        ({"batch_size": 0}, "batch_size=0 must lie between"),
    ],
)
def test_impossible_linear_teachers_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        linear_teacher(**options)


def test_trees_of_no_or_too_many_levels_are_refused():
    for depth in (0, 11):
        with pytest.raises(InputError, match=f"depth={depth} of the tree"):
            semantic(depth)
