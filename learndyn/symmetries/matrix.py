"""Symmetries by whole matrices: two linear maps with nothing between them (arXiv:2012.04728; transformers: V and O)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Side:
    """Rows or columns of a parameter that a matrix acts on: `index` `(B, d, m)` of the rows from `begin` to `end`.

    `weight` is 1 where M acts, −1 where −Mᵀ does.
    """

    parameter: str
    side: str
    begin: int
    end: int
    index: Tensor
    weight: float

    def slices(self, tensor: Tensor) -> Tensor:
        """`(B, d, features)` in float64."""
        matrix = tensor.reshape(len(tensor), -1)[self.begin : self.end]
        matrix = matrix if self.side == "rows" else matrix.T
        return matrix[self.index].flatten(2).double()

    def put(self, tensor: Tensor, slices: Tensor) -> None:
        """Write slices back, in place."""
        matrix = tensor.view(len(tensor), -1)[self.begin : self.end]
        matrix = matrix if self.side == "rows" else matrix.T
        matrix[self.index] = slices.view(*self.index.shape, -1).to(tensor)


@dataclass(frozen=True, eq=False)
class MatrixLaw:
    """A symmetry under GL(d), for each of B blocks: X → exp(M) X at some places, X → exp(−Mᵀ) X at others.

    The charge is the symmetric matrix Σ ± X Xᵀ: d (d + 1) / 2 numbers a block. The antisymmetric part of M is a
    rotation: it has no charge, and only demands `rotation(...)` = 0.
    """

    sides: tuple[Side, ...]
    kind: str = "matrix"

    linear = False

    @property
    def label(self) -> str:
        """The group, and of how many blocks."""
        blocks, d = self.shape
        return f"GL({d})" if blocks == 1 else f"GL({d}) x {blocks}"

    @property
    def place(self) -> str:
        """What M acts on, against what −Mᵀ does."""
        signs = (dict.fromkeys(s.parameter for s in self.sides if s.weight == weight) for weight in (1.0, -1.0))
        return " against ".join(", ".join(named) for named in signs if named)

    def __str__(self) -> str:
        return f"{self.label} at {self.place}"

    @property
    def shape(self) -> tuple[int, int]:
        """(B, d)."""
        return tuple(self.sides[0].index.shape[:2])  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Charges, in all."""
        blocks, d = self.shape
        return blocks * d * (d + 1) // 2

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters that take part."""
        return list(dict.fromkeys(side.parameter for side in self.sides))

    def _matrix(self, u: Tensors, v: Tensors) -> Tensor:
        """Σ₊ V Uᵀ − Σ₋ U Vᵀ, `(B, d, d)`."""
        total = torch.zeros((*self.shape, self.shape[1]), dtype=torch.float64)
        for side in self.sides:
            x, y = side.slices(u[side.parameter]), side.slices(v[side.parameter])
            total = total + (y @ x.mT if side.weight > 0 else -(x @ y.mT)).to(total)
        return total

    def _triangle(self, matrices: Tensor) -> Tensor:
        i, j = torch.triu_indices(self.shape[1], self.shape[1])
        return ((matrices + matrices.mT) / 2)[:, i, j].flatten()

    def form(self, u: Tensors, v: Tensors) -> Tensor:
        """The symmetric part of Σ ± U Vᵀ, its upper triangles."""
        return self._triangle(self._matrix(u, v))

    def charge(self, parameters: Tensors) -> Tensor:
        """Σ ± X Xᵀ, the upper triangles of all blocks, `(C,)`."""
        return self.form(parameters, parameters)

    def matrices(self, parameters: Tensors) -> Tensor:
        """The charges as whole matrices, `(B, d, d)`."""
        return self._matrix(parameters, parameters)

    def current(self, parameters: Tensors, gradients: Tensors) -> Tensor:
        """What a gradient does to the charges, which vanishes where the law holds, `(C,)`."""
        return self.form(parameters, gradients)

    def rotation(self, parameters: Tensors, gradients: Tensors) -> Tensor:
        """The antisymmetric part, `(B, d, d)`: vanishes as well, and is a constraint without a charge."""
        found = self._matrix(parameters, gradients)
        return (found - found.mT) / 2

    def violation(self, parameters: Tensors, gradients: Tensors, noise: float = 0.0) -> Tensor:
        """|current| over the sum of its absolute terms; 0 where that is not above the noise."""
        found = self._matrix(parameters, gradients).abs()
        size = torch.zeros_like(found)
        for side in self.sides:
            x, y = side.slices(parameters[side.parameter]).abs(), side.slices(gradients[side.parameter]).abs()
            size += y @ x.mT if side.weight > 0 else x @ y.mT
        return self._triangle(torch.where(size > noise, found / size.clamp_min(1e-300), 0.0))

    def apply(self, parameters: Tensors, generator: Tensor) -> dict[str, Tensor]:
        """The parameters that take part, transformed by exp of M `(B, d, d)`."""
        made = {name: parameters[name].clone() for name in self.parameters}
        for side in self.sides:
            change = torch.linalg.matrix_exp(generator if side.weight > 0 else -generator.mT)
            side.put(made[side.parameter], change @ side.slices(made[side.parameter]))
        return made
