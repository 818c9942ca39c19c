"""A finite group as its multiplication table, checked axiom by axiom when it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from learndyn.errors import InputError

LARGEST = 5040  # elements, those of S7: the table takes 200 MB


@dataclass(frozen=True, eq=False)
class FiniteGroup:
    """Elements 0 to N − 1 and their products.

    Associativity is proved, not sampled: F. W. Light's test, by which the elements a with (x a) y = x (a y) for all x
    and y are closed under products, so that generators alone need be tried.

    >>> FiniteGroup(torch.tensor([[0, 1], [1, 0]]), names=("even", "odd")).product([1, 1, 1])
    1

    Attributes:
        mul: Table, `mul[g, h]` = g h.
        names: What to call the elements; their numbers when left out.
        label: What to call the group.
        factors: Orders of the cyclic groups whose direct product this is, elements numbered with the last factor
            fastest. Then Fourier transforms are fast ones. Checked against the table.

    Raises:
        InputError: If the table is not that of a group: the first axiom that fails, and for which elements.
    """

    mul: Tensor
    names: tuple[str, ...] | None = None
    label: str = "a group"
    factors: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        table = self.mul
        if not isinstance(table, Tensor) or table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) == 0:
            shape = tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__
            raise InputError(f"A multiplication table is a square tensor of integers, not {shape}; give one row each.")
        if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
            raise InputError(f"The multiplication table holds {table.dtype}; give the numbers of elements as integers.")
        count = len(table)
        if count > LARGEST:
            raise InputError(f"{count} elements are too many for a table; give a group of at most {LARGEST}.")
        object.__setattr__(self, "mul", table.to("cpu", torch.int64).clone())
        if self.names is not None and (len(self.names) != count or len(set(self.names)) != count):
            raise InputError(f"names={self.names} must be {count} different names, one for each element.")
        self._check_entries()
        self._check_cancellation()
        self._check_identity()
        object.__setattr__(self, "_generators", self._check_associativity())
        self._check_factors()

    @property
    def order(self) -> int:
        """Number N of elements."""
        return len(self.mul)

    @cached_property
    def identity(self) -> int:
        """The element e."""
        numbers = torch.arange(self.order)
        return int((self.mul == numbers).all(1).nonzero()[0])

    @cached_property
    def inverse(self) -> Int64[Tensor, " elements"]:
        """Number of the inverse of every element."""
        return (self.mul == self.identity).int().argmax(1)

    @cached_property
    def abelian(self) -> bool:
        """Whether all elements commute."""
        return bool(torch.equal(self.mul, self.mul.T))

    @property
    def generators(self) -> tuple[int, ...]:
        """A few elements, at most log₂ N, of which all others are products."""
        return self._generators  # type: ignore[attr-defined, no-any-return]

    def name(self, element: int) -> str:
        """What an element is called."""
        return str(element) if self.names is None else self.names[element]

    def product(self, elements: Sequence[int]) -> int:
        """g₁ g₂ … g_k in this order; e of none."""
        total = self.identity
        for element in elements:
            total = int(self.mul[total, element])
        return total

    def _check_entries(self) -> None:
        count = len(self.mul)
        wrong = ((self.mul < 0) | (self.mul >= count)).nonzero()
        if len(wrong):
            g, h = wrong[0].tolist()
            raise InputError(
                f"Not closed: the product of {self.name(g)} and {self.name(h)} is {int(self.mul[g, h])}, which is not "
                f"one of the elements 0 to {count - 1}; correct the table."
            )

    def _check_cancellation(self) -> None:
        numbers = torch.arange(len(self.mul))
        for side, table in (("row", self.mul), ("column", self.mul.T)):
            bad = (table.sort(1).values != numbers).any(1).nonzero()
            if len(bad):
                g = int(bad[0])
                value = int((torch.bincount(table[g], minlength=len(table)) > 1).int().argmax())
                a, b = (table[g] == value).nonzero().flatten()[:2].tolist()
                one, other = ((g, a), (g, b)) if side == "row" else ((a, g), (b, g))
                text = [f"{self.name(x)} * {self.name(y)}" for x, y in (one, other)]
                raise InputError(
                    f"No inverse: {text[0]} and {text[1]} are both {self.name(value)}, so {self.name(g)} cannot be "
                    "undone; correct the table, whose rows and columns must have every element once."
                )

    def _check_identity(self) -> None:
        numbers = torch.arange(len(self.mul))
        if ((self.mul == numbers).all(1) & (self.mul.T == numbers).all(1)).any():
            return
        best = int(((self.mul == numbers).sum(1) + (self.mul.T == numbers).sum(1)).argmax())
        left = (self.mul[best] != numbers).nonzero().flatten().tolist()
        h = left[0] if left else int((self.mul[:, best] != numbers).nonzero()[0])
        x, y = (best, h) if left else (h, best)
        raise InputError(
            f"No identity: of all elements {self.name(best)} comes nearest, but {self.name(x)} * {self.name(y)} is "
            f"{self.name(int(self.mul[x, y]))}; correct the table."
        )

    def _check_associativity(self) -> tuple[int, ...]:
        table, generators = self.mul, []
        known = torch.zeros(len(table), dtype=torch.bool)
        known[self.identity] = True
        while not known.all():
            a = int((~known).int().argmax())
            wrong = (table[table[:, a]] != table[:, table[a]]).nonzero()  # (x a) y against x (a y)
            if len(wrong):
                x, y = wrong[0].tolist()
                names = [self.name(g) for g in (x, a, y)]
                left, right = int(table[table[x, a], y]), int(table[x, table[a, y]])
                raise InputError(
                    f"Not associative: ({names[0]} * {names[1]}) * {names[2]} is {self.name(left)}, but {names[0]} * "
                    f"({names[1]} * {names[2]}) is {self.name(right)}; correct the table."
                )
            generators.append(a)
            frontier = known.nonzero().flatten()
            while len(frontier):
                reached = torch.zeros_like(known)
                reached[table[frontier][:, generators].flatten()] = True
                frontier = (reached & ~known).nonzero().flatten()
                known |= reached
        return tuple(generators)

    def _check_factors(self) -> None:
        if self.factors is None:
            return
        wrong = min(self.factors, default=1) < 1 or torch.tensor(self.factors).prod() != self.order
        if wrong or not torch.equal(self.mul, cyclic_table(self.factors)):
            raise InputError(
                f"factors={self.factors} do not give this table; leave them out, or number the elements of the "
                "product of cyclic groups with the last factor fastest."
            )


def cyclic_table(factors: tuple[int, ...]) -> Int64[Tensor, "n n"]:
    """Table of the product of cyclic groups of these orders, the last factor fastest."""
    table = torch.zeros(1, 1, dtype=torch.int64)
    for n in factors:
        sums = (torch.arange(n)[:, None] + torch.arange(n)) % n
        table = (table[:, None, :, None] * n + sums[None, :, None, :]).flatten(0, 1).flatten(1, 2)
    return table
