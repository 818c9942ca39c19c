"""Groups from generators: permutations, complex matrices, matrices of integers modulo m."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int64, Num
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.group import LARGEST, FiniteGroup

SAME = 1e-6  # complex matrices that differ by less in every entry are one element

HUGE = 1e8  # entries of no finite group that is worth a table, in any basis


def from_permutations(generators: Sequence[Sequence[int]], label: str = "permutations") -> FiniteGroup:
    """The group that permutations generate; g h does h first: (g h)(i) = g(h(i)).

    Elements are numbered by the length of the shortest word in the generators; names are the images, as in "120".

    >>> from_permutations([[1, 0, 2], [1, 2, 0]]).order
    6

    Args:
        generators: Images of 0 to n − 1, one list each; at least one.
        label: What to call the group.

    Raises:
        InputError: If a generator is no permutation, they differ in length, or more than 5040 elements come out.
    """
    if not generators:
        raise InputError("A group needs generators; give at least one permutation.")
    degree = len(generators[0])
    for number, images in enumerate(generators):
        if sorted(images) != list(range(len(generators[0]))) or degree == 0:
            raise InputError(
                f"Generator {number}, {list(images)}, is no permutation of 0 to {degree - 1}; give every number once."
            )
    points = [np.array(images, dtype=np.int64) for images in generators]
    found: dict[bytes, int] = {}

    def number_of(element: np.ndarray) -> int:
        return found.setdefault(element.tobytes(), len(found))

    elements, right, parents = _closure(np.arange(degree), points, lambda g, s: g[s], number_of)
    between = "" if degree <= 10 else ","
    names = tuple(between.join(map(str, images.tolist())) for images in elements)
    return FiniteGroup(_table(right, parents), names, label)


def from_matrices(
    generators: Num[Tensor, "generators n n"], modulus: int | None = None, label: str = "matrices"
) -> FiniteGroup:
    """The group that invertible matrices generate.

    Args:
        generators: Matrices, real, complex or, with a modulus, integers.
        modulus: Count modulo this number, prime or not; over ℂ when left out, where matrices that differ by less than
            1e-6 in every entry are one element.
        label: What to call the group.

    Raises:
        InputError: If a matrix or the group is not finite, a matrix has no inverse, the modulus is below 2, the entries
            are no integers, or more than 5040 elements come out.
    """
    if len(generators) == 0 or generators.shape[1] == 0:
        raise InputError("A group needs generators; give at least one matrix of size 1 or more.")
    if modulus is None:
        if not bool(torch.isfinite(generators).all()):
            raise InputError("A generator has an entry that is not finite; give finite matrices.")
        kept = np.empty((LARGEST + 1, *generators.shape[1:]), dtype=complex)
        count = 0

        def nearest(element: np.ndarray) -> int:
            nonlocal count
            if not np.abs(element).max() < HUGE:
                raise InputError(
                    f"Products of the generators grow beyond {HUGE:g}, so the group is not finite; give matrices of "
                    "finite order."
                )
            near = (np.abs(kept[:count] - element) < SAME).all((1, 2)) if count else np.zeros(0, bool)
            if near.any():
                return int(near.argmax())
            kept[count] = element
            count += 1
            return count - 1

        matrices = list(generators.to(torch.complex128).numpy())
        eye = np.eye(generators.shape[1], dtype=complex)
        _, right, parents = _closure(eye, matrices, lambda g, s: g @ s, nearest)
        return FiniteGroup(_table(right, parents), label=label)
    if not 2 <= modulus < 2**20:
        raise InputError(f"modulus={modulus} must lie between 2 and {2**20 - 1}.")
    if generators.is_floating_point() or generators.is_complex():
        raise InputError(f"Matrices modulo {modulus} hold integers, not {generators.dtype}; give an integer tensor.")
    found: dict[bytes, int] = {}

    def number_of(element: np.ndarray) -> int:
        return found.setdefault(element.tobytes(), len(found))

    integers = list(generators.to(torch.int64).numpy() % modulus)
    eye = np.eye(generators.shape[1], dtype=np.int64)
    elements, right, parents = _closure(eye, integers, lambda g, s: g @ s % modulus, number_of)
    names = tuple(str(element.tolist()).replace(" ", "") for element in elements)
    return FiniteGroup(_table(right, parents), names, label)


def _closure(
    identity: np.ndarray,
    generators: list[np.ndarray],
    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray],
    number_of: Callable[[np.ndarray], int],
) -> tuple[list[np.ndarray], Int64[Tensor, "generators elements"], list[tuple[int, int]]]:
    """All products by breadth-first search: elements, g ↦ g s for every generator s, and h = parent · generator."""
    elements, parents, right = [identity], [(0, 0)], []
    number_of(identity)
    position = 0
    while position < len(elements):
        row = []
        for s, generator in enumerate(generators):
            made = multiply(elements[position], generator)
            number = number_of(made)
            if number == len(elements):
                if number == LARGEST:
                    raise InputError(
                        f"The generators make more than {LARGEST} elements; give those of a smaller group."
                    )
                elements.append(made)
                parents.append((position, s))
            row.append(number)
        right.append(row)
        position += 1
    moves = torch.tensor(right).T.contiguous()
    for s, images in enumerate(moves):
        if len(images.unique()) < len(elements):  # a singular matrix never comes back to the identity
            raise InputError(f"Generator {s} has no inverse; give invertible matrices.")
    return elements, moves, parents


def _table(
    right: Int64[Tensor, "generators elements"], parents: list[tuple[int, int]]
) -> Int64[Tensor, "elements elements"]:
    """G h = (g parent(h)) s: column after column, without a product of permutations or matrices."""
    count = right.shape[1]
    columns = torch.empty(count, count, dtype=torch.int64)
    columns[0] = torch.arange(count)
    for h in range(1, count):
        parent, s = parents[h]
        columns[h] = right[s][columns[parent]]
    return columns.T.contiguous()
