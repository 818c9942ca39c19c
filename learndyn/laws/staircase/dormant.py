"""Dormant neurons: how they turn and grow while the residual stands still (arXiv:2506.06489, polar form).

With s, ds = ‖θ‖^(κ−2) dt, as time of its own for each neuron the direction's motion no longer depends on the norm,
φ' = (I − φφᵀ)∇U(φ), (ln ‖θ‖)' = κU(φ), t' = ‖θ‖^(2−κ): smooth up to the threshold also where κ > 2 and the norm
would explode. All neurons are stepped at once by the pair of Dormand and Prince, each with a step of its own.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learndyn.neurons import with_slope

Utility = Callable[[Float[Tensor, "neurons weights"]], Float[Tensor, " neurons"]]

# Dormand and Prince (1980): nodes of the tableau, fifth order and its error
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

NONE = 1e-12  # of the largest gradient
BEND = 1.0  # of a step: what is left of an old direction, however little, must grow as it should
COARSE = 1e-4  # relative tolerance from which on nothing so small is asked for
FELT = 1e-10
PROBE = 1e-5
KINK = 10.0  # times the first bend
LONG = 30.0  # times the way to the threshold, after which a neuron is given up
STEPS = 4000
ROOT = 60


class Climb(NamedTuple):
    """Where dormant neurons are.

    Attributes:
        directions: φ.
        log_norms: ln ‖θ‖.
        times: Flow time; that of the threshold where `crossed`, inf where a neuron was given up.
        crossed: Whether the norm has come to 1.
        trail: (φ, ln ‖θ‖, t) at the start and, if it is asked for, after every step.
    """

    directions: Float[Tensor, "neurons weights"]
    log_norms: Float[Tensor, " neurons"]
    times: Float[Tensor, " neurons"]
    crossed: Bool[Tensor, " neurons"]
    trail: list[Tensor]


def climb(
    utility: Utility,
    directions: Float[Tensor, "neurons weights"],
    log_norms: Float[Tensor, " neurons"],
    degree: float,
    stretch: float,
    until: float = math.inf,
    rtol: float = 1e-8,
    first_only: bool = False,
    since: Float[Tensor, " neurons"] | None = None,
    traced: bool = False,
) -> Climb:
    """Follow dormant neurons until their norm is 1, or until a flow time.

    Args:
        utility: U of all neurons, homogeneous of the degree.
        directions: φ at the start, of norm 1.
        log_norms: ln ‖θ‖ at the start.
        degree: κ.
        stretch: κ − 2; 0 under the flow θ' = −‖θ‖^(2−κ)∇L.
        until: Flow time at which all that have not crossed are stopped; inf for the threshold alone.
        rtol: Relative tolerance of a step.
        first_only: Stop neurons that come later than the first that has crossed; their times are those reached.
        since: Flow time at the start, of each neuron; 0 when left out.
        traced: Keep the trail, to go back on it.
    """
    count = len(log_norms)
    t = torch.zeros_like(log_norms) if since is None else since
    y = torch.cat([directions, log_norms[:, None], t[:, None]], 1)  # one row a neuron: φ, ln ‖θ‖, t
    crossed, moving = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    end = torch.full_like(log_norms, until)
    coefficients = [torch.tensor(row, dtype=y.dtype) for row in (*_A, _E)]

    def field(y: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of a row, and the length of ∇U."""
        unit = y[:, :-2] / torch.linalg.vector_norm(y[:, :-2], dim=1, keepdim=True)
        value, slope = with_slope(utility, unit)
        tangent = slope - (slope * unit).sum(1, keepdim=True) * unit
        rest = torch.stack([degree * value, (-stretch * y[:, -2]).exp()], 1)
        return torch.cat([tangent, rest], 1), torch.linalg.vector_norm(slope, dim=1)

    def step(h: Tensor, first: Tensor, begin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step of every neuron: where it ends, its error, the slopes there, and the length of ∇U."""
        stages = first.new_empty((7, *first.shape))
        stages[0] = first
        new, size = begin, h
        for i in range(1, 7):
            new = begin + h[:, None] * torch.tensordot(coefficients[i], stages[:i], 1)
            stages[i], size = field(new)
        gap = h[:, None] * torch.tensordot(coefficients[7], stages, 1)
        error = torch.linalg.vector_norm(gap[:, :-2], dim=1).maximum(gap[:, -2].abs() / (1 + begin[:, -2].abs()))
        error = error.maximum(gap[:, -1].abs() / new[:, -1].abs().clamp_min(1e-300))
        return new, error, stages[6], size

    slopes, size = field(y)
    largest = float(size.max())
    if largest == 0 or not math.isfinite(largest):
        return Climb(directions, log_norms, torch.full_like(t, math.inf), crossed, [y])
    top, far, gone = 0.0, float(log_norms.abs().max().clamp_min(10.0)), torch.zeros_like(t)
    aside = torch.zeros_like(y)
    aside[:, :-2] = PROBE / directions.shape[1] ** 0.5
    bend = torch.linalg.vector_norm((field(y + aside)[0] - slopes)[:, :-2], dim=1) / PROBE
    sharpest = KINK * bend  # what bends more is a kink
    h = 0.01 / size.clamp_min(1e-6 * largest).maximum(bend)
    trail = [y.clone()]
    stride = BEND if rtol < COARSE else math.inf
    for _ in range(STEPS):
        top = max(top, float(slopes[:, -2].max()))
        # a direction that stands still forgets how it came, and that decides where it turns next: it is followed on
        stuck = moving & ((size == 0) | (gone * top > LONG * far) | (gone * largest > LONG**2 * far))
        if stuck.any():
            y[stuck, -2] = _grown(y[:, -2], slopes[:, -2], end - y[:, -1], stretch)[stuck]
            y[stuck, -1] = end[stuck]
            moving &= ~stuck
        if first_only and crossed.any():
            end = end.clamp_max(float(y[crossed, -1].min()))
            moving &= y[:, -1] < end
        if not moving.any():
            break
        h = h.minimum((end - y[:, -1]).clamp_min(0) / slopes[:, -1])
        new, error, ahead, length = step(h, slopes, y)
        good = moving & (error <= rtol)
        hit = good & (new[:, -2] >= 0) & (y[:, -2] < 0)
        past = good & (new[:, -1] > end * (1 + 1e-12))
        if bool((hit | past).any()):
            new, _, ahead, length = step(_root(step, h, slopes, y, hit | past, end), slopes, y)
            hit &= new[:, -2] >= -1e-10
        way = torch.linalg.vector_norm((new - y)[:, :-2], dim=1)
        turned = torch.linalg.vector_norm((ahead - slopes)[:, :-2], dim=1)
        # a shorter way is rounding; a slow way hides what is faster and still smaller
        bend = bend.maximum(torch.where(way > FELT, (turned / way).minimum(sharpest), bend))
        new[:, :-2] /= torch.linalg.vector_norm(new[:, :-2], dim=1, keepdim=True)
        new[hit, -2] = 0.0
        y, slopes = torch.where(good[:, None], new, y), torch.where(good[:, None], ahead, slopes)
        size, gone = torch.where(good, length, size), gone + torch.where(good, h, 0.0)
        crossed |= hit
        moving &= ~(hit | (good & (y[:, -1] >= end * (1 - 1e-12))))
        grown = h * (0.9 * (rtol / error.clamp_min(1e-30)) ** 0.2).clamp(0.2, 5.0)
        h = torch.where(hit | past, h, grown.minimum(stride / bend.clamp_min(NONE * largest)))
        if traced:
            trail.append(y)
    t = y[:, -1]
    times = torch.where(crossed | (t >= end * (1 - 1e-9)), t, torch.full_like(t, math.inf))
    return Climb(y[:, :-2], y[:, -2], times, crossed, trail)


def rewound(trail: list[Tensor], time: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directions, logarithms of norms and times where every neuron was last before a flow time."""
    last = torch.stack([y[:, -1] for y in trail]).le(time).sum(0).clamp_min(1) - 1
    found = torch.stack([trail[int(i)][n] for n, i in enumerate(last)])
    return found[:, :-2], found[:, -2], found[:, -1]


def _grown(ell: Tensor, growth: Tensor, time: Tensor, stretch: float) -> Tensor:
    """Logarithm of the norm after a flow time at constant utility."""
    still = ~torch.isfinite(time)
    time = torch.where(still, torch.zeros_like(time), time)
    if stretch == 0:
        return ell + growth * time
    # e^(−qℓ) less q·growth·t, written so that neither part overflows
    return ell - torch.log1p(-(stretch * growth * time * (stretch * ell).exp()).clamp_max(1 - 1e-15)) / stretch


def _root(
    step: Callable[..., tuple[Tensor, ...]], h: Tensor, slopes: Tensor, begin: Tensor, which: Tensor, end: Tensor
) -> Tensor:
    """The part of a step after which ln ‖θ‖ = 0 or t = end, the earlier one: Newton, kept inside a bracket."""
    low, high, at = torch.zeros_like(h), h.clone(), h.clone()
    nothing = torch.full_like(h, -math.inf)
    for _ in range(ROOT):
        new, _, ahead, _ = step(at, slopes, begin)
        by_norm = torch.where(begin[:, -2] < 0, new[:, -2], nothing)
        by_time = torch.where(torch.isfinite(end), (new[:, -1] - end) / end, nothing)
        excess = by_norm.maximum(by_time)
        climbs = torch.where(by_norm >= by_time, ahead[:, -2], ahead[:, -1] / end)
        high, low = torch.where(excess >= 0, at, high), torch.where(excess >= 0, low, at)
        if bool(((excess.abs() <= 1e-14) | (high - low <= 1e-15 * high))[which].all()):
            break
        newton = at - excess / climbs
        inside = (newton > low) & (newton < high)
        at = torch.where(which, torch.where(inside, newton, 0.5 * (low + high)), at)
    return at
