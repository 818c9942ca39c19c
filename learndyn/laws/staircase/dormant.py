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
BEND = 0.5  # of a step: what is left of an old direction, however little, must grow as it should
FELT = 1e-10
KINK = 10.0  # times the first bend
LONG = 30.0  # times the way to the threshold, after which a neuron is given up
STEPS = 4000
ROOT = 60


class Climb(NamedTuple):
    """Where dormant neurons are.

    Attributes:
        directions: φ.
        log_norms: ln ‖θ‖.
        times: Flow time; that of the threshold where `crossed`.
        crossed: Whether the norm has come to 1.
    """

    directions: Float[Tensor, "neurons weights"]
    log_norms: Float[Tensor, " neurons"]
    times: Float[Tensor, " neurons"]
    crossed: Bool[Tensor, " neurons"]


def climb(
    utility: Utility,
    directions: Float[Tensor, "neurons weights"],
    log_norms: Float[Tensor, " neurons"],
    degree: float,
    stretch: float,
    until: float = math.inf,
    rtol: float = 1e-8,
    first_only: bool = False,
) -> Climb:
    """Follow dormant neurons until their norm is 1, or until a flow time.

    Args:
        utility: U of all neurons, homogeneous of the degree.
        directions: φ at flow time 0, of norm 1.
        log_norms: ln ‖θ‖ at flow time 0.
        degree: κ.
        stretch: κ − 2; 0 under the flow θ' = −‖θ‖^(2−κ)∇L.
        until: Flow time at which all that have not crossed are stopped; inf for the threshold alone.
        rtol: Relative tolerance of a step.
        first_only: Stop neurons that come later than the first that has crossed; their times are those reached.
    """
    count = len(log_norms)
    phi, ell = directions.clone(), log_norms.clone()
    t = torch.zeros_like(ell)
    crossed, moving = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    end = torch.full_like(ell, until)

    def field(y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        unit = y[0] / torch.linalg.vector_norm(y[0], dim=1, keepdim=True)
        value, slope = _slope(utility, unit)
        tangent = slope - (slope * unit).sum(1, keepdim=True) * unit
        return tangent, degree * value, (-stretch * y[1]).exp(), torch.linalg.vector_norm(slope, dim=1)

    def step(h: Tensor, first: tuple[Tensor, ...], begin: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """A step of every neuron: where it ends (φ, ln ‖θ‖, t), its error, and the slopes there."""
        stages: list[tuple[Tensor, ...]] = [first]
        y = begin
        for row in _A[1:]:
            y = tuple(b + _over(h, b) * _mixed(row, stages, j) for j, b in enumerate(begin))  # type: ignore[assignment]
            stages.append(field((y[0], y[1])))
        gap = [_over(h, b) * _mixed(_E, stages, j) for j, b in enumerate(begin)]
        error = torch.linalg.vector_norm(gap[0], dim=1).maximum(gap[1].abs() / (1 + begin[1].abs()))
        error = error.maximum(gap[2].abs() / y[2].abs().clamp_min(1e-300))
        return (*y, error, *stages[-1])

    slopes = field((phi, ell))
    largest = float(slopes[3].max())
    if largest == 0 or not math.isfinite(largest):
        return Climb(phi, ell, torch.full_like(ell, math.inf), crossed)
    top, far, gone = 0.0, float(ell.abs().max().clamp_min(10.0)), torch.zeros_like(ell)
    aside = FELT**0.5 * torch.ones_like(phi) / phi.shape[1] ** 0.5
    bend = torch.linalg.vector_norm(field((phi + aside, ell))[0] - slopes[0], dim=1) / FELT**0.5
    sharpest = KINK * bend  # what bends more is a kink
    h = 0.01 / slopes[3].clamp_min(1e-6 * largest).maximum(bend)
    for _ in range(STEPS):
        top = max(top, float(slopes[1].max()))
        # a direction that stands still forgets how it came, and that decides where it turns next: it is followed on
        stuck = moving & ((slopes[3] == 0) | (gone * top > LONG * far) | (gone * largest > LONG**2 * far))
        if stuck.any():
            ell[stuck] = _grown(ell, slopes[1], end - t, stretch)[stuck]
            t[stuck] = end[stuck]
            moving &= ~stuck
        if first_only and crossed.any():
            end = end.clamp_max(float(t[crossed].min()))
            moving &= t < end
        if not moving.any():
            break
        begin = (phi, ell, t)
        h = h.minimum((end - t).clamp_min(0) / slopes[2])
        *y, error, tangent, growth, pace, size = step(h, slopes, begin)
        good = moving & (error <= rtol)
        hit = good & (y[1] >= 0) & (ell < 0)
        past = good & (y[2] > end * (1 + 1e-12))
        if bool((hit | past).any()):
            *y, _, tangent, growth, pace, size = step(_root(step, h, slopes, begin, hit | past, end), slopes, begin)
            hit &= y[1] >= -1e-10
        way = torch.linalg.vector_norm(y[0] - phi, dim=1)
        turned = torch.linalg.vector_norm(tangent - slopes[0], dim=1)
        # a shorter way is rounding; a slow way hides what is faster and still smaller
        bend = bend.maximum(torch.where(way > FELT, (turned / way).minimum(sharpest), bend))
        for mine, new in zip(begin, y):
            mine[good] = new[good]
        gone = gone + torch.where(good, h, torch.zeros_like(h))
        phi[good] = phi[good] / torch.linalg.vector_norm(phi[good], dim=1, keepdim=True)
        ell[hit] = 0.0
        crossed |= hit
        moving &= ~(hit | (good & (t >= end * (1 - 1e-12))))
        slopes = tuple(
            torch.where(_over(good, old), new, old) for old, new in zip(slopes, (tangent, growth, pace, size))
        )  # type: ignore[assignment]
        grown = h * (0.9 * (rtol / error.clamp_min(1e-30)) ** 0.2).clamp(0.2, 5.0)
        h = torch.where(hit | past, h, grown.minimum(BEND / bend.clamp_min(NONE * largest)))
    times = torch.where(crossed | (t >= end * (1 - 1e-9)), t, torch.full_like(t, math.inf))
    return Climb(phi, ell, times, crossed)


def _over(h: Tensor, like: Tensor) -> Tensor:
    """Numbers of neurons, shaped to be laid over a quantity of neurons."""
    return h if like.ndim == 1 else h[:, None]


def _mixed(row: tuple[float, ...], stages: list[tuple[Tensor, ...]], part: int) -> Tensor:
    return torch.stack([a * stage[part] for a, stage in zip(row, stages) if a]).sum(0)


def _slope(utility: Utility, at: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        value = utility(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope.detach()


def _grown(ell: Tensor, growth: Tensor, time: Tensor, stretch: float) -> Tensor:
    """Logarithm of the norm after a flow time at constant utility."""
    still = ~torch.isfinite(time)
    time = torch.where(still, torch.zeros_like(time), time)
    if stretch == 0:
        return ell + growth * time
    # e^(−qℓ) less q·growth·t, written so that neither part overflows
    return ell - torch.log1p(-(stretch * growth * time * (stretch * ell).exp()).clamp_max(1 - 1e-15)) / stretch


def _root(
    step: Callable[..., tuple[Tensor, ...]],
    h: Tensor,
    slopes: tuple[Tensor, ...],
    begin: tuple[Tensor, Tensor, Tensor],
    which: Tensor,
    end: Tensor,
) -> Tensor:
    """The part of a step after which ln ‖θ‖ = 0 or t = end, the earlier one: Newton, kept inside a bracket."""
    low, high, at = torch.zeros_like(h), h.clone(), h.clone()
    ell, bounded = begin[1], torch.isfinite(end)
    for _ in range(ROOT):
        y = step(at, slopes, begin)
        by_norm = torch.where(ell < 0, y[1], torch.full_like(ell, -math.inf))
        by_time = torch.where(bounded, (y[2] - end) / end, torch.full_like(ell, -math.inf))
        excess, climbs = by_norm.maximum(by_time), torch.where(by_norm >= by_time, y[5], y[6] / end)
        high, low = torch.where(excess >= 0, at, high), torch.where(excess >= 0, low, at)
        if bool(((excess.abs() <= 1e-14) | (high - low <= 1e-15 * high))[which].all()):
            break
        newton = at - excess / climbs
        inside = (newton > low) & (newton < high)
        at = torch.where(which, torch.where(inside, newton, 0.5 * (low + high)), at)
    return at
