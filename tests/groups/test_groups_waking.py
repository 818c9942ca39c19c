"""Arrival times of irreps from given weights: closed form, brute-force descent, symmetries, refusals."""

import math

import pytest
import torch
from group_cases import relabelled

from learndyn import groups
from learndyn.compare import half_power
from learndyn.errors import InputError
from learndyn.experiments.group_composition.nets import descend, first_weights
from learndyn.groups.loss import correlation
from learndyn.groups.waking import _Shares


@pytest.mark.parametrize(
    ("text", "template", "length"), [("cyclic(5)", "powers(0, 8, 0)", 2), ("cyclic(7)", "powers(0, 0, 5, 0)", 3)]
)
def test_neurons_that_have_turned_arrive_in_closed_form(text, template, length):
    """Σ r^(k+1) U* grows as e^((k+1)² U* t) and is P when growth alone would have learnt all."""
    group = groups.named(text)
    x = groups.template(group, template)
    (index,) = groups.learning_order(group, x, length)
    u, w = groups.two_layer_solution(group, x, length)
    u, w = (part / part.norm(dim=-1, keepdim=True) / (length + 1) ** 0.5 for part in (u, w))  # balanced
    best = float(groups.utilities(group, x, length)[index])
    torch.testing.assert_close(correlation(group, x, u, w), torch.full_like(w[:, 0], best))
    small = 1e-6
    share = small ** (length + 1) * best * len(w) / float(groups.power(group, x)[index])
    rate = (length + 1) ** 2 * best
    expected = (-math.log(share) + math.log(1 + 2**0.5)) / rate
    found = groups.arrivals(group, x, small * u, small * w)
    assert float(found[index]) == pytest.approx(expected, rel=1e-5)
    assert found.isnan().sum() == len(found) - 1


@pytest.mark.parametrize(
    ("text", "template", "length", "width"),
    [
        ("dihedral(3)", "powers(0, 10, 40)", 2, 60),
        ("cyclic(8)", "powers(0, 4, 6, 0, 0)", 2, 80),
        ("cyclic(5)", "powers(0, 8, 6)", 3, 150),
    ],
)
def test_descent_learns_when_foretold(text, template, length, width):
    """Trained on all sequences; the law's times, without turning, are a tenth or more early."""
    group = groups.named(text)
    x = groups.template(group, template)
    u, w = first_weights(group, length, width, 1e-5, 3)
    due = groups.arrivals(group, x, u, w)
    order = groups.learning_order(group, x, length)
    step = 0.005 / float(groups.utilities(group, x, length).max())
    count = math.ceil(1.15 * float(due[order].max()) / step)
    seen = descend(group, x, u[None], w[None], torch.full((count,), step, dtype=torch.float64), range(0, count, 4))
    norm = float((u.square().sum((1, 2)) + w.square().sum(1)).max().sqrt())
    law = groups.times(groups.utilities(group, x, length), norm, length)
    for index in order:
        power = seen.power[0, :, index].sqrt()
        half = half_power(seen.time, power, float(groups.power(group, x)[index]) ** 0.5, log=False).step
        assert half == pytest.approx(float(due[index]), rel=0.05)
        assert half > 1.05 * float(law[index])


def test_names_of_elements_do_not_matter():
    group = groups.dihedral(4)
    x = groups.template(group, "generic(0, 2, 0, 3, 4)")
    place = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    other = relabelled(group, place)
    u, w = first_weights(group, 2, 40, 1e-4, 0)
    found = groups.arrivals(group, x, u, w)
    moved = [torch.empty_like(part) for part in (x, u, w)]
    for new, old in zip(moved, (x, u, w)):
        new[..., place] = old
    again = groups.arrivals(other, *moved)
    torch.testing.assert_close(found.sort().values, again.sort().values, rtol=1e-6, atol=0, equal_nan=True)


def test_an_irrep_without_a_trace_in_the_weights_never_comes():
    group = groups.cyclic(5)
    x = groups.template(group, "powers(0, 8, 6)")
    u, w = groups.stratified(group, torch.tensor([0, 20, 0]), 2, 1e-4)
    found = groups.arrivals(group, x, u, w)
    assert math.isfinite(float(found[1])) and math.isnan(float(found[2]))
    both = groups.arrivals(group, x, *groups.stratified(group, torch.tensor([0, 20, 20]), 2, 1e-4))
    assert both[1:].isfinite().all() and float(both[1]) == pytest.approx(float(found[1]), rel=1e-3)


def test_a_neuron_that_holds_an_irrep_learns_no_other():
    group = groups.cyclic(5)
    x = groups.template(group, "powers(0, 8, 7.5)")
    u, w = first_weights(group, 2, 1, 0.05, 3)  # so large that it has not turned to one of them when it arrives
    assert int(groups.arrivals(group, x, u, w).isfinite().sum()) == 1


def test_what_is_left_to_learn_is_the_target_without_what_is_learnt():
    """Utility against it: that of the projected target, by projecting w; and the shares of all irreps add up to it."""
    group, length = groups.dihedral(4), 2
    x = groups.template(group, "generic(0, 2, 0, 3, 4)")
    u, w = first_weights(group, length, 5, 1.0, 0)
    phi, left = torch.cat([u.flatten(1), w], 1), [1, 4]
    onto = torch.stack([groups.project(group, torch.eye(8, dtype=x.dtype), i) for i in left])
    parts = groups.power(group, x)[left]
    shares = _Shares(group, x, length, onto, parts)
    value, slope = shares.slope(phi)
    expected = correlation(group, x, u, sum(groups.project(group, w, i) for i in left))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close((slope * phi).sum(1), 3 * value)  # Euler
    torch.testing.assert_close((shares.of(phi, torch.zeros(5, dtype=x.dtype)) * parts).sum(1), value)
    assert float((value - correlation(group, x, u, w)).abs().min()) > 1e-3


def test_weights_of_a_module_in_single_precision():
    group = groups.cyclic(5)
    x = groups.template(group, "powers(0, 8, 6)")
    u, w = first_weights(group, 2, 20, 1e-3, 0)
    rough = groups.arrivals(group, x, u.float(), w.float())
    torch.testing.assert_close(rough, groups.arrivals(group, x, u, w), rtol=1e-5, atol=0, equal_nan=True)


def test_what_is_no_start_is_refused():
    group = groups.cyclic(5)
    x = groups.template(group, "powers(0, 8, 6)")
    u, w = first_weights(group, 2, 10, 1e-4, 0)
    with pytest.raises(InputError, match="no vanishing start"):
        groups.arrivals(group, x, 1e4 * u, 1e4 * w)
    with pytest.raises(InputError, match="without a direction"):
        groups.arrivals(group, x, 0 * u, 0 * w)
    with pytest.raises(InputError, match="do not fit"):
        groups.arrivals(groups.cyclic(4), x[:4], u, w)
