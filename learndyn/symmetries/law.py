"""A symmetry of a network, and the charges that it conserves under gradient flow (arXiv:2012.04728, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Term:
    """The part that a parameter takes in some charges.

    The parameter is seen as a matrix, dimension 0 against all others. Of its rows from `begin` to `end`, row (or
    column) `index[k]` takes part in charge `charge[k]` with `weight[k]`.

    Attributes:
        parameter: Its name.
        side: "rows", "columns", or "elements" (all of them as rows of one column).
        begin: First row.
        end: Row after the last one.
        index: `(K,)`.
        charge: `(K,)`.
        weight: `(K,)`, float64.
    """

    parameter: str
    side: str
    begin: int
    end: int
    index: Tensor
    charge: Tensor
    weight: Tensor

    def matrix(self, tensor: Tensor) -> Tensor:
        """The rows that are meant, of the parameter or of something of its shape; a view if that is contiguous."""
        if self.side == "elements":
            return tensor.reshape(-1, 1)
        return tensor.reshape(len(tensor) if tensor.ndim else 1, -1)[self.begin : self.end]

    def spread(self, values: Tensor) -> Tensor:
        """Σ over the charges of weight times their value, for every row or column of the matrix."""
        count = int(self.index.max()) + 1
        return values.new_zeros(count).index_add_(0, self.index, values[self.charge] * self.weight)


@dataclass(frozen=True, eq=False)
class SymmetryLaw:
    """A family of one-parameter symmetries, one for each of its charges.

    A scale or rescale symmetry multiplies every row that takes part in charge c by exp(α w): its generator is X = M θ
    with a diagonal M, its charge Σ w |row|². A translation adds α w to it: X = w, and the charge is Σ w θ.

    Attributes:
        kind: "scale" (all w positive: what feeds a norm), "rescale" (in and out of homogeneous units), "translation"
            (all outputs of a map together), or "dead" (a parameter that nothing depends on).
        size: The number C of charges.
        terms: What takes part.
    """

    kind: str
    size: int
    terms: tuple[Term, ...]

    @property
    def linear(self) -> bool:
        """Whether the charge is a sum of parameters and not of their squares."""
        return self.kind in ("translation", "dead")

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters that take part."""
        return list(dict.fromkeys(term.parameter for term in self.terms))

    @property
    def label(self) -> str:
        """What kind of law it is."""
        return self.kind

    @property
    def place(self) -> str:
        """What grows, against what shrinks."""
        signs = (dict.fromkeys(t.parameter for t in self.terms if bool((s * t.weight > 0).any())) for s in (1, -1))
        return " against ".join(", ".join(named) for named in signs if named)

    def __str__(self) -> str:
        return f"{self.label} at {self.place}"

    def _gather(self, values: Callable[[Term], Tensor]) -> Tensor:
        total: Tensor | None = None
        for term in self.terms:
            sums = values(term).sum(0 if term.side == "columns" else 1, dtype=torch.float64)
            total = sums.new_zeros(self.size) if total is None else total
            total.index_add_(0, term.charge.to(sums.device), sums[term.index] * term.weight.to(sums.device))
        assert total is not None
        return total

    def form(self, u: Tensors, v: Tensors) -> Float[Tensor, " charges"]:
        """The bilinear form Σ w ⟨u, v⟩ of tensors like the parameters; float64. Not for linear laws."""
        return self._gather(lambda t: t.matrix(u[t.parameter]) * t.matrix(v[t.parameter]))

    def total(self, u: Tensors) -> Float[Tensor, " charges"]:
        """The sum Σ w u, for a linear law its charge if u are the parameters; float64."""
        return self._gather(lambda t: t.matrix(u[t.parameter]))

    def charge(self, parameters: Tensors) -> Float[Tensor, " charges"]:
        """The charges, float64."""
        return self.total(parameters) if self.linear else self.form(parameters, parameters)

    def current(self, parameters: Tensors, gradients: Tensors) -> Float[Tensor, " charges"]:
        """⟨g, X(θ)⟩, which vanishes for every parameter and batch where the law holds."""
        return self.total(gradients) if self.linear else self.form(parameters, gradients)

    def violation(self, parameters: Tensors, gradients: Tensors, noise: float = 0.0) -> Float[Tensor, " charges"]:
        """|⟨g, X⟩| / Σ |g ⊙ X|; 0 where that sum is not above the noise: no gradient comes back at all."""
        products = {n: gradients[n] if self.linear else parameters[n] * gradients[n] for n in self.parameters}
        current = self.total(products).abs()
        size = self.absolute().total({name: product.abs() for name, product in products.items()})
        return torch.where(size > noise, current / size.clamp_min(1e-300), 0.0)

    def absolute(self) -> SymmetryLaw:
        """With the absolute values of all weights."""
        return replace(self, terms=tuple(replace(t, weight=t.weight.abs()) for t in self.terms))

    def generator(self, parameters: Tensors, values: Float[Tensor, " charges"]) -> dict[str, Tensor]:
        """Σ_c values_c X_c(θ), for the parameters that take part; the direction of a symmetry."""
        parameters = {name: parameters[name].detach() for name in self.parameters}
        found = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for term in self.terms:
            here = term.matrix(found[term.parameter])
            part = term.spread(values.double()).to(here)
            part = part if term.side == "columns" else part[:, None]
            rows = slice(None, None if term.side == "columns" else len(part))
            columns = slice(None, part.shape[-1] if term.side == "columns" else None)
            here[rows, columns] += (
                part if self.linear else part * term.matrix(parameters[term.parameter])[rows, columns]
            )
        return found

    def apply(self, parameters: Tensors, values: Float[Tensor, " charges"]) -> dict[str, Tensor]:
        """The parameters that take part, transformed: rows times exp(w α_c), or plus w α_c."""
        made = {name: parameters[name].clone() for name in self.parameters}
        for term in self.terms:
            here = term.matrix(made[term.parameter])
            part = term.spread(values.double())
            part = (part if self.linear else part.exp()).to(here)
            target = here[:, : len(part)] if term.side == "columns" else here[: len(part)]
            part = part if term.side == "columns" else part[:, None]
            if self.linear:
                target += part
            else:
                target *= part
        return made
