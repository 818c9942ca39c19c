"""Groups to test on: named ones of every kind, and random ones as shuffled tables."""

from functools import partial

import torch
from hypothesis import strategies as st

from learndyn import groups
from learndyn.groups import FiniteGroup

#: Non-abelian groups with irreps of all three types.
MIXED = ("dihedral(4)", "quaternion", "special_linear(3)", "frobenius(7, 3)")


def irrep_list(text):
    """Dimensions with a letter for the type, as "1r 2c 4q"."""
    return " ".join(f"{irrep.dimension}{irrep.kind[0]}" for irrep in groups.irreps(groups.named(text)))


def relabelled(group, new):
    """The group whose element new[g] is g here."""
    old = torch.as_tensor(new).argsort()
    return FiniteGroup(torch.as_tensor(new)[group.mul[old][:, old]])


def function(group, seed=0, *batch):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, group.order, generator=draw, dtype=torch.float64)


def centred(group, seed=0):
    x = function(group, seed)
    return x - x.mean()


def _turned(n, m, r):
    """Z_n, turned by Z_m through multiplication with a unit r whose m-th power is 1."""
    action = torch.stack([torch.arange(n) * pow(r, j, n) % n for j in range(m)])
    return groups.semidirect_product(groups.cyclic(n), groups.cyclic(m), action)


def _shuffled(make, seed):
    group = make()
    return relabelled(group, torch.randperm(group.order, generator=torch.Generator().manual_seed(seed)))


@st.composite
def shuffled(draw):
    """A recipe, called without arguments, of a random group as a bare table with its elements in any order.

    Groups are built outside of the strategy: beartype draws from `random`, which hypothesis does not want here.
    """
    kind = draw(st.sampled_from(["subgroup", "product", "turned"]))
    if kind == "subgroup":
        degree = draw(st.integers(3, 5))
        make = partial(groups.from_permutations, draw(st.lists(st.permutations(range(degree)), min_size=1, max_size=2)))
    elif kind == "product":
        small = st.sampled_from(["cyclic(2)", "cyclic(3)", "cyclic(4)", "dihedral(3)", "quaternion"])
        make = partial(groups.named, f"{draw(small)} x {draw(small)}")
    else:
        n, m = draw(st.integers(2, 9)), draw(st.integers(2, 4))
        make = partial(_turned, n, m, draw(st.sampled_from([r for r in range(1, n) if pow(r, m, n) == 1 % n])))
    return partial(_shuffled, make, draw(st.integers(0, 2**31)))
