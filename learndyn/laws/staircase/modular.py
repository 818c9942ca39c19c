"""Staircases of two-layer quadratic networks that learn modular addition, frequency by frequency (arXiv:2506.06489).

Inputs are x_a and x_b, shifts of a template x of length p, x_a[n] = x[(n − a) mod p]; the target is x_{a+b}, all p²
pairs. f = Σ_i (u_i·x_a + v_i·x_b)² w_i has neurons of degree 3, L = ½E|y − f|².
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.bounds import lower_bounds, ties
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing

#: Neurons that fit one frequency exactly: three phases by two signs.
GROUP = 6
#: Least part of its loss that 0, 1 and 2 neurons leave of an ordinary frequency (by optimisation, for odd p).
FEW = (1.0, 8 / 9, 5 / 9)


@dataclass(frozen=True)
class ModularModes:
    """Frequencies of a template in the order in which they are learned.

    Attributes:
        staircase: Levels, and lower bounds of the times at which a frequency begins: flow times with a norm, else in
            units of 1/‖θ(0)‖; the neurons of its events are frequencies.
        frequencies: ξ, 1 to ⌊p/2⌋, `(modes,)`.
        powers: What a frequency has of |x|², `(modes,)`.
        phases: arg x̂[ξ]; a neuron wakes with φ_u + φ_v = φ_w + φ_x, `(modes,)`.
        utilities: U*, `(modes,)`.
    """

    staircase: Staircase
    frequencies: tuple[int, ...]
    powers: Float[Tensor, " modes"]
    phases: Float[Tensor, " modes"]
    utilities: Float[Tensor, " modes"]


def modular_staircase(
    template: Float[Tensor, " p"], norm: float | None = None, neurons: int | None = None
) -> ModularModes:
    """Frequencies are learned in the order of U* = √(2/27) |x̂|³ p^{−3/2}, √2 times that at p/2 (arXiv:2506.06489).

    Levels are ½ Σ P over those not yet learned, P = 2|x̂|²/p, or |x̂|²/p at p/2. A frequency takes several neurons, which
    wake one at a time: there are smaller drops within one.

    Args:
        template: x, of mean 0.
        norm: Largest norm of a neuron at time 0.
        neurons: H, to say whether there are enough.

    Raises:
        InputError: If the template is not a finite vector of at least 3 numbers, has a mean, or is 0, or the norm is
            not in (0, 0.3).
    """
    x = template.detach().cpu().double()
    if x.ndim != 1 or len(x) < 3 or not bool(x.isfinite().all()) or not bool(x.any()):
        raise InputError(
            f"template of shape {tuple(x.shape)} must be a finite vector of at least 3 numbers, not all 0."
        )
    p, size = len(x), float(x.norm())
    if abs(float(x.mean())) * math.sqrt(p) > 1e-9 * size:
        raise InputError(
            f"template has the mean {float(x.mean()):g}: frequency 0 is a feature then, which no formula here knows; "
            "take the mean off."
        )
    spectrum = torch.fft.fft(x)[: p // 2 + 1]
    amplitude = spectrum.abs()
    nyquist = 2 * torch.arange(p // 2 + 1) == p
    utility = math.sqrt(2 / 27) * amplitude**3 * p**-1.5 * torch.where(nyquist, math.sqrt(2.0), 1.0).double()
    power = torch.where(nyquist, 1.0, 2.0).double() * amplitude**2 / p
    power[0] = 0.0
    order = [k for k in torch.argsort(-utility, stable=True).tolist() if power[k] > 1e-20 * size**2]
    kept = utility[order]
    if norm is not None:
        check_vanishing(norm, "norm")
    times = 1 / (3 * kept) if norm is None else lower_bounds(kept, norm, 3)
    levels = torch.cat([power[order].flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)]) / 2
    sentences = ["The times are lower bounds: a neuron turns as slowly as it grows."]
    sentences += ties(kept, "frequency", order)
    if neurons is not None and neurons < GROUP * len(order):
        sentences.append(
            f"{neurons} neurons are fewer than {GROUP} for each of {len(order)} frequencies: the last levels may stay "
            "above 0."
        )
    events = tuple(
        Event(float(t), k, "activation", float(level), float(u))
        for t, k, level, u in zip(times, order, levels[1:], kept)
    )
    staircase = Staircase(times, levels, events, "All frequencies are learned.", tuple(sentences))
    return ModularModes(staircase, tuple(order), power[order], spectrum[order].angle(), kept)
