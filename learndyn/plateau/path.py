"""The way down a drop: all dormant neurons grow along it, and the loss says when it begins and where it ends."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learndyn.neurons import Problem, Start
from learndyn.plateau.waking import Growth, Utility, carried

STARTS, MIDDLE = 0.1, 0.5  # of the fall along the frozen path
STEP = 0.25  # in ln of the first unit's norm, at which the path is looked at
BEFORE, BEYOND = 5.0, 8.0  # how far around its threshold
FAST = 50.0  # ln of a norm that no loss survives


@dataclass(frozen=True, eq=False)
class Dormant:
    """Neurons on a plateau and how they grow while the residual stands still.

    Attributes:
        problem: What is learnt.
        theta: Weights of all neurons.
        awake: Which count already.
        who: Which are followed; with `placed` problems awake ones as well, far below any threshold.
        begin: Where these are now.
        utility: U against the residual of the plateau.
        decay: Weight decay.
        rtol: Of a step.
    """

    problem: Problem
    theta: Float[Tensor, "neurons weights"]
    awake: Bool[Tensor, " neurons"]
    who: Bool[Tensor, " neurons"]
    begin: Start
    utility: Utility
    decay: float
    rtol: float

    @property
    def degree(self) -> float:
        """κ."""
        return float(self.problem.degree)

    def at(self, time: float) -> Start:
        """Where they are after a flow time."""
        return carried(self.utility, self.begin, self.degree, time, self.decay, self.rtol)


@dataclass(frozen=True, eq=False)
class Way:
    """From a time on, in directions that no longer turn.

    Attributes:
        dormant: The neurons.
        since: The time.
        here: Where they are then.
        gain: κU of each.
        first: Row of the one that wakes first.
    """

    dormant: Dormant
    since: float
    here: Start
    gain: Float[Tensor, " followed"]
    first: int

    def time(self, shift: float) -> float:
        """When ln ‖θ‖ of the first is larger by this than it is at the beginning of the way."""
        one = slice(self.first, self.first + 1)
        alone = Growth(self.gain[one], self.dormant.degree, self.dormant.decay)
        size = self.here.log_norms[one]
        return self.since + float(alone.times(size, float(size) + shift))

    def loss(self, shift: float) -> float:
        """Loss at that time."""
        d = self.dormant
        growth = Growth(self.gain, d.degree, d.decay)
        size = growth.norms(self.here.log_norms, self.time(shift) - self.since).clamp_max(FAST)
        size = torch.where(d.awake[d.who], torch.full_like(size, -math.inf), size)
        weights = torch.where(d.awake[:, None], d.theta, torch.zeros_like(d.theta))
        weights[d.who] += size.exp()[:, None] * self.here.directions
        return float(d.problem.loss(weights).detach())


@dataclass(frozen=True, eq=False)
class Fall:
    """What is seen on the way down.

    Attributes:
        onset: Flow time of a tenth of the fall; nan if there is none.
        middle: Of its half.
        level: Lowest loss.
        direction: Of the first neuron, at its threshold.
    """

    onset: float
    middle: float
    level: float
    direction: Float[Tensor, " weights"]


def fall(dormant: Dormant, first: int, wait: float, plateau: float, ended: Start | None) -> Fall:
    """Down from a plateau, of which all dormant neurons go their way together.

    Args:
        dormant: The neurons.
        first: Which wakes first, of all.
        wait: When.
        plateau: Loss of the awake ones alone.
        ended: Where the neurons are then, if it is known.
    """
    one = int(dormant.who[:first].sum())
    here = ended or dormant.at(wait)
    direction = here.directions[one]
    at, onset, middle, level = wait, math.nan, math.nan, plateau
    for turn in range(2):  # directions are those at the threshold, then those at the onset
        here = here if turn == 0 else dormant.at(at)
        gain = dormant.degree * dormant.utility(here.directions)
        if not float(gain[one]) > (dormant.decay if dormant.degree == 2 else 0.0):
            break
        way = Way(dormant, at, here, gain, one)
        lowest = max(-BEFORE, float(dormant.begin.log_norms[one] - here.log_norms[one]))
        best, level = descended(way.loss, lowest, plateau)
        if not level < plateau * (1 - 1e-9):
            return Fall(math.nan, math.nan, plateau, direction)
        onset, middle = (
            max(0.0, way.time(crossed(way.loss, lowest, best, plateau - part * (plateau - level))))
            for part in (STARTS, MIDDLE)
        )
        if onset == 0 or abs(onset - at) < 1e-3 * onset:
            break
        at = onset
    return Fall(onset, middle, level, direction)


def descended(loss: Callable[[float], float], lowest: float, plateau: float) -> tuple[float, float]:
    """Where the path is lowest for the first time, and the loss there."""
    best, low = lowest, min(plateau, loss(lowest))
    at = lowest
    while at < BEYOND:
        at += STEP
        value = loss(at)
        if value < low:
            best, low = at, value
        elif low < plateau * (1 - 1e-6) or not math.isfinite(value) or value > 2 * plateau:
            break
    left, right = best - STEP, best + STEP
    for _ in range(12):
        inner = [left + (right - left) * f for f in (0.382, 0.618)]
        values = [loss(v) for v in inner]
        for v, value in zip(inner, values):
            if value < low:
                best, low = v, value
        left, right = (left, inner[1]) if values[0] <= values[1] else (inner[0], right)
    return best, low


def crossed(loss: Callable[[float], float], left: float, right: float, level: float) -> float:
    """Where the loss first is at a level, between two places of which the right one is below it."""
    if loss(left) <= level:
        return left
    for _ in range(20):
        middle = 0.5 * (left + right)
        left, right = (left, middle) if loss(middle) <= level else (middle, right)
    return right
