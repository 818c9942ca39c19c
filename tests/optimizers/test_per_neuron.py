"""A rate for every neuron: against the definition, the flow it stands for, Adam, and what it refuses."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from learndyn import models, names, tasks
from learndyn.dynamics import fork, start, train
from learndyn.errors import InputError
from learndyn.optimizers.per_neuron import PerNeuronScaledSGD, layer, neuron_norms, per_neuron_sgd
from learndyn.optimizers.schedules import cosine


def small(scale=1e-2, length=2, width=7, dtype=torch.float64):
    task = tasks.place(tasks.group_composition("cyclic(5)", length, "powers(0, 8, 5)"), "cpu", dtype)
    return task, names.build_model(f"two_layer_power(width={width}, scale={scale})", task, 0).to(dtype)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_a_step_is_the_definition_neuron_by_neuron(length, floor):
    task, model = small(length=length)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = task.loss(model, task.batch(0))
    slope = dict(zip(before, torch.autograd.grad(loss, list(model.parameters()))))
    state = start(task, model, partial(per_neuron_sgd, lr=0.01, floor=floor))
    assert state.optimizer.param_groups[0]["exponent"] == 1 - length
    train(state, 1)
    u, w = before["first.weight"], before["last.weight"]
    norms = [float((u[i].square().sum() + w[:, i].square().sum()).sqrt()) for i in range(len(u))]
    for i, norm in enumerate(norms):
        factor = 0.01 * (norm**2 + (floor * max(norms)) ** 2) ** ((1 - length) / 2)
        torch.testing.assert_close(model.first.weight[i], u[i] - factor * slope["first.weight"][i], rtol=1e-13, atol=0)
        torch.testing.assert_close(
            model.last.weight[:, i], w[:, i] - factor * slope["last.weight"][:, i], rtol=1e-13, atol=1e-30
        )


def test_neurons_grow_exponentially_whatever_their_size():
    """d ln‖θ‖/dt = (k+1) U does not know the norm: starts of 1e-3 and 1e-13 turn and grow alike."""
    grown = []
    for scale in (1e-3, 1e-13):
        task, model = small(scale)
        first = neuron_norms(model.parameters(), (0, 1))
        train(start(task, model, partial(per_neuron_sgd, lr=0.005)), 30)
        grown.append((neuron_norms(model.parameters(), (0, 1)) / first).log())
    torch.testing.assert_close(*grown, rtol=1e-3, atol=1e-4)
    assert grown[0].abs().max() > 0.1


def test_the_floor_of_the_authors_stops_small_starts():
    """With a floor, neurons below it have the rate of the floor and hardly grow; so there is none here by default."""
    grown = []
    for floor in (0.0, 0.9):
        task, model = small(1e-3)
        with torch.no_grad():
            for p, column in ((model.first.weight, False), (model.last.weight, True)):
                (p.T if column else p)[1:] *= 1e-3
        first = neuron_norms(model.parameters(), (0, 1))
        train(start(task, model, partial(per_neuron_sgd, lr=0.005, floor=floor)), 30)
        grown.append(float((neuron_norms(model.parameters(), (0, 1)) / first).log()[1:].abs().max()))
    assert grown[0] > 100 * grown[1]


def test_a_neuron_of_norm_zero_stays():
    task, model = small()
    with torch.no_grad():
        model.first.weight[0] = 0
        model.last.weight[:, 0] = 0
    train(start(task, model, partial(per_neuron_sgd, lr=0.01)), 3)
    assert not model.first.weight[0].any() and all(p.isfinite().all() for p in model.parameters())


def test_the_hybrid_is_adam_between_neurons():
    task = tasks.place(tasks.group_composition("cyclic(5)", 3, "powers(0, 8, 5)"), "cpu", torch.float64)
    model = models.quadratic_rnn(task.input_shape, 5, width=6).double()
    twin = copy.deepcopy(model)
    hybrid = per_neuron_sgd(model.parameters(), lr=1e-12, mix_lr=0.01)
    assert [len(group["params"]) for group in hybrid.param_groups] == [3, 1]
    assert hybrid.param_groups[0]["exponent"] == -1  # pairs are composed, whatever the length
    train(start(task, model, hybrid), 5)
    for name, p in twin.named_parameters():
        p.requires_grad_(name == "mix.weight")
    train(start(task, twin, partial(torch.optim.Adam, lr=0.01)), 5)
    torch.testing.assert_close(model.mix.weight, twin.mix.weight, rtol=1e-6, atol=1e-9)
    assert (model.mix.weight - twin.mix.weight).abs().max() < 1e-7 < 1e-3


def test_forks_resume_and_schedules():
    task = tasks.place(tasks.group_composition("cyclic(5)", 3, "powers(0, 8, 5)"), "cpu", torch.float64)
    model = models.quadratic_rnn(task.input_shape, 5, width=6).double()
    fading = cosine(20)
    state = start(task, model, partial(per_neuron_sgd, lr=0.01, mix_lr=0.001), fading)
    state = train(state, 4).state
    branch = fork(state)
    held = copy.deepcopy(branch.optimizer.state_dict())
    again = models.quadratic_rnn(task.input_shape, 5, width=6).double()
    again.load_state_dict(branch.model.state_dict())
    other = per_neuron_sgd(again.parameters(), lr=0.01, mix_lr=0.001)
    other.load_state_dict(held)
    ends = [train(s, 4).state.model for s in (state, branch)]
    ends.append(train(replace(start(task, again, other, fading), step=4), 4).state.model)
    for end in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0].parameters(), end.parameters()))


def test_it_is_made_from_text():
    task, model = small()
    made = names.build_optimizer("learndyn.optimizers.per_neuron:per_neuron_sgd(lr=0.02)", model.parameters())
    assert isinstance(made, PerNeuronScaledSGD) and made.param_groups[0]["axes"] == (0, 1)


def test_neurons_of_any_module_by_name():
    """Two hidden layers: the middle matrix belongs to one of them."""
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    groups = [layer([net[0].weight], [], length=2), layer([net[1].weight], [net[2].weight], lr=0.5, exponent=-2.0)]
    optimizer = PerNeuronScaledSGD(groups, lr=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    norm = before[0][2].norm()
    torch.testing.assert_close(net[0].weight[2], before[0][2] - 0.1 / norm)
    norm = (before[1][3].square().sum() + before[2][:, 3].square().sum()).sqrt()
    torch.testing.assert_close(net[2].weight[:, 3], before[2][:, 3] - 0.5 / norm**2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: per_neuron_sgd([torch.ones(3, 4), torch.ones(2, 5)]), "not one layer"),
        (lambda: per_neuron_sgd([torch.ones(3, 4), torch.ones(3), torch.ones(2, 3)]), "not one layer"),
        (lambda: per_neuron_sgd(nn.ParameterList([torch.ones(1, 3, 4), torch.ones(4, 3)])), "not one layer"),
        (lambda: per_neuron_sgd([torch.ones(3, 5), torch.ones(2, 3)]), "no whole k"),
        (lambda: per_neuron_sgd([torch.ones(3, 4), torch.ones(2, 3)], mix_lr=0.1), "mix_lr"),
        (lambda: per_neuron_sgd([torch.ones(3, 2), torch.ones(3, 3), torch.ones(2, 3)]), "mix_lr"),
        (lambda: PerNeuronScaledSGD([layer([torch.ones(3, 2)], [torch.ones(2, 4)])]), "no common number"),
        (lambda: PerNeuronScaledSGD([{"params": [torch.ones(3, 2)], "axes": (0, 1)}]), "no common number"),
        (lambda: PerNeuronScaledSGD([{"params": [torch.ones(3, 2)], "axes": (5,)}]), "no common number"),
        (lambda: PerNeuronScaledSGD([{"params": [torch.ones(3, 2)]}]), "either axes"),
        (lambda: PerNeuronScaledSGD([layer([torch.ones(3, 2)], [])], floor=1.5), "floor=1.5"),
        (lambda: PerNeuronScaledSGD([layer([torch.ones(3, 2)], [])], exponent=float("nan")), "exponent=nan"),
        (lambda: PerNeuronScaledSGD([layer([torch.ones(3, 2)], [])], lr=-1.0), "lr=-1"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert str(caught.value).count(". ") == 0
