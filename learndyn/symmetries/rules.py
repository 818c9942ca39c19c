"""What operations make of labels, and what they demand: one rule for each operation of torch's core set."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from learndyn.symmetries.forms import ANY, FIXED
from learndyn.symmetries.trace import Block, Trace, is_eps

RULES: dict[str, Callable[..., Any]] = {}


def rule(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a rule for some operations."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def _name(func: Any) -> str:
    """Of an operation, the same whether it works in place or not."""
    return func._overloadpacket.__name__.removesuffix("_")


def unknown(trace: Trace, func: Any, args: Any, kwargs: Any, result: Any) -> list[Any]:
    """No rule: all that goes in keeps its size."""
    reason = trace.reason(_name(func))
    for value in _tensors((args, kwargs)):
        if trace.followed(value):
            trace.touch(value)
            trace.forms.freeze(trace.labels(value), reason)
    return []


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, list | tuple):
        return [t for item in tree for t in _tensors(item)]
    return [t for item in tree.values() for t in _tensors(item)] if isinstance(tree, dict) else []


def _axes(ndim: int, dims: Any) -> tuple[int, ...]:
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return tuple(range(ndim))
    return tuple(d % ndim for d in ([dims] if isinstance(dims, int) else dims))


def _named(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names in the schema, with defaults."""
    found = {}
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in kwargs:
            found[argument.name] = kwargs[argument.name]
        elif position < len(args):
            found[argument.name] = args[position]
        else:
            found[argument.name] = argument.default_value if argument.has_default_value() else None
    return found


# One number at a time -------------------------------------------------------------------------------------------------


@rule("relu", "leaky_relu", "abs", "native_dropout", "threshold", "rrelu_with_noise")
def _homogeneous(trace, func, args, kwargs, result):
    """f(αx) = α f(x) for α > 0."""
    trace.touch(args[0])
    labels = trace.labels(args[0])
    if _name(func) == "threshold" and (args[1] != 0 or args[2] != 0):
        trace.forms.freeze(labels, trace.reason("threshold"))
        return None
    return [labels, None] if _name(func) == "native_dropout" else labels


@rule("neg", "clone", "_to_copy", "contiguous", "lift_fresh", "detach", "alias", "positive", "conj_physical")
def _same(trace, func, args, kwargs, result):
    """Linear, number by number and the same for all."""
    return trace.labels(args[0])


@rule("_prelu_kernel", "prelu")
def _prelu(trace, func, args, kwargs, result):
    trace.touch(args[0])
    trace.forms.freeze(trace.labels(args[1]), trace.reason("a slope"))
    return trace.labels(args[0])


@rule("clamp", "clamp_min", "hardtanh")
def _clamp(trace, func, args, kwargs, result):
    given = _named(func, args, kwargs)
    bounds = [v for k, v in given.items() if k in ("min", "max", "min_val", "max_val") and v is not None]
    if all(not isinstance(v, Tensor) and (v == 0 or math.isinf(v)) for v in bounds):
        return _homogeneous(trace, func, args, kwargs, result)
    labels = trace.labels(args[0])
    trace.touch(args[0])
    trace.forms.freeze(labels, trace.reason(_name(func)))
    return np.full(labels.shape, FIXED)


@rule("add", "sub", "rsub")
def _add(trace, func, args, kwargs, result):
    first, second = args[0], args[1]
    name = _name(func)
    if not isinstance(second, Tensor) or (second.numel() == 1 and not trace.followed(second)):
        value, tensor = float(second), first
        if value == 0:
            return trace.labels(tensor)
        if name == "add" and is_eps(tensor, value):
            return trace.labels(tensor)
        return _fixed(trace, tensor, f"{name} {value:g}")
    a, b = np.broadcast_arrays(trace.labels(first), trace.labels(second))
    trace.forms.equate(a, b, trace.reason(name))
    return np.where(a == ANY, b, a)


def _fixed(trace, tensor, what):
    trace.touch(tensor)
    labels = trace.labels(tensor)
    trace.forms.freeze(labels, trace.reason(what))
    return np.full(labels.shape, FIXED)


@rule("mul")
def _mul(trace, func, args, kwargs, result):
    return _product(trace, args[0], args[1], 1)


@rule("div", "true_divide")
def _div(trace, func, args, kwargs, result):
    return _product(trace, args[0], args[1], -1)


@rule("addcmul")
def _addcmul(trace, func, args, kwargs, result):
    made = _product(trace, args[1], args[2], 1)
    a, b = np.broadcast_arrays(trace.labels(args[0]), made)
    trace.forms.equate(a, b, trace.reason("addcmul"))
    return np.where(a == ANY, b, a)


def _product(trace, first, second, sign):
    for tensor, other in ((first, second), (second, first)):
        uniform = not isinstance(other, Tensor) or (other.numel() == 1 and not trace.followed(other))
        if isinstance(tensor, Tensor) and trace.followed(tensor) and not uniform:
            trace.touch(tensor)

    def sizes(tensor):
        labels = trace.labels(tensor)
        # A constant of zero may be a mask that was drawn: what it hides this time keeps the size that it has.
        return labels if trace.followed(tensor) else np.full(labels.shape, FIXED)

    return trace.forms.combine(sizes(first), sizes(second), 1, sign)


@rule("pow")
def _power(trace, func, args, kwargs, result):
    base, exponent = args
    if not isinstance(base, Tensor) or isinstance(exponent, Tensor):
        return _fixed(trace, exponent if isinstance(exponent, Tensor) and trace.followed(exponent) else base, "pow")
    trace.touch(base)
    return trace.forms.combine(trace.labels(base), None, Fraction(exponent).limit_denominator(64))


def _degree(degree: Fraction) -> Callable[..., Any]:
    def apply(trace, func, args, kwargs, result):
        trace.touch(args[0])
        return trace.forms.combine(trace.labels(args[0]), None, degree)

    return apply


RULES |= {
    "square": _degree(Fraction(2)),
    "sqrt": _degree(Fraction(1, 2)),
    "rsqrt": _degree(Fraction(-1, 2)),
    "reciprocal": _degree(Fraction(-1)),
    "sign": _degree(Fraction(0)),
    "sgn": _degree(Fraction(0)),
}


@rule("maximum", "minimum", "fmax", "fmin")
def _larger(trace, func, args, kwargs, result):
    return _either(trace, args[0], args[1], _name(func))


@rule("where")
def _where(trace, func, args, kwargs, result):
    """Which of the two it is may depend on the data."""
    _, first, second = args
    return _either(trace, first, second, "where")


def _either(trace, first, second, what):
    for tensor in (first, second):
        trace.touch(tensor)
    a, b = np.broadcast_arrays(trace.labels(first), trace.labels(second))
    trace.forms.equate(a, b, trace.reason(what))
    return np.where(a == ANY, b, a)


@rule("masked_fill")
def _masked_fill(trace, func, args, kwargs, result):
    return _either(trace, args[0], args[2], "masked_fill")


@rule("zero", "fill")
def _filled(trace, func, args, kwargs, result):
    value = args[1] if len(args) > 1 else 0.0
    return np.broadcast_to(trace.labels(value), tuple(args[0].shape))


@rule("copy")
def _copied(trace, func, args, kwargs, result):
    return np.broadcast_to(trace.labels(args[1]), tuple(args[0].shape))


@rule(
    "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_empty", "new_ones", "new_full", "rand_like",
    "randn_like", "isnan", "isinf", "isfinite", "is_same_size",
)  # fmt: skip
def _nothing(trace, func, args, kwargs, result):
    """Nothing of the input's size is in the result."""
    return []


@rule("eq", "ne", "lt", "le", "gt", "ge")
def _compared(trace, func, args, kwargs, result):
    """Only what grows alike compares alike; with 0 everything does."""
    for tensor in args[:2]:
        trace.touch(tensor)
    trace.forms.equate(trace.labels(args[0]), trace.labels(args[1]), trace.reason(_name(func)))
    return []


@rule("argmax", "argmin")
def _where_largest(trace, func, args, kwargs, result):
    trace.touch(args[0])
    labels = trace.labels(args[0])
    trace.forms.unite(labels, _axes(labels.ndim, _named(func, args, kwargs)["dim"]), trace.reason(_name(func)))
    return []


# Many numbers ---------------------------------------------------------------------------------------------------------


@rule("sum", "mean", "amax", "amin", "cumsum", "linalg_vector_norm", "norm", "median", "std", "var", "var_mean", "max",
      "min", "logsumexp", "nansum")  # fmt: skip
def _reduction(trace, func, args, kwargs, result):
    given, name = _named(func, args, kwargs), _name(func)
    tensor = args[0]
    labels = trace.labels(tensor)
    if name not in ("sum", "mean", "cumsum", "nansum"):
        trace.touch(tensor)
    if isinstance(given.get("other"), Tensor):
        return _larger(trace, func, args, kwargs, result)
    if name == "logsumexp":
        return _fixed(trace, tensor, name)
    axes = _axes(labels.ndim, given.get("dim"))
    if not labels.ndim:
        return [labels, labels] if isinstance(result, list | tuple) else labels
    kept = trace.forms.unite(labels, axes, trace.reason(name))
    if name == "cumsum":
        return labels
    if name in ("std", "var", "var_mean"):
        squared = kept if name == "std" else trace.forms.combine(kept, None, 2)
        shape = tuple((result[0] if name == "var_mean" else result).shape)
        return [squared.reshape(shape), kept.reshape(shape)] if name == "var_mean" else squared.reshape(shape)
    if isinstance(result, list | tuple):
        return [kept.reshape(tuple(result[0].shape)), None]
    return kept.reshape(tuple(result.shape))


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def _softmax(trace, func, args, kwargs, result):
    return _fixed(trace, args[0], "softmax")


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool2d")
def _max_pool(trace, func, args, kwargs, result):
    trace.touch(args[0])
    return [_avg_pool(trace, func, args, kwargs, result[0] if isinstance(result, list | tuple) else result), None]


@rule("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest2d",
      "upsample_bilinear2d", "upsample_nearest1d", "upsample_bicubic2d", "upsample_nearest3d",
      "avg_pool1d")  # fmt: skip
def _avg_pool(trace, func, args, kwargs, result):
    """All positions of a channel become alike."""
    labels = trace.labels(args[0])
    space = result.ndim - 2 if result.ndim > 3 else result.ndim - 1 - (result.ndim > 2)
    kept = trace.forms.unite(labels, tuple(range(labels.ndim - space, labels.ndim)), trace.reason("pooling"))
    return np.broadcast_to(kept.reshape(*kept.shape, *[1] * space), tuple(result.shape))


# Matrices -------------------------------------------------------------------------------------------------------------


def _linear(trace, x, weight, what):
    """Labels of the columns of x @ weight `(rows, out)`; x `(rows, in)`, weight `(in, out)`."""
    found = trace.matrix(weight)
    if found is None:
        return None
    part, rows, transposed = found
    labels = trace.forms.unite(trace.labels(x), (0,), trace.reason(what))
    made = _use(trace, part, rows, labels, transposed)
    return np.broadcast_to(made, (len(x), len(made)))


def _use(trace, part, rows, labels, transposed):
    """A parameter takes numbers with these labels to new ones: W_ij from j to i if `transposed`, else from i to j."""
    labels = _free(trace, labels)
    if transposed:
        made = trace.forms.new(rows.stop - rows.start)
        part.blocks.append(Block(rows, made, labels))
        trace.events.append([labels])
        trace.events.append([made])
        return made
    made = trace.forms.new(part.size // len(part.tensor))
    part.blocks.append(Block(rows, trace.forms.combine(labels, None, -1), trace.forms.combine(made, None, -1)))
    trace.events.append([labels])
    trace.events.append([made])
    return made


def _free(trace, labels):
    """Zeros may be of any size: what multiplies them is free until it multiplies something else."""
    zero = labels == ANY
    if zero.any():
        labels = labels.copy()
        labels[zero] = trace.forms.new(int(zero.sum()))
    return labels


def _add_bias(trace, bias, labels, what):
    mine = np.broadcast_to(trace.labels(bias), labels.shape)
    trace.forms.equate(labels, mine, trace.reason(what))
    return np.where(labels == ANY, mine, labels)


@rule("mm", "addmm", "linear")
def _mm(trace, func, args, kwargs, result):
    name = _name(func)
    if name == "linear":
        bias, x, weight = (args[2] if len(args) > 2 else kwargs.get("bias")), args[0], args[1].t()
        flat = x.reshape(-1, x.shape[-1])
        labels = _general(trace, flat, weight, "linear")
        labels = labels.reshape(*x.shape[:-1], -1)
        return labels if bias is None else _add_bias(trace, bias, labels, "bias")
    bias, (x, weight) = (None, args) if name == "mm" else (args[0], args[1:])
    labels = _general(trace, x, weight, "matrix product")
    return labels if bias is None else _add_bias(trace, bias, labels, "bias")


def _general(trace, first, second, what):
    """Labels of first @ second."""
    found = _linear(trace, first, second, what)
    if found is not None:
        return found
    found = _linear(trace, second.t(), first.t(), what)
    if found is not None:
        return found.T
    return _contract(trace, trace.labels(first)[None], trace.labels(second)[None], what)[0]


def _contract(trace, a, b, what):
    """Labels of a batch of products of two labelled matrices, `(B, M, K)` and `(B, K, N)`."""
    known: dict[bytes, np.ndarray] = {}
    made, lefts, rights = [], [], []
    for x, y in zip(a, b):
        key = x.tobytes() + y.tobytes()
        if key not in known:
            rows, row_of = np.unique(x, axis=0, return_inverse=True)
            columns, column_of = np.unique(y.T, axis=0, return_inverse=True)
            sums = trace.forms.combine(rows[:, None, :], columns[None, :, :])
            kept = trace.forms.unite(sums, (2,), trace.reason(what))
            known[key] = kept[row_of.ravel()][:, column_of.ravel()]
            lefts.append(x)
            rights.append(y)
        made.append(known[key])
    for sides, others in ((lefts, rights), (rights, lefts)):
        if any((x > FIXED).any() for x in others):  # contracted with something that moves
            trace.events.append([np.unique(x) for x in sides])
    if all((x <= FIXED).all() for x in lefts):  # mixed by numbers that differ from matrix to matrix
        trace.events.append([np.unique(y) for y in rights])
    if all((x <= FIXED).all() for x in rights):
        trace.events.append([np.unique(x) for x in lefts])
    return np.stack(made)


@rule("bmm", "baddbmm")
def _bmm(trace, func, args, kwargs, result):
    bias, (first, second) = (None, args) if _name(func) == "bmm" else (args[0], args[1:])
    if len(first) == 1:
        labels = _general(trace, first[0], second[0], "matrix product")[None]
    else:
        labels = _contract(trace, trace.labels(first), trace.labels(second), "matrix product")
    return labels if bias is None else _add_bias(trace, bias, labels, "addition")


@rule("mv", "dot", "addmv")
def _vectors(trace, func, args, kwargs, result):
    name = _name(func)
    if name == "dot":
        first, second = args[0][None], args[1][:, None]
        return _contract(trace, trace.labels(first)[None], trace.labels(second)[None], "inner product")[0, 0, 0]
    bias, (first, second) = (None, args) if name == "mv" else (args[0], args[1:])
    labels = _general(trace, first, second[:, None], "matrix product")[:, 0]
    return labels if bias is None else _add_bias(trace, bias, labels, "addition")


@rule("convolution", "_convolution", "mkldnn_convolution")
def _convolution(trace, func, args, kwargs, result):
    given = _named(func, args, kwargs)
    x, weight, bias, groups, transposed = (given[k] for k in ("input", "weight", "bias", "groups", "transposed"))
    space = tuple(range(2, x.ndim))
    labels = trace.forms.unite(trace.labels(x), (0, *space), trace.reason("convolution"))
    labels = _free(trace, labels)
    found, channels = trace.matrix(weight), result.shape[1]
    taps = weight[0, 0].numel()
    if found is None or transposed:
        w = trace.forms.unite(trace.labels(weight), tuple(range(2, weight.ndim)), trace.reason("convolution"))
        w = w.T if transposed and groups == 1 else w
        if transposed and groups > 1:
            trace.forms.freeze(np.concatenate([labels, w.ravel()]), trace.reason("grouped transposed convolution"))
            w = np.full((channels, len(labels) // groups), FIXED)
        inputs = np.repeat(labels.reshape(groups, -1), channels // groups, axis=0)
        made = trace.forms.unite(trace.forms.combine(w, inputs), (1,), trace.reason("convolution"))
        trace.events += [[labels], [made]]
    else:
        part, rows, _ = found
        made = trace.forms.new(channels)
        inputs, outs = labels.reshape(groups, -1), made.reshape(groups, -1)
        if inputs.shape[1] == 1:  # depthwise
            row = trace.forms.combine(made, np.repeat(inputs[:, 0], outs.shape[1]), 1, -1)
            part.blocks.append(Block(rows, row, np.full(taps, FIXED)))
        else:
            for g in range(groups):
                here = slice(rows.start + g * outs.shape[1], rows.start + (g + 1) * outs.shape[1])
                part.blocks.append(Block(here, outs[g], np.repeat(inputs[g], taps)))
        trace.events += [list(inputs), list(outs)]
    shape = (1, -1, *[1] * len(space))
    found = np.broadcast_to(made.reshape(shape), tuple(result.shape))
    return found if bias is None else _add_bias(trace, bias.reshape(shape), found, "bias")


@rule("embedding")
def _embedding(trace, func, args, kwargs, result):
    weight, index = args[0], args[1]
    found = trace.matrix(weight)
    if found is None:
        labels = trace.labels(weight)
        return (
            trace.forms.unite(labels, (0,), trace.reason("embedding"))[None]
            .repeat(index.numel(), 0)
            .reshape(tuple(result.shape))
        )
    part, rows, _ = found
    made = _use(trace, part, rows, np.full(rows.stop - rows.start, FIXED), False)
    return np.broadcast_to(made, tuple(result.shape))


# Norms ----------------------------------------------------------------------------------------------------------------


def _norm(trace, x, axes, kind, weight, bias, shape, result):
    """What is normalised together must be of one size, which then is lost; weight and bias make a new one."""
    trace.touch(x)
    labels = trace.labels(x)
    trace.forms.unite(labels, axes, trace.reason(f"{kind} norm"))
    made = np.zeros(labels.shape, dtype=np.int64)
    if weight is not None:
        trace.touch(weight)
        made = np.broadcast_to(trace.labels(weight).reshape(shape), labels.shape)
    if bias is not None:
        made = _add_bias(trace, bias.reshape(shape), made, "bias of a norm")
    return [made, *[None] * (len(result) - 1)] if isinstance(result, list | tuple) else made


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "_native_batch_norm_legit_no_training",
      "miopen_batch_norm", "batch_norm")  # fmt: skip
def _batch_norm(trace, func, args, kwargs, result):
    given = _named(func, args, kwargs)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    shape = (1, -1, *[1] * (x.ndim - 2))
    if not given.get("training", given.get("train", _name(func) == "_batch_norm_with_update")):
        labels = trace.labels(x)
        trace.touch(x)
        trace.forms.freeze(labels, trace.reason("batch norm with running statistics"))
        made = np.zeros(labels.shape, dtype=np.int64)
        if weight is not None:
            trace.touch(weight)
            made = np.broadcast_to(trace.labels(weight).reshape(shape), labels.shape)
        made = made if bias is None else _add_bias(trace, bias.reshape(shape), made, "bias of a norm")
        return [made, None, None]
    return _norm(trace, x, (0, *range(2, x.ndim)), "batch", weight, bias, shape, [0] * 3)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def _layer_norm(trace, func, args, kwargs, result):
    given = _named(func, args, kwargs)
    name = _name(func)
    dims = len(given["normalized_shape"])
    x = args[0]
    kind = "rms" if "rms" in name else "layer"
    made = _norm(
        trace, x, tuple(range(x.ndim - dims, x.ndim)), kind, given.get("weight"), given.get("bias"),
        (*[1] * (x.ndim - dims), *x.shape[x.ndim - dims :]), result,
    )  # fmt: skip
    return made


@rule("native_group_norm", "group_norm")
def _group_norm(trace, func, args, kwargs, result):
    given = _named(func, args, kwargs)
    x, groups = args[0], given.get("group", given.get("num_groups"))
    labels = trace.labels(x)
    trace.touch(x)
    grouped = labels.reshape(len(labels), groups, -1)
    trace.forms.unite(grouped, (0, 2), trace.reason("group norm"))
    shape = (1, -1, *[1] * (x.ndim - 2))
    made = np.zeros(labels.shape, dtype=np.int64)
    if given.get("weight") is not None:
        trace.touch(given["weight"])
        made = np.broadcast_to(trace.labels(given["weight"]).reshape(shape), labels.shape)
    if given.get("bias") is not None:
        made = _add_bias(trace, given["bias"].reshape(shape), made, "bias of a norm")
    return [made, None, None] if isinstance(result, list | tuple) else made


@rule("_weight_norm_interface")
def _weight_norm(trace, func, args, kwargs, result):
    v, g, dim = (*args, 0)[:3]
    trace.touch(v)
    labels = trace.labels(v)
    axes = tuple(a for a in range(labels.ndim) if a != dim % labels.ndim)
    trace.forms.unite(labels, axes, trace.reason("weight norm"))
    return [np.broadcast_to(trace.labels(g), labels.shape), None]


# Moving numbers about -------------------------------------------------------------------------------------------------


@rule(
    "cat", "stack", "index", "index_select", "gather", "flip", "roll", "repeat", "slice_scatter", "select_scatter",
    "tril", "triu", "take_along_dim", "repeat_interleave", "im2col", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "_unsafe_index", "diag_embed", "reflection_pad2d", "replication_pad2d", "reflection_pad1d",
    "replication_pad1d", "masked_select", "index_put", "unfold", "view_copy", "permute_copy", "_reshape_copy",
    "reshape", "expand_copy", "squeeze_copy", "unsqueeze_copy", "t_copy", "transpose_copy", "split_with_sizes_copy",
    "slice_copy", "_reshape_alias", "_unsafe_view", "rot90",
)  # fmt: skip
def _moved(trace, func, args, kwargs, result):
    """The same operation on the labels."""
    if _name(func) in ("_unsafe_view", "_reshape_alias") and isinstance(result, Tensor):
        if result.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr():
            return []  # the same memory

    def labelled(tree):
        if isinstance(tree, Tensor):
            return (
                torch.from_numpy(np.ascontiguousarray(trace.labels(tree))) if tree.is_floating_point() else tree.cpu()
            )
        return type(tree)(labelled(item) for item in tree) if isinstance(tree, list | tuple) else tree

    with _disable_current_modes():
        try:
            found = func(*labelled(args), **{name: labelled(value) for name, value in kwargs.items()})
        except (RuntimeError, TypeError):  # an operation that does not take integers
            return unknown(trace, func, args, kwargs, result)
    return [t.numpy() for t in found] if isinstance(found, list | tuple) else found.numpy()


@rule("constant_pad_nd")
def _padded(trace, func, args, kwargs, result):
    value = args[2] if len(args) > 2 else 0.0
    labels = torch.from_numpy(np.ascontiguousarray(trace.labels(args[0])))
    with _disable_current_modes():
        return func(labels, args[1], ANY if value == 0 or math.isinf(value) else FIXED).numpy()


@rule("view_as_complex", "view_as_real", "_conj")
def _complex_view(trace, func, args, kwargs, result):
    if _name(func) == "view_as_complex":
        trace.touch(args[0])
        trace.forms.unite(trace.labels(args[0]), (-1,), trace.reason("complex number"))
    return []
