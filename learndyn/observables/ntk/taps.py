"""Listening to a network: what its parameters are multiplied with, and what comes back to them.

A *site* is one use of parameters in the forward pass: a linear map, a convolution, an embedding, or the affine part of
a norm. There the gradient of an output with respect to the parameters is a product of the site's input A and of the
gradient G of that output with respect to what the site returned; both are kept, and no gradient of a weight is ever
formed. Functions are listened to (through torch's function mode), not modules: a weight that a custom module hands to
`F.linear`, the packed projections of attention, or one weight that is used in two places are seen all the same.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from learndyn.errors import InputError

Forward = Callable[[Tensor], Tensor]

LEAST, MOST = 32, 1024  # samples in one pass: more of a small network, whose passes cost as much as their calls
PASS = 2**23  # bytes of slopes of one output in a pass that is not called small

CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3, torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


@dataclass(frozen=True)
class Part:
    """A parameter, or some rows of it: packed projections use a weight in pieces."""

    name: str
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution, by spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass
class Site:
    """One use of parameters, and what was heard there; samples first.

    Attributes:
        kind: "matrix" (linear maps and convolutions), "index" (embeddings) or "scale" (the affine part of a norm).
        weight: The weight, if it is to be followed.
        bias: The bias, likewise.
        window: Geometry, for a convolution.
        positions_first: Whether positions come before samples, `(T, n, ...)`, as inside attention.
        inputs: A: `(n, T, D)` of a linear map, `(n, C, *space)` of a convolution, `(n, T)` of an embedding.
        slopes: G: `(n, c, O, T)`, gradients of the outputs with respect to what the site returned.
        weight_slopes: Gradients with respect to the weight of a norm, `(n, c, size)`.
        bias_slopes: Gradients with respect to the bias, `(n, c, size)`.
    """

    kind: str
    weight: Part | None
    bias: Part | None
    window: Window | None = None
    positions_first: bool = False
    inputs: Tensor | None = None
    slopes: Tensor | None = None
    weight_slopes: Tensor | None = None
    bias_slopes: Tensor | None = None

    def keep_inputs(self, use: _Use, where: slice, samples: int, total: int) -> None:
        """Store the inputs of some samples."""
        if self.weight is None or use.inputs is None:
            return
        found = use.inputs
        if self.kind == "index":
            found = _by_sample(found, samples, self.positions_first, 1)[..., 0]
        elif self.window is None:
            found = _by_sample(found, samples, self.positions_first, found.shape[-1])
        if self.inputs is None:
            self.inputs = found.new_empty(total, *found.shape[1:])
        self.inputs[where] = found

    def keep_slopes(self, use: _Use, slope: Tensor, output: int, where: slice, total: int, outputs: int) -> None:
        """Store what came back from one output of some samples."""
        samples, slope = where.stop - where.start, slope.detach()
        if self.kind == "scale":

            def summed(tensor: Tensor) -> Tensor:
                if use.shared:
                    return _by_sample(tensor, samples, self.positions_first, tensor.shape[-use.shared :].numel()).sum(1)
                return tensor.reshape(samples, tensor.shape[1], -1).sum(2)

            found = {"bias_slopes": summed(slope)} if self.bias is not None else {}
            if self.weight is not None and use.normalised is not None:
                found["weight_slopes"] = summed(slope * use.normalised)
        else:
            spread = slope.flatten(2) if self.window is not None else None
            if spread is None:
                spread = _by_sample(slope, samples, self.positions_first, slope.shape[-1]).transpose(1, 2)
            found = {"slopes": spread} if self.weight is not None else {}
            if self.bias is not None:
                found["bias_slopes"] = spread.sum(2)
        for name, value in found.items():
            if getattr(self, name) is None:
                make = value.new_empty if where.start == output == 0 else value.new_zeros  # some came back with nothing
                setattr(self, name, make(total, outputs, *value.shape[1:]))
            getattr(self, name)[where, output] = value

    def nothing(self, output: int, where: slice) -> None:
        """Store that nothing came back."""
        for kept in (self.slopes, self.weight_slopes, self.bias_slopes):
            if kept is not None:
                kept[where, output] = 0

    def template(self, covered: Collection[str]) -> Site:
        """The same site, empty, for the covered parameters only."""
        weight, bias = (p if p is not None and p.name in covered else None for p in (self.weight, self.bias))
        return Site(self.kind, weight, bias, self.window, self.positions_first)


@dataclass
class _Use:
    """A site in one forward pass."""

    kind: str
    weight: Part | None
    bias: Part | None
    window: Window | None
    inputs: Tensor | None
    result: Tensor
    normalised: Tensor | None = None
    shared: int = 0  # trailing dimensions that the weight of a norm has
    then: Callable[[Tensor], None] | None = None  # what to do with a gradient that comes back


class _Listening(TorchFunctionMode):
    """Notes every use of the listed parameters."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names = names
        self.uses: list[_Use] = []
        self.leaves: list[Tensor] = []  # where the backward pass may end

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  torch's signature
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            # A function of torch written in Python: look inside, at the linear maps that it makes.
            with mock.patch.object(F, "has_torch_function", lambda *_: False), self:
                return function(*args, **kwargs)
        reader = READERS.get(function)
        found = reader(self, *args, **kwargs) if reader else None
        result = function(*args, **kwargs)
        if found is None:
            return result
        if not result.requires_grad:  # nothing before depends on anything: the backward pass may end here
            self.leaves.append(result.detach().requires_grad_())
            result = self.leaves[-1].clone()  # a leaf itself may not be changed in place
        found.result = result
        self.uses.append(found)
        result.register_hook(lambda slope: found.then(slope) if found.then is not None else None)
        return result

    def part(self, tensor: Tensor | None) -> Part | None:
        """Which of the listed parameters a tensor is, or is rows of."""
        if not isinstance(tensor, Tensor):
            return None
        owner = tensor if tensor._base is None else tensor._base
        if id(owner) not in self.names:
            return None
        if tensor is not owner and not (tensor.is_contiguous() and owner.is_contiguous()):
            return None
        return Part(self.names[id(owner)], int(tensor.storage_offset() - owner.storage_offset()), tuple(tensor.shape))


def _read_linear(mode: _Listening, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Use | None:
    own, offset = mode.part(weight), mode.part(bias)
    if own is None and offset is None:
        return None
    return _Use("matrix", own, offset, None, input.detach(), input)


def _read_convolution(dimensions: int) -> Callable[..., _Use | None]:
    def wide(value: Any) -> tuple[int, ...]:
        return tuple(value) if isinstance(value, Sequence) and len(value) > 1 else (_first(value),) * dimensions

    def read(
        mode: _Listening,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> _Use | None:
        own, offset = mode.part(weight), mode.part(bias)
        if (own is None and offset is None) or input.dim() != dimensions + 2:
            return None
        kernel, dilation = tuple(weight.shape[2:]), wide(dilation)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel)]
            sides = tuple((t // 2, t - t // 2) for t in total)
        else:
            sides = tuple((p, p) for p in wide(0 if padding == "valid" else padding))
        window = Window(kernel, wide(stride), sides, dilation, groups)
        return _Use("matrix", own, offset, window, input.detach(), input)

    return read


def _first(value: Any) -> int:
    return int(value[0]) if isinstance(value, Sequence) else int(value)


def _read_embedding(
    mode: _Listening,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> _Use | None:
    own = mode.part(weight)
    if own is None or max_norm is not None or scale_grad_by_freq:
        return None
    index = input.detach()
    if padding_idx is not None:
        index = torch.where(index == padding_idx % len(weight), -1, index)  # its row gets no gradient
    return _Use("index", own, None, None, index, weight)


def _norm(mode: _Listening, weight: Any, bias: Any, normalised: Callable[[], Tensor], shared: int) -> _Use | None:
    own, offset = mode.part(weight), mode.part(bias)
    if own is None and offset is None:
        return None
    with torch.no_grad():
        return _Use("scale", own, offset, None, None, weight, normalised().detach(), shared)


def _read_batch_norm(
    mode: _Listening,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Use | None:
    if training or running_mean is None:
        return None  # samples see each other: not a site
    return _norm(
        mode, weight, bias, lambda: F.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps), 0
    )


def _read_layer_norm(
    mode: _Listening,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> _Use | None:
    plain = lambda: F.layer_norm(input, normalized_shape, None, None, eps)  # noqa: E731
    return _norm(mode, weight, bias, plain, len(normalized_shape))


def _read_rms_norm(
    mode: _Listening,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> _Use | None:
    return _norm(mode, weight, None, lambda: F.rms_norm(input, normalized_shape, None, eps), len(normalized_shape))


def _read_group_norm(
    mode: _Listening,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> _Use | None:
    return _norm(mode, weight, bias, lambda: F.group_norm(input, num_groups, None, None, eps), 0)


READERS: dict[Any, Callable[..., _Use | None]] = {
    F.linear: _read_linear,
    F.embedding: _read_embedding,
    F.batch_norm: _read_batch_norm,
    F.layer_norm: _read_layer_norm,
    F.rms_norm: _read_rms_norm,
    F.group_norm: _read_group_norm,
    **{function: _read_convolution(dimensions) for function, dimensions in CONVOLUTIONS.items()},
}


@dataclass(frozen=True)
class Plan:
    """What a trial on a few inputs has shown.

    Attributes:
        sites: Templates of the sites in the order of the forward pass, with empty buffers.
        covered: Parameters whose gradient is fully explained by the sites.
        why: The others, with the reason.
        outputs: Outputs c of the network for one input.
        input_bytes: What the sites will keep of a sample's inputs.
        slope_bytes: What they will keep of the slopes of one output of a sample.
    """

    sites: list[Site]
    covered: frozenset[str]
    why: dict[str, str]
    outputs: int
    input_bytes: int = 0
    slope_bytes: int = 0


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient; afterwards they ask as before. Fused attention is off."""
    asking = [(p, p.requires_grad) for p in model.parameters()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for p, _ in asking:
            p.requires_grad_(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for p, asked in asking:
            p.requires_grad_(asked)


def _listen(forward: Forward, inputs: Tensor, names: dict[int, str]) -> tuple[Tensor, _Listening]:
    """Outputs `(m, c)` and what was heard."""
    with torch.enable_grad(), _Listening(names) as mode:
        outputs = forward(inputs).flatten(1)
    return outputs, mode


def _by_sample(tensor: Tensor, samples: int, positions_first: bool, features: int) -> Tensor:
    """`(m, T, features)` of a tensor whose last dimensions are the features."""
    if positions_first:
        return tensor.reshape(-1, samples, features).transpose(0, 1)
    return tensor.reshape(samples, -1, features)


def _layouts(use: _Use, slope: Tensor, samples: int, chosen: int) -> Iterator[bool]:
    """In which orders of samples and positions nothing but the chosen sample hears back: samples first if both."""
    for positions_first in (False, True):
        fixed = use.window is not None or (use.kind == "scale" and not use.shared)
        if fixed and (positions_first or slope.shape[0] != samples):
            continue
        rows = slope.shape[: -max(use.shared, 1)].numel() if not fixed else samples
        if rows % samples:
            continue
        view = (
            slope.flatten(1) if fixed else _by_sample(slope, samples, positions_first, slope.numel() // rows).flatten(1)
        )
        others = [i for i in range(samples) if i != chosen]
        if not view[others].any():
            yield positions_first


def _gradients(forward: Forward, inputs: Tensor, direction: Tensor, parameters: list[nn.Parameter]) -> list[Any]:
    """What autograd says; None for a parameter on which the outputs do not depend."""
    asking = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        with torch.enable_grad():
            outputs = forward(inputs).flatten(1)
            return list(torch.autograd.grad(outputs, parameters, direction, allow_unused=True))
    finally:
        for p, asked in zip(parameters, asking):
            p.requires_grad_(asked)


def _made(site: Site, sample: int) -> Iterator[tuple[Part, Tensor]]:
    """The gradients that a site with one output accounts for."""
    if site.bias is not None and site.bias_slopes is not None:
        yield site.bias, site.bias_slopes[sample, 0]
    if site.weight is None:
        return
    if site.kind == "scale" and site.weight_slopes is not None:
        yield site.weight, site.weight_slopes[sample, 0]
    elif site.kind == "index" and site.slopes is not None and site.inputs is not None:
        found = site.slopes.new_zeros(site.weight.shape[0] + 1, site.weight.shape[1])  # index -1 goes into the last row
        found.index_add_(0, site.inputs[sample] % len(found), site.slopes[sample, 0].T)
        yield site.weight, found[:-1]
    elif site.slopes is not None and site.inputs is not None:
        patches = unfold(site, slice(sample, sample + 1))[0]
        groups = len(patches)
        yield site.weight, (site.slopes[sample, 0].reshape(groups, -1, patches.shape[-1]) @ patches.mT)


def offsets(window: Window, space: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For each element of the kernel: the input pixels that it touches, and the outputs that they go to."""
    sides = list(zip(space, window.kernel, window.stride, window.padding, window.dilation))
    results = [(n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]
    for element in itertools.product(*map(range, window.kernel)):
        pixels, outputs = [], []
        for (n, _, s, (before, _), d), count, at in zip(sides, results, element):
            shift = at * d - before
            first = max(0, -(shift // s))
            last = min(count - 1, (n - 1 - shift) // s)
            outputs.append(slice(first, max(last + 1, first)))
            start = first * s + shift
            pixels.append(slice(start, start + (last - first) * s + 1 if last >= first else start, s))
        yield tuple(pixels), tuple(outputs)


def positions(window: Window, space: Sequence[int]) -> tuple[int, ...]:
    """Shape of a convolution's output."""
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(space, window.kernel, window.stride, window.padding, window.dilation)
    )


def unfold(site: Site, samples: slice, channels: slice = slice(None)) -> Tensor:
    """What each position of the output sees of the input: U, `(m, groups, D, T)`.

    `channels` chooses among the input channels of a group, in whose order, kernel elements inside, D runs.
    """
    found = site.inputs[samples]  # type: ignore[index]
    if site.window is None:
        return found[..., channels].mT[:, None]
    window, space = site.window, found.shape[2:]
    found = found.unflatten(1, (window.groups, -1))[:, :, channels]
    result = found.new_zeros(*found.shape[:3], math.prod(window.kernel), *positions(window, space))
    for element, (pixels, outputs) in enumerate(offsets(window, space)):
        result[:, :, :, element][(..., *outputs)] = found[(..., *pixels)]
    return result.flatten(4).flatten(2, 3)


def tap(
    forward: Forward,
    model: nn.Module,
    plan: Plan,
    names: Sequence[str],
    inputs: Tensor,
    directions: Tensor,
) -> list[Site]:
    """Inputs and slopes of every site for all inputs.

    Args:
        forward: Inputs to outputs.
        model: The network.
        plan: What the trial has shown.
        names: The parameters that were asked for.
        inputs: `(n, ...)`.
        directions: Combinations of the outputs whose gradients are sent back, `(r, c)`.

    Raises:
        InputError: If the network does other things with these inputs than in the trial.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    ids = {id(own[name]): name for name in names}
    sites = [site.template(plan.covered) for site in plan.sites]
    total, rows = len(inputs), len(directions)
    chunk = min(MOST, max(LEAST, PASS // max(plan.slope_bytes, 1)))
    with frozen(model):
        for begin in range(0, total, chunk):
            where = slice(begin, min(begin + chunk, total))
            count = where.stop - where.start
            outputs, mode = _listen(forward, inputs[where], ids)
            if [use.kind for use in mode.uses] != [site.kind for site in sites]:
                raise InputError(
                    f"The network used its parameters {len(mode.uses)} times for inputs {begin} to {where.stop - 1} "
                    f"and {len(sites)} times in a trial; what it does must not depend on the inputs."
                )
            slopes: dict[int, Tensor] = {}
            for place, (use, site) in enumerate(zip(mode.uses, sites)):
                site.keep_inputs(use, where, count, total)
                use.then = functools.partial(slopes.__setitem__, place)
            for row in range(rows):
                slopes.clear()
                if mode.leaves and outputs.requires_grad:
                    direction = directions[row].expand_as(outputs)
                    torch.autograd.grad(outputs, mode.leaves, direction, retain_graph=row < rows - 1, allow_unused=True)
                for place, (use, site) in enumerate(zip(mode.uses, sites)):
                    if place in slopes:
                        site.keep_slopes(use, slopes.pop(place), row, where, total, rows)
                    else:
                        site.nothing(row, where)
    return sites


def plan(model: nn.Module, forward: Forward, inputs: Tensor, names: Sequence[str]) -> Plan:
    """Try the network on three inputs: which of the named parameters do the sites explain, and in which layout?

    A random combination of the outputs of the middle sample is sent back. Nothing may come back to the others, and the
    gradient that the sites make up must be that of autograd, parameter by parameter: one that fails, because it is
    used in a way that is not listened to as well, is left to the general way.
    """
    samples, chosen = 3, 1
    few = inputs[torch.arange(samples, device=inputs.device) % len(inputs)]
    own = dict(model.named_parameters(remove_duplicate=False))
    ids = {id(own[name]): name for name in names}
    slopes: dict[int, Tensor] = {}
    with frozen(model):
        outputs, mode = _listen(forward, few, ids)
        direction = torch.zeros_like(outputs)
        direction[chosen] = torch.randn(outputs.shape[1], generator=torch.Generator().manual_seed(0)).to(direction)
        for place, use in enumerate(mode.uses):
            use.then = lambda slope, place=place: slopes.__setitem__(place, slope.detach())  # type: ignore[misc]
        if mode.leaves and outputs.requires_grad:
            torch.autograd.grad(outputs, mode.leaves, direction, allow_unused=True)
    truth = _gradients(forward, few, direction, [own[name] for name in names])
    why: dict[str, str] = {}
    made: dict[str, Tensor] = {}
    sites, kinds = [], dict[str, set[tuple[str, int, tuple[int, ...]]]]()
    for place, use in enumerate(mode.uses):
        slope = slopes.get(place, torch.zeros_like(use.result))
        layout = next(_layouts(use, slope, samples, chosen), None)
        for part, kind in ((use.weight, use.kind), (use.bias, "bias")):
            if part is not None:
                kinds.setdefault(part.name, set()).add((kind, part.offset, part.shape))
                if layout is None:
                    why[part.name] = "used where samples cannot be told apart"
        sites.append(site := Site(use.kind, use.weight, use.bias, use.window, layout or False))
        if layout is not None:
            site.keep_inputs(use, slice(0, samples), samples, samples)
            site.keep_slopes(use, slope, 0, slice(0, samples), samples, 1)
            for part, gradient in _made(site, chosen):
                whole = made.setdefault(part.name, torch.zeros_like(own[part.name]).flatten())
                whole[part.offset : part.offset + gradient.numel()] += gradient.flatten()
    tolerance = 1e-8 if outputs.dtype == torch.float64 else 1e-3
    for name, expected in zip(names, truth):
        if name in made:
            expected = torch.zeros_like(made[name]) if expected is None else expected.flatten()
            if (made[name] - expected).norm() > tolerance * expected.norm() + 1e-30:
                why.setdefault(name, "also used in a way that is not listened to")
        elif expected is not None:  # else the outputs do not depend on it
            why.setdefault(name, "used in a way that is not listened to")
    for name, seen in kinds.items():
        spans = sorted((offset, offset + torch.Size(shape).numel()) for _, offset, shape in seen)
        if any(after[0] < before[1] for before, after in zip(spans, spans[1:])):
            why.setdefault(name, "used in several ways at once")
    covered = frozenset(name for name in names if name not in why)
    kept = [(site.inputs, (site.slopes, site.weight_slopes, site.bias_slopes)) for site in sites]
    input_bytes = sum(inputs.nbytes for inputs, _ in kept if inputs is not None) // samples
    slope_bytes = sum(t.nbytes for _, slopes in kept for t in slopes if t is not None) // samples
    templates = [site.template(covered) for site in sites]
    return Plan(templates, covered, why, outputs.shape[1], input_bytes, slope_bytes)
