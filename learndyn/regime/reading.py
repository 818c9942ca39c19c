"""How the parameters of every hidden unit are shared between what leads in and what leads out (arXiv:2406.06158).

δ = η_in·out² − η_out·in² is conserved by gradient flow wherever a unit may be rescaled, and decides the regime together
with the size of the weights: δ > 0 is upstream (what leads in learns fast), δ < 0 downstream, δ = 0 balanced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from learndyn.errors import InputError, unknown
from learndyn.symmetries import MatrixLaw, Report, SymmetryLaw, Term, Units, find, units

Rates = Mapping[str, float] | Optimizer | None


@dataclass(frozen=True, eq=False)
class Imbalance:
    """A family of hidden units: neurons, channels, coordinates of a stream or of an attention head.

    Attributes:
        law: The rescale symmetry; where an activation that is not homogeneous stands between, what it would be.
        conserved: Whether gradient flow conserves delta.
        why: What stands between, if it does not.
        incoming: in², Σ θ² of what leads into each unit (norms: their weight and bias), `(units,)`.
        outgoing: out², Σ θ² of what leads out of it.
        delta: η_in·out² − η_out·in², `(units,)`.
        rho: delta over η_in·out² + η_out·in²: from −1, downstream, to 1, upstream; nan for a unit without parameters.
        factor: delta over the conserved Σ ± θ²/η; η_in·η_out.
        outward: Whether the second side leads out of the units; both lead in where queries stand against keys.
    """

    law: SymmetryLaw
    conserved: bool
    why: str
    incoming: Float[Tensor, " units"]
    outgoing: Float[Tensor, " units"]
    delta: Float[Tensor, " units"]
    rho: Float[Tensor, " units"]
    factor: float
    outward: bool

    @property
    def place(self) -> str:
        """What leads in, against what leads out."""
        return self.law.place

    @property
    def silent(self) -> list[int]:
        """Units in which nothing leads in, or nothing out: their delta has one sign for ever."""
        return torch.nonzero((self.incoming == 0) | (self.outgoing == 0)).flatten().tolist()


@dataclass(frozen=True, eq=False)
class PairImbalance:
    """Two maps without a nonlinearity between them: values and output, queries and keys of a head, linear layers.

    B = W₂ᵀW₂ − W₁W₁ᵀ is a conserved matrix; one that is λI makes the pair λ-balanced (arXiv:2409.14623). Of queries and
    keys, W₁ is what the law names first.

    Attributes:
        law: The symmetry under GL(d).
        lam: λ* = tr(B)/d, the nearest, of each block `(blocks,)`; divided by the learning rates as delta is.
        residual: |B − λ*I| / |B| (Frobenius): 0 for a balanced pair, near 1 for Gaussian weights.
        defect: |B − λ*I|₂.
    """

    law: MatrixLaw
    lam: Float[Tensor, " blocks"]
    residual: Float[Tensor, " blocks"]
    defect: Float[Tensor, " blocks"]

    @property
    def place(self) -> str:
        """W₁ against W₂."""
        return self.law.place


@dataclass(frozen=True, eq=False)
class Reading:
    """What `imbalance` has read.

    Attributes:
        units: Families of hidden units, in the order of the network.
        pairs: Pairs of linear maps.
        alone: Scale laws: weights in front of a normalisation, whose size has no partner and acts as a learning rate.
        uncovered: Parameters in none of them, and why if that is known.
        note: What the optimizer means for the conservation.
    """

    units: list[Imbalance]
    pairs: list[PairImbalance]
    alone: list[SymmetryLaw]
    uncovered: dict[str, str]
    note: str

    def plain(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        return {
            "units": [
                {"where": u.place, "units": u.law.size, "conserved": u.conserved, "why": u.why, "silent": u.silent}
                | {name: _summary(getattr(u, name)) for name in ("incoming", "outgoing", "delta", "rho")}
                for u in self.units
            ],
            "pairs": [
                {"where": p.place, "group": p.law.label}
                | {name: getattr(p, name).tolist() for name in ("lam", "residual", "defect")}
                for p in self.pairs
            ],
            "alone": [law.place for law in self.alone],
            "uncovered": self.uncovered,
            "note": self.note,
        }


def imbalance(model: nn.Module, *inputs: Any, rates: Rates = None, report: Report | None = None) -> Reading:
    """The imbalance of every hidden unit of a network, whatever it is made of (arXiv:2406.06158, arXiv:2409.14623).

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(family.place, family.delta.shape) for family in imbalance(net, torch.randn(4, 3)).units]
    [('0.weight, 0.bias against 2.weight', torch.Size([8]))]

    Args:
        model: Any network; it is left as it was.
        inputs: Its arguments, a few samples first (four or more where there is batch norm).
        rates: Learning rates by parameter, where they are not all the same; or the optimizer, whose groups have them.
        report: What `symmetries.find` has found for this network, if it is at hand.

    Raises:
        InputError: If the network does not take the inputs or has nothing to train, a weight is not finite, or a
            rate is not positive or names no parameter.
    """
    report = report or find(model, *inputs, softmax=None, certify=False)
    parameters = own(model)
    for name, p in parameters.items():
        if not bool(p.isfinite().all()):
            raise InputError(f"The parameter {name} is not finite; its units have no imbalance.")
    speeds = learning_rates(model, rates)
    rescale = [law for law in report.laws if isinstance(law, SymmetryLaw) and law.kind == "rescale"]
    families = units(model, *inputs)
    outward = {_where(t) for f in families for t in f.outgoing}
    taken = {_where(t) for law in rescale for t in law.terms if bool((t.weight < 0).any())}
    loose = [_as_law(f) for f in families if f.outgoing and not taken & {_where(t) for t in f.outgoing}]
    reasons: dict[str, str] = {}
    for r in report.rejected:
        reasons.setdefault(r.parameter, r.why)
    found = [_of_units(law, parameters, speeds, "", outward) for law in rescale]
    for law in loose:
        why = next((reasons[name] for name in law.parameters if name in reasons), "no symmetry was found")
        found.append(_of_units(law, parameters, speeds, why, outward))
    order = {name: i for i, name in enumerate(parameters)}
    found.sort(key=lambda u: order[u.law.terms[0].parameter])
    pairs = [_of_pair(law, parameters, speeds) for law in report.laws if isinstance(law, MatrixLaw)]
    alone = [law for law in report.laws if isinstance(law, SymmetryLaw) and law.kind == "scale"]
    covered = {n for u in found for n in u.law.parameters} | {n for law in alone for n in law.parameters}
    covered |= {n for p in pairs for n in p.law.parameters}
    uncovered = {n: reasons.get(n, "") for n, p in model.named_parameters() if p.requires_grad and n not in covered}
    return Reading(found, pairs, alone, uncovered, _note(rates))


def learning_rates(model: nn.Module, rates: Rates) -> dict[str, float]:
    """The learning rate of every trainable parameter: 1 where none is given; 0, frozen, where the optimizer lacks it.

    Raises:
        InputError: If a rate is not positive and finite, or names no trainable parameter.
    """
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    if isinstance(rates, Optimizer):
        given = {id(p): float(g["lr"]) for g in rates.param_groups for p in g["params"]}
        named = {n: given[id(p)] for n, p in model.named_parameters() if id(p) in given}
        if not named:
            raise InputError("The optimizer has none of the model's parameters; make it from model.parameters().")
        found = {n: named.get(n, 0.0) for n in names}
    else:
        named = dict(rates or {})
        if strange := sorted(set(named) - set(names)):
            raise unknown("trainable parameter", strange[0], names)
        found = {n: float(named.get(n, 1.0)) for n in names}
    for name, rate in named.items():
        if not 0 < rate < np.inf:
            raise InputError(f"The learning rate {rate:g} of {name} must be positive and finite.")
    return found


def own(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, detached, float64, on the CPU."""
    return {n: p.detach().cpu().double() for n, p in model.named_parameters() if p.requires_grad}


def factor(law: SymmetryLaw | MatrixLaw, speeds: Mapping[str, float]) -> float:
    """η_in·η_out: learning rates of what leads in and of what leads out; of several, the harmonic mean.

    Raises:
        InputError: If one of them is frozen.
    """
    found: dict[bool, list[float]] = {True: [], False: []}
    parts = law.terms if isinstance(law, SymmetryLaw) else law.sides
    for part in parts:
        if speeds[part.parameter] == 0:
            raise InputError(
                f"The optimizer does not train {part.parameter}, so the imbalance of {law.place} moves freely."
            )
        positive = bool(torch.as_tensor(part.weight).sum() > 0)
        found[positive] += [speeds[part.parameter]] * part.index.numel()
    return float(np.prod([len(rates) / sum(1 / rate for rate in rates) for rates in found.values() if rates]))


def side(law: SymmetryLaw, sign: int) -> SymmetryLaw:
    """Only what grows (1), or what shrinks (−1), with positive weights."""
    terms = tuple(t for t in law.terms if bool((sign * t.weight > 0).any()))
    return replace(law, terms=tuple(replace(t, weight=(sign * t.weight).clamp_min(0)) for t in terms))


def _of_units(
    law: SymmetryLaw, parameters: Mapping[str, Tensor], speeds: Mapping[str, float], why: str, outward: set[Any]
) -> Imbalance:
    into, out, size = side(law, 1), side(law, -1), factor(law, speeds)
    scaled = {n: parameters[n] / speeds[n] ** 0.5 for n in law.parameters}
    p, q = size * into.charge(scaled), size * out.charge(scaled)
    rho = torch.where(p + q > 0, (q - p) / (p + q).clamp_min(1e-300), torch.nan)
    leads_out = any(_where(t) in outward for t in out.terms)
    return Imbalance(law, not why, why, into.charge(parameters), out.charge(parameters), q - p, rho, size, leads_out)


def _of_pair(law: MatrixLaw, parameters: Mapping[str, Tensor], speeds: Mapping[str, float]) -> PairImbalance:
    size = factor(law, speeds)
    matrix = -size * law.matrices({n: parameters[n] / speeds[n] ** 0.5 for n in law.parameters})
    d = matrix.shape[-1]
    lam = matrix.diagonal(dim1=1, dim2=2).mean(1)
    off = matrix - lam[:, None, None] * torch.eye(d, dtype=matrix.dtype)
    norm = torch.linalg.matrix_norm(matrix).clamp_min(1e-300)
    return PairImbalance(law, lam, torch.linalg.matrix_norm(off) / norm, torch.linalg.matrix_norm(off, 2))


def _as_law(family: Units) -> SymmetryLaw:
    out = tuple(replace(t, weight=-t.weight.abs()) for t in family.outgoing)
    return SymmetryLaw("rescale", family.size, (*family.incoming, *family.own, *out))


def _where(term: Term) -> tuple[str, int, str]:
    return term.parameter, term.begin, term.side


def _note(rates: Rates) -> str:
    if not isinstance(rates, Optimizer):
        return "conserved by gradient flow; by gradient descent up to the square of its steps"
    name = type(rates).__name__
    if name != "SGD":
        return f"{name} conserves none of these (its steps are not along the gradient)"
    decays = sorted({float(g["weight_decay"]) for g in rates.param_groups})
    if any(decays):
        return f"SGD with weight decay: shrinks as exp(-2 lr decay steps), decay {', '.join(f'{d:g}' for d in decays)}"
    return "conserved by SGD up to the square of its steps"


def _summary(values: Tensor) -> dict[str, float]:
    known = values[values.isfinite()]
    if not len(known):
        return dict.fromkeys(("mean", "least", "median", "largest"), float("nan"))
    return {
        "mean": float(known.mean()),
        "least": float(known.min()),
        "median": float(known.quantile(0.5)),
        "largest": float(known.max()),
    }
