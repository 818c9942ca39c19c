"""The tasks of arXiv:2406.06158: ReLU teacher, xor, random hierarchy, modular arithmetic, gratings."""

import sys
from itertools import product

import numpy as np
import pytest
import torch

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks import (
    gratings,
    hierarchy_sizes,
    mean_squared_error,
    modular,
    place,
    random_hierarchy,
    relu_teacher,
    xor,
)
from learndyn.tasks.gratings import pink_noise
from learndyn.tasks.modular import OPERATIONS

# ReLU teacher ---------------------------------------------------------------------------------------------------------


def test_relu_teacher_is_the_documented_network_without_noise():
    task = relu_teacher(examples=40, test_examples=30, inputs=7, neurons=3, dtype="float64", data_seed=5)
    draw = generator(5, "relu teacher")
    v = draw.standard_normal((3, 7))
    s = np.where(draw.integers(0, 2, 3) == 1, 1.0, -1.0)
    for batch in (task.train, task.test):
        for x, y in zip(batch.inputs.tolist(), batch.targets.flatten().tolist()):
            dots = [sum(a * b for a, b in zip(row, x)) / np.linalg.norm(row) for row in v]
            assert y == pytest.approx(sum(sign * max(0.0, dot) for sign, dot in zip(s, dots)), abs=1e-15)
    assert task.classes == 1 and task.steps_per_epoch == 1


def test_relu_teacher_inputs_are_uniform_on_the_sphere():
    """Second moments 1/d, and E[x⁴] = 3/(d(d+2)), which a normalised cube or Gaussian of fixed norm would miss."""
    d, n = 4, 40_000
    x = relu_teacher(examples=n, inputs=d, dtype="float64").train.inputs
    torch.testing.assert_close(x.norm(dim=1), torch.ones(n, dtype=torch.float64), rtol=1e-14, atol=0)
    assert abs(x.mean(0)).max() < 4 * (1 / d / n) ** 0.5
    assert abs(x.T @ x / n - torch.eye(d) / d).max() < 4 * (3 / (d * (d + 2)) / n) ** 0.5
    assert x.pow(4).mean() == pytest.approx(3 / (d * (d + 2)), rel=0.01)


def test_relu_teacher_precisions_and_sizes_agree():
    double, single = relu_teacher(dtype="float64"), relu_teacher()
    torch.testing.assert_close(double.train.inputs.float(), single.train.inputs, rtol=0, atol=0)
    torch.testing.assert_close(double.train.targets.float(), single.train.targets, rtol=0, atol=2e-7)
    assert torch.equal(relu_teacher(examples=100).train.inputs, single.train.inputs[:100])


def test_mean_squared_error_is_a_mean_without_a_half_and_refuses_to_broadcast():
    outputs, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [2.0]])
    assert mean_squared_error(outputs, targets).item() == 2.5
    with pytest.raises(InputError, match=r"Outputs of shape \(2, 1\) do not fit targets of shape \(2,\)"):
        mean_squared_error(outputs, targets[:, 0])


# Exclusive or ---------------------------------------------------------------------------------------------------------


def test_xor_is_the_product_of_the_signs_and_no_linear_map_learns_it():
    task = xor(examples=4000, spread=0.2)
    x, y = task.train
    agree = (y == (x[:, 0] * x[:, 1] < 0).long()).double().mean().item()
    assert agree > 0.999  # five standard deviations from a corner to the axes
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    fit = torch.linalg.lstsq(design, 2.0 * y[:, None] - 1).solution
    assert (design @ fit).abs().max() < 0.2  # hardly anything linear
    corners = torch.stack([x.sign().int() + 1], 0)[0]
    counts = torch.bincount(corners[:, 0] // 2 * 2 + corners[:, 1] // 2, minlength=4)
    assert counts.sum() == 4000 and (counts - 1000).abs().max() <= 3


def test_xor_with_signs_has_the_same_points():
    classes, signs = xor(data_seed=3), xor(data_seed=3, signs=True)
    assert torch.equal(classes.train.inputs, signs.train.inputs) and signs.classes == 1
    assert torch.equal(signs.train.targets[:, 0] > 0, classes.train.targets == 1)
    assert signs.train.targets.abs().unique().tolist() == [1.0]
    assert place(signs, "cpu", torch.float64).train.targets.dtype == torch.float64


# Random hierarchy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v, m, levels, s, c", [(8, 4, 3, 2, 8), (3, 2, 2, 2, 3), (4, 2, 2, 3, 2), (6, 1, 3, 2, 5)])
def test_hierarchy_counts(v, m, levels, s, c):
    most, scale = hierarchy_sizes(v, m, levels, s, c)
    assert most == c * m ** ((s**levels - 1) // (s - 1)) and scale == c * m**levels
    assert (v, m, levels, s, c) != (8, 4, 3, 2, 8) or (most, scale) == (131072, 512)  # the paper's


def symbols_of(task, v):
    inputs = torch.cat([task.train.inputs, task.test.inputs]).unflatten(1, (-1, v))
    assert (inputs.sum(2) == 1).all() and set(inputs.unique().tolist()) <= {0.0, 1.0}
    return inputs.argmax(2), torch.cat([task.train.targets, task.test.targets])


@pytest.mark.parametrize("v, m, levels, s, c", [(3, 2, 2, 2, 3), (4, 2, 2, 3, 2), (4, 3, 1, 2, 5), (4, 2, 3, 2, 2)])
def test_all_examples_of_a_small_hierarchy_are_different(v, m, levels, s, c):
    """As many as were promised, all different, hence none of two classes; no more tuples below than the rules have."""
    most, _ = hierarchy_sizes(v, m, levels, s, c)
    task = random_hierarchy(most - 1, 1, v, m, levels, s, c, batch_size=1)
    words, labels = symbols_of(task, v)
    assert len({tuple(row) for row in words.tolist()}) == most  # all there are, all different
    assert torch.bincount(labels).tolist() == [most // c] * c
    lowest = {tuple(row[i : i + s]) for row in words.tolist() for i in range(0, s**levels, s)}
    assert len(lowest) <= (v if levels > 1 else c) * m


def test_synonyms_at_the_lowest_level_are_exchangeable():
    """Rebuild the lowest rule from the data: tuples with the same company in all examples mean the same symbol."""
    v, m, s, c = 3, 2, 2, 3
    most, _ = hierarchy_sizes(v, m, 2, s, c)
    words, labels = symbols_of(random_hierarchy(most - 1, 1, v, m, 2, s, c, batch_size=1, data_seed=2), v)
    company: dict[tuple, set] = {}
    for row, label in zip(words.tolist(), labels.tolist()):
        company.setdefault(tuple(row[:2]), set()).add((label, tuple(row[2:])))
    groups = {frozenset(found): [t for t in company if company[t] == found] for found in company.values()}
    # a symbol that occurs on the left has its two synonyms there, and no tuple stands for two symbols
    assert all(len(tuples) % m == 0 for tuples in groups.values())


def test_large_hierarchies_are_drawn_without_a_table_of_all():
    task = random_hierarchy(3000, 1000, values=16, synonyms=8, levels=3, branching=3, classes=16)
    words, labels = symbols_of(task, 16)
    assert words.shape == (4000, 27) and len({tuple(row) for row in words.tolist()}) == 4000
    assert torch.bincount(labels, minlength=16).min() > 4000 / 16 - 5 * (4000 / 16) ** 0.5


def test_drawing_row_by_row_is_uniform_and_without_repeats(monkeypatch):
    """The way of large hierarchies, on one that is small enough to be seen whole."""
    module = sys.modules["learndyn.tasks.random_hierarchy"]  # the function hides the module of its name
    monkeypatch.setattr(module, "FEW", 0)
    draw = np.random.default_rng(0)
    rows = module._choices(draw, 24, 3, 2, 3)
    assert {tuple(row) for row in rows.tolist()} == set(product(range(3), range(2), range(2), range(2)))
    firsts = np.array([module._choices(draw, 1, 3, 2, 1)[0] for _ in range(1200)])
    counts = np.bincount(firsts[:, 0] * 2 + firsts[:, 1], minlength=6)
    assert np.abs(counts - 200).max() < 5 * 200**0.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"synonyms": 9}, "need 72 tuples, but 8 symbols make only 64 of length 2"),
        ({"classes": 17}, "synonyms=4 for each of 17 symbols"),
        ({"examples": 131072, "test_examples": 1}, "more than the 131072 different examples"),
        ({"values": 1}, "values=1 is too small"),
        ({"levels": 0}, "levels=0 is too small"),
    ],
)
def test_impossible_hierarchies_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        random_hierarchy(**options)


# Modular arithmetic ---------------------------------------------------------------------------------------------------

PLAIN = {
    "x+y": lambda x, y: x + y,
    "x-y": lambda x, y: x - y,
    "x*y": lambda x, y: x * y,
    "x^2+y^2": lambda x, y: x * x + y * y,
    "x^2+xy+y^2": lambda x, y: x * x + x * y + y * y,
    "x^2+xy+y^2+x": lambda x, y: x * x + x * y + y * y + x,
    "x^3+xy": lambda x, y: x * x * x + x * y,
    "x^3+xy^2+y": lambda x, y: x * x * x + x * y * y + y,
}


def table(operation, p, **options):
    """{(x, y): result} of both splits, after checking the form of the sentences."""
    task = modular(operation, p, **options)
    found = {}
    for batch in (task.train, task.test):
        for (x, op, y, equals), z in zip(batch.inputs.tolist(), batch.targets.tolist()):
            assert (op, equals) == (p, p + 1) and (x, y) not in found and 0 <= z < p
            found[x, y] = z
    assert task.classes == p + 2
    return found


@pytest.mark.parametrize("p", [2, 7, 12])
@pytest.mark.parametrize("operation", PLAIN)
def test_tables_of_polynomials(operation, p):
    expected = {(x, y): PLAIN[operation](x, y) % p for x, y in product(range(p), repeat=2)}
    assert table(operation, p) == expected


@pytest.mark.parametrize("p", [2, 3, 13])
def test_tables_of_division(p):
    found = table("x/y", p)
    assert set(found) == set(product(range(p), range(1, p)))
    assert all(z * y % p == x for (x, y), z in found.items())
    mixed = table("x/y if y is odd, otherwise x-y", p)
    assert set(mixed) == set(product(range(p), repeat=2))
    assert all((z * y - x if y % 2 else z - x + y) % p == 0 for (x, y), z in mixed.items())


def test_every_operation_has_its_table_and_big_numbers_do_not_overflow():
    assert set(OPERATIONS) == {*PLAIN, "x/y", "x/y if y is odd, otherwise x-y"}
    x = y = np.array([4095])
    assert OPERATIONS["x^3+xy^2+y"](x, y, 4096)[0] == 2 * 4095**3 + 4095


def test_shares_of_the_pairs():
    task = modular("x/y")
    assert (len(task.train.inputs), len(task.test.inputs)) == (97 * 96 // 2, 97 * 96 // 2)
    batches = modular("x+y", 11, 0.6, batch_size=32)
    assert batches.steps_per_epoch == 3 and len(batches.batch(2).inputs) == 73 - 64
    assert modular("x+y", 11, 0.6).steps_per_epoch == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("x:y",), "There is no operation 'x:y'; did you mean"),
        (("x/y", 91), "modulus=91 is not prime"),
        (("x/y if y is odd, otherwise x-y", 4), "modulus=4 is not prime"),
        (("x+y", 1), "modulus=1 must lie between 2 and 4096"),
        (("x+y", 7, 1.0), "fraction=1 of the pairs"),
        (("x+y", 2, 0.01), "leaves 0 of 4 pairs"),
    ],
)
def test_impossible_arithmetic_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        modular(*arguments)


# Gratings -------------------------------------------------------------------------------------------------------------


def test_gratings_have_the_orientation_of_their_class_and_unit_power():
    task = gratings(examples=400, size=48, noise=0.0, wavelengths=(8.0, 12.0))
    images = task.train.inputs[:, 0].double()
    assert images.square().mean().item() == pytest.approx(1, abs=0.02)
    # The structure tensor's main axis is the direction across the stripes.
    dy, dx = torch.gradient(images, dim=(1, 2))
    xx, yy, xy = ((g * k).sum((1, 2)) for g, k in ((dx, dx), (dy, dy), (dx, dy)))
    theta = 0.5 * torch.atan2(2 * xy, xx - yy) % torch.pi
    centre = (task.train.targets + 0.5) * torch.pi / 8
    off = (theta - centre + torch.pi / 2) % torch.pi - torch.pi / 2
    assert off.abs().max() < 1.15 * torch.pi / 16  # half a bin; finite differences and waves that are cut off
    assert torch.bincount(task.train.targets, minlength=8).min() > 20


def test_noise_falls_with_frequency():
    noise = pink_noise(np.random.default_rng(0), 400, 24)
    assert noise.mean((1, 2)) == pytest.approx(np.zeros(400), abs=1e-12)
    assert (noise**2).mean() == pytest.approx(1, abs=0.03)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    assert power[0, 8] / power[0, 1] == pytest.approx(1 / 64, rel=0.25)
    assert power[3, 4] / power[0, 5] == pytest.approx(1, rel=0.25)
    both = gratings(examples=400, noise=2.0).train.inputs.double()
    assert both.square().mean().item() == pytest.approx(1 + 4, rel=0.1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bins": 1}, "bins=1 is too small"),
        ({"noise": -1.0}, "noise=-1 is no strength"),
        ({"wavelengths": (1.0, 4.0)}, r"wavelengths=\(1.0, 4.0\) must be"),
        ({"wavelengths": (8.0, 4.0)}, "must be the shortest and the longest"),
    ],
)
def test_impossible_gratings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        gratings(**options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: relu_teacher(neurons=0), "neurons=0 is too small for a teacher"),
        (lambda: relu_teacher(dtype="half"), "dtype='half' is no precision"),
        (lambda: relu_teacher(batch_size=1001), "batch_size=1001 must lie between 1 and the 1000"),
        (lambda: xor(spread=0.0), "spread=0 is no standard deviation"),
        (lambda: xor(examples=0), "examples=0 is too small"),
    ],
)
def test_impossible_teachers_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
