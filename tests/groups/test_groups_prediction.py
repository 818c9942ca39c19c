"""Scores, order, levels, times, the census, and the exact loss: each against another way to the same number."""

import math

import pytest
import torch
from group_cases import centred, function, relabelled

from learndyn import groups
from learndyn.errors import InputError
from learndyn.groups.loss import outputs

TYPES = ("cyclic(6)", "cyclic(7)", "dihedral(3)", "alternating(4)", "quaternion", "symmetric(4)", "special_linear(3)")


def weights(group, neurons, length, seed=0):
    return function(group, seed, neurons, length), function(group, seed + 1, neurons)


def multilinear(group, x, length):
    """The form k! E ⟨u_1, x_{g_1}⟩ … ⟨u_k, x_{g_k}⟩ ⟨w, x_{g_1…g_k}⟩ as an array, in a basis of the span of the x_g."""
    encodings = groups.translates(group, x)
    values, vectors = torch.linalg.eigh(encodings.T @ encodings)
    a = encodings @ vectors[:, values > 1e-9 * values[-1]]  # (g, i)
    form = a
    for _ in range(length - 1):  # Σ over g h = s
        made = torch.zeros(*form.shape, a.shape[1], dtype=a.dtype)
        for g in range(group.order):
            made[group.mul[:, g]] += form[..., None] * a[g]
        form = made
    return math.factorial(length) * torch.einsum("s...,sw->...w", form, a) / group.order**length


def climbed(form, starts=12, rounds=400):
    """Its largest value over unit vectors, by the best vector of one place after the other."""
    best, places = 0.0, form.ndim
    for start in range(starts):
        draw = torch.Generator().manual_seed(start)
        vectors = [torch.randn(form.shape[0], generator=draw, dtype=form.dtype) for _ in range(places)]
        value = previous = 0.0
        for _ in range(rounds):
            for place in range(places):
                left = form
                for other in reversed([i for i in range(places) if i != place]):
                    left = torch.tensordot(left, vectors[other], ([other], [0]))
                value = float(left.norm())
                vectors[place] = left / value
            if abs(value - previous) < 1e-12 * value:
                break
            previous = value
        best = max(best, value)
    return best


@pytest.mark.parametrize("text", TYPES)
@pytest.mark.parametrize("length", [2, 3])
def test_the_score_is_the_maximum_of_the_utility_for_all_types(text, length):
    group = groups.named(text)
    x = centred(group)
    score = groups.utilities(group, x, length)
    front = (length + 1) ** (-(length + 1) / 2)  # of unit vectors each, from unit norm of all
    for index in range(1, len(score)):
        part = groups.project(group, x, index)
        found = climbed(multilinear(group, part, length)) * front
        assert abs(found / float(score[index]) - 1) < 1e-6, groups.irreps(group)[index].kind


def test_modular_addition_is_a_special_case():
    """√(2/27) |x̂|³ p^(−3/2) for a pair of frequencies, √2 times that for ξ = p/2 (arXiv:2506.06489)."""
    group = groups.cyclic(8)
    x = groups.magnitudes(group, {1: 5.0, 2: 3.0, 4: 2.0})
    found = groups.utilities(group, x, 2)
    for irrep, value in zip(groups.irreps(group), found):
        size = {0: 0.0, 1: 5.0, 2: 3.0, 3: 0.0, 4: 2.0}[irrep.frequency[0]]
        expected = math.sqrt(2 / 27) * size**3 / 8**1.5 * (2**0.5 if irrep.frequency == (4,) else 1)
        assert abs(float(value) - expected) < 1e-13


@pytest.mark.parametrize("text", ["cyclic(7)", "dihedral(4)", "quaternion"])
def test_no_linear_map_does_better_than_zero(text):
    group = groups.named(text)
    data = groups.encode(group, centred(group), groups.all_sequences(group, 2))
    flat = data.inputs.flatten(1)
    fitted = flat @ torch.linalg.lstsq(flat, data.targets, driver="gelsd").solution
    assert abs((data.targets - fitted).square().sum() / data.targets.square().sum() - 1) < 1e-13


@pytest.mark.parametrize(
    "text, length", [("cyclic(7)", 2), ("dihedral(3)", 3), ("quaternion", 3), ("cyclic(5)", 4), ("cyclic(4)", 1)]
)
@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_the_loss_from_moments_is_the_loss_over_all_sequences(text, length, mean):
    group = groups.named(text)
    x = centred(group) + mean
    u, w = weights(group, 5, length)
    data = groups.encode(group, x, groups.all_sequences(group, length))
    u.requires_grad_()
    loss = groups.population_loss(group, x, u, w)
    brute = 0.5 * (outputs(data.inputs, u, w) - data.targets).square().sum(1).mean()
    assert abs(float((loss / brute).detach()) - 1) < 1e-12
    slopes = [torch.autograd.grad(value, u)[0] for value in (loss, brute)]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-12 * slopes[1].abs().max()
    each = torch.stack(
        [(outputs(data.inputs, u[i : i + 1], w[i : i + 1]) * data.targets).sum(1).mean() for i in range(5)]
    )
    found = groups.correlation(group, x, u, w)
    assert (found - each).abs().max() < 1e-12 * each.abs().max()


def test_order_is_by_score_and_levels_by_power():
    group = groups.dihedral(3)
    strong_last = groups.predict(group, groups.powers(group, [0, 10, 40]), 2, start=1e-4)
    assert [stage.irrep for stage in strong_last.stages] == ["1a", "2a"]  # the weaker one first
    assert [strong_last.level, *(stage.level for stage in strong_last.stages)] == pytest.approx([25, 20, 0], abs=1e-12)
    strong_first = groups.predict(group, groups.powers(group, [0, 6, 40]), 2)
    assert [stage.irrep for stage in strong_first.stages] == ["2a", "1a"]
    assert [strong_first.level, *(stage.level for stage in strong_first.stages)] == pytest.approx([23, 3, 0], abs=1e-12)
    assert all(math.isnan(stage.time) and stage.starters == -1 for stage in strong_first.stages)
    assert strong_last.neurons == 18 and strong_last.sentences == ()


def test_times_solve_the_growth_of_an_aligned_neuron():
    """d‖θ‖/dt = (k+1) U* ‖θ‖ preconditioned, (k+1) U* ‖θ‖^k without, from the start to 1."""
    utility = torch.tensor([0.3, 2.0], dtype=torch.float64)
    for length in (2, 3):
        fast = groups.times(utility, 1e-3, length)
        assert torch.allclose(1e-3 * ((length + 1) * utility * fast).exp(), torch.ones(2, dtype=torch.float64))
        slow = groups.times(utility, 1e-3, length, preconditioned=False)
        grown = (1e-3) ** (1 - length) - (length - 1) * (length + 1) * utility * slow
        assert torch.allclose(grown, torch.ones(2, dtype=torch.float64))
    assert torch.equal(groups.times(utility, 1e-3, 1), groups.times(utility, 1e-3, 1, preconditioned=False))


def test_nothing_depends_on_names_or_on_which_translate_is_the_template():
    group = groups.special_linear(3)
    x = centred(group)
    new = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    named, moved = torch.empty_like(x), groups.translates(group, x)[5]
    named[new] = x
    here = groups.predict(group, x, 2, start=1e-3)
    for g, y in ((relabelled(group, new), named), (group, moved)):
        there = groups.predict(g, y, 2, start=1e-3)
        for one, other in zip(here.stages, there.stages, strict=True):
            for field in ("dimension", "kind", "neurons"):
                assert getattr(one, field) == getattr(other, field)
            for field in ("power", "operator_norm", "utility", "level", "time"):
                assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-10, abs=1e-12)


def test_the_census_finds_pure_irreps_at_their_maximum():
    group = groups.dihedral(3)
    u, w = weights(group, 40, 2)
    x = groups.powers(group, [0, 30, 3000])
    found = groups.census(group, x, u, w)
    assert found.counts.tolist() == [0, 0, 40] and found.unsettled == 0  # nobody learns the sign
    x = groups.powers(group, [0, 10, 40])
    found = groups.census(group, x, u, w)
    assert found.counts.sum() == 40 and (found.counts[1:] > 3).all()
    assert (found.utility / groups.utilities(group, x, 2)[found.irrep] - 1).abs().max() < 1e-9


def test_starved_irreps_are_said_so_and_a_stratified_start_has_none():
    group = groups.dihedral(3)
    x = groups.powers(group, [0, 30, 3000])
    u, w = weights(group, 20, 2)
    said = groups.predict(group, x, 2, u=1e-3 * u, w=1e-3 * w)
    assert "1a has 0 of the 2 neurons of the exact solution: it may be learnt late or never." in said.sentences
    u, w = groups.stratified(group, torch.tensor([0, 4, 20]), 2, 1e-3)
    assert torch.allclose((u.square().sum((1, 2)) + w.square().sum(1)).sqrt(), torch.full((24,), 1e-3).double())
    found = groups.predict(group, x, 2, u=u, w=w)
    assert [stage.starters for stage in found.stages] == [20, 4] and found.sentences == ()
    assert found.stages[0].time == pytest.approx(-math.log(1e-3) / (3 * found.stages[0].utility), rel=1e-9)


def test_a_network_learns_in_the_order_at_the_times_and_on_the_levels_of_the_prediction():
    """Preconditioned descent on the exact loss, the weaker irrep first; alignment takes 5 to 30 % more time."""
    group = groups.dihedral(3)
    x = groups.powers(group, [0, 10, 40])
    theta = torch.cat([function(group, 3, 60, 2) / 12**0.5, function(group, 4, 60, 1) / 6**0.5], 1) * 1e-4
    expected = groups.predict(group, x, 2, u=theta[:, :2], w=theta[:, 2])
    step, losses = 2e-3, []
    for _ in range(260):
        theta.requires_grad_()
        loss = groups.population_loss(group, x, theta[:, :2], theta[:, 2])
        (slope,) = torch.autograd.grad(loss, theta)
        losses.append(float(loss.detach()))
        rate = 1 / theta.detach().square().sum((1, 2)).sqrt()
        theta = theta.detach() - step * rate[:, None, None] * slope
    losses = torch.tensor(losses)
    edges = [expected.level, *(stage.level for stage in expected.stages)]
    for place, stage in enumerate(expected.stages):
        measured = step * int((losses < (edges[place] + edges[place + 1]) / 2).int().argmax())
        assert 1.0 < measured / stage.time < 1.3
    between = losses[(losses < 24) & (losses > 1)]
    assert (between - 20).abs().min() < 0.3 and losses[-1] < 0.05


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda g, x: groups.utilities(g, x, 0), "length=0"),
        (lambda g, x: groups.times(torch.ones(2), 1.5, 2), "start=1.5, the largest norm of a neuron"),
        (lambda g, x: groups.predict(g, x, 2, u=torch.ones(1, 2, 6)), "give both or neither"),
        (
            lambda g, x: groups.predict(g, x, 3, u=x[None, None].repeat(4, 2, 1), w=x[None].repeat(4, 1)),
            "sequences of 2",
        ),
        (
            lambda g, x: groups.census(g, x, torch.zeros(1, 2, 6).double(), torch.zeros(1, 6).double()),
            "without a direction",
        ),
        (
            lambda g, x: groups.population_loss(g, x, torch.zeros(1, 2, 5).double(), torch.zeros(1, 5).double()),
            "do not fit",
        ),
        (lambda g, x: groups.stratified(g, torch.tensor([0, 0, 0]), 2, 1.0), r"counts=\[0, 0, 0\]"),
        (lambda g, x: groups.stratified(g, torch.tensor([0, 1, 1]), 2, -1.0), "scale=-1"),
        (lambda g, x: groups.all_sequences(g, 8), "6.8 = 1679616 sequences are more than 1000000"),
        (lambda g, x: groups.all_sequences(g, 0), "length=0"),
    ],
)
def test_predictions_of_nothing_are_refused(make, message):
    group = groups.dihedral(3)
    with pytest.raises(InputError, match=message):
        make(group, groups.powers(group, [0, 10, 40]))
