"""Set the imbalance of a network without a change of its function (derived here, from arXiv:2406.06158, 2409.14623).

Rescaling unit k by exp(u_k) keeps the function and turns its charge q_k = Σ w θ²/η, in minus out, into the gradient of
the convex function ½ Σ θ² exp(2 (A u)) / η. A profile of charges is met where that minus ⟨charges, u⟩ is least: one
point, found by Newton's method with conjugate gradients. One hidden layer takes one step of a closed form.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor, nn

from learndyn.errors import InputError, unknown
from learndyn.models.balanced import rebalance
from learndyn.noise import isolated, seed_forward
from learndyn.regime.reading import Imbalance, PairImbalance, Rates, Reading, factor, imbalance, learning_rates, own
from learndyn.symmetries import MatrixLaw, SymmetryLaw
from learndyn.symmetries.verify import double, floats

Target = float | Tensor | Mapping[str, float | Tensor]


@dataclass(frozen=True, eq=False)
class Changed:
    """A network with other weights.

    Attributes:
        model: A copy, in the precision of the original.
        function_change: max |f′ − f| / max |f| on the inputs, in training and in evaluation mode, computed in float64
            before the weights are rounded to their own precision.
        residual: The largest distance from what was asked for, relative to in² + out² of the unit (or to the norms of
            the pair).
        iterations: Newton steps, or sweeps over the pairs.
    """

    model: nn.Module
    function_change: float
    residual: float
    iterations: int


def set_units(model: nn.Module, delta: Target, *inputs: Any, rates: Rates = None, force: bool = False) -> Changed:
    """The same function with a given imbalance δ = η_in·out² − η_out·in² of every hidden unit.

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    >>> x = torch.randn(4, 3)
    >>> changed = set_units(net, 0.5, x)
    >>> changed.function_change < 1e-12, imbalance(changed.model, x).units[0].delta.mean().round(decimals=9).item()
    (True, 0.5)

    Args:
        model: Any network; it is left as it was.
        delta: One number for all units; or by the name of a parameter that leads into a family of units, a number or
            `(units,)`. Families that are not named keep the delta that they have.
        inputs: Its arguments, a few samples first.
        rates: As in `imbalance`.
        force: Set units whose activation is not homogeneous as well, which changes the function.

    Raises:
        InputError: If a family is unknown or has no symmetry (and `force` is off), a target is not finite or of another
            shape, a unit has nothing leading in or out, or no weights with this profile exist.
    """
    reading = imbalance(model, *inputs, rates=rates)
    families = [u for u in reading.units if u.conserved or force]
    if not families:
        raise InputError(_nothing(reading))
    targets = _targets(families, reading, delta)
    for family in families:
        for unit in family.silent:
            side = "in" if float(family.incoming[unit]) == 0 else "out"
            raise InputError(
                f"Nothing leads {side}{'to' if side == 'in' else ' of'} unit {unit} of {family.place}, "
                "so its imbalance cannot be set; remove the unit or give it weights."
            )
    speeds = learning_rates(model, rates)
    laws = [family.law for family in families]
    before = own(model)
    wanted = [-target / family.factor for target, family in zip(targets, families)]
    shifts, iterations = _newton(laws, before, speeds, wanted)
    after = dict(before)
    for law, shift in zip(laws, shifts):
        after |= law.apply(after, shift)
    changed, difference = _renewed(model, after, inputs)
    now = {n: after[n] / speeds[n] ** 0.5 for law in laws for n in law.parameters}
    residual = max(
        float(((law.charge(now) - q).abs() / law.absolute().charge(now)).max()) for law, q in zip(laws, wanted)
    )
    return Changed(changed, difference, residual, iterations)


def scaled(
    model: nn.Module, alpha: float, *inputs: Any, first: Sequence[str] = (), last: Sequence[str] = ()
) -> Changed:
    """First layer divided by α, last layer times α: α > 1 is upstream (arXiv:2406.06158, section 5).

    Every hidden unit is rescaled by 1/α, so that what lies between hidden layers stays, hidden biases shrink with the
    first layer, and the function is the same; of a network with normalisation, where the first layer has no partner,
    this moves the weights after the norms only. Queries and keys are left alone.

    Args:
        model: Any network; it is left as it was.
        alpha: Positive.
        inputs: Its arguments, a few samples first.
        first: Parameters to divide by α instead, whatever that does to the function, such as an embedding in front of
            a LayerNorm.
        last: Parameters to multiply by α instead.

    Raises:
        InputError: If α is not positive, a name is unknown, or no unit may be rescaled and no parameter is named.
    """
    if not 0 < alpha < np.inf:
        raise InputError(f"alpha={alpha:g} must be positive and finite.")
    after = own(model)
    for name in (*first, *last):
        if name not in after:
            raise unknown("trainable parameter", name, after)
    if first or last:
        after |= {name: after[name] / alpha for name in first}
        after |= {name: after[name] * alpha for name in last}
    else:
        reading = imbalance(model, *inputs)
        laws = [u.law for u in reading.units if u.conserved and u.outward]
        if not laws:
            raise InputError(_nothing(reading) + " Name the parameters of its first layer as first=[...].")
        for law in laws:
            after |= law.apply(after, torch.full((law.size,), -float(np.log(alpha)), dtype=torch.float64))
    return Changed(*_renewed(model, after, inputs), 0.0, 0)


def set_pairs(
    model: nn.Module, lam: Target, *inputs: Any, rates: Rates = None, tolerance: float = 1e-12, most: int = 1000
) -> Changed:
    """The same function with λ-balanced pairs of linear maps, W₂ᵀW₂ − W₁W₁ᵀ = λI: values and output, queries and keys.

    Args:
        model: Any network; it is left as it was.
        lam: λ for all pairs; or by the name of a parameter of W₁, or else of W₂, a number or one a block. Pairs that
            are not named are left alone.
        inputs: Its arguments, a few samples first.
        rates: As in `imbalance`; within a pair, all of W₁ must have one rate and all of W₂.
        tolerance: Residual at which sweeps end, where pairs share weights.
        most: Sweeps.

    Raises:
        InputError: If there is no such pair, λ is infeasible for its shape, or pairs that share weights cannot have
            these λ together.
    """
    reading = imbalance(model, *inputs, rates=rates)
    if not reading.pairs:
        raise InputError(f"{type(model).__name__} has no two linear maps with nothing between them.")
    speeds = learning_rates(model, rates)
    chosen = _pair_targets(reading.pairs, lam)
    after, sweeps, residual = own(model), 0, np.inf
    while residual > tolerance and sweeps < most:
        for law, values in chosen:
            after |= _balanced(law, values, after, speeds)
        sweeps += 1
        residual = max(_pair_residual(law, values, after, speeds) for law, values in chosen)
    if residual > tolerance:
        raise InputError(
            f"After {most} sweeps the pairs are still {residual:.1e} from their lambdas: those that share weights "
            "cannot have these together; set fewer of them."
        )
    return Changed(*_renewed(model, after, inputs), residual, sweeps)


def _nothing(reading: Reading) -> str:
    reasons = sorted({u.why for u in reading.units if u.why} | {why for why in reading.uncovered.values() if why})
    found = f" ({', '.join(reasons)})" if reasons else ""
    return f"No hidden unit of this network may be rescaled without a change of its function{found}."


def _targets(families: list[Imbalance], reading: Reading, delta: Target) -> list[Tensor]:
    if not isinstance(delta, Mapping):
        return [_values("delta", delta, u.law.size) for u in families]
    found = [u.delta for u in families]
    names = {t.parameter: i for i, u in enumerate(families) for t in u.law.terms if bool((t.weight > 0).any())}
    blocked = {n: u.why for u in reading.units if u not in families for n in u.law.parameters}
    for name, value in delta.items():
        if name not in names:
            if name in blocked:
                raise InputError(
                    f"The units that {name} leads into may not be rescaled ({blocked[name]}); force=True does it "
                    "all the same and changes the function."
                )
            raise unknown("family of hidden units", name, names)
        found[names[name]] = _values(f"delta of {name}", value, families[names[name]].law.size)
    return found


def _values(what: str, given: float | Tensor, size: int) -> Tensor:
    made = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    if made.ndim > 1 or (made.ndim == 1 and len(made) != size):
        raise InputError(f"{what} has shape {tuple(made.shape)}; expected one number or ({size},).")
    if not bool(made.isfinite().all()):
        raise InputError(f"{what} must be finite.")
    return made.expand(size)


def _renewed(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Sequence[Any]) -> tuple[nn.Module, float]:
    old, new = copy.deepcopy(model).cpu().double(), copy.deepcopy(model).cpu().double()
    made = copy.deepcopy(model)
    for network in (new, made):
        with torch.no_grad():
            for name, p in network.named_parameters():
                if name in parameters:
                    p.copy_(parameters[name])
    change = 0.0
    for training in (True, False):
        first, second = (_outputs(network.train(training), inputs) for network in (old, new))
        size = max(float(x.abs().max()) for x in first)
        off = max(float((x - y).abs().max()) for x, y in zip(first, second))
        change = max(change, off / size if size else off)
    return made, change


def _outputs(model: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    with isolated(), torch.no_grad():
        seed_forward(0, 0, torch.device("cpu"))
        return floats(copy.deepcopy(model)(*[double(x) for x in inputs]))


# Newton's method ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """θ²/η of a parameter as a matrix, whose element (i, j) is multiplied by exp(2 (rows u)_i + 2 (columns u)_j)."""

    squares: np.ndarray
    rows: Any
    columns: Any


def _tables(laws: list[SymmetryLaw], parameters: Mapping[str, Tensor], speeds: Mapping[str, float]) -> list[_Table]:
    offsets = np.cumsum([0, *[law.size for law in laws]]).tolist()
    code = np.random.default_rng(0).standard_normal(offsets[-1])  # of equal columns the products with it are equal
    found = []
    for name in dict.fromkeys(n for law in laws for n in law.parameters):
        tensor = parameters[name]
        terms = [(at, t) for at, law in zip(offsets, laws) for t in law.terms if t.parameter == name]
        if any(t.side == "elements" for _, t in terms):
            matrix = tensor.reshape(-1, 1)
        else:
            matrix = tensor.reshape(len(tensor) if tensor.ndim else 1, -1)
        # a column can act on some of the rows only (fused projections): every run of rows is a table of its own
        cuts = sorted({0, len(matrix), *[e for _, t in terms if t.side == "columns" for e in (t.begin, t.end)]})
        for begin, end in zip(cuts, cuts[1:]):
            rows = _incidence(terms, "rows", begin, end, end - begin, offsets[-1])
            columns = _incidence(terms, "columns", begin, end, matrix.shape[1], offsets[-1])
            squares = matrix[begin:end].square().numpy() / speeds[name]
            if not columns.nnz:
                squares, columns = squares.sum(1, keepdims=True), columns[:1]
            else:
                _, first, place = np.unique(columns @ code, return_index=True, return_inverse=True)
                if len(first) < len(place):  # the positions of a kernel scale together
                    together = sparse.csr_array((np.ones(len(place)), (np.arange(len(place)), place)))
                    squares, columns = squares @ together, columns[first]
            found.append(_Table(squares, rows, columns))
    return found


def _incidence(terms: list[Any], side: str, begin: int, end: int, count: int, size: int) -> Any:
    """`(count, size)`: how much of every u the exponent of a row or column has."""
    places: list[np.ndarray] = []
    charges: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for offset, t in terms:
        if (side == "columns") != (t.side == "columns"):
            continue
        index, charge, weight = t.index.numpy(), t.charge.numpy() + offset, t.weight.numpy()
        if side == "rows":
            index = index + t.begin
            inside = (index >= begin) & (index < end)
            index, charge, weight = index[inside] - begin, charge[inside], weight[inside]
        elif not t.begin <= begin < t.end:
            continue
        places, charges, weights = [*places, index], [*charges, charge], [*weights, weight]
    if not places:
        return sparse.csr_array((count, size))
    entries = np.concatenate(weights), (np.concatenate(places), np.concatenate(charges))
    return sparse.csr_array(sparse.coo_array(entries, shape=(count, size)))


def _newton(
    laws: list[SymmetryLaw],
    parameters: Mapping[str, Tensor],
    speeds: Mapping[str, float],
    wanted: list[Tensor],
    most: int = 100,
) -> tuple[list[Tensor], int]:
    """The u of every unit of every law at which the charges are as wanted, and how many steps it took."""
    tables = _tables(laws, parameters, speeds)
    target = torch.cat(wanted).numpy()

    def look(u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        value, charge, size = -float(target @ u), np.zeros_like(u), np.zeros_like(u)
        parts = []
        for t in tables:
            grown = np.exp(2 * (t.rows @ u))[:, None] * t.squares * np.exp(2 * (t.columns @ u))
            by_row, by_column = grown.sum(1), grown.sum(0)
            value += 0.5 * float(by_row.sum())
            charge += t.rows.T @ by_row + t.columns.T @ by_column
            size += abs(t.rows).power(2).T @ by_row + abs(t.columns).power(2).T @ by_column
            parts.append((t, grown, by_row, by_column))

        def curve(v: np.ndarray) -> np.ndarray:
            found = np.zeros_like(v)
            for t, grown, by_row, by_column in parts:
                r, c = t.rows @ v, t.columns @ v
                found += t.rows.T @ (by_row * r + grown @ c) + t.columns.T @ (by_column * c + grown.T @ r)
            return 2 * found

        return value, charge - target, size, curve

    u = _alone(laws, parameters, speeds, wanted) if len(laws) == 1 else np.zeros(len(target))
    value, slope, size, curve = look(u)
    for step in range(most):
        worst = float(np.abs(slope / size).max())
        if worst < 3e-15:
            return _split(u, laws), step
        scale = 1 / np.sqrt(2 * size)
        product = LinearOperator((len(u), len(u)), lambda v, scale=scale, curve=curve: scale * curve(scale * v))
        inner, _ = cg(product, -scale * slope, rtol=min(0.1, worst), maxiter=20 * len(u) + 100)
        move = scale * inner
        move *= min(1.0, 2.0 / max(np.abs(move).max(), 1e-300))
        for _ in range(60):
            then = look(u + move)
            if then[0] <= value + 1e-4 * float(slope @ move) or float(np.abs(then[1] / then[2]).max()) < worst:
                break
            move = move / 2
        else:
            break
        u, (value, slope, size, curve) = u + move, then
    worst = float(np.abs(slope / size).max())
    if not worst < 1e-10:
        at = int(np.nanargmax(np.abs(slope / size)))
        sizes = np.cumsum([0, *[law.size for law in laws]])
        which = int(np.searchsorted(sizes, at, "right")) - 1
        raise InputError(
            f"No rescaling gives unit {at - sizes[which]} of {laws[which].place} its imbalance "
            f"(still {worst:.1e} off): its weights come from, or go to, units that the profile drives to zero."
        )
    return _split(u, laws), most


def _alone(
    laws: list[SymmetryLaw], parameters: Mapping[str, Tensor], speeds: Mapping[str, float], wanted: list[Tensor]
) -> np.ndarray:
    """Exact for one layer of units: g² = 2q/(R + δ) with R = sqrt(δ² + 4pq)."""
    (law,), (target,) = laws, wanted
    if any(bool((t.weight.abs() != 1).any()) for t in law.terms):
        return np.zeros(law.size)
    now = {n: parameters[n] / speeds[n] ** 0.5 for n in law.parameters}
    total, charge, delta = law.absolute().charge(now), law.charge(now), -target
    p, q = (total + charge) / 2, (total - charge) / 2
    root = torch.sqrt(delta.square() + 4 * p * q)
    squared = torch.where(delta >= 0, 2 * q / (root + delta), (root - delta) / (2 * p))
    return (0.5 * squared.log()).numpy()


def _split(u: np.ndarray, laws: list[SymmetryLaw]) -> list[Tensor]:
    return list(torch.from_numpy(u).split([law.size for law in laws]))


# Pairs ----------------------------------------------------------------------------------------------------------------


def _pair_targets(pairs: list[PairImbalance], lam: Target) -> list[tuple[MatrixLaw, Tensor]]:
    if not isinstance(lam, Mapping):
        return [(p.law, _values("lam", lam, len(p.lam))) for p in pairs]
    chosen = []
    for name, value in lam.items():
        here = [p for p in pairs if name in _first(p.law)] or [p for p in pairs if name in p.law.parameters]
        if not here:
            raise unknown("pair of linear maps", name, sorted({n for p in pairs for n in p.law.parameters}))
        chosen += [(p.law, _values(f"lam of {name}", value, len(p.lam))) for p in here]
    return chosen


def _first(law: MatrixLaw) -> list[str]:
    return [s.parameter for s in law.sides if s.weight > 0]


def _halves(
    law: MatrixLaw, parameters: Mapping[str, Tensor], speeds: Mapping[str, float]
) -> tuple[Tensor, Tensor, float]:
    """W₁ `(B, h, d)`, W₂ᵀ `(B, h, c)`, both divided by the root of their rate, and η_in·η_out."""
    found = []
    for sign in (1.0, -1.0):
        here = [s for s in law.sides if s.weight == sign]
        if len({speeds[s.parameter] for s in here}) > 1:
            raise InputError(f"The parameters of one side of {law.place} have several learning rates; give them one.")
        found.append(torch.cat([s.slices(parameters[s.parameter]) / speeds[s.parameter] ** 0.5 for s in here], -1))
    return found[0], found[1], factor(law, speeds)


def _balanced(
    law: MatrixLaw, lam: Tensor, parameters: Mapping[str, Tensor], speeds: Mapping[str, float]
) -> dict[str, Tensor]:
    first, second, size = _halves(law, parameters, speeds)
    new = [rebalance(a, b.mT, float(value) / size) for a, b, value in zip(first, second, lam)]
    made = {n: parameters[n].clone() for n in law.parameters}
    for sign, stacked in ((1.0, torch.stack([a for a, _ in new])), (-1.0, torch.stack([b.mT for _, b in new]))):
        begin = 0
        for side in (s for s in law.sides if s.weight == sign):
            width = side.slices(parameters[side.parameter]).shape[-1]
            part = stacked[..., begin : begin + width] * speeds[side.parameter] ** 0.5
            side.put(made[side.parameter], part)
            begin += width
    return made


def _pair_residual(law: MatrixLaw, lam: Tensor, parameters: Mapping[str, Tensor], speeds: Mapping[str, float]) -> float:
    first, second, size = _halves(law, parameters, speeds)
    eye = torch.eye(first.shape[1], dtype=torch.float64)
    off = second @ second.mT - first @ first.mT - (lam / size)[:, None, None] * eye
    norms = first.square().sum((1, 2)) + second.square().sum((1, 2))
    return float((torch.linalg.matrix_norm(off) / norms.clamp_min(1e-300)).max())
