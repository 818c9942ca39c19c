"""From what a trace has seen to laws: the solutions of its equations, sorted into families."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import torch

from learndyn.symmetries.forms import ANY, FIXED, Form
from learndyn.symmetries.law import SymmetryLaw, Term
from learndyn.symmetries.matrix import MatrixLaw, Side
from learndyn.symmetries.trace import ELEMENTS, Part, Trace


class Entry(NamedTuple):
    """Row (or column) `place` grows as `weight` times a variable."""

    place: int
    variable: int
    weight: float


class Sized(NamedTuple):
    """How the rows (or columns, or elements) of a part of a parameter grow."""

    parameter: str
    side: str
    begin: int
    end: int
    entries: list[Entry]


def families(trace: Trace, reconcile: bool = True) -> tuple[list[SymmetryLaw], list[MatrixLaw]]:
    """The laws that the equations of a trace leave.

    Args:
        trace: What was seen.
        reconcile: Whether all uses of a parameter must ask for the same sizes; else each use counts by itself.
    """
    for part in trace.parts.values() if reconcile else ():
        _reconcile(trace, part)
    solved = trace.forms.solve()
    sized = [found for part in trace.parts.values() for found in _sizes(trace, part, solved, reconcile)]
    roles: dict[int, set[tuple[str, str, float]]] = defaultdict(set)
    for place in sized:
        for entry in place.entries:
            roles[entry.variable].add((place.parameter, place.side, entry.weight))
    members: dict[tuple[int, frozenset[Any]], list[int]] = defaultdict(list)
    for variable in sorted(roles):  # born together, with the same role: one family
        members[trace.forms.births[variable], frozenset(roles[variable])].append(variable)
    laws = [_law(sized, variables) for variables in members.values()]
    return laws, _matrix_laws(trace, solved, laws, list(members.values()))


def _reconcile(trace: Trace, part: Part) -> None:
    """All uses of a parameter must ask for the same sizes of its elements."""
    forms, blocks, reason = trace.forms, part.blocks, f"the uses of {part.name}"
    if part.elements is not None and blocks:
        whole = part.elements.reshape(len(part.tensor), -1)
        for b in blocks:
            if part.size > ELEMENTS:
                forms.freeze(np.concatenate([b.row_labels, b.column_labels]), reason)
            else:
                made = forms.combine(b.row_labels[:, None], b.column_labels[None], 1, -1)
                forms.equate(made, whole[b.rows], reason)
    for i, a in enumerate(blocks):
        for b in blocks[:i]:
            begin, end = max(a.rows.start, b.rows.start), min(a.rows.stop, b.rows.stop)
            if begin >= end:
                continue
            ra, rb = (x.row_labels[begin - x.rows.start : end - x.rows.start] for x in (a, b))
            ca, cb = a.column_labels, b.column_labels
            if not (np.array_equal(ra, rb) and np.array_equal(ca, cb)):
                gap = forms.new(1)  # R_i − C_j = R'_i − C'_j for all i and j: both differ by one number
                forms.equate(forms.combine(ra, np.broadcast_to(gap, ra.shape)), rb, reason)
                forms.equate(forms.combine(ca, np.broadcast_to(gap, ca.shape)), cb, reason)


def _sizes(trace: Trace, part: Part, solved: dict[int, Form], reconciled: bool) -> list[Sized]:
    count = len(part.tensor) if part.tensor.ndim else 1
    if part.elements is not None:
        labels = part.elements.reshape(count, -1)
        if (labels == labels[:, :1]).all():
            return [Sized(part.name, "rows", 0, count, _entries(trace, solved, labels[:, 0], 1))]
        if (labels == labels[:1]).all():
            return [Sized(part.name, "columns", 0, count, _entries(trace, solved, labels[0], 1))]
        return [Sized(part.name, "elements", 0, part.size, _entries(trace, solved, labels.ravel(), 1))]
    found, done = [], set()
    for b in part.blocks:
        span = (b.rows.start, b.rows.stop)
        if span not in done or not reconciled:  # else all uses say the same
            done.add(span)
            found.append(Sized(part.name, "rows", *span, _entries(trace, solved, b.row_labels, 1)))
            found.append(Sized(part.name, "columns", *span, _entries(trace, solved, b.column_labels, -1)))
    return found


def _entries(trace: Trace, solved: dict[int, Form], labels: np.ndarray, sign: int) -> list[Entry]:
    known: dict[int, list[tuple[int, float]]] = {}
    found: list[Entry] = []
    for index, label in enumerate(labels.tolist()):
        if label in (ANY, FIXED):
            continue
        if label not in known:
            known[label] = [(v, float(c) * sign) for v, c in _free(trace, solved, label).items()]
        found += [Entry(index, v, w) for v, w in known[label]]
    return found


def _free(trace: Trace, solved: dict[int, Form], label: int) -> dict[int, Any]:
    """The form of a label in the variables that are free."""
    total: dict[int, Any] = defaultdict(int)
    for variable, c in trace.forms.form(label):
        for v, d in solved.get(variable, ((variable, 1),)):
            total[v] += c * d
    return {v: c for v, c in total.items() if c and v not in trace.forms.frozen}


def _law(sized: list[Sized], variables: list[int]) -> SymmetryLaw:
    number = {variable: c for c, variable in enumerate(variables)}
    terms = []
    for place in sized:
        mine = [(e.place, number[e.variable], e.weight) for e in place.entries if e.variable in number]
        if mine:
            index, charge, weight = zip(*mine)
            tensors = torch.tensor(index), torch.tensor(charge), torch.tensor(weight, dtype=torch.float64)
            terms.append(Term(place.parameter, place.side, place.begin, place.end, *tensors))
    if all(bool((t.weight < 0).all()) for t in terms):
        terms = [Term(t.parameter, t.side, t.begin, t.end, t.index, t.charge, -t.weight) for t in terms]
    mixed = any(bool((t.weight < 0).any()) for t in terms)
    return SymmetryLaw("rescale" if mixed else "scale", len(variables), tuple(terms))


def _matrix_laws(
    trace: Trace, solved: dict[int, Form], laws: list[SymmetryLaw], members: list[list[int]]
) -> list[MatrixLaw]:
    """Diagonal laws that are part of a symmetry under whole matrices.

    Charges belong to one block if all that was done to their variables was done to them together: no operation has
    looked at one of them alone, and every contraction has summed over all of them.
    """

    def variables(labels: np.ndarray) -> set[int]:
        return {v for label in np.unique(labels).tolist() if label > FIXED for v in _free(trace, solved, label)}

    rigid: set[int] = set().union(*(variables(labels) for labels in trace.rigid))
    met: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, event in enumerate(trace.events):
        for which, labels in enumerate(event):
            for variable in variables(labels):
                met[variable].append((number, which))
    found = []
    for law, own in zip(laws, members):
        unit = all(abs(w) == 1 for t in law.terms for w in t.weight.tolist())
        if law.kind != "rescale" or not unit or any(t.side == "elements" for t in law.terms):
            continue
        blocks: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for charge, variable in enumerate(own):
            if variable not in rigid:
                blocks[tuple(met[variable])].append(charge)
        for size in sorted({len(block) for block in blocks.values()} - {1}):
            sides = _sides(law, [block for block in blocks.values() if len(block) == size])
            if sides:
                found.append(MatrixLaw(sides))
    return found


def _sides(law: SymmetryLaw, blocks: list[list[int]]) -> tuple[Side, ...]:
    """What the matrices of these blocks act on; nothing if a charge has another part in a term than its neighbours."""
    sides = []
    inside = [charge for block in blocks for charge in block]
    for term in law.terms:
        for sign in (1.0, -1.0):
            places: dict[int, list[int]] = defaultdict(list)
            for index, charge, weight in zip(term.index.tolist(), term.charge.tolist(), term.weight.tolist()):
                if weight == sign:
                    places[charge].append(index)
            counts = {len(places[charge]) for charge in inside}
            if len(counts) > 1:
                return ()
            if counts != {0}:
                index_of = torch.tensor([[places[charge] for charge in block] for block in blocks])
                sides.append(Side(term.parameter, term.side, term.begin, term.end, index_of, sign))
    return tuple(sides)
