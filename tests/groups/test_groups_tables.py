"""Tables: the axioms, generators, families, text."""

import itertools
import re

import pytest
import torch
from group_cases import relabelled, shuffled
from hypothesis import given, settings

from learndyn import groups
from learndyn.errors import InputError
from learndyn.groups import FiniteGroup

ORDERS = {
    "cyclic(1)": 1,
    "cyclic(12)": 12,
    "cyclic(3) x cyclic(4)": 12,
    "dihedral(1)": 2,
    "dihedral(2)": 4,
    "dihedral(7)": 14,
    "symmetric(1)": 1,
    "symmetric(2)": 2,
    "symmetric(5)": 120,
    "alternating(1)": 1,
    "alternating(2)": 1,
    "alternating(3)": 3,
    "alternating(5)": 60,
    "quaternion": 8,
    "dicyclic(1)": 4,
    "dicyclic(3)": 12,
    "special_linear(2)": 6,
    "special_linear(5)": 120,
    "heisenberg(2)": 8,
    "heisenberg(3)": 27,
    "frobenius(7, 3)": 21,
    "frobenius(5, 4)": 20,
    "octahedral": 24,
    "icosahedral": 60,
    "cyclic(2) x alternating(4) x cyclic(2)": 48,
}


def axioms_by_brute_force(table):
    count = range(len(table))
    t = table.tolist()
    assert any(all(t[e][g] == g == t[g][e] for g in count) for e in count)
    assert all(t[t[a][b]][c] == t[a][t[b][c]] for a, b, c in itertools.product(count, repeat=3))


@pytest.mark.parametrize("text", ORDERS)
def test_families_have_their_order_and_obey_the_axioms(text):
    group = groups.named(text)
    assert group.order == ORDERS[text]
    if group.order <= 30:
        axioms_by_brute_force(group.mul)
    g = torch.arange(group.order)
    assert (group.mul[g, group.inverse] == group.identity).all()
    assert len(group.generators) <= max(1, group.order).bit_length()
    reached = {group.identity}
    while len(new := reached | {int(group.mul[h, s]) for h in reached for s in group.generators}) > len(reached):
        reached = new
    assert len(reached) == group.order


def element_orders(group):
    found = []
    for g in range(group.order):
        power, count = g, 1
        while power != group.identity:
            power, count = int(group.mul[power, g]), count + 1
        found.append(count)
    return sorted(found)


@pytest.mark.parametrize(
    "one, other",
    [
        ("octahedral", "symmetric(4)"),
        ("icosahedral", "alternating(5)"),
        ("dihedral(3)", "symmetric(3)"),
        ("special_linear(2)", "symmetric(3)"),
        ("heisenberg(2)", "dihedral(4)"),
        ("dihedral(2)", "cyclic(2) x cyclic(2)"),
        ("dihedral(6)", "dihedral(3) x cyclic(2)"),
        ("frobenius(3, 2)", "dihedral(3)"),
    ],
)
def test_the_same_group_by_two_ways_has_the_same_orders_and_characters(one, other):
    a, b = groups.named(one), groups.named(other)
    assert element_orders(a) == element_orders(b)
    for x, y in zip(groups.irreps(a), groups.irreps(b), strict=True):
        assert x.kind == y.kind and x.dimension == y.dimension
    tables = []
    for group in (a, b):
        values = torch.stack([irrep.character for irrep in groups.irreps(group)]).mul(1e6).round().long()
        tables.append(sorted(sorted(row) for row in values.tolist()))
    assert tables[0] == tables[1]


def test_quaternions_multiply_as_quaternions():
    group = groups.quaternion()
    number = {name: i for i, name in enumerate(group.names)}

    def times(*names):
        return group.name(group.product([number[name] for name in names]))

    assert [times("i", "j"), times("j", "k"), times("k", "i"), times("j", "i")] == ["k", "i", "j", "-k"]
    assert [times("i", "i"), times("j", "j"), times("k", "k"), times("i", "j", "k")] == ["-1"] * 4


def test_permutations_compose_from_right_to_left():
    group = groups.from_permutations([[1, 0, 2], [0, 2, 1]])
    number = {name: i for i, name in enumerate(group.names)}
    assert group.name(group.product([number["102"], number["021"]])) == "120"  # 0 → 0 → 1, 1 → 2 → 2, 2 → 1 → 0


def test_matrices_over_the_complex_numbers():
    i = torch.tensor([[1j, 0], [0, -1j]])
    j = torch.tensor([[0, 1.0 + 0j], [-1, 0]])
    pauli = groups.from_matrices(torch.stack([i, j]))
    assert element_orders(pauli) == element_orders(groups.quaternion())


@settings(max_examples=25, deadline=None)
@given(shuffled())
def test_shuffled_tables_are_groups_and_a_broken_one_is_not(recipe):
    group = recipe()
    if group.order <= 20:
        axioms_by_brute_force(group.mul)
    if group.order < 3:
        return
    broken = group.mul.clone()
    broken[-1, [0, 1]] = broken[-1, [1, 0]]  # two entries of a row change places: columns are no longer Latin
    with pytest.raises(InputError, match="No inverse: .* are both .*; correct the table"):
        FiniteGroup(broken)


def test_each_axiom_is_missed_by_name():
    with pytest.raises(InputError, match="Not closed: the product of a and b is 2, .*elements 0 to 1"):
        FiniteGroup(torch.tensor([[0, 2], [1, 0]]), names=("a", "b"))
    with pytest.raises(InputError, match=r"No inverse: 1 \* 0 and 1 \* 1 are both 1, so 1 cannot be undone"):
        FiniteGroup(torch.tensor([[0, 1], [1, 1]]))
    subtraction = (torch.arange(3)[:, None] - torch.arange(3)) % 3
    with pytest.raises(InputError, match=r"No identity: .* 0 comes nearest, but 0 \* 1 is 2"):
        FiniteGroup(subtraction)


def test_a_loop_that_is_no_group_is_found_out():
    """The smallest non-associative Latin square with an identity has order 5; also hidden in a large product."""
    rows = ["01234", "10342", "24013", "32401", "43120"]
    loop = torch.tensor([[int(c) for c in row] for row in rows])
    pattern = r"Not associative: \((\d) \* (\d)\) \* (\d) is (\d), but .* is (\d);"
    with pytest.raises(InputError, match=pattern) as e:
        FiniteGroup(loop)
    x, a, y, left, right = (int(c) for c in re.search(pattern, str(e.value)).groups())
    assert loop[loop[x, a], y] == left != right == loop[x, loop[a, y]]
    n = 13
    big = (groups.cyclic(n).mul[:, None, :, None] * 5 + loop[None, :, None, :]).reshape(5 * n, 5 * n)
    with pytest.raises(InputError, match="Not associative"):
        FiniteGroup(big)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FiniteGroup(torch.zeros(2, 3, dtype=torch.int64)), r"square tensor of integers, not \(2, 3\)"),
        (lambda: FiniteGroup(torch.zeros(1, 1)), "holds torch.float32; give the numbers of elements as integers"),
        (lambda: FiniteGroup(torch.zeros(1, 1, dtype=torch.int64), names=("a", "b")), "must be 1 different names"),
        (lambda: FiniteGroup(groups.dihedral(3).mul, factors=(6,)), r"factors=\(6,\) do not give this table"),
        (lambda: FiniteGroup(groups.cyclic(6).mul, factors=(2, 3)), r"factors=\(2, 3\) do not give this table"),
        (lambda: groups.from_permutations([]), "give at least one permutation"),
        (lambda: groups.from_permutations([[0, 0, 1]]), r"Generator 0, \[0, 0, 1\], is no permutation of 0 to 2"),
        (lambda: groups.from_permutations([[1, 0], [1, 2, 0]]), "Generator 1.*no permutation of 0 to 1"),
        (lambda: groups.from_permutations([[1, 0, *range(2, 8)], [*range(1, 8), 0]]), "more than 5040 elements"),
        (lambda: groups.from_matrices(torch.zeros(1, 2, 2)), "Generator 0 has no inverse"),
        (lambda: groups.from_matrices(torch.tensor([[[2.0]]])), "grow beyond 1e.08, so the group is not finite"),
        (lambda: groups.from_matrices(torch.tensor([[[1j + 1.2]]])), "grow beyond"),
        (lambda: groups.from_matrices(torch.tensor([[[0.6, 0.8], [-0.8, 0.6]]]).double()), "more than 5040 elements"),
        (lambda: groups.from_matrices(torch.full((1, 2, 2), float("nan"))), "not finite"),
        (lambda: groups.from_matrices(torch.tensor([[[2, 0], [0, 1]]]), 4), "Generator 0 has no inverse"),
        (lambda: groups.from_matrices(torch.eye(2)[None], 3), "hold integers, not torch.float32"),
        (lambda: groups.from_matrices(torch.eye(2).long()[None], 1), "modulus=1 must lie between 2"),
        (lambda: groups.direct_product(), "give at least one"),
        (lambda: groups.direct_product(groups.cyclic(100), groups.cyclic(100)), "has 10000 elements"),
        (lambda: groups.cyclic(0), "cyclic with n=0 is out of range; give a number from 1 to 5040"),
        (lambda: groups.symmetric(8), "n=8 is out of range"),
        (lambda: groups.special_linear(4), "needs a prime; p=4 is none"),
        (lambda: groups.frobenius(7, 4), r"needs q of at least 2 that divides p - 1 = 6"),
        (lambda: groups.named("dihedrl(3)"), "did you mean 'dihedral'"),
        (lambda: groups.named("dihedral(3.5)"), r"must be written dihedral\(n\), with whole numbers"),
        (lambda: groups.named("frobenius(7)"), r"must be written frobenius\(p, q\)"),
        (lambda: groups.named("dihedral(n=3)"), "Cannot read the group"),
        (lambda: groups.named("__import__('os')"), "Cannot read the group"),
    ],
)
def test_bad_groups_get_one_sentence(make, message):
    with pytest.raises(InputError, match=message) as e:
        make()
    assert str(e.value).count("\n") == 0


def test_a_false_action_is_refused_with_the_elements():
    three, two = groups.cyclic(3), groups.cyclic(2)
    still, shift, turn = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), torch.tensor([0, 2, 1])
    with pytest.raises(InputError, match="Acting element 1 is no automorphism: the image of 0"):
        groups.semidirect_product(three, two, torch.stack([still, shift]))
    with pytest.raises(InputError, match="no homomorphism: 0"):
        groups.semidirect_product(three, two, torch.stack([turn, turn]))
    with pytest.raises(InputError, match="does not permute"):
        groups.semidirect_product(three, two, torch.stack([still, still * 0]))
    with pytest.raises(InputError, match=r"action of shape \(1, 3\)"):
        groups.semidirect_product(three, two, still[None])


def test_the_table_is_the_groups_own():
    table = groups.cyclic(4).mul.clone()
    group = FiniteGroup(table)
    table[0, 0] = 3
    assert group.mul[0, 0] == 0 and relabelled(group, [1, 2, 3, 0]).identity == 1
