"""Lazy or rich: what the first weights foretell (derived here; arXiv:2406.06158).

A network is lazy if the linearised network can learn the task without leaving the neighbourhood in which it is valid.
So that is tried: the tangent kernel says where linearised training would end, and there the real network is asked how
far its kernel has turned, how many of its units have changed sides and how far its weights have moved. Whether a rich
run is rapid or delayed is a matter of the imbalance: upstream the first layer moves at once, downstream the last layer
learns first what it can, and the first turns after a time in proportion to |δ|.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from learndyn.dynamics import ForeignState, State
from learndyn.errors import InputError
from learndyn.laws import neuron
from learndyn.noise import isolated
from learndyn.observables import activation_patterns, kernel, kernel_distance, kernel_product
from learndyn.observables.evaluate import looking
from learndyn.observables.ntk.gram import call, chosen_names
from learndyn.observables.ntk.jacobian import transposed_product
from learndyn.regime.reading import Imbalance, Reading, imbalance
from learndyn.regime.steps import curvature
from learndyn.tasks import cross_entropy

Criterion = Callable[[Tensor, Tensor], Tensor]
RICH = 0.05  # of the kernel's direction, or of all units on all inputs
UNBALANCED = 1 / 3  # |rho| from which on layers learn at different times
MANY, LARGE = 64, 4000  # outputs of one input, and of all of a sample, up to which kernels are formed for all of them
ALIGNED = 0.9  # cosine with the target at which a layer counts as turned


@dataclass(frozen=True)
class Movement:
    """How far a network is from another of the same architecture.

    Attributes:
        kernel: Distance S of the tangent kernels (trace over outputs), from 0 to 1.
        patterns: Share of ReLU-like units, over inputs, that changed sides; nan if there are none.
        parameters: |θ′ − θ| / |θ|.
    """

    kernel: float
    patterns: float
    parameters: float

    @property
    def rich(self) -> bool:
        """Whether features were learnt: the kernel turned, or units changed sides, by more than 5 %."""
        return self.kernel > RICH or self.patterns > RICH


@dataclass(frozen=True)
class Foresight:
    """What the first weights foretell.

    Attributes:
        scale: |f| / |y| in root mean squares; y of classes is 1 for the right one, centred.
        rho: Mean imbalance of the first hidden units, from −1, downstream, to 1, upstream; nan if there are none.
        linearised: How far the place where linearised training ends is from the start.
        misfit: How wrong the linearisation is there: |f − f_lin| / |f_lin − f₀|.
        regime: "lazy", "rich", "rapid rich" or "delayed rich".
        readout: Share of what is to be learnt that the last layer can learn alone, on the features as they are; nan if
            the last layer is unknown.
        delay: Gradient-flow time until the first layer has turned to the task, by the law of one neuron; nan where
            that has nothing to say: not downstream, more than two layers, or a readout that fits all alone. Within 1 %
            for one linear neuron far downstream, an estimate within a factor of two for several.
    """

    scale: float
    rho: float
    linearised: Movement
    misfit: float
    regime: str
    readout: float
    delay: float


class View(NamedTuple):
    """What of a network movements are measured by: its kernel, the sides of its units, its weights."""

    kernel: Tensor
    patterns: dict[str, Tensor]
    parameters: list[Tensor]


def view(model: nn.Module, inputs: Tensor) -> View:
    """In float64 and evaluation mode, batch norms with the statistics of the inputs.

    The kernel is the trace over outputs, of more than 64 that of their sum.

    Raises:
        InputError: If a weight is not finite, or the network does not take the inputs.
    """
    x = _double(inputs)
    state = settled(model, x)
    with looking(state.model, x.device):
        outputs = state.model(x[:1]).numel()
    found = kernel(state.model, x, reduction="trace" if outputs <= MANY else "sum", certificate=False)
    try:
        patterns = activation_patterns(state, x)
    except InputError:  # no ReLU
        patterns = {}
    return View(found.matrix, patterns, [p.detach() for p in state.model.parameters()])


def between(first: View, second: View) -> Movement:
    """How far two views of one architecture are apart.

    Raises:
        InputError: If they are of two.
    """
    if [p.shape for p in first.parameters] != [p.shape for p in second.parameters]:
        raise InputError("The two networks have other parameters; give two states of one architecture.")
    turned = float(kernel_distance(first.kernel, second.kernel))
    units = sum(p.shape[1] for p in first.patterns.values())
    changed = sum(float((p != second.patterns[name]).double().mean(0).sum()) for name, p in first.patterns.items())
    moved = math.sqrt(sum(float((q - p).square().sum()) for p, q in zip(first.parameters, second.parameters)))
    size = math.sqrt(sum(float(p.square().sum()) for p in first.parameters))
    return Movement(turned, changed / units if units else math.nan, moved / size if size else 0.0)


def movement(before: nn.Module, after: nn.Module, inputs: Tensor) -> Movement:
    """How far a network has gone, in float64 and evaluation mode, batch norms with the statistics of the inputs.

    Args:
        before: The network at first.
        after: The same, later.
        inputs: `(n, ...)`, on which kernels and units are compared; 100 or so are enough.

    Raises:
        InputError: If the two are not of one architecture, or a weight is not finite.
    """
    return between(view(before, inputs), view(after, inputs))


def foresee(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: Criterion = cross_entropy,
    steps: int = 1000,
    c: float = 1.0,
    reading: Reading | None = None,
) -> Foresight:
    """Is a network going to be lazy or rich? From its weights and a sample of the task, before training.

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> told = foresee(net, torch.randn(20, 3), torch.arange(20) % 2, steps=50)
    >>> told.linearised.rich == (told.regime != "lazy")
    True

    Linearised gradient descent on the sample, with the learning rate c / λ_max, halved whenever the loss would rise; it
    costs one kernel of all outputs and `steps` products with it, or, of more than 4000 outputs on the sample, three
    backward passes a step.

    Args:
        model: Any network with one tensor of outputs `(n, ...)`; it is left as it was.
        inputs: `(n, ...)`; 100 or so are enough.
        targets: Classes `(n,)`, or numbers like the outputs.
        criterion: (outputs, targets) -> mean loss.
        steps: Updates of the linearised training.
        c: Learning rate times the largest curvature, in (0, 2).
        reading: What `imbalance` has read, if it is at hand.

    Raises:
        InputError: If the network does not take the inputs, nothing depends on its parameters, or c is out of range.
    """
    if steps < 1 or not 0 < c < 2:
        raise InputError(f"steps={steps} must be positive, and c={c:g} lie between 0 and 2.")
    x, y = _double(inputs), _double(targets)
    network = settled(model, x).model
    reading = reading or imbalance(network, x)
    with looking(network, x.device):
        start = network(x)
    product = _product(network, x, start)
    rate = c / curvature(network, x, y, criterion)
    f, push = start, torch.zeros_like(start)
    loss, slope = _slope(f, y, criterion)
    for _ in range(steps):
        tried = push - rate * slope
        then = start + product(tried)
        new, its = _slope(then, y, criterion)
        if new <= loss:
            f, push, loss, slope = then, tried, new, its
        else:  # confident classes bend the loss more than the first ones do
            rate /= 2
    there = settled(_moved(network, x, push), x).model
    with looking(there, x.device):
        reached = there(x)
    gone = movement(network, there, x)
    wanted = _wanted(y, start)
    first = _layers(reading)[:1]
    rho = float(first[0].rho.nanmean()) if first else math.nan
    readout, weights = _readout(network, x, wanted, reading)
    delay = _delay(x, y, start, criterion, reading, readout, weights)
    return Foresight(
        scale=float(start.square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-300)),
        rho=rho,
        linearised=gone,
        misfit=float((reached - f).norm() / (f - start).norm().clamp_min(1e-300)),
        regime="delayed rich" if delay > 0 else _named(gone, rho),
        readout=readout,
        delay=delay,
    )


def settled(model: nn.Module, x: Tensor) -> State:
    """A copy in float64, as observables take it, whose batch norms keep the statistics of this sample.

    Running statistics lag behind the weights, and before the first step they are those of no data.
    """
    made = copy.deepcopy(model).double().eval()
    norms = [m for m in made.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad(), isolated(x.device):
            made(x)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
    return ForeignState(0, 0.0, made, None, None)  # type: ignore[arg-type]


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _product(network: nn.Module, x: Tensor, outputs: Tensor) -> Callable[[Tensor], Tensor]:
    """K v for v like the outputs."""
    if outputs.numel() > LARGE:
        return lambda v: kernel_product(network, x, v.flatten(1)).view_as(outputs)
    full = kernel(network, x, reduction="full", certificate=False).matrix
    return lambda v: (full @ v.flatten()).view_as(outputs)


def _slope(f: Tensor, y: Tensor, criterion: Criterion) -> tuple[float, Tensor]:
    """The loss, and its gradient."""
    with torch.enable_grad():
        leaf = f.detach().requires_grad_()
        found = criterion(leaf, y)
        return float(found.detach()), torch.autograd.grad(found, leaf)[0]


def _moved(network: nn.Module, x: Tensor, push: Tensor) -> nn.Module:
    """The network at θ + Jᵀ push."""
    names, made = chosen_names(network, None), copy.deepcopy(network)
    with looking(network, x.device):
        along = transposed_product(network, call, names, x, push.flatten(1))
    with torch.no_grad():
        own = dict(made.named_parameters(remove_duplicate=False))
        for name in names:
            own[name].add_(along[name])
    return made


def _layers(reading: Reading) -> list[Imbalance]:
    """Hidden layers; queries against keys are none."""
    return [family for family in reading.units if family.outward]


def _named(gone: Movement, rho: float) -> str:
    if not gone.rich:
        return "lazy"
    if rho < -UNBALANCED:
        return "delayed rich"
    return "rapid rich" if rho > UNBALANCED and not math.isnan(gone.patterns) else "rich"


def _wanted(y: Tensor, outputs: Tensor) -> Tensor:
    """What the outputs should be: numbers as they are; of classes 1 for the right one, centred."""
    if y.is_floating_point():
        return y.reshape(outputs.shape)
    classes = outputs.shape[-1]
    return F.one_hot(y.clamp_min(0), classes).to(outputs).view_as(outputs) - 1 / classes


def _readout(network: nn.Module, x: Tensor, wanted: Tensor, reading: Reading) -> tuple[float, float]:
    """The share of what is wanted that the last layer can fit alone, and Σ a² of the least weights that do."""
    layers = _layers(reading)
    if not layers or not bool(wanted.any()) or wanted.numel() > LARGE:
        return math.nan, math.nan
    names = [t.parameter for t in layers[-1].law.terms if bool((t.weight < 0).any())]
    matrix = kernel(network, x, reduction="full", parameters=names, certificate=False).matrix.double()
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > 1e-10 * values[-1]
    inside = (vectors[:, kept].mT @ wanted.flatten()).square()
    return float(inside.sum() / wanted.square().sum()), float((inside / values[kept]).sum())


def _delay(
    x: Tensor, y: Tensor, outputs: Tensor, criterion: Criterion, reading: Reading, readout: float, weights: float
) -> float:
    """The law of one neuron: how fast it turns depends on a² alone, which of several is that of the readout's fit."""
    layers = _layers(reading)
    if len(layers) != 1 or outputs.ndim != 2 or not x.is_floating_point():
        return math.nan
    phi = math.sqrt(readout)
    if not float(layers[0].delta.mean()) < 0 or not 0 < phi < ALIGNED or not weights > 0:
        return math.nan
    flat = x.flatten(1)
    with torch.enable_grad():
        b = torch.zeros(flat.shape[1], outputs.shape[1], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(criterion(flat @ b, y), b, create_graph=True)
        along = slope.detach()
        if not bool(along.any()):
            return math.nan
        (bent,) = torch.autograd.grad(slope, b, along)
    pace = float(bent.norm() / along.norm())
    r = float(torch.linalg.matrix_norm(along, 2)) / pace
    return float(neuron.delay(phi, ALIGNED, r, -((r * phi) ** 2) / weights)) / pace
