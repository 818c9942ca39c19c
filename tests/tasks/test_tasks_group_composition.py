"""Sequences of group elements as a task: encodings by hand, the loss in the units of theory, padding, fresh samples."""

import math

import pytest
import torch

from learndyn import groups, models, names
from learndyn.errors import InputError
from learndyn.tasks import (
    FreshCompositions,
    Supervised,
    Task,
    group_composition,
    half_squared_error,
    mean_squared_error,
)


def elements_of(group, x, encodings):
    """Which elements these encodings stand for, by the nearest."""
    return torch.cdist(encodings.double(), groups.translates(group, x)).argmin(-1)


def test_targets_encode_the_product_in_order():
    group = groups.named("dihedral(3)")
    x = groups.template(group, "powers(0, 30, 3000)")
    task = group_composition("dihedral(3)", length=3, template="powers(0, 30, 3000)")
    assert (
        len(task.train.inputs) == 216
        and len({tuple(row) for row in elements_of(group, x, task.train.inputs).tolist()}) == 216
    )
    shown = elements_of(group, x, task.train.inputs)
    for row, target in zip(shown.tolist(), task.train.targets):
        g = group.product(row)
        expected = torch.tensor([x[int(group.mul[group.inverse[g], h])] for h in range(6)])
        assert (target - expected.float()).abs().max() == 0


def test_the_loss_at_zero_is_the_first_level_of_the_prediction():
    group = groups.named("dihedral(3)")
    prediction = groups.predict(group, groups.template(group, "powers(0, 10, 40)"), length=2)
    task = group_composition(template="powers(0, 10, 40)")
    nothing = task.loss(lambda inputs: torch.zeros(len(inputs), 6), task.evaluation("test"))
    assert abs(float(nothing) - prediction.level) < 1e-5
    outputs, targets = torch.randn(5, 6), torch.randn(5, 6)
    assert math.isclose(half_squared_error(outputs, targets), 3 * mean_squared_error(outputs, targets), rel_tol=1e-6)
    with pytest.raises(InputError, match=r"shape \(5, 1\) do not fit"):
        half_squared_error(outputs[:, :1], targets)


def test_any_group_and_any_template():
    group = groups.from_permutations([[1, 0, 2], [1, 2, 0]])
    x = torch.randn(6, dtype=torch.float64)
    task = group_composition(group, template=x)
    assert (task.train.targets - groups.encode(group, x, groups.all_sequences(group, 2)).targets).abs().max() < 1e-6
    with pytest.raises(InputError, match="has 6 real numbers in its last dimension"):
        group_composition(group, template=x[:5])


def test_samples_are_drawn_and_larger_ones_need_no_enumeration():
    task = group_composition("icosahedral", length=8, template="one_hot", examples=50, test_examples=20, batch_size=10)
    assert isinstance(task, Supervised) and task.input_shape == (8, 60)
    assert (len(task.train.inputs), len(task.test.inputs)) == (50, 20)


def test_fresh_sequences_at_every_step():
    task = group_composition("quaternion", length=3, template="one_hot", online=True, batch_size=32, test_examples=16)
    assert isinstance(task, FreshCompositions) and isinstance(task, Task)
    assert (task.input_shape, task.classes) == ((3, 8), 8)
    one, same, other = task.batch(4), task.batch(4), task.batch(5)
    assert torch.equal(one.inputs, same.inputs) and not torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.inputs, task.reseed(1).batch(4).inputs)
    assert torch.equal(task.evaluation("train").inputs, task.reseed(1).evaluation("test").inputs)
    assert one.inputs.dtype == torch.float32 and one.inputs.shape == (32, 3, 8)
    group = groups.named("quaternion")
    x = groups.one_hot(group)
    shown = elements_of(group, x, one.inputs)
    assert torch.equal(groups.compose(group, shown)[:, -1], elements_of(group, x, one.targets))
    with pytest.raises(InputError, match="no split 'validation'"):
        task.evaluation("validation")


def test_padding_fills_a_tree():
    group = groups.named("cyclic(5)")
    x = groups.template(group, "magnitudes(3, 1)")
    task = group_composition("cyclic(5)", length=3, template="magnitudes(3, 1)", padded=True)
    assert task.input_shape == (4, 5)
    assert (elements_of(group, x, task.train.inputs)[:, 3] == group.identity).all()
    tree = models.tree_net(task.input_shape, task.classes, width=12).double()
    tree.load_state_dict(groups.tree_state(group, x, 4))
    assert (
        float(task.loss(tree, task.to("cpu", torch.float64).evaluation("train")).detach()) < 1e-10
    )  # of float32 inputs


def test_text_of_the_command_line_builds_task_and_models():
    text = 'group_composition(group="dihedral(3)", length=2, template="powers(0,30,3000)")'
    task = names.build_task(text, seed=0)
    assert task.input_shape == (2, 6) and task.steps_per_epoch == 1
    for model in ("two_layer_power(width=8)", "quadratic_rnn(width=8)", "tree_net(width=8)"):
        network = names.build_model(model, task, seed=0)
        assert float(task.loss(network, task.batch(0)).detach()) > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"group": "dihedral"}, r"must be written dihedral\(n\)"),
        ({"template": "powers(1)"}, "1 powers do not fit the 3 irreps"),
        ({"length": 0}, "length=0 is no length"),
        ({"length": 9}, "sequences are more than 1000000; draw samples instead"),
        ({"examples": 0}, "examples=0"),
        ({"examples": 5, "online": True}, "exclude each other"),
        ({"examples": 5, "test_examples": 0}, "test_examples=0"),
        ({"batch_size": 37}, "batch_size=37 must lie between 1 and the 36"),
    ],
)
def test_tasks_without_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        group_composition(**options)


def test_models_of_sequences_refuse_what_they_cannot_read():
    with pytest.raises(InputError, match=r"needs sequences of shape \(length, numbers\).*input_shape=\(1, 6\)"):
        models.quadratic_rnn((1, 6), 6)
    with pytest.raises(InputError, match="not of 3 as in input_shape"):
        models.tree_net((3, 6), 6)
    with pytest.raises(InputError, match="scale=0 is no scale"):
        models.two_layer_power((2, 6), 6, scale=0.0)


@pytest.mark.parametrize("multiplicative", [False, True])
def test_recurrence_and_free_trees_by_hand(multiplicative):
    model = models.quadratic_rnn((4, 5), 3, width=7, scale=1.0, multiplicative=multiplicative).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    first, drive, mix, last = (getattr(model, name).weight for name in ("first", "drive", "mix", "last"))

    def met(a, b):
        return a * b if multiplicative else (a + b) ** 2

    h = met(first @ x[0, 0], drive @ x[0, 1])
    for t in (2, 3):
        h = met(mix @ h, drive @ x[0, t])
    assert torch.allclose(model(x)[0], last @ h, rtol=1e-12)
    tree = models.tree_net((4, 5), 3, width=7, scale=1.0, shared=False).double()
    a, b = ((tree.left[0][i] @ x[0, 2 * i] + tree.right[0][i] @ x[0, 2 * i + 1]) ** 2 for i in (0, 1))
    top = (tree.left[1][0] @ a + tree.right[1][0] @ b) ** 2
    assert torch.allclose(tree(x)[0], tree.last.weight @ top, rtol=1e-12)
