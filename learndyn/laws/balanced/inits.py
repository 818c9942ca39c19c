"""Which λ the common initialisations have, and why none of them is λ-balanced (derived here; for arXiv:2409.14623)."""

import math
from typing import NamedTuple

from learndyn.errors import InputError, unknown

#: Variance of the weights as a function of (fan in, fan out), and excess kurtosis: 0 for normal, −1.2 for uniform.
INITS = {
    "lecun": (lambda fan_in, fan_out: 1 / fan_in, 0.0),
    "glorot": (lambda fan_in, fan_out: 2 / (fan_in + fan_out), 0.0),
    "he": (lambda fan_in, fan_out: 2 / fan_in, 0.0),
    "torch": (lambda fan_in, fan_out: 1 / (3 * fan_in), -1.2),  # nn.Linear: uniform between ±1/√fan_in
}


class Expected(NamedTuple):
    """What to expect of `balance` for independent random layers.

    Attributes:
        lam: Mean of λ*.
        spread: Standard deviation of λ* over draws.
        ratio: Of `Balance.ratio` = |B − λ*I|/|B|, from the means of both squares; its spread falls as 1/h.
    """

    lam: float
    spread: float
    ratio: float


def expected_lambda(inputs: int, hidden: int, outputs: int, init: str) -> Expected:
    """λ* and residual ratio of two random layers by a common initialisation.

    With variances v₁, v₂ of the entries, λ* = tr(W₂ᵀW₂ − W₁W₁ᵀ)/h has the mean c v₂ − d v₁. With k = h/d and r = c/d:
    LeCun r/k − 1, Glorot 2[r/(r+k) − 1/(1+k)], He 2(r/k − 1), torch's nn.Linear (r/k − 1)/3. Entry by entry B tends to
    λ*I in wide networks, but it has h² entries of variance c v₂² + d v₁², so |B − λ*I|² ≈ h²(c v₂² + d v₁²) stays of
    the order of |λ*I|² = hλ*² and more: no width makes such a network λ-balanced.

    >>> expected_lambda(200, 400, 600, "lecun").lam, round(expected_lambda(200, 400, 600, "lecun").ratio, 3)
    (0.5, 0.966)

    Args:
        inputs: d.
        hidden: h.
        outputs: c.
        init: "lecun", "glorot", "he" (normal or any symmetric distribution without excess kurtosis), or "torch".

    Raises:
        InputError: If a width is below 1, or the name is none of these.
    """
    if init not in INITS:
        raise unknown("initialisation", init, INITS)
    if min(inputs, hidden, outputs) < 1:
        raise InputError(f"(d, h, c) = ({inputs}, {hidden}, {outputs}) must be at least 1.")
    variance, kurtosis = INITS[init]
    first, second = variance(inputs, hidden), variance(hidden, outputs)
    lam = outputs * second - inputs * first
    each = outputs * second**2 + inputs * first**2  # variance of an entry off the diagonal; (2 + kurtosis) times on it
    off = hidden * (hidden - 1) * each + (hidden - 1) * (2 + kurtosis) * each
    spread2 = (2 + kurtosis) * each / hidden
    whole = off + hidden * (lam**2 + spread2)
    return Expected(lam, math.sqrt(spread2), math.sqrt(off / whole))
