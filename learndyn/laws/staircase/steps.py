"""A staircase of the loss: plateaus at levels, drops at times, and who caused them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError

VANISHING = 0.3  # norm of a first neuron above which no staircase is to be expected


@dataclass(frozen=True)
class Event:
    """What happens at a drop.

    Attributes:
        time: Flow time.
        neuron: Which neuron, coordinate or mode.
        kind: "activation", or "deactivation" if it falls asleep again.
        level: Loss after the drop.
        utility: U of the direction with which it wakes; nan if the law has none.
        direction: That direction, of norm 1; None if the law has none.
        overlap: Largest cosine between it and a neuron that is awake; nan for the first, or if the law has none.
    """

    time: float
    neuron: int
    kind: str
    level: float
    utility: float = math.nan
    direction: Tensor | None = None
    overlap: float = math.nan


@dataclass(frozen=True)
class Staircase:
    """A predicted staircase.

    Attributes:
        times: Of the drops, increasing, `(drops,)`; in the unit that the function which made it names.
        levels: Loss before the first drop and after each, `(drops + 1,)`.
        events: What happens at them, in order; there may be several at one drop.
        reason: Why there is no further drop.
        sentences: What a reader should know: ties, doubts.
    """

    times: Float[Tensor, " drops"]
    levels: Float[Tensor, " plateaus"]
    events: tuple[Event, ...]
    reason: str
    sentences: tuple[str, ...] = ()

    def loss(self, times: Float[Tensor, " times"]) -> Float[Tensor, " times"]:
        """Level at any times, continuous from the right."""
        return self.levels[torch.searchsorted(self.times, times.to(self.times), right=True)]


def threshold(norm: Float[Tensor, "*neurons"], degree: float) -> Float[Tensor, "*neurons"]:
    """Accumulated utility ∫κU dt that takes a neuron from a norm to 1 (arXiv:2506.06489).

    c = −ln ‖θ‖ for κ = 2 and (‖θ‖^(2−κ) − 1)/(κ − 2) beyond.

    Args:
        norm: ‖θ(0)‖.
        degree: κ, at least 2.

    Raises:
        InputError: If κ is below 2 or a norm is not positive.
    """
    if degree < 2:
        raise InputError(f"degree={degree:g}: a neuron of degree below 2 has no plateau; give at least 2.")
    if not bool((norm > 0).all()):
        raise InputError("A neuron that starts at zero never leaves it; give norms above 0.")
    return -norm.log() if degree == 2 else (norm ** (2 - degree) - 1) / (degree - 2)


def flow_time(steps: float, rate: float, momentum: float = 0.0, gradient: float = 1.0) -> float:
    """Flow time of L = ½E‖y − f‖² after steps of gradient descent, t = steps · η/(1−μ) · s (arXiv:2506.06489).

    Args:
        steps: Updates.
        rate: η.
        momentum: μ, heavy-ball.
        gradient: s, the gradient of the trained loss over that of L: 2/outputs for torch's MSELoss, 2 for a sum over
            outputs without ½, 1 for L itself. Levels scale by the same number.

    Raises:
        InputError: If the momentum is not in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise InputError(f"momentum={momentum:g} is none; give a number from 0 up to below 1.")
    return steps * rate / (1 - momentum) * gradient


def check_vanishing(norm: float, name: str = "start") -> None:
    """Refuse a start at which no staircase is to be expected.

    Raises:
        InputError: If the norm is not between 0 and 0.3.
    """
    if not 0 < norm < VANISHING:
        raise InputError(
            f"{name}={norm:g}: neurons of that norm are not in the vanishing regime, no staircase is to be expected; "
            f"start below {VANISHING:g}."
        )
