"""The next drop of the loss, from one checkpoint on a plateau (early warning; derived here from arXiv:2506.06489).

On a plateau the awake units stand still, so the residual does, and every dormant unit climbs its utility by itself:
its path can be followed from where it is to where it counts. Nothing is trained.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.neurons import Problem, Start, polar, with_slope
from learndyn.plateau.path import Dormant, Fall, fall
from learndyn.plateau.sleepers import census
from learndyn.plateau.waking import Growth, waking

Weights = Float[Tensor, "neurons weights"]

NOTHING = 1e-9  # share of the largest utility
RESTLESS = 0.2  # of the loss
MOTION = 1e-6  # of the largest gradient, below which a direction stands still


@dataclass(frozen=True, eq=False)
class NextDrop:
    """What a checkpoint on a plateau says of the next drop. Times are flow times from now.

    Attributes:
        time: Until the first dormant unit has the norm `threshold`; inf if none ever has.
        onset: Until the dormant units together have lowered the loss by a tenth of what their path gives; nan without.
        middle: The same for half of it; a lower bound, since the residual does not stand still so long.
        instantaneous: The cheap estimate, every unit growing along its present direction: too large, and converging.
        neuron: Which unit is first; −1 if none is.
        direction: Its direction at waking, `(D,)`, of norm 1.
        threshold: Norm at which a unit counts as awake.
        norms: ‖θ‖ of all units now.
        awake: Units that make the loss what it is.
        dormant: Those that do not, yet: their sum makes up less than 1 % of the loss.
        dead: Dormant units that nothing pushes: when the first wakes their direction stands still and they do not grow.
        utilities: U(φ) of all units now; awake ones have none, nan.
        times: Until each dormant unit would wake, going on along its direction once the first has woken; inf if it does
            not, nan for awake ones.
        loss: Now.
        level: Lowest loss on the frozen path: what the first directions alone reach. The plateau after is at or below.
        restless: Share of the loss by which gradient flow at its present speed would lower it until the drop; small on
            a plateau.
        decay: λ.
        notes: What a reader should know: a drop under way, a loss that is not flat.
    """

    time: float
    onset: float
    middle: float
    instantaneous: float
    neuron: int
    direction: Float[Tensor, " weights"]
    threshold: float
    norms: Float[Tensor, " neurons"]
    awake: Bool[Tensor, " neurons"]
    dormant: Bool[Tensor, " neurons"]
    dead: Bool[Tensor, " neurons"]
    utilities: Float[Tensor, " neurons"]
    times: Float[Tensor, " neurons"]
    loss: float
    level: float
    restless: float
    decay: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def census(self) -> str:
        """How many units are awake, dormant, dead."""
        told = f"{int(self.awake.sum())} of {len(self.awake)} units are awake, {int(self.dormant.sum())} dormant"
        return told + (f" ({int(self.dead.sum())} of these dead)" if bool(self.dead.any()) else "")

    def __str__(self) -> str:
        if self.neuron < 0:
            why = "the residual has nothing for the dormant units"
            if self.decay:
                why += f", or decay {self.decay:g} holds them down"
            return " ".join([f"{self.census}. No activation: {why}.", *self.notes])
        begins = "" if math.isnan(self.onset) else f"The loss begins to drop in {self.onset:.4g} of flow time; "
        told = f"{self.census}. {begins}unit {self.neuron} wakes first, in {self.time:.4g}.".replace(". unit", ". Unit")
        return " ".join([told, *self.notes])

    def plain(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts; not finite numbers as None."""
        numbers = ("time", "onset", "middle", "instantaneous", "threshold", "loss", "level", "restless", "decay")
        return {
            **{name: _finite(getattr(self, name)) for name in numbers},
            "neuron": self.neuron,
            **{name: int(getattr(self, name).sum()) for name in ("awake", "dormant", "dead")},
            "norms": self.norms.tolist(),
            "utilities": [_finite(u) for u in self.utilities.tolist()],
            "times": [_finite(t) for t in self.times.tolist()],
            "direction": self.direction.tolist(),
            "notes": list(self.notes),
        }


def next_drop(
    problem: Problem,
    theta: Weights,
    dormant_below: float | None = None,
    threshold: float | None = None,
    decay: float = 0.0,
    rtol: float = 1e-5,
    speed: float | None = None,
) -> NextDrop:
    """When the loss drops next, and which neuron does it.

    Dormant are the most neurons, the smallest first, that together make up less than 1 % of the loss and of which each
    is below half of the median awake norm; all of them where that is so and norms are below 0.3.

    >>> from learndyn.neurons import gaussian, linear, sampled
    >>> x = torch.eye(3, dtype=torch.float64) * 3**0.5
    >>> problem = sampled(linear(3), x, x @ torch.diag(x.new_tensor([3, 2, 1])), 6)
    >>> told = next_drop(problem, gaussian(8, (3, 3), 1e-6).weights())
    >>> bool(abs(told.time - 6 * math.log(10) / 3) < 0.5), int(told.direction.abs().argmax()) in (0, 3)
    (True, True)

    Args:
        problem: What is learnt, by which neurons.
        theta: All of them at a checkpoint, float64.
        dormant_below: Norm below which a neuron is dormant, if it is not to be found as above.
        threshold: Norm at which a neuron counts as awake; 1, or the median awake norm where dormant ones are beyond 1.
        decay: λ of θ' = −∇L − λθ.
        rtol: Of the dormant neurons' steps.
        speed: ‖∇L‖², if more than the awake neurons moves.

    Raises:
        InputError: If the weights do not fit, are zero or not finite, or no neuron is dormant.
    """
    start = _checked(problem, theta, decay)
    norms = start.log_norms.exp()
    awake, loss, plateau = census(problem, theta, norms, dormant_below)
    if threshold is None:
        threshold = 1.0 if float(norms[~awake].max()) < 1 else float(norms[awake].median()) if awake.any() else 1.0
    if not float(norms[~awake].max()) < threshold < math.inf:
        raise InputError(
            f"threshold={threshold:g} must be above the largest dormant norm, {float(norms[~awake].max()):g}."
        )
    residual = problem.residual(theta)
    who = torch.ones_like(awake) if problem.placed else ~awake

    def utility(at: Tensor) -> Tensor:
        return problem.utility(at, residual)

    low = torch.where(awake, torch.full_like(start.log_norms, -1e6), start.log_norms)
    begin = Start(low[who], start.directions[who])
    kappa = float(problem.degree)
    now = _all(problem.utility(start.directions if problem.placed else begin.directions, residual), who, awake)
    found = waking(utility, begin, kappa, threshold, decay, rtol)
    value, slope = with_slope(utility, found.directions)
    turning = slope - (slope * found.directions).sum(1, keepdim=True) * found.directions
    turns = _all(turning.norm(dim=1), who, awake)
    reached = _all(value, who, awake)
    least = NOTHING * float(torch.cat([reached[~awake], now[~awake]]).abs().max().nan_to_num())
    net = kappa * reached - (decay if kappa == 2 else 0.0)
    times = _all(torch.where(found.crossed, found.times, torch.full_like(found.times, math.inf)), who, awake)
    # the others go on from there along their directions; those given up, which stand still, from now
    late = ~awake & ~times.isfinite() & (net > least)
    gone = found.times.isfinite()
    size = _all(torch.where(gone, found.log_norms, begin.log_norms), who, awake)
    past = _all(torch.where(gone, found.times, torch.zeros_like(found.times)), who, awake)
    direct = past + Growth(kappa * reached, kappa, decay).times(size, math.log(threshold))
    times = torch.where(late, direct, times)
    dead = ~awake & ~times.isfinite() & ~(turns > MOTION * slope.norm(dim=1).max())
    if not times.isfinite().any() and decay:
        dead = ~awake  # all are held down
    active = who if problem.placed else who & ~dead  # dead ones stay where they are
    begin = Start(low[active], start.directions[active])
    ended = None
    if (decay == 0 or kappa == 2) and bool(gone[active[who]].all()):
        ended = Start(found.log_norms[active[who]], found.directions[active[who]])
    cheap = Growth(kappa * now, kappa, decay).times(start.log_norms, math.log(threshold))[~awake].min()
    waits = torch.where(awake, torch.full_like(times, math.inf), times)
    first, wait = int(waits.argmin()), float(waits.min())
    down, notes = Fall(math.nan, math.nan, plateau, torch.zeros_like(theta[0])), list[str]()
    if math.isfinite(wait):
        dormant = Dormant(problem, theta, awake, active, begin, utility, decay, rtol)
        down = fall(dormant, first, wait, plateau, ended)
        if bool(late[first]):
            notes.append("The first unit is followed along its present direction: its time is an upper bound.")
    else:
        first = -1
    pull = -with_slope(problem.loss, theta)[1]
    moves = float(pull[awake].square().sum()) if speed is None else speed
    rates = (pull * theta).sum(1) / norms.square() - decay
    growing = awake & (rates * wait > 1) if math.isfinite(wait) else torch.zeros_like(awake)
    if growing.any():
        notes.append(
            f"A drop is under way: {int(growing.sum())} awake units still grow, and the residual is not that of the "
            "plateau to come; ask again there."
        )
    restless = (
        moves * (wait if math.isnan(down.onset) else down.onset) / loss if math.isfinite(wait) and loss > 0 else 0.0
    )
    if restless > RESTLESS:
        notes.append(
            f"The loss is not on a plateau: at its present speed it falls by {restless:.0%} before that drop, and the "
            "residual with it; ask again when it is flat."
        )
    return NextDrop(
        time=wait,
        onset=down.onset,
        middle=down.middle,
        instantaneous=float(cheap),
        neuron=first,
        direction=down.direction,
        threshold=threshold,
        norms=norms,
        awake=awake,
        dormant=~awake,
        dead=dead,
        utilities=now,
        times=times,
        loss=loss,
        level=down.level,
        restless=restless,
        decay=decay,
        notes=tuple(notes),
    )


def _all(values: Tensor, who: Tensor, awake: Tensor) -> Tensor:
    """Numbers of those who were followed, in their places; nan for awake ones."""
    full = torch.full((len(who),), math.nan, dtype=values.dtype)
    full[who] = values.detach()
    full[awake] = math.nan
    return full


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _checked(problem: Problem, theta: Tensor, decay: float) -> Start:
    if theta.ndim != 2 or theta.shape[1] != problem.weights or not len(theta):
        raise InputError(
            f"Weights of shape {tuple(theta.shape)} do not fit neurons of {problem.weights} numbers; give "
            f"(neurons, {problem.weights})."
        )
    if not 0 <= decay < math.inf:
        raise InputError(f"decay={decay:g} must be a finite number from 0 up.")
    return polar(theta.detach())
