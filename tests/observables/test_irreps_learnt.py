"""Irreps learnt: exact solutions have what is known of them, explicit sums agree, and looking leaves no trace."""

import copy
from functools import partial

import pytest
import torch

from learndyn import groups, names, observables, tasks
from learndyn.dynamics import start, train
from learndyn.errors import InputError

SPECTRA = {
    "cyclic(5)": "generic(0, 3, 2)",
    "dihedral(3)": "generic(0, 3, 2)",
    "frobenius(7, 3)": "generic(0, 3, 5)",
    "quaternion": "generic(0, 1, 0, 2, 3)",
}


def solved(text, model, length=2, template=None):
    """A task and a network with constructed weights for it, as a state in float64."""
    group = groups.named(text)
    x = groups.template(group, template or SPECTRA[text])
    task = tasks.place(tasks.group_composition(group, length, x), "cpu", torch.float64)
    weights = {
        "two_layer_power": lambda: groups.two_layer_state(group, x, length),
        "quadratic_rnn": lambda: groups.recurrent_state(group, x),
        "tree_net": lambda: groups.tree_state(group, x, length),
    }[model]()
    net = names.build_model(f"{model}(width={weights['last.weight'].shape[1]})", task, 0).double()
    net.load_state_dict(weights)
    return group, x, start(task, net, partial(torch.optim.SGD, lr=0.01))


@pytest.mark.parametrize("text", SPECTRA)
@pytest.mark.parametrize("model", ["two_layer_power", "quadratic_rnn", "tree_net"])
def test_an_exact_solution_has_the_power_of_the_template(text, model):
    group, x, state = solved(text, model)
    found = observables.irrep_output_power(state, group)
    torch.testing.assert_close(found, groups.power(group, x), rtol=1e-5, atol=1e-6)  # the task's inputs are float32
    exact = groups.encode(group, x, groups.all_sequences(group, 2)).inputs
    torch.testing.assert_close(
        observables.irrep_output_power(state, group, exact), groups.power(group, x), rtol=1e-11, atol=1e-11
    )
    assert observables.composition_accuracy(state) == 1


def test_output_power_is_the_sum_over_sequences():
    group, x, state = solved("dihedral(3)", "two_layer_power")
    state = train(state, 3).state
    total = torch.zeros(3, dtype=torch.float64)
    inputs = state.task.evaluation("train").inputs
    for one in inputs:
        answer = state.model(one[None])[0].detach()
        for index in range(3):
            total[index] += groups.project(group, answer, index).square().sum() / len(inputs)
    torch.testing.assert_close(observables.irrep_output_power(state, group), total, rtol=1e-12, atol=1e-12)


def test_accuracy_by_hand_and_for_encodings_that_coincide():
    group, x, state = solved("cyclic(5)", "two_layer_power")
    batch = state.task.evaluation("train")
    wrong = batch.targets.clone()
    wrong[:5] = batch.targets[:5].roll(1, 1)
    assert observables.composition_accuracy(state, batch.inputs, wrong) == 1 - 5 / len(wrong)
    # the sign alone encodes all elements of one parity alike: one neuron is right for all of them
    group, x, state = solved("dihedral(3)", "two_layer_power", template="powers(0, 1, 0)")
    assert observables.composition_accuracy(state) == 1


@pytest.mark.parametrize("text", SPECTRA)
def test_neurons_of_an_exact_solution_have_one_irrep_and_are_of_rank_one(text):
    group, x, state = solved(text, "two_layer_power")
    shares = observables.neuron_irreps(state, group)
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(shares[..., 0]))
    assert shares.max(-1).values.min() > 1 - 1e-12
    carried = observables.carried(state, group)
    assert torch.equal(shares.argmax(-1), carried[:, None].expand(shares.shape[:2]))
    needed = [groups.neurons_needed(irrep, 2) for irrep in groups.irreps(group)]
    assert (
        torch.bincount(carried, minlength=len(needed)).tolist()[1:]
        == [n if p > 0 else 0 for n, p in zip(needed, [float(p) > 1e-9 for p in groups.power(group, x)])][1:]
    )


@pytest.mark.parametrize("text", ["dihedral(3)", "frobenius(7, 3)", "quaternion"])
def test_alignment_is_one_where_the_utility_is_largest_and_less_elsewhere(text):
    """Neurons are followed up the utility of one irrep of each type; there their blocks have rank one."""
    group = groups.named(text)
    for index, irrep in enumerate(groups.irreps(group)):
        if irrep.dimension == 1 or (irrep.dimension > 4):
            continue
        x = groups.powers(group, [1.0 if i == index else 0.0 for i in range(len(groups.irreps(group)))])
        drawn = torch.randn(4, 3, group.order, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        u, w = drawn[:, :2], drawn[:, 2]
        blurred = aligned(group, u, w)
        theta = torch.cat([u.flatten(1), w], 1)
        for _ in range(150):
            part = theta.detach().requires_grad_()
            value = groups.correlation(
                group, x, part[:, : 2 * group.order].unflatten(1, (2, -1)), part[:, 2 * group.order :]
            )
            (slope,) = torch.autograd.grad(value.sum(), part)
            tangent = slope - (slope * part).sum(1, keepdim=True) * part
            theta = theta + 0.2 * tangent / slope.norm(dim=1, keepdim=True).clamp_min(1e-300)
            theta = theta / theta.norm(dim=1, keepdim=True)
        sharp = aligned(group, theta[:, : 2 * group.order].unflatten(1, (2, -1)), theta[:, 2 * group.order :])
        assert sharp.min() > 1 - 1e-4, (text, irrep.name)
        assert sharp.max() < 1 + 1e-12
        if irrep.complex_dimension > 1 and irrep.kind != "quaternionic":
            assert blurred.mean() < 0.95


def aligned(group, u, w):
    task = tasks.group_composition(group, 2, "one_hot")
    model = names.build_model(f"two_layer_power(width={len(u)})", task, 0).double()
    model.load_state_dict({"first.weight": u.flatten(1), "last.weight": w.T})
    return observables.rank_one_alignment(start(task, model, partial(torch.optim.SGD, lr=0.1)), group)


@pytest.mark.parametrize("text", SPECTRA)
def test_the_mixing_matrix_of_an_exact_solution_has_blocks(text):
    group, _, state = solved(text, "quadratic_rnn", 3)
    found = observables.mixing(state, group)
    assert found.off_block < 1e-12 and found.distance < 1e-12 and abs(found.scale - 1) < 1e-12
    assert abs(float(found.mass.sum()) - 1) < 1e-12


def test_a_random_mixing_matrix_has_none():
    group, _, state = solved("dihedral(3)", "quadratic_rnn", 3)
    with torch.no_grad():
        mix = state.model.mix.weight.detach()
        mix.copy_(torch.randn(mix.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    found = observables.mixing(state, group)
    reads = groups.power(group, state.model.first.weight).argmax(-1)
    writes = groups.power(group, state.model.last.weight.T.contiguous()).argmax(-1)
    across = sum(
        float(mix[i, j] ** 2) for i in range(len(mix)) for j in range(len(mix)) if reads[i] != writes[j]
    ) / float(mix.square().sum())
    assert found.off_block == pytest.approx(across, rel=1e-12) and 0.1 < across < 0.5
    assert found.distance > 0.5


LOOKS = {
    "power": lambda state, group: observables.irrep_output_power(state, group),
    "accuracy": lambda state, group: observables.composition_accuracy(state),
    "irreps": lambda state, group: observables.neuron_irreps(state, group),
    "carried": lambda state, group: observables.carried(state, group),
    "alignment": lambda state, group: observables.rank_one_alignment(state, group),
    "mixing": lambda state, group: observables.mixing(state, group).mass,
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_leaves_no_trace(look):
    group, _, state = solved("dihedral(3)", "quadratic_rnn", 3)
    state = train(state, 2).state
    state.model.train()
    before = copy.deepcopy((state.model.state_dict(), [p.grad for p in state.model.parameters()]))
    noise = torch.random.get_rng_state()
    found = LOOKS[look](state, group)
    assert not found.requires_grad and found.device.type == "cpu"
    after = (state.model.state_dict(), [p.grad for p in state.model.parameters()])
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1]))
    assert torch.equal(noise, torch.random.get_rng_state())
    assert state.model.training and all(p.requires_grad for p in state.model.parameters())
    kept = found.clone()
    train(state, 2)
    assert torch.equal(kept, found)  # not tied to the weights


def test_it_can_be_watched_while_training():
    group, _, state = solved("dihedral(3)", "two_layer_power")
    run = train(state, 4, {"power": partial(observables.irrep_output_power, group=group)}, every=2)
    assert run.series.power.shape == (3, 3)


def test_what_is_refused():
    group, x, state = solved("dihedral(3)", "two_layer_power")
    with pytest.raises(InputError, match="has no neurons that read"):
        observables.neuron_irreps(state, groups.cyclic(5))
    with pytest.raises(InputError, match="no mixing matrix"):
        observables.mixing(state, group)
    with pytest.raises(InputError, match="belong together"):
        observables.composition_accuracy(state, torch.zeros(1, 2, 6))
    net = torch.nn.Linear(3, 3)
    with pytest.raises(InputError, match="Linear has no neurons"):
        observables.neuron_weights(net, group)
