"""Groups that have a name, and their products; `named` reads one from text."""

import ast
import inspect
import re
from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from learndyn.errors import InputError, unknown
from learndyn.groups.generated import from_matrices, from_permutations
from learndyn.groups.group import LARGEST, FiniteGroup, cyclic_table


def cyclic(n: int) -> FiniteGroup:
    """Integers modulo n under addition.

    >>> cyclic(5).product([3, 4])
    2
    """
    _within("cyclic", n=n, least=1, most=LARGEST)
    return FiniteGroup(cyclic_table((n,)), label=f"cyclic({n})", factors=(n,))


def direct_product(*groups: FiniteGroup) -> FiniteGroup:
    """Tuples of elements, multiplied place by place; the last place is the fastest in the numbering.

    Raises:
        InputError: If no group is given, or the product has more than 5040 elements.
    """
    if not groups:
        raise InputError("A direct product needs groups; give at least one.")
    total = 1
    for group in groups:
        total *= group.order
    if total > LARGEST:
        raise InputError(f"The direct product has {total} elements; give groups whose orders multiply to {LARGEST}.")
    table, names = torch.zeros(1, 1, dtype=torch.int64), [""]
    for group in groups:
        n = group.order
        table = (table[:, None, :, None] * n + group.mul[None, :, None, :]).flatten(0, 1).flatten(1, 2)
        names = [f"{name}{',' if name else ''}{group.name(g)}" for name in names for g in range(n)]
    named = any(group.names for group in groups)
    factors: tuple[int, ...] | None = ()
    for group in groups:
        factors = None if factors is None or group.factors is None else factors + group.factors
    label = " x ".join(group.label for group in groups)
    return FiniteGroup(table, tuple(f"({name})" for name in names) if named else None, label, factors)


def semidirect_product(
    normal: FiniteGroup, acting: FiniteGroup, action: Int64[Tensor, "acting normal"], label: str = ""
) -> FiniteGroup:
    """Pairs (n, a) with (n, a)(m, b) = (n · a(m), a b); a pair has the number n·|acting| + a.

    Args:
        normal: The group that is acted on.
        acting: The group that acts.
        action: `action[a, n]`, the image of n under a; every a an automorphism, and a b first b, then a.
        label: What to call the product.

    Raises:
        InputError: If a row is no automorphism, the rows are no homomorphism, or the product is too large.
    """
    if action.shape != (acting.order, normal.order):
        raise InputError(
            f"action of shape {tuple(action.shape)} must have a row for each of {acting.order} acting elements and a "
            f"column for each of the {normal.order} acted on."
        )
    if acting.order * normal.order > LARGEST:
        raise InputError(f"The product has {acting.order * normal.order} elements; at most {LARGEST} have a table.")
    for a, images in enumerate(action):
        if not torch.equal(images.sort().values, torch.arange(normal.order)):
            raise InputError(f"Acting element {acting.name(a)} does not permute the other group; correct its row.")
        wrong = (images[normal.mul] != normal.mul[images][:, images]).nonzero()
        if len(wrong):
            left, right = (normal.name(i) for i in wrong[0].tolist())
            raise InputError(
                f"Acting element {acting.name(a)} is no automorphism: the image of {left} * {right} is not the product "
                "of their images; correct its row."
            )
    wrong = (action[acting.mul] != action[:, action]).nonzero()  # a(b(n)), (acting, acting, normal)
    if len(wrong):
        first, second, moved_one = wrong[0].tolist()
        raise InputError(
            f"The action is no homomorphism: {acting.name(first)} * {acting.name(second)} does not move "
            f"{normal.name(moved_one)} as "
            "first the second and then the first do; correct the rows."
        )
    moved = normal.mul[torch.arange(normal.order)[:, None, None], action[None]]  # n · a(m), (normal, acting, normal)
    table = moved[..., None] * acting.order + acting.mul[None, :, None, :]
    names = tuple(f"({normal.name(i)},{acting.name(j)})" for i in range(normal.order) for j in range(acting.order))
    table = table.reshape(len(names), len(names))
    return FiniteGroup(table, names, label or f"{normal.label} : {acting.label}")


def dihedral(n: int) -> FiniteGroup:
    """Rotations and reflections of a regular n-gon, of order 2n; r^k has number 2k, r^k s number 2k + 1.

    n = 1 gives the group of order 2, n = 2 the Klein four-group.
    """
    _within("dihedral", n=n, least=1, most=LARGEST // 2)
    turns = torch.arange(n)
    return _renamed(
        semidirect_product(cyclic(n), cyclic(2), torch.stack([turns, -turns % n])),
        tuple(f"r{k}{'s' * s}" for k in range(n) for s in range(2)),
        f"dihedral({n})",
    )


def symmetric(n: int) -> FiniteGroup:
    """All permutations of n things, n at most 7."""
    _within("symmetric", n=n, least=1, most=7)
    swap, turn = list(range(n)), [*range(1, n), 0]
    swap[: min(2, n)] = swap[: min(2, n)][::-1]
    return from_permutations([swap, turn], f"symmetric({n})")


def alternating(n: int) -> FiniteGroup:
    """Even permutations of n things, n at most 7: generated by the turns of (0, 1, i)."""
    _within("alternating", n=n, least=1, most=7)
    turns = [list(range(n))]
    for i in range(2, n):
        turn = list(range(n))
        turn[0], turn[1], turn[i] = 1, i, 0
        turns.append(turn)
    return from_permutations(turns, f"alternating({n})")


def dicyclic(n: int) -> FiniteGroup:
    """Order 4n: a of order 2n, b² = aⁿ, b a = a⁻¹ b; aᵏ has number 2k, aᵏ b number 2k + 1."""
    _within("dicyclic", n=n, least=1, most=LARGEST // 4)
    k = torch.arange(2 * n)
    sums, differences = (k[:, None] + k) % (2 * n), (k[:, None] - k) % (2 * n)
    table = torch.empty(2 * n, 2, 2 * n, 2, dtype=torch.int64)
    table[:, 0, :, 0], table[:, 0, :, 1] = 2 * sums, 2 * sums + 1
    table[:, 1, :, 0], table[:, 1, :, 1] = 2 * differences + 1, 2 * ((differences + n) % (2 * n))
    names = tuple(f"a{i}{'b' * j}" for i in range(2 * n) for j in range(2))
    return FiniteGroup(table.reshape(4 * n, 4 * n), names, f"dicyclic({n})")


def quaternion() -> FiniteGroup:
    """The eight quaternions ±1, ±i, ±j, ±k."""
    return _renamed(dicyclic(2), ("1", "j", "i", "k", "-1", "-j", "-i", "-k"), "quaternion()")


def special_linear(p: int) -> FiniteGroup:
    """SL(2, p): matrices of determinant 1 over the field of p elements, of order p (p² − 1); p at most 17."""
    _prime("special_linear", p)
    _within("special_linear", p=p, least=2, most=17)
    return from_matrices(torch.tensor([[[1, 1], [0, 1]], [[1, 0], [1, 1]]]), p, f"special_linear({p})")


def heisenberg(p: int) -> FiniteGroup:
    """Upper triangular 3 × 3 matrices with ones on the diagonal, modulo the prime p ≤ 17, of order p³."""
    _prime("heisenberg", p)
    _within("heisenberg", p=p, least=2, most=17)
    shears = torch.eye(3, dtype=torch.int64).repeat(2, 1, 1)
    shears[0, 0, 1] = shears[1, 1, 2] = 1
    return from_matrices(shears, p, f"heisenberg({p})")


def frobenius(p: int, q: int) -> FiniteGroup:
    """The non-abelian group of order p q, q dividing p − 1: integers modulo the prime p, turned by q units."""
    _prime("frobenius", p)
    if q < 2 or (p - 1) % q:
        raise InputError(f"frobenius({p}, {q}) needs q of at least 2 that divides p - 1 = {p - 1}.")
    _within("frobenius", p=p * q, least=1, most=LARGEST)
    r = next(r for r in range(1, p) if all(pow(r, j, p) != 1 for j in range(1, q)) and pow(r, q, p) == 1)
    points = torch.arange(p)
    action = torch.stack([points * pow(r, j, p) % p for j in range(q)])
    return semidirect_product(cyclic(p), cyclic(q), action, f"frobenius({p}, {q})")


def octahedral() -> FiniteGroup:
    """Rotations of the cube, of order 24, the same group as symmetric(4)."""
    turns = [[[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]]
    return from_matrices(torch.tensor(turns, dtype=torch.float64), label="octahedral()")


def icosahedral() -> FiniteGroup:
    """Rotations of the icosahedron, of order 60, the same group as alternating(5)."""
    phi = (1 + 5**0.5) / 2
    third = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    fifth = [[1 / phi / 2, -phi / 2, 0.5], [phi / 2, 0.5, 1 / phi / 2], [-0.5, 1 / phi / 2, phi / 2]]
    return from_matrices(torch.tensor([third, fifth], dtype=torch.float64), label="icosahedral()")


FAMILIES: dict[str, Callable[..., FiniteGroup]] = {
    family.__name__: family
    for family in (
        alternating,
        cyclic,
        dicyclic,
        dihedral,
        frobenius,
        heisenberg,
        icosahedral,
        octahedral,
        quaternion,
        special_linear,
        symmetric,
    )
}


def named(text: str) -> FiniteGroup:
    """A group, or a direct product of groups, by its text.

    >>> named("dihedral(3)").order, named("cyclic(5) x cyclic(5)").factors
    (6, (5, 5))

    Raises:
        InputError: If the text cannot be read, or the family is unknown or refuses its numbers.
    """
    groups = [_one(part) for part in re.split(r"\s+x\s+", text.strip())]
    return groups[0] if len(groups) == 1 else direct_product(*groups)


def read(text: str, kind: str, example: str) -> tuple[str, list[int | float]]:
    """A name and its numbers, as in "powers(0, 30)"; without parentheses, no numbers.

    Raises:
        InputError: If the text is not of that form.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, []
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.keywords
        values = [ast.literal_eval(argument) for argument in call.args]
        assert all(type(value) in (int, float) for value in values)
        return call.func.id, values
    except (SyntaxError, ValueError, AssertionError):
        raise InputError(f"Cannot read the {kind} {text!r}; write a name and numbers such as {example}.") from None


def _one(text: str) -> FiniteGroup:
    name, numbers = read(text, "group", "dihedral(3) or cyclic(5) x cyclic(5)")
    if name not in FAMILIES:
        raise unknown("group", name, FAMILIES)
    takes = list(inspect.signature(FAMILIES[name]).parameters)
    if len(numbers) != len(takes) or not all(isinstance(number, int) for number in numbers):
        raise InputError(f"The group {text.strip()!r} must be written {name}({', '.join(takes)}), with whole numbers.")
    return FAMILIES[name](*numbers)


def _renamed(group: FiniteGroup, names: tuple[str, ...], label: str) -> FiniteGroup:
    return FiniteGroup(group.mul, names, label)


def _within(family: str, *, least: int, most: int, **number: int) -> None:
    for name, value in number.items():
        if not least <= value <= most:
            raise InputError(f"{family} with {name}={value} is out of range; give a number from {least} to {most}.")


def _prime(family: str, p: int) -> None:
    if p < 2 or any(p % i == 0 for i in range(2, int(p**0.5) + 1)):
        raise InputError(f"{family} needs a prime; p={p} is none.")
