"""Symmetries in numbers: gradients and finite transformations, at random parameters and data, in float64."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from learndyn.noise import isolated, seed_forward
from learndyn.symmetries.law import SymmetryLaw, Term
from learndyn.symmetries.matrix import MatrixLaw
from learndyn.symmetries.trace import Trace, is_eps, plain_attention

NONE = 1e-30  # instead of an eps: batch norm refuses 0 in training
TOLERANCE = 1e-9
SCALES = (1.0, 0.1, 10.0)  # of the inputs: what holds by an accident of the data fails at one of them

Law = SymmetryLaw | MatrixLaw
Parameters = dict[str, Tensor]


class _WithoutEps(TorchDispatchMode):
    """Norms without their eps, those of torch and those written by hand."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  torch's signature
        kwargs, given = dict(kwargs or {}), list(args)
        for position, argument in enumerate(func._schema.arguments):
            if argument.name in ("eps", "epsilon"):
                if kwargs.get(argument.name) is not None:
                    kwargs[argument.name] = NONE
                elif position < len(given) and given[position] is not None:
                    given[position] = NONE
        name = func._overloadpacket.__name__.removesuffix("_")
        if name == "add" and len(given) > 1 and not isinstance(given[1], Tensor) and is_eps(given[0], float(given[1])):
            given[1] = NONE
        return func(*given, **kwargs)


class Probe:
    """A network in float64, and inputs on which it is tried.

    Args:
        model: The network, in the mode in which it is trained; a copy is made.
        inputs: Its arguments, samples first.
        softmax: Whether only the log-probabilities count, and along which dimension; None if all of the outputs do.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], softmax: int | None):
        self.model, self.softmax = copy.deepcopy(model).double(), softmax
        self.inputs = tuple(double(x) for x in inputs)

    def _outputs(self, parameters: Parameters, inputs: tuple[Any, ...], seed: int, eps: bool) -> list[Tensor]:
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        with contextlib.ExitStack() as stack:
            stack.enter_context(isolated())
            stack.enter_context(plain_attention())
            if not eps:
                stack.enter_context(_WithoutEps())
            seed_forward(0, seed, torch.device("cpu"))
            found = floats(functional_call(self.model, (parameters, buffers), inputs))
        return found if self.softmax is None else [t.log_softmax(self.softmax) for t in found]

    def outputs(self, parameters: Parameters, scale: float = 1.0) -> Tensor:
        """All that counts of the outputs, flat; without eps."""
        inputs = tuple(x * scale if _floating(x) else x for x in self.inputs)
        with torch.no_grad():
            return torch.cat([t.flatten() for t in self._outputs(parameters, inputs, 0, eps=False)])

    def gradients(self, parameters: Parameters, seed: int, eps: bool = False) -> Parameters:
        """The gradient of a random function of the outputs, on inputs moved at random."""
        leaves = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        draw = torch.Generator().manual_seed(seed)
        inputs = tuple(_moved(x, draw) for x in self.inputs)
        found = self._outputs(leaves, inputs, seed, eps)
        total = sum((torch.randn(t.shape, generator=draw, dtype=t.dtype) * t + t.square() / 10).mean() for t in found)
        with contextlib.nullcontext() if eps else _WithoutEps():  # some go backward with the eps that they were given
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), grads)}

    def jittered(self, seed: int, size: float = 0.4) -> Parameters:
        """Parameters some way off, so that nothing holds by an accident of the first ones."""
        draw = torch.Generator().manual_seed(seed)
        made = {}
        for name, p in self.model.named_parameters():
            spread = float(p.detach().std()) if p.numel() > 1 else 0.0
            noise = torch.randn(p.shape, generator=draw)  # in float32: there may be millions
            made[name] = p.detach() + size * (spread or 0.1) * noise if p.requires_grad else p.detach().clone()
        return made


def double(x: Any) -> Any:
    """A tensor on the CPU, floats in float64; anything else as it is."""
    x = x.cpu() if isinstance(x, Tensor) else x
    return x.double() if _floating(x) else x


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _moved(x: Any, draw: torch.Generator) -> Any:
    if _floating(x):
        spread = float(x.std()) if x.numel() > 1 else 1.0
        return x + 0.3 * spread * torch.randn(x.shape, generator=draw, dtype=x.dtype)
    if isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32) and x.numel() > 1:
        return x.flatten()[torch.randperm(x.numel(), generator=draw)].view_as(x)
    return x


def floats(tree: Any) -> list[Tensor]:
    """The floating tensors in whatever a network returns."""
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() else []
    if isinstance(tree, dict):
        return floats(list(tree.values()))
    if isinstance(tree, list | tuple):
        return [t for item in tree for t in floats(item)]
    return floats(list(vars(tree).values())) if hasattr(tree, "__dict__") else []


@dataclass(frozen=True)
class Point:
    """Parameters, and gradients there."""

    parameters: Parameters
    gradients: list[Parameters]

    @cached_property
    def noise(self) -> float:
        """What a gradient that vanishes may be."""
        return 1e-13 * max(float(g.abs().max()) for gradient in self.gradients for g in gradient.values() if g.numel())


def points(probe: Probe, count: int = 2, batches: int = 3) -> list[Point]:
    """Random parameters, with gradients of several random functions."""
    made = []
    for seed in range(count):
        parameters = probe.jittered(seed)
        made.append(Point(parameters, [probe.gradients(parameters, 10 * seed + batch) for batch in range(batches)]))
    return made


def violation(law: Law, at: list[Point]) -> float:
    """The largest relative current of any charge."""
    return max(float(law.violation(p.parameters, g, p.noise).max()) for p in at for g in p.gradients)


def change(laws: list[Law], probe: Probe, at: list[Point], known: dict[int, Tensor] | None = None) -> float:
    """The relative change of the outputs under random finite transformations, of all charges of all laws at once.

    The first that is too large ends the search. What is `known` of the outputs before is used, and added to.
    """
    worst, known = 0.0, {} if known is None else known
    for seed, scale in enumerate(SCALES):
        parameters = moved = at[seed % len(at)].parameters
        draw = torch.Generator().manual_seed(seed)
        for law in laws:
            if isinstance(law, MatrixLaw):
                blocks, d = law.shape
                chosen = torch.randn(blocks, d, d, generator=draw, dtype=torch.float64) / (2 * math.sqrt(d))
            else:
                chosen = (2 * torch.rand(law.size, generator=draw, dtype=torch.float64) - 1) * math.log(2)
                chosen = 5 * chosen if law.linear else chosen
            moved = moved | law.apply(moved, chosen)
        if seed not in known:
            known[seed] = probe.outputs(parameters, scale)
        before, after = known[seed], probe.outputs(moved, scale)
        worst = max(worst, float((after - before).norm() / before.norm().clamp_min(1e-300)))
        if not worst < TOLERANCE:
            break
    return worst


def holding(laws: list[Law], probe: Probe, at: list[Point], known: dict[int, Tensor] | None = None) -> list[Law]:
    """Those whose finite transformations leave the outputs alone; tried together, and in halves where that fails."""
    known = {} if known is None else known
    if not laws or change(laws, probe, at, known) < TOLERANCE:
        return laws
    half = len(laws) // 2
    return holding(laws[:half], probe, at, known) + holding(laws[half:], probe, at, known) if half else []


def translations(trace: Trace, probe: Probe, at: list[Point]) -> list[Law]:
    """Directions that the outputs do not see: all outputs of a map by the same, or a bias alone.

    Candidates are all uses of all parameters: sums of gradients that vanish. They are smooth identities of softmax and
    of norms, so that numbers decide; parameters that are far away, and inputs of other sizes, wake units that sleep.
    """
    gradients = [g for p in at for g in p.gradients]
    largest = max(float(g.abs().max()) for gradient in gradients for g in gradient.values() if g.numel())
    candidates: list[Law] = []
    sizes: list[Tensor] = []  # of the gradients of a part

    def candidate(kind: str, part: Any, side: str, begin: int, end: int, index: Tensor, size: int) -> None:
        charge = torch.arange(size) if size == len(index) else torch.zeros(len(index), dtype=torch.int64)
        ones = torch.ones(len(index), dtype=torch.float64)
        law = SymmetryLaw(kind, size, (Term(part.name, side, begin, end, index, charge, ones),))
        if all(_vanishes(law, {part.name: g[part.name]}, {part.name: a}, largest) for g, a in zip(gradients, sizes)):
            candidates.append(law)

    for part in trace.parts.values():
        tensor = part.tensor
        if not tensor.ndim or not tensor.numel():
            continue
        count, rest = len(tensor), part.size // len(tensor)
        sizes = [g[part.name].abs() for g in gradients]
        asleep = torch.stack([size.reshape(count, -1).amax(1) for size in sizes]).amax(0)
        dead = (asleep < 1e-12 * largest).nonzero().flatten()
        if tensor.ndim == 1 and len(dead):
            candidate("dead", part, "rows", 0, count, dead, len(dead))
        spans = {(0, count)} | {(b.rows.start, b.rows.stop) for b in part.blocks}
        for begin, end in sorted(spans):
            if end - begin > 1 and not (tensor.ndim == 1 and len(dead) == count):
                candidate("translation", part, "columns", begin, end, torch.arange(rest), rest)
        if rest > 1:
            candidate("translation", part, "rows", 0, count, torch.arange(count), count)
    return holding(candidates, probe, at)


def _vanishes(law: SymmetryLaw, gradients: Parameters, sizes: Parameters, largest: float) -> bool:
    size = law.total(sizes)
    if law.kind == "dead":
        return bool((size < 1e-11 * largest).all())
    return bool(
        (size > 1e-11 * largest).any() and (law.total(gradients).abs() <= TOLERANCE * size + 1e-13 * largest).all()
    )


@dataclass(frozen=True)
class Certificate:
    """How many diagonal symmetries the gradients show, whoever has listed them.

    Attributes:
        found: Dimension of the null space of the gradients' features, without what holds for any matrix.
        listed: How much of it the listed laws explain.
        silent: Features of the rest on which no gradient came at all: rows of an embedding that were not visited, units
            that never fired.
        smallest: The smallest singular value that counts as one; above 1e-4 the answer is beyond doubt.
        largest: The largest one that counts as zero.
    """

    found: int
    listed: int
    silent: int
    smallest: float
    largest: float

    @property
    def complete(self) -> bool:
        """Whether every symmetry that these data show is listed."""
        return self.found - self.silent == self.listed


def certificate(probe: Probe, names: list[str], laws: list[SymmetryLaw], most: int = 300) -> Certificate | None:
    """Count the null space of row sums and column sums of θ ⊙ g over random parameters and batches.

    Args:
        probe: The network.
        names: Parameters that are followed.
        laws: The diagonal laws and dead parameters that were found.
        most: Features, at most; None comes back for larger networks, as time grows with their square.
    """
    shapes = {name: p for name, p in probe.model.named_parameters() if name in names and p.numel()}
    single = {t.parameter for law in laws for t in law.terms if t.side == "elements"}

    def features(tensor: Tensor, name: str) -> list[Tensor]:
        if tensor.ndim < 2 or name in single:
            return [tensor.reshape(-1)]
        flat = tensor.flatten(2).sum(2) if tensor.ndim > 2 and tensor.shape[1] > 1 else tensor.flatten(1)
        return [flat.sum(1), flat.sum(0)]

    begin, place, trivial = 0, {}, []
    for name, p in shapes.items():
        sizes = [len(f) for f in features(p.detach(), name)]
        place[name] = (begin, begin + sizes[0], sum(sizes) - sizes[0])
        if len(sizes) == 2:
            trivial.append(name)
        begin += sum(sizes)
    if begin > most:
        return None
    rows = []
    for sample in range(begin + 10):
        parameters = probe.jittered(1000 + sample, 0.4 if sample % 2 else 2.0)  # far away, more is visited
        gradients = probe.gradients(parameters, 1000 + sample)
        rows.append(torch.cat([f for name in shapes for f in features(parameters[name] * gradients[name], name)]))
    table = torch.stack(rows)
    size = table.square().mean(0).sqrt()
    alive = size > 1e-11 * size.max()
    values = torch.linalg.svdvals(table[:, alive] / size[alive]) / math.sqrt(len(table))
    null = int((values < 1e-9).sum()) + int((~alive).sum())
    known = [torch.zeros(begin, dtype=torch.float64) for _ in trivial]
    for vector, name in zip(known, trivial):
        rows_at, columns_at, columns = place[name]
        vector[rows_at:columns_at], vector[columns_at : columns_at + columns] = 1, -1
    for law in laws:
        if law.kind != "translation":
            known += list(_vectors(law, place, shapes, begin))
    basis = torch.stack(known) if known else torch.zeros(0, begin, dtype=torch.float64)
    rank = _rank(basis)
    asleep = torch.eye(begin, dtype=torch.float64)[~alive]
    silent = _rank(torch.cat([basis, asleep])) - rank
    zero, rest = values[values < 1e-9], values[values >= 1e-9]
    return Certificate(
        null - len(trivial), rank - len(trivial), silent,
        float(rest.min()) if len(rest) else math.nan, float(zero.max()) if len(zero) else 0.0,
    )  # fmt: skip


def _vectors(law: SymmetryLaw, place: dict[str, tuple[int, int, int]], shapes: Any, size: int) -> Tensor:
    found = torch.zeros(law.size, size, dtype=torch.float64)
    for term in law.terms:
        rows_at, columns_at, columns = place[term.parameter]
        if term.side == "columns":
            taps = max(1, shapes[term.parameter][0].numel() // max(columns, 1))
            found[term.charge, columns_at + term.index // taps] = term.weight
        else:
            found[term.charge, rows_at + term.begin * (term.side == "rows") + term.index] = term.weight
    return found


def _rank(vectors: Tensor) -> int:
    return int(torch.linalg.matrix_rank(vectors, rtol=1e-9)) if len(vectors) else 0
