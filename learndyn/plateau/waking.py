"""When dormant units wake while the residual stands still, with weight decay (arXiv:2506.06489; decay derived here).

Under decay θ' = ∇U(θ) − λθ, so that (ln ‖θ‖)' = κU(φ)‖θ‖^(κ−2) − λ and the direction turns as without it. For κ = 2
that is the flow of U − ½λ‖θ‖², of degree 2 as well. For κ > 2 write θ = e^(−λt) ψ: ψ climbs without decay in the time
s = (1 − e^(−λ(κ−2)t))/(λ(κ−2)), which ends at 1/(λ(κ−2)), towards a threshold that rises as e^(λt).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.laws.staircase import Climb, climb
from learndyn.neurons import Start

Utility = Callable[[Float[Tensor, "neurons weights"]], Float[Tensor, " neurons"]]

FAR = 20.0  # ln of a norm that nothing reaches before its drop
ROUNDS = 100  # of a rising threshold
SETTLED = 1e-9


class Growth(NamedTuple):
    """How norms grow along directions that stand still: (ln ‖θ‖)' = gain · ‖θ‖^(κ−2) − decay.

    Attributes:
        gain: κU(φ), `(neurons,)`.
        degree: κ.
        decay: λ.
    """

    gain: Float[Tensor, " neurons"]
    degree: float
    decay: float = 0.0

    def norms(self, log_norms: Float[Tensor, " neurons"], time: float) -> Float[Tensor, " neurons"]:
        """Their ln ‖θ‖ after a time, which may be negative; inf where the norm has exploded before."""
        k = self.degree - 2
        if k == 0:
            return log_norms + (self.gain - self.decay) * time
        q = (-k * log_norms).exp()
        # q = ‖θ‖^(2−κ) obeys q' = k(λq − gain); written so that λ = 0 is no special case
        left = q * math.exp(k * self.decay * time) - k * self.gain * _grown(k * self.decay, time)
        return torch.where(left > 0, -left.clamp_min(1e-300).log() / k, torch.full_like(q, math.inf))

    def times(
        self, log_norms: Float[Tensor, " neurons"], target: Float[Tensor, " neurons"] | float = 0.0
    ) -> Float[Tensor, " neurons"]:
        """Time until ln ‖θ‖ is at a target, negative if it was there before; inf if it never is."""
        k, target = self.degree - 2, torch.as_tensor(target, dtype=log_norms.dtype)
        never = torch.full_like(log_norms, math.inf)
        if k == 0:
            rate = self.gain - self.decay
            return torch.where(rate > 0, (target - log_norms) / rate, never)
        q, end = (-k * log_norms).exp(), (-k * target).exp()
        if self.decay == 0:
            return torch.where(self.gain > 0, (q - end) / (k * self.gain), never)
        still = self.gain / self.decay  # q at which growth and decay are even
        ratio = (still - end) / (still - q)
        return torch.where((still > q) & (ratio > 0), ratio.clamp_min(1e-300).log() / (k * self.decay), never)


def waking(
    utility: Utility, start: Start, degree: float, norm: float = 1.0, decay: float = 0.0, rtol: float = 1e-5
) -> Climb:
    """Follow the units until the first has the norm at which it counts as awake.

    Args:
        utility: U against the frozen residual, homogeneous of the degree.
        start: Where the units are.
        degree: κ.
        norm: The threshold.
        decay: λ.
        rtol: Of a step.

    Returns:
        Directions, ln norms and times where the first has crossed, or where a unit was given up at no finite time;
        with decay and κ > 2 of each unit where it crosses by itself.
    """
    stretch, low = degree - 2, start.log_norms - math.log(norm)
    phi = start.directions
    if stretch == 0:
        # units turn as without decay: where they would wake without it, it may be stronger than all of them
        found = climb(utility, phi, low, degree, 0.0, rtol=rtol, first_only=True)
        if decay and not bool((degree * utility(found.directions) > decay).any()):
            never = torch.full_like(low, math.inf)
            return found._replace(log_norms=start.log_norms, times=never, crossed=torch.zeros_like(found.crossed))
        if decay:
            found = climb(decayed(utility, decay), phi, low, degree, 0.0, rtol=rtol, first_only=True)
        return found._replace(log_norms=found.log_norms + math.log(norm))
    scale = norm**-stretch
    found = climb(utility, phi, low, degree, stretch, rtol=rtol, first_only=decay == 0)
    s, last = found.times * scale, (1 / (decay * stretch) if decay else math.inf)
    if decay == 0:
        return found._replace(times=s, log_norms=found.log_norms + math.log(norm))
    time = _unwound(s, decay * stretch)
    for _ in range(ROUNDS):  # from below, so that the first crossing is found and no later one
        rising = torch.where(time.isfinite(), decay * time, torch.zeros_like(time))
        found = climb(utility, phi, low - rising, degree, stretch, rtol=rtol)
        s = found.times * scale * (-stretch * rising).exp()
        s = torch.where((s < last) & time.isfinite(), s, torch.full_like(s, math.inf))
        before, time = time, _unwound(s, decay * stretch)
        if bool(((time - before).abs() <= SETTLED * time)[time.isfinite()].all()):
            break
    crossed = time.isfinite()
    log_norms = torch.where(crossed, torch.full_like(time, math.log(norm)), start.log_norms)
    return found._replace(log_norms=log_norms, times=time, crossed=crossed)


def carried(
    utility: Utility, start: Start, degree: float, time: float, decay: float = 0.0, rtol: float = 1e-5
) -> Start:
    """Where the units are after a flow time; arguments as for `waking`."""
    if time <= 0:
        return start
    stretch, low = degree - 2, start.log_norms - FAR
    if stretch == 0:
        found = climb(decayed(utility, decay), start.directions, low, degree, 0.0, time, rtol)
        return Start(found.log_norms + FAR, found.directions)
    s = _grown(-stretch * decay, time)
    found = climb(utility, start.directions, low, degree, stretch, s * math.exp(stretch * FAR), rtol)
    return Start(found.log_norms + FAR - decay * time, found.directions)


def decayed(utility: Utility, decay: float) -> Utility:
    """U − ½λ‖θ‖², for κ = 2."""
    if decay == 0:
        return utility
    return lambda at: utility(at) - 0.5 * decay * at.square().sum(1)


def _grown(rate: float, time: float) -> float:
    """∫₀ᵗ e^(rate τ) dτ."""
    return time if rate == 0 else math.expm1(rate * time) / rate


def _unwound(s: Tensor, rate: float) -> Tensor:
    """The t of s = (1 − e^(−rate t))/rate; inf at and beyond its end."""
    inside = torch.where(s.isfinite(), rate * s, torch.ones_like(s))
    return torch.where(inside < 1, -torch.log1p(-inside.clamp_max(1 - 1e-16)) / rate, torch.full_like(s, math.inf))
