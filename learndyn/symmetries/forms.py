"""Sizes of numbers as linear forms: who grows with whom.

Under a symmetry every number of a network is multiplied by exp(s), and s is a linear form of some variables, one a
degree of freedom. A *label* stands for a form: arrays of labels move through a network like the numbers themselves.
What an operation demands of its inputs is an equation between forms. Simple ones unite variables at once, the others
are kept and solved in the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

Form = tuple[tuple[int, Fraction], ...]  # (variable, coefficient), by variable

FIXED = 0  # the label of what keeps its size
ANY = -1  # the label of zero and infinity, which have every size


class Forms:
    """A table of forms, and the equations between them."""

    def __init__(self) -> None:
        self.forms: list[Form] = [()]
        self.labels: dict[Form, int] = {(): FIXED}
        self.parents: list[int] = []  # of variables; -1 - parent never occurs: a root is its own parent
        self.frozen: dict[int, str] = {}  # roots that must vanish, with the reason
        self.births: list[int] = []  # the event at which a variable was made
        self.events = 0
        self.equations: list[Form] = []

    def new(self, count: int) -> np.ndarray:
        """Labels of so many new variables, born together."""
        first = len(self.parents)
        self.parents += range(first, first + count)
        self.births += [self.events] * count
        self.events += 1
        return np.array([self._label(((v, Fraction(1)),)) for v in range(first, first + count)], dtype=np.int64)

    def _label(self, form: Form) -> int:
        found = self.labels.get(form)
        if found is None:
            found = self.labels[form] = len(self.forms)
            self.forms.append(form)
        return found

    def root(self, variable: int) -> int:
        """The variable that stands for this one."""
        parents = self.parents
        while parents[variable] != variable:
            parents[variable] = parents[parents[variable]]
            variable = parents[variable]
        return variable

    def form(self, label: int) -> Form:
        """A form in the variables that are left."""
        return self._sum([(1, self.forms[label])])

    def _sum(self, parts: Iterable[tuple[Fraction | int, Form]]) -> Form:
        total: dict[int, Fraction] = {}
        for factor, form in parts:
            for variable, coefficient in form:
                variable = self.root(variable)
                if variable not in self.frozen:
                    total[variable] = total.get(variable, Fraction(0)) + factor * coefficient
        return tuple(sorted((v, c) for v, c in total.items() if c))

    def combine(self, first: np.ndarray, second: np.ndarray | None, a: Fraction | int = 1, b: Fraction | int = 1):
        """Labels of a·s + b·s', element by element; ANY where one of them is."""
        if second is None:
            unique, inverse = np.unique(first, return_inverse=True)
            made = [ANY if x == ANY else self._label(self._sum([(a, self.forms[x])])) for x in unique.tolist()]
            return np.array(made, dtype=np.int64)[inverse].reshape(first.shape)
        first, second = np.broadcast_arrays(first, second)
        pairs = np.stack([first.ravel(), second.ravel()])
        couples, inverse = _unique_pairs(pairs)
        made = [
            ANY if ANY in (x, y) else self._label(self._sum([(a, self.forms[x]), (b, self.forms[y])]))
            for x, y in couples
        ]
        return np.array(made, dtype=np.int64)[inverse].reshape(first.shape)

    def equate(self, first: np.ndarray, second: np.ndarray, reason: str) -> None:
        """Demand s = s', element by element; ANY equals everything."""
        first, second = np.broadcast_arrays(first, second)
        differing = (first != second) & (first != ANY) & (second != ANY)
        if not differing.any():
            return
        unique, _ = _unique_pairs(np.stack([first[differing], second[differing]]))
        for x, y in unique:
            self._vanish(self._sum([(1, self.forms[x]), (-1, self.forms[y])]), reason)

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        """Demand s = 0."""
        for x in np.unique(labels).tolist():
            if x not in (ANY, FIXED):
                self._vanish(self._sum([(1, self.forms[x])]), reason)

    def _vanish(self, form: Form, reason: str) -> None:
        if not form:
            return
        if len(form) == 1:
            self.frozen[form[0][0]] = reason
        elif len(form) == 2 and form[0][1] == -form[1][1]:
            (old, _), (new, _) = form
            self.parents[new] = old
        else:
            self.equations.append(form)

    def unite(self, labels: np.ndarray, axes: tuple[int, ...], reason: str) -> np.ndarray:
        """Demand that all along some axes be equal; the labels without these axes."""
        axes = tuple(axis % labels.ndim for axis in axes)
        rest = [axis for axis in range(labels.ndim) if axis not in axes]
        flat = labels.transpose(*rest, *axes).reshape(*(labels.shape[axis] for axis in rest), -1)
        if flat.shape[-1] == 0:
            return np.full(flat.shape[:-1], ANY, dtype=np.int64)
        first = flat[..., 0].copy()
        gone = first == ANY
        if gone.any():  # the first that is not
            where = np.argmax(flat != ANY, axis=-1)
            first = np.take_along_axis(flat, where[..., None], -1)[..., 0]
        self.equate(np.broadcast_to(first[..., None], flat.shape), flat, reason)
        return first

    def solve(self) -> dict[int, Form]:
        """The variables that are not free, as forms of those that are."""
        solved: dict[int, Form] = {}

        def reduce(form: Form) -> Form:
            while any(self.root(v) in solved for v, _ in form):
                form = self._sum([(c, solved.get(self.root(v), ((v, Fraction(1)),))) for v, c in form])
            return self._sum([(1, form)])

        changed = True
        equations = self.equations
        while changed:  # an equation may have become a simple one
            changed, rest = False, []
            for form in equations:
                form = reduce(form)
                before = len(self.frozen), sum(v != p for v, p in enumerate(self.parents))
                if len(form) == 1 or (len(form) == 2 and form[0][1] == -form[1][1]):
                    self._vanish(form, "a sum of other sizes that cannot change")
                    changed = True
                elif form:
                    rest.append(form)
                del before
            equations = rest
        for form in equations:
            form = reduce(form)
            if not form:
                continue
            if len(form) == 1:
                self.frozen[form[0][0]] = "a sum of other sizes that cannot change"
                continue
            pivot, coefficient = form[-1]  # the youngest
            solved[pivot] = tuple((v, -c / coefficient) for v, c in form[:-1])
        return {pivot: reduce(form) for pivot, form in solved.items()}


def _unique_pairs(pairs: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    base = int(pairs.max(initial=0)) + 2
    codes, inverse = np.unique((pairs[0] + 1) * base + pairs[1] + 1, return_inverse=True)
    return [(int(code) // base - 1, int(code) % base - 1) for code in codes], inverse
