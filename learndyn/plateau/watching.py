"""When a run's loss drops next, in steps, and which hidden unit of which block does it (derived here)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from learndyn.dynamics import State
from learndyn.errors import InputError
from learndyn.laws.staircase import flow_time
from learndyn.plateau.block import Activation, Loss, candidates, captured
from learndyn.plateau.drop import NextDrop, next_drop
from learndyn.tasks import Batch

SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Outlook:
    """What a block of a network is about to learn.

    Attributes:
        first: Name of the layer that leads in.
        second: Name of the layer that leads out.
        activation: What stands between them.
        degree: κ of its units: 2 if the activation has a slope at 0, 3 for a square.
        rows: Samples, times positions.
        drop: The next drop, in flow time of the user's loss.
        per_step: Flow time of a step, η/(1 − μ); nan if that is not known.
        lag: How much longer steps of SGD take than the flow, by momentum and size of the step; 1 for κ > 2, where it is
            not known.
        incoming: Weights of the first unit's direction that lead in, `(inputs,)`.
        bias: Its bias; 0 without.
        outgoing: Its weights that lead out, `(outputs,)`.
        notes: What a reader should know.
    """

    first: str
    second: str
    activation: str
    degree: float
    rows: int
    drop: NextDrop
    per_step: float
    lag: float
    incoming: Float[Tensor, " inputs"]
    bias: float
    outgoing: Float[Tensor, " outputs"]
    notes: tuple[str, ...]

    @property
    def steps(self) -> float:
        """Until the first unit wakes; inf if none does, nan if the steps are not known."""
        return self.drop.time / self.per_step * self.lag

    @property
    def onset_steps(self) -> float:
        """Until the loss begins to drop."""
        return self.drop.onset / self.per_step * self.lag

    def __str__(self) -> str:
        told = f"{self.first} -> {self.second} ({self.activation}): {self.drop}"
        if math.isfinite(self.steps):
            begins = "" if math.isnan(self.onset_steps) else f"the drop begins in {self.onset_steps:.0f}, "
            told += f" In steps: {begins}unit {self.drop.neuron} wakes in {self.steps:.0f}."
        return " ".join([told, *self.notes])

    def plain(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        return {
            **{name: getattr(self, name) for name in ("first", "second", "activation", "degree", "rows")},
            "steps": self.steps if math.isfinite(self.steps) else None,
            "onset_steps": self.onset_steps if math.isfinite(self.onset_steps) else None,
            "flow_time_per_step": self.per_step if math.isfinite(self.per_step) else None,
            "incoming": self.incoming.tolist(),
            "bias": self.bias,
            "outgoing": self.outgoing.tolist(),
            "drop": self.drop.plain(),
            "notes": list(self.notes),
            "sentence": str(self),
        }


class Pace(NamedTuple):
    """How torch's SGD moves.

    Attributes:
        rate: η, times 1 − dampening where there is momentum.
        momentum: μ.
        nesterov: Its form.
    """

    rate: float
    momentum: float
    nesterov: bool

    @property
    def per_step(self) -> float:
        """Flow time of a step."""
        return flow_time(1, self.rate, self.momentum) if math.isfinite(self.rate) else math.nan

    def lag(self, growth: float) -> float:
        """Steps for an e-fold of what grows as e^(growth · flow time), over those of the flow (derived here).

        With G = growth · θ a step multiplies by the larger root z of z² − (1 + μ + ηg)z + μ = 0, for Nesterov's form of
        z² − (1 + μ)(1 + ηg)z + μ(1 + ηg) = 0.
        """
        step, mu = self.rate * growth, self.momentum
        if not (math.isfinite(step) and step > 0):
            return 1.0
        b, c = ((1 + mu) * (1 + step), mu * (1 + step)) if self.nesterov else (1 + mu + step, mu)
        beyond = 0.5 * (b - 2 + math.sqrt(b * b - 4 * c))  # z − 1
        return self.per_step * growth / math.log1p(beyond)


def watch(
    network: nn.Module | State,
    loss: Loss | None = None,
    first: str | None = None,
    second: str | None = None,
    activation: Activation | None = None,
    optimizer: Optimizer | None = None,
    dormant_below: float | None = None,
    threshold: float | None = None,
    samples: int = SAMPLES,
    rtol: float = 1e-2,
) -> Outlook:
    """The early warning for a block nn.Linear, activation, nn.Linear anywhere in a network that is being trained.

    One backward pass says what is left to learn at the block's output; everything around it is frozen. What is foretold
    is gradient descent on this loss: by the whole training set, or much of it, not by one small batch. The network,
    its gradients, buffers, modes and the random state are left as they were; it is looked at in the mode it is in.

    >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     for i, p in enumerate(net.parameters()):
    ...         _ = p.copy_(1e-5 * torch.sin(1.0 + i + torch.arange(p.numel())).view(p.shape))
    >>> x = torch.eye(4, dtype=torch.float64)
    >>> told = watch(net, lambda m: 0.5 * (m(x) - x[:, :1]).square().sum(1).mean())
    >>> told.activation, int(told.drop.dormant.sum()), int(told.incoming.argmax())
    ('relu', 8, 0)

    Args:
        network: Any module; or a `State`, whose task gives the loss on its training examples, and which has the
            optimizer.
        loss: The loss of a network on the data, called with the module; one number.
        first: Name of the layer that leads in, as in `named_modules`; needed where there are several blocks.
        second: Name of the layer that leads out.
        activation: What stands between them, number by number, if it is not one of the usual ones.
        optimizer: For times in steps and the weight decay, if it is torch's SGD.
        dormant_below: As for `next_drop`.
        threshold: As for `next_drop`.
        samples: Of a State, how many training examples.
        rtol: Of the dormant units' steps.

    Raises:
        InputError: If there is no such block, its layers are used more than once, what stands between them is no
            activation of one number that is 0 at 0, no gradient arrives, something is not finite, no unit is dormant,
            or the optimizer moves the two layers differently.
    """
    lr = None
    if isinstance(network, State):
        if loss is not None:
            raise InputError("A State has its own loss, that of its task; give the model itself with another one.")
        model, loss = network.model, _of_task(network, samples)
        optimizer, lr = optimizer or network.optimizer, network.lr()
    else:
        model = network
    if loss is None:
        raise InputError("Say what is learnt: loss, a function of the network that gives one number.")
    if first is None or second is None:
        first, second = _only(model, loss, first, second)
    block = captured(model, loss, first, second, activation)
    pace, decay, notes = _pace(model, first, second, optimizer, lr)
    drop = next_drop(block, block.theta, dormant_below, threshold, decay, rtol, block.speed)
    if not block.neuron.homogeneous and drop.neuron >= 0:
        notes.append("Of the activation the leading part at 0 counts, until the units are large.")
    growth = block.degree * float(block.utility(drop.direction[None], block.frozen)) - decay
    slow = pace.lag(growth) if block.degree == 2 and math.isfinite(drop.time) else 1.0
    outputs = block.frozen.shape[1]
    w, a = drop.direction[:-outputs], drop.direction[-outputs:]
    return Outlook(
        first=first,
        second=second,
        activation=block.neuron.name,
        degree=block.degree,
        rows=len(block.inputs),
        drop=drop,
        per_step=pace.per_step,
        lag=slow,
        incoming=w[:-1] if block.biased else w,
        bias=float(w[-1]) if block.biased else 0.0,
        outgoing=a,
        notes=tuple(notes),
    )


def _of_task(state: State, samples: int) -> Callable[[nn.Module], Tensor]:
    if samples < 1:
        raise InputError(f"samples={samples} must be at least 1.")
    batch = state.task.evaluation("train")
    part = Batch(batch.inputs[:samples], batch.targets[:samples])
    return lambda model: state.task.loss(model, part)


def _only(model: nn.Module, loss: Loss, first: str | None, second: str | None) -> tuple[str, str]:
    found = [pair for pair in candidates(model, loss) if first in (None, pair[0]) and second in (None, pair[1])]
    if len(found) != 1:
        listed = ", ".join(f"{a} -> {b}" for a, b in found) or "none was found"
        raise InputError(
            f"The network has {len(found)} such blocks of two linear layers with an activation between ({listed}); say "
            "which by first and second."
        )
    return found[0]


def _pace(
    model: nn.Module, first: str, second: str, optimizer: Optimizer | None, lr: float | None
) -> tuple[Pace, float, list[str]]:
    """How the units are moved, decay, and what to say of them."""
    if optimizer is None:
        return Pace(math.nan, 0.0, False), 0.0, []
    if not isinstance(optimizer, torch.optim.SGD):
        return (
            Pace(math.nan, 0.0, False),
            0.0,
            [f"{type(optimizer).__name__} is no gradient flow: times are those of SGD."],
        )
    modules = dict(model.named_modules())
    wanted = {id(p): f"{n}.{k}" for n in (first, second) for k, p in modules[n].named_parameters(recurse=False)}
    wanted.pop(id(modules[second].bias), None)  # belongs to no unit
    groups = {}
    for group in optimizer.param_groups:
        groups.update({id(p): group for p in group["params"]})
    if missing := [name for p, name in wanted.items() if p not in groups]:
        raise InputError(f"The optimizer does not have {missing[0]}; units are foretold where all their weights move.")
    ways = {
        (g["lr"], g["momentum"], g["dampening"], g["weight_decay"], g["nesterov"], g["maximize"])
        for g in (groups[p] for p in wanted)
    }
    if len(ways) > 1:
        raise InputError(
            f"The optimizer moves {first} and {second} with different rates, momenta or decays; foretell with the same."
        )
    rate, momentum, dampening, decay, nesterov, up = ways.pop()
    if up:
        raise InputError("The optimizer maximizes; a drop is foretold for one that minimizes.")
    rate = float(rate) if lr is None or len(optimizer.param_groups) > 1 else lr
    if not rate > 0:
        raise InputError(f"The learning rate is {rate:g}: nothing moves; give one above 0.")
    return Pace(rate * (1 - dampening if momentum else 1), float(momentum), bool(nesterov)), float(decay), []
