"""Weights that compose exactly, in the models that they are for."""

import pytest
import torch
from group_cases import function

from learndyn import groups, models
from learndyn.errors import InputError

#: Neurons for k = 2, 3, … and generic templates of mean zero.
WIDTHS = {
    "cyclic(7)": (18, 48, 120),
    "cyclic(10)": (26, 68),
    "cyclic(3) x cyclic(3)": (24, 64),
    "dihedral(3)": (18, 68, 264),
    "alternating(4)": (60,),
    "symmetric(4)": (126,),
    "alternating(5)": (486,),
    "quaternion": (54, 268),  # 134 by real matrices
    "special_linear(3)": (156,),
    "heisenberg(3)": (186,),
}


def generic(text, mean=0.0):
    group = groups.named(text)
    return group, groups.generic(group, [mean, *(1.0 + 0.2 * i for i in range(len(groups.irreps(group)) - 1))])


def error(model, state, data):
    model = model.double()
    model.load_state_dict(state)
    with torch.no_grad():
        return float((model(data.inputs) - data.targets).abs().max())


def some(group, length, count=400):
    if group.order**length <= 4000:
        return groups.all_sequences(group, length)
    return torch.randint(0, group.order, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "text, length", [(text, k) for text, widths in WIDTHS.items() for k in range(2, 2 + len(widths))]
)
def test_two_layers_of_the_stated_width_are_exact(text, length):
    group, x = generic(text)
    state = groups.two_layer_state(group, x, length)
    width = len(state["first.weight"])
    assert width == WIDTHS[text][length - 2]
    assert width == sum(groups.neurons_needed(irrep, length) for irrep in groups.irreps(group)[1:])
    model = models.two_layer_power((length, group.order), group.order, width=width)
    assert error(model, state, groups.encode(group, x, some(group, length))) < 1e-12
    u, w = groups.two_layer_solution(group, x, length)
    if width < 300:
        assert abs(float(groups.population_loss(group, x, u, w))) < 1e-12


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_mean_is_composed_too(length):
    group, x = generic("dihedral(3)", mean=2.0)
    state = groups.two_layer_state(group, x, length)
    model = models.two_layer_power((length, 6), 6, width=len(state["first.weight"]))
    assert error(model, state, groups.encode(group, x, groups.all_sequences(group, length))) < 1e-12


@pytest.mark.parametrize("text", ["cyclic(7)", "dihedral(3)", "quaternion", "alternating(4)", "frobenius(7, 3)"])
@pytest.mark.parametrize("length", [2, 3, 4, 8])
def test_recurrence_and_tree_are_exact_with_the_width_of_pairs(text, length):
    group, x = generic(text)
    data = groups.encode(group, x, some(group, length))
    state = groups.recurrent_state(group, x)
    width = len(state["first.weight"])
    model = models.quadratic_rnn((length, group.order), group.order, width=width)
    assert error(model, state, data) < 1e-11
    if length != 3:
        tree = groups.tree_state(group, x, length)
        model = models.tree_net((length, group.order), group.order, width=width)
        assert error(model, tree, data) < 1e-11


def test_all_pairs_of_the_icosahedron_by_the_two_layers():
    group, x = generic("icosahedral")
    state = groups.two_layer_state(group, x)
    model = models.two_layer_power((2, 60), 60, width=486)
    assert error(model, state, groups.encode(group, x, groups.all_sequences(group, 2))) < 1e-12


def test_what_cannot_be_read_is_refused():
    group = groups.dihedral(3)
    blocks = torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[1.0, 2], [2, 4]])
    flat = groups.inverse(group, [block.double() for block in blocks])
    with pytest.raises(InputError, match="The block of 2a has singular values from .* no network reads it"):
        groups.two_layer_solution(group, flat)
    with pytest.raises(InputError, match="template in float64, not torch.float32"):
        groups.two_layer_solution(group, function(group).float())
    with pytest.raises(InputError, match="length=0"):
        groups.two_layer_solution(group, function(group), 0)
    with pytest.raises(InputError, match="more than 100000 neurons"):
        groups.two_layer_solution(group, function(group), 12)
    with pytest.raises(InputError, match="length=6 makes no tree"):
        groups.tree_state(group, function(group), 6)
