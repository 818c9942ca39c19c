"""Irreducible real representations of any finite group, from one eigendecomposition (derived here).

M[h, k] = c(h⁻¹ k) with random c(g) = c(g⁻¹) is symmetric and commutes with (λ(g) x)[h] = x[g⁻¹ h]. With probability 1
each of its eigenspaces is irreducible, and with a basis B of it ρ(g) = Bᵀ λ(g) B, entry by entry Σ_h B[g h, a] B[h, b].
Real irreps have three types (F. G. Frobenius and I. Schur), told apart by ⟨χ, χ⟩ = (1/N) Σ χ(g)² and by the mean of
χ(g²): real (1, 1), complex (2, 0), quaternionic (4, −2).
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex128, Float64, Int64
from torch import Tensor

from learndyn.groups.group import FiniteGroup
from learndyn.noise import generator

GAP = 1e-9  # between eigenvalues of one eigenspace, relative to the largest; measured: 1e-14
DRAWS = 5  # of c, should eigenvalues of two irreps come to lie together
CHUNK = 2**22  # numbers of the largest intermediate
EXACT = 1e-10  # what every identity of a representation must hold to

KINDS = {1: "real", 2: "complex", 4: "quaternionic"}
INDICATORS = {"real": 1, "complex": 0, "quaternionic": -2}


@dataclass(frozen=True, eq=False)
class Irrep:
    """One irreducible representation by real orthogonal matrices.

    Attributes:
        name: "trivial", or the dimension and a letter in the order of the list, as "2a".
        kind: "real", "complex" or "quaternionic": what commutes with all matrices.
        matrices: ρ(g), `(N, d, d)`.
        character: χ(g) = tr ρ(g), `(N,)`.
        frequency: One number for each factor if the group is a product of cyclic ones by its numbering.
    """

    name: str
    kind: str
    matrices: Tensor
    character: Tensor
    frequency: tuple[int, ...] | None = None

    @property
    def dimension(self) -> int:
        """d, the size of the real matrices."""
        return self.matrices.shape[-1]

    @property
    def norm(self) -> int:
        """⟨χ, χ⟩: 1, 2 or 4."""
        return {kind: norm for norm, kind in KINDS.items()}[self.kind]

    @property
    def complex_dimension(self) -> int:
        """n, the size of the complex matrices: d for the real type, d/2 for the others."""
        return self.dimension if self.kind == "real" else self.dimension // 2


@lru_cache(maxsize=8)
def irreps(group: FiniteGroup) -> tuple[Irrep, ...]:
    """All real irreps: trivial first, then by dimension, then by character (larger values first).

    Characters do not depend on how they were found; the basis of the matrices is arbitrary, but the same every time.
    Measured on one thread: 0.01 s for order 60, 0.02 s for 120, 0.5 s for symmetric(6) (see docs/rooms/groups.md).

    >>> from learndyn.groups import dihedral
    >>> [(irrep.name, irrep.kind) for irrep in irreps(dihedral(3))]
    [('trivial', 'real'), ('1a', 'real'), ('2a', 'real')]
    """
    if group.factors is not None:
        return _sorted(_waves(group.factors))
    return eigen_irreps(group)


def eigen_irreps(group: FiniteGroup) -> tuple[Irrep, ...]:
    """The irreps by the eigendecomposition, for products of cyclic groups too, where `irreps` writes them down.

    Raises:
        ArithmeticError: If five random elements of the algebra did not give representations that pass `defect`.
    """
    worst = math.inf
    for draw in range(DRAWS):
        found = _attempt(group, draw)
        if sum(irrep.dimension**2 // irrep.norm for irrep in found) == group.order:
            worst = defect(group, found)
            if worst < EXACT:
                return _sorted(found)
    raise ArithmeticError(f"No complete set of irreps of {group.label} within {EXACT:g}; best error {worst:.1e}.")


def defect(group: FiniteGroup, representations: tuple[Irrep, ...] | list[Irrep]) -> float:
    """Largest error of what irreps must obey.

    ρ(g s) = ρ(g) ρ(s) for all g and for generators s (hence for all pairs), orthogonal matrices, ⟨χ, χ⟩ and the mean
    of χ(g²) of the kind, and orthogonality of the characters to each other.
    """
    errors = [0.0]
    squares = group.mul.diagonal()
    for irrep in representations:
        rho = irrep.matrices
        for s in group.generators:
            errors.append(float((rho[group.mul[:, s]] - rho @ rho[s]).abs().max()))
        errors.append(float((rho @ rho.mT - torch.eye(irrep.dimension, dtype=rho.dtype)).abs().max()))
        errors.append(abs(float(irrep.character[squares].mean()) - INDICATORS[irrep.kind]))
    table = torch.stack([irrep.character for irrep in representations])
    norms = torch.tensor([float(irrep.norm) for irrep in representations], dtype=table.dtype)
    errors.append(float((table @ table.T / group.order - torch.diag(norms)).abs().max()))
    return max(errors)


def complex_matrices(irrep: Irrep) -> Complex128[Tensor, "elements n n"]:
    """A complex irrep of size n that the real one is made of; the real one itself for the real type.

    A random antisymmetric matrix, averaged over the group, commutes with all ρ(g), and its square is −c² (for the
    complex and the quaternionic type alike); the eigenvectors of +ic span the complex irrep.
    """
    rho = irrep.matrices
    if irrep.kind == "real":
        return rho.to(torch.complex128)
    if irrep.frequency is not None:
        return torch.complex(rho[:, 0, 0], rho[:, 1, 0])[:, None, None]  # of frequency ξ itself, not −ξ
    a = torch.from_numpy(generator(0, "commutant", irrep.dimension).standard_normal((irrep.dimension,) * 2))
    averaged = (rho @ (a - a.T) @ rho.mT).mean(0)
    _, vectors = torch.linalg.eigh(1j * averaged.to(torch.complex128))
    basis = vectors[:, : irrep.complex_dimension]
    return basis.mH @ rho.to(torch.complex128) @ basis


def _attempt(group: FiniteGroup, draw: int) -> list[Irrep]:
    """One irrep of each class among the eigenspaces of one random element of the algebra."""
    random = torch.from_numpy(generator(0, "irreps", group.order, draw).standard_normal(group.order))
    c = random + random[group.inverse]
    quotients = group.mul[group.inverse]  # h⁻¹ k
    values, vectors = torch.linalg.eigh(c[quotients])
    cuts = ((values.diff() > GAP * values.abs().max()).nonzero().flatten() + 1).tolist()
    found: list[Irrep] = []
    explained = torch.zeros_like(vectors)  # projector on what was found, Σ (d / N⟨χ, χ⟩) χ(h⁻¹ k)
    for begin, end in itertools.pairwise([0, *cuts, group.order]):
        basis = vectors[:, begin:end]
        if float(explained @ basis[:, 0] @ basis[:, 0]) > 0.5:
            continue
        rho = _represent(group, quotients, basis)
        character = rho.diagonal(dim1=1, dim2=2).sum(1)
        norm = float(character.square().mean())
        indicator = float(character[group.mul.diagonal()].mean())
        kind = KINDS.get(round(norm))
        if kind is None or abs(norm - round(norm)) > 1e-6 or abs(indicator - INDICATORS[kind]) > 1e-6:
            return []  # two irreps with one eigenvalue: draw again
        explained += ((end - begin) / group.order / round(norm) * character).take(quotients)
        found.append(Irrep("", kind, rho, character))
    return found


def _represent(
    group: FiniteGroup, quotients: Int64[Tensor, "elements elements"], basis: Float64[Tensor, "elements d"]
) -> Float64[Tensor, "elements d d"]:
    """ρ on an eigenspace whose basis has errors of rounding divided by the gap to its neighbours.

    The projector B Bᵀ, averaged over the group, commutes with it exactly, and an admixture of other irreps leaves it;
    its range, from a fixed start, is a basis that is as exact as the arithmetic.
    """
    count, d = basis.shape
    start = torch.from_numpy(generator(0, "basis", d).standard_normal((count, d)))
    kernel = (basis @ basis.T).gather(1, group.mul).mean(0)  # over h, of P[h, h s]
    averaged = kernel.take(quotients)
    for _ in range(3):
        start = torch.linalg.qr(averaged @ start).Q
    rho = []
    for rows in group.mul.split(max(1, CHUNK // (count * d))):
        moved = torch.stack([column.take(rows) for column in start.T])  # (d, g, h): entry g h
        rho.append((moved @ start).movedim(0, 1))
    return torch.cat(rho)


def _waves(factors: tuple[int, ...]) -> list[Irrep]:
    """Rotations by 2π Σ ξ_i g_i / n_i, one for each pair of frequencies ±ξ; signs where ξ = −ξ."""
    grid = torch.cartesian_prod(*(torch.arange(n) for n in factors)).reshape(-1, max(len(factors), 1))
    if not factors:
        grid = torch.zeros(1, 0, dtype=torch.int64)
    found = []
    for frequency in grid.tolist():
        opposite = [-x % n for x, n in zip(frequency, factors)]
        if frequency > opposite:
            continue
        angle = _angle(grid, frequency, factors)
        cos, sin = angle.cos(), angle.sin()
        if frequency == opposite:
            rho = cos.round()[:, None, None]
            found.append(Irrep("", "real", rho, rho[:, 0, 0], tuple(frequency)))
        else:
            rho = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
            found.append(Irrep("", "complex", rho, 2 * cos, tuple(frequency)))
    return found


def _angle(
    grid: Int64[Tensor, "elements factors"], frequency: list[int], factors: tuple[int, ...]
) -> Float64[Tensor, " elements"]:
    angle = torch.zeros(len(grid), dtype=torch.float64)
    for i, (x, n) in enumerate(zip(frequency, factors)):
        angle += (grid[:, i] * x % n).double() / n  # reduced as integers: exact turns
    return 2 * math.pi * (angle - angle.round())


def _sorted(found: list[Irrep]) -> tuple[Irrep, ...]:
    def rank(irrep: Irrep) -> tuple[object, ...]:
        values = (-(irrep.character * 1e6).round()).tolist()
        trivial = bool((irrep.character > 0.5).all()) and irrep.dimension == 1
        return (not trivial, irrep.dimension, values)

    result: list[Irrep] = []
    letters: dict[int, int] = {}
    for place, irrep in enumerate(sorted(found, key=rank)):
        name = "trivial" if place == 0 else f"{irrep.dimension}{_letters(letters.get(irrep.dimension, 0))}"
        letters[irrep.dimension] = letters.get(irrep.dimension, 0) + (place > 0)
        result.append(Irrep(name, irrep.kind, irrep.matrices, irrep.character, irrep.frequency))
    return tuple(result)


def _letters(number: int) -> str:
    """A to z, then aa, ab and so on."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(97 + rest) + text
    return text
