"""The Fourier transform: inversion, Parseval, convolution, translation, the fast way."""

import numpy as np
import pytest
import torch
from group_cases import MIXED, function, shuffled
from hypothesis import given, settings

from learndyn import groups
from learndyn.errors import InputError
from learndyn.groups.transform import slow_fourier

FAST = ("cyclic(1)", "cyclic(8)", "cyclic(9)", "cyclic(4) x cyclic(6)", "cyclic(2) x cyclic(3) x cyclic(2)")


def convolution_by_hand(group, x, y):
    total = torch.zeros_like(x)
    for g in range(group.order):
        for h in range(group.order):
            total[group.mul[g, h]] += x[g] * y[h]
    return total


def holds(group, tolerance=1e-12):
    x, y = function(group, 1), function(group, 2)
    blocks = groups.fourier(group, x)
    assert (groups.inverse(group, blocks) - x).abs().max() < tolerance
    parts = [groups.project(group, x, i) for i in range(len(blocks))]
    power = groups.power(group, x)
    assert (torch.stack(parts).sum(0) - x).abs().max() < tolerance
    assert (torch.stack([p.square().sum() for p in parts]) - power).abs().max() < tolerance * group.order
    assert abs(power.sum() - x.square().sum()) < tolerance * group.order
    convolved = groups.fourier(group, groups.convolve(group, x, y))
    for left, right, product in zip(blocks, groups.fourier(group, y), convolved):
        assert (product - right @ left).abs().max() < tolerance * group.order
    encodings = groups.translates(group, x)
    for block, irrep, moved in zip(blocks, groups.irreps(group), groups.fourier(group, encodings)):
        assert (moved - block @ irrep.matrices.mT).abs().max() < tolerance * group.order
    assert (groups.power(group, encodings) - power).abs().max() < tolerance * group.order


@settings(max_examples=25, deadline=None)
@given(shuffled())
def test_inversion_parseval_convolution_and_translation_on_random_groups(recipe):
    holds(recipe())


@pytest.mark.parametrize("text", [*MIXED, *FAST])
def test_inversion_parseval_convolution_and_translation_on_named_groups(text):
    holds(groups.named(text), 1e-13)


@pytest.mark.parametrize("text", ["dihedral(4)", "special_linear(3)", "cyclic(9)", "cyclic(2) x cyclic(3)"])
def test_convolution_by_its_definition_and_of_three(text):
    group = groups.named(text)
    x, y, z = (function(group, seed) for seed in range(3))
    by_hand = convolution_by_hand(group, x, y)
    assert (groups.convolve(group, x, y) - by_hand).abs().max() < 1e-13
    assert (groups.convolve(group, x, y, z) - convolution_by_hand(group, by_hand, z)).abs().max() < 1e-12


@pytest.mark.parametrize("text", FAST)
def test_the_fast_transform_is_the_slow_one_and_numpys(text):
    group = groups.named(text)
    x = function(group, 3, 2, 3)
    for fast, slow in zip(groups.fourier(group, x), slow_fourier(group, x), strict=True):
        assert fast.shape == slow.shape and (fast - slow).abs().max() < 1e-13
    waves = np.fft.fftn(x[0, 0].numpy().reshape(group.factors))
    power = groups.power(group, x)[0, 0]
    for irrep, part in zip(groups.irreps(group), power):
        assert abs(irrep.dimension * abs(waves[irrep.frequency]) ** 2 / group.order - float(part)) < 1e-12


def test_translates_are_rolls_on_a_cyclic_group():
    x = function(groups.cyclic(7))
    assert torch.equal(groups.translates(groups.cyclic(7), x), torch.stack([x.roll(a) for a in range(7)]))


def test_batches_and_gradients():
    group = groups.quaternion()
    x = function(group, 0, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: groups.power(group, x), (x,))
    assert torch.autograd.gradcheck(lambda x: groups.convolve(group, x, x), (x,))
    fast = function(groups.cyclic(6), 0, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: groups.convolve(groups.cyclic(6), x, x), (fast,))
    for row, blocks in enumerate(zip(*groups.fourier(group, x.detach()))):
        for one, other in zip(blocks, groups.fourier(group, x.detach()[row])):
            assert (one - other).abs().max() < 1e-14


def test_functions_that_do_not_fit_are_refused():
    group = groups.dihedral(3)
    with pytest.raises(
        InputError, match=r"has 6 real numbers in its last dimension, not torch.float32 of shape \(5,\)"
    ):
        groups.power(group, torch.zeros(5))
    with pytest.raises(InputError, match="There is no irrep 3"):
        groups.project(group, torch.zeros(6), 3)
    with pytest.raises(InputError, match="do not belong to dihedral"):
        groups.inverse(group, groups.fourier(groups.cyclic(6), torch.zeros(6)))
    with pytest.raises(InputError, match="at least one"):
        groups.convolve(group)
