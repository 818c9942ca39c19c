"""The hidden units of a network: what leads into each, what belongs to it, what leads out of it.

Units are found as symmetries are, by labels that travel with the numbers (`trace`), but for identity instead of size: a
nonlinearity, a norm or a gate keeps a unit what it is, whatever it does to its value. A unit of a residual stream spans
everything that writes into it and reads from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.symmetries import rules
from learndyn.symmetries.families import families
from learndyn.symmetries.finder import trace
from learndyn.symmetries.forms import FIXED
from learndyn.symmetries.law import SymmetryLaw, Term


@dataclass(frozen=True)
class Units:
    """A family of units: neurons, channels, coordinates of a residual stream or of an attention head.

    Attributes:
        size: How many there are.
        incoming: Rows that lead into them, with their biases.
        own: What acts on each of them alone: weights and biases of norms, slopes, scales.
        outgoing: Columns that lead out of them.
    """

    size: int
    incoming: tuple[Term, ...]
    own: tuple[Term, ...]
    outgoing: tuple[Term, ...]

    def squared_norm(self, parameters: Mapping[str, Tensor], side: str = "incoming") -> Float[Tensor, " units"]:
        """Σ of squares of the "incoming", "own" or "outgoing" parameters of every unit, float64."""
        terms = tuple(replace(term, weight=term.weight.abs()) for term in getattr(self, side))
        law = SymmetryLaw("scale", self.size, terms)
        first = next(iter(parameters.values()))
        return law.charge(parameters) if terms else first.new_zeros(self.size).double()

    def __str__(self) -> str:
        sides = (
            ", ".join(dict.fromkeys(t.parameter for t in side)) for side in (self.incoming, self.own, self.outgoing)
        )
        return " -> ".join(side or "(none)" for side in sides)


def units(model: nn.Module, *inputs: Any) -> list[Units]:
    """The hidden units of a network.

    Args:
        model: Any network; it is left as it was.
        inputs: Its arguments, a few samples first.

    Raises:
        InputError: If the network does not take the inputs, or has no parameter that is trained.
    """
    seen = trace(model, inputs, rules=LOOSE, unknown=_anything)
    shapes = {name: part.tensor.ndim for name, part in seen.parts.items()}
    affine = {name for name, part in seen.parts.items() if part.elements is not None and part.name in seen.alone}
    found = []
    for law in families(seen, reconcile=False)[0]:
        up = tuple(t for t in law.terms if bool((t.weight > 0).all()))
        down = tuple(replace(t, weight=-t.weight) for t in law.terms if bool((t.weight < 0).all()))
        own = tuple(t for t in up if t.parameter in affine)
        incoming = tuple(t for t in up if t.parameter not in affine)
        if (incoming or own) and any(shapes[t.parameter] > 1 for t in (*incoming, *down)):
            found.append(Units(law.size, incoming, own, down))
    return found


def _pass(trace, func, args, kwargs, result):
    """Number by number: every unit stays what it is."""
    return trace.labels(args[0])


def _anything(trace, func, args, kwargs, result):
    """An operation without a rule, number by number if its result has the shape of what went in."""
    first = next((x for x in rules._tensors((args, kwargs)) if trace.followed(x)), None)
    shape = getattr(result if isinstance(result, Tensor) else None, "shape", None)
    if first is not None and shape == first.shape:
        return trace.labels(first)
    return rules.unknown(trace, func, args, kwargs, result)


def _together(trace, func, args, kwargs, result):
    """Two that meet number by number are one unit; a constant does not matter."""
    first, second = args[0], args[1]
    pair = [x for x in (first, second) if trace.followed(x)]
    shape = np.broadcast_shapes(*(np.shape(trace.labels(x)) for x in (first, second)))
    labels = [np.broadcast_to(trace.labels(x), shape) for x in pair]
    for x in pair:
        if (part := trace.part_of(x)) is not None and rules._name(func) in ("mul", "div"):
            trace.alone.add(part[0].name)
    if len(labels) == 1:
        return labels[0]
    a, b = labels
    both = (a > FIXED) & (b > FIXED)
    trace.forms.equate(np.where(both, a, FIXED), np.where(both, b, FIXED), "meeting")
    return np.where(a > FIXED, a, b)


def _reduced(trace, func, args, kwargs, result):
    """A sum over one unit's positions is that unit's, one over several units is nobody's."""
    labels = trace.labels(args[0])
    axes = rules._axes(labels.ndim, rules._named(func, args, kwargs).get("dim"))
    if labels.ndim and (labels.min(axis=axes) == labels.max(axis=axes)).all():
        return rules.RULES[rules._name(func)](trace, func, args, kwargs, result)
    return [np.full(tuple(t.shape), FIXED) for t in rules._tensors(result)]


def _normalised(trace, func, args, kwargs, result):
    """A norm with its weight and bias: they belong to the units that it normalises."""
    given = rules._named(func, args, kwargs)
    x = args[0]
    labels = trace.labels(x)
    trailing = len(given["normalized_shape"]) if "normalized_shape" in given else 0
    shape = x.shape[x.ndim - trailing :] if trailing else (1, -1, *[1] * (x.ndim - 2))
    for parameter in (given.get("weight"), given.get("bias")):
        if parameter is not None and trace.followed(parameter):
            found = trace.part_of(parameter)
            if found is not None:
                trace.alone.add(found[0].name)
            trace.forms.equate(labels, np.broadcast_to(trace.labels(parameter).reshape(shape), labels.shape), "a norm")
    return [labels, *[None] * (len(result) - 1)] if isinstance(result, list | tuple) else labels


def _convolution(trace, func, args, kwargs, result):
    """One filter a channel belongs to that channel."""
    given = rules._named(func, args, kwargs)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if given["groups"] != x.shape[1] or x.shape[1] != result.shape[1] or given["groups"] == 1:
        return rules.RULES["convolution"](trace, func, args, kwargs, result)
    channels = trace.forms.unite(trace.labels(x), (0, *range(2, x.ndim)), "convolution")
    for parameter in (weight, bias):
        if parameter is not None and trace.followed(parameter):
            found = trace.part_of(parameter)
            if found is not None:
                trace.alone.add(found[0].name)
            shape = (-1, *[1] * (parameter.ndim - 1))
            trace.forms.equate(trace.labels(parameter), channels.reshape(shape), "a filter")
    return np.broadcast_to(channels.reshape(1, -1, *[1] * (x.ndim - 2)), tuple(result.shape))


def _same_coordinate(trace, func, args, kwargs, result):
    """Two that are contracted coordinate by coordinate, as queries and keys, share their units."""
    first, second = args[-2], args[-1]
    if rules._name(func) == "bmm" and trace.followed(first) and trace.followed(second):
        a, b = trace.labels(first), trace.labels(second)
        if (a > FIXED).any() and (b > FIXED).any():
            trace.forms.equate(a[:, :1].swapaxes(1, 2), b[:, :, :1], "a contraction")
            return np.full(tuple(result.shape), FIXED)
    return rules.RULES[rules._name(func)](trace, func, args, kwargs, result)


LOOSE = {
    **rules.RULES,
    **dict.fromkeys(("add", "sub", "rsub", "mul", "div", "maximum", "minimum"), _together),
    **dict.fromkeys(("pow", "square", "sqrt", "rsqrt", "reciprocal", "clamp", "clamp_min", "hardtanh", "sign"), _pass),
    **dict.fromkeys(("_prelu_kernel", "prelu"), _together),
    **dict.fromkeys(
        (
            *("native_batch_norm", "_native_batch_norm_legit", "native_layer_norm", "_fused_rms_norm"),
            *("native_group_norm", "cudnn_batch_norm", "_batch_norm_with_update"),
        ),
        _normalised,
    ),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "std", "var", "var_mean", "linalg_vector_norm", "max"), _reduced),
    **dict.fromkeys(("convolution", "mkldnn_convolution"), _convolution),
    "bmm": _same_coordinate,
}
