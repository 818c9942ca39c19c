"""Irreps of any group: what the sheet lists, closed forms, random tables."""

import pytest
import torch
from group_cases import irrep_list, relabelled, shuffled
from hypothesis import given, settings

from learndyn import groups
from learndyn.groups.representations import complex_matrices, eigen_irreps
from learndyn.noise import generator

LISTS = {
    "cyclic(1)": "1r",
    "cyclic(10)": "1r 1r 2c 2c 2c 2c",
    "dihedral(3)": "1r 1r 2r",
    "symmetric(4)": "1r 1r 2r 3r 3r",
    "alternating(5)": "1r 3r 3r 4r 5r",
    "icosahedral": "1r 3r 3r 4r 5r",
    "quaternion": "1r 1r 1r 1r 4q",
    "special_linear(3)": "1r 2c 3r 4c 4q",
    "special_linear(5)": "1r 3r 3r 4q 4r 4q 5r 8q 12q",
    "symmetric(5)": "1r 1r 4r 4r 5r 5r 6r",
    "heisenberg(3)": "1r 2c 2c 2c 2c 6c",
    "frobenius(7, 3)": "1r 2c 6c",
}


@pytest.mark.parametrize("text", LISTS)
def test_dimensions_and_types_are_those_of_the_literature(text):
    assert sorted(irrep_list(text).split()) == sorted(LISTS[text].split())
    group = groups.named(text)
    found = groups.irreps(group)
    assert groups.defect(group, found) < 1e-13
    assert sum(irrep.dimension**2 // irrep.norm for irrep in found) == group.order
    assert [irrep.dimension for irrep in found] == sorted(irrep.dimension for irrep in found)
    assert found[0].name == "trivial" and len({irrep.name for irrep in found}) == len(found)


@pytest.mark.parametrize("text", ["special_linear(3)", "alternating(5)", "frobenius(7, 3)"])
def test_all_pairs_multiply_in_order(text):
    """Not only on generators: an anti-homomorphism passes every test on characters."""
    group = groups.named(text)
    for irrep in groups.irreps(group):
        products = torch.einsum("gab,hbc->ghac", irrep.matrices, irrep.matrices)
        assert (products - irrep.matrices[group.mul]).abs().max() < 1e-13


@settings(max_examples=30, deadline=None)
@given(shuffled())
def test_random_groups_have_complete_irreps(recipe):
    group = recipe()
    found = groups.irreps(group)
    assert groups.defect(group, found) < 1e-12
    assert sum(irrep.dimension**2 // irrep.norm for irrep in found) == group.order
    inverse = group.inverse
    real_classes = set()  # real irreps are as many as classes of g and g⁻¹ together
    for g in range(group.order):
        orbit = {int(group.mul[group.mul[h, x], inverse[h]]) for h in range(group.order) for x in (g, int(inverse[g]))}
        real_classes.add(min(orbit))
    assert len(found) == len(real_classes)


@pytest.mark.parametrize("text", ["cyclic(1)", "cyclic(2)", "cyclic(9)", "cyclic(12)", "cyclic(4) x cyclic(6)"])
def test_closed_form_and_eigendecomposition_agree_and_have_one_order(text):
    group = groups.named(text)
    closed, found = groups.irreps(group), eigen_irreps(group)
    assert groups.defect(group, closed) < 1e-14
    for one, other in zip(closed, found, strict=True):
        assert (one.name, one.kind, one.dimension) == (other.name, other.kind, other.dimension)
        assert (one.character - other.character).abs().max() < 1e-13
        assert one.frequency is not None and other.frequency is None


def test_frequencies_of_a_cyclic_group_come_in_order():
    assert [irrep.frequency for irrep in groups.irreps(groups.cyclic(9))] == [(0,), (1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("text", ["cyclic(7)", *("quaternion", "special_linear(3)", "frobenius(7, 3)", "symmetric(3)")])
def test_complex_irreps_are_unitary_irreducible_and_make_up_the_real_ones(text):
    group = groups.named(text)
    for irrep in groups.irreps(group):
        rho = complex_matrices(irrep)
        n = irrep.complex_dimension
        assert rho.shape == (group.order, n, n)
        for s in group.generators:
            assert (rho[group.mul[:, s]] - rho @ rho[s]).abs().max() < 1e-13
        assert (rho @ rho.mH - torch.eye(n)).abs().max() < 1e-13
        character = rho.diagonal(dim1=1, dim2=2).sum(1)
        assert abs(character.abs().square().mean() - 1) < 1e-13
        total = character.real if irrep.kind == "real" else 2 * character.real
        assert (total - irrep.character).abs().max() < 1e-13
        assert (character.imag.abs().max() > 1e-3) == (irrep.kind == "complex")


@pytest.mark.parametrize("text", ["dihedral(4)", "quaternion"])
def test_irreps_with_one_eigenvalue_are_drawn_again(text, monkeypatch):
    """c = 1 on the subgroup of squares and 0 elsewhere: several irreps share an eigenvalue."""
    group = groups.named(text)
    normal, expected = group.mul.diagonal().unique(), groups.irreps(group)
    drawn = []

    class Unlucky:
        def __init__(self, draw):
            self.draw = draw

        def standard_normal(self, shape):
            c = torch.zeros(shape, dtype=torch.float64)
            c[normal] = 1.0
            drawn.append(self.draw)
            return c.numpy()

    def stuck(seed, purpose, *counters):
        unlucky = purpose == "irreps" and counters[-1] < until
        return Unlucky(counters[-1]) if unlucky else generator(seed, purpose, *counters)

    monkeypatch.setattr("learndyn.groups.representations.generator", stuck)
    until = 2
    found = eigen_irreps(group)
    assert drawn == [0, 1]
    for one, other in zip(found, expected, strict=True):
        assert one.kind == other.kind and (one.character - other.character).abs().max() < 1e-12
    until = 5
    with pytest.raises(ArithmeticError, match="No complete set of irreps"):
        eigen_irreps(group)


def test_the_same_irreps_every_time():
    one, other = (eigen_irreps(groups.special_linear(3)) for _ in range(2))
    assert all(torch.equal(a.matrices, b.matrices) for a, b in zip(one, other))


def test_characters_follow_a_relabelling():
    group = groups.special_linear(3)
    new = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    moved = groups.irreps(relabelled(group, new))
    for irrep in groups.irreps(group):
        assert min(float((other.character[new] - irrep.character).abs().max()) for other in moved) < 1e-12


def test_a_group_of_720_elements():
    group = groups.symmetric(6)
    found = groups.irreps(group)
    assert [irrep.dimension for irrep in found] == [1, 1, 5, 5, 5, 5, 9, 9, 10, 10, 16]
    assert groups.defect(group, found) < 1e-12
