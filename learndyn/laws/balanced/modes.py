"""Laws of single modes: two layers in closed form, any depth as one scalar equation, and reversal.

A mode is aligned if the start has the task's singular vectors: then its strength a(t) follows an equation of its own.
Time and loss are those of `exact`: mean of ½|y − Wx|² over examples, white inputs (k = 1), gradient flow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.limits import split
from learndyn.laws.balanced.start import clock, finite


def aligned_modes(start: Tensor, target: Tensor, lam: float, times: Tensor) -> Float[Tensor, "times modes"]:
    """Strength a(t) of aligned modes: a' = √(λ² + 4a²)(s − a) (arXiv:2409.14623).

    The Riccati solution of one hidden unit with layers c₀d₀ = a₀, d₀² − c₀² = |λ|; for λ = 0 a sigmoid, for large |λ|
    an exponential of rate |λ|, and the sign of λ has no influence. Sums of numbers of both signs are avoided, so that
    a start near −a(∞), which λ ≠ 0 alone makes turn round, keeps its digits (derived here).

    Args:
        start: a₀, of any sign, `(modes,)`.
        target: s, of any sign, `(modes,)`.
        lam: λ.
        times: Times, `(T,)`.

    Raises:
        InputError: If the shapes differ, a value is not finite, or a time is negative.
    """
    a0, s = finite("start", start), finite("target", target)
    if a0.ndim != 1 or a0.shape != s.shape or not math.isfinite(lam):
        raise InputError(
            f"start {tuple(a0.shape)} and target {tuple(s.shape)} must be one number a mode each, and lam={lam} finite."
        )
    t = clock(times)[:, None]
    flip = torch.where(s < 0, -1.0, 1.0)
    a0, s = a0 * flip, s * flip
    width = torch.hypot(s.new_tensor(lam), 2 * s)  # K
    large, small = (v.sqrt() for v in split(a0.abs(), lam))
    sign = torch.where(a0 < 0, -1.0, 1.0)
    far = width + abs(lam)
    norm = torch.hypot(2 * s, far)
    near, far = torch.where(norm > 0, 2 * s / norm, 0.0), torch.where(norm > 0, far / norm, 1.0)
    # far·d + near·c, which for c < 0 is near·(d + c) + (far − near)·d
    gap = torch.where(large > 0, abs(lam) / (large + small), 0.0)  # d − |c|
    excess = torch.where(norm > 0, abs(lam) * (1 + _ratio(abs(lam), width + 2 * s)) / norm, 1.0)  # far − near
    plus = torch.where(a0 < 0, near * gap + excess * large, near * small + far * large)
    minus = far * sign * small - near * large
    fall = torch.where(width > 0, (-width * t).exp(), 1.0)
    grown = torch.where(width > 0, -torch.expm1(-width * t) / width, t)
    root = torch.hypot((fall * (1 + minus.square() * grown)).sqrt(), plus * grown.sqrt())
    tail = torch.where(fall > 0, minus * fall, 0.0)
    first = torch.where(root > 0, (plus * near + tail * far) / root, 0.0)
    second = torch.where(root > 0, (plus * far - tail * near) / root, 0.0)
    found = torch.where(width > 0, first * second, a0 / (1 + 2 * a0.abs() * t))
    return torch.where(torch.isinf(t) & (width == 0), 0.0, found) * flip


def reversal_time(target: Tensor, lam: float) -> Float[Tensor, " modes"]:
    """When a mode learned as −s passes zero on its way to s: ln(1 + K/|λ|)/K, K = √(λ² + 4s²) (derived here).

    From λ = 0 never: the start is then on the stable manifold of the saddle, and only noise helps.

    Args:
        target: s, not zero, `(modes,)`.
        lam: λ.

    Raises:
        InputError: If a strength is zero or not finite, or λ is not finite.
    """
    s = finite("target", target)
    if bool((s == 0).any()) or not math.isfinite(lam):
        raise InputError("A reversal needs strengths other than 0 and a finite lambda.")
    width = torch.hypot(s.new_tensor(lam), 2 * s)
    return torch.log1p(width / abs(lam)) / width if lam else torch.full_like(s, math.inf)


def chain_modes(start: Tensor, target: Tensor, times: Tensor) -> Float[Tensor, "times modes layers"]:
    """Strengths x_l of all layers of a deep linear chain on aligned modes: x_l' = (Π_{j≠l} x_j)(s − Π_j x_j).

    The differences x²_{l+1} − x²_l are conserved (arXiv:2409.14623, layer by layer; the reduction is derived here):
    with y the weakest layer, x_j = ±√(y² + γ_j) and one equation for y is left, which moves one way. Its angle θ,
    y = √γ_min sinh θ, resolves a passage near the saddle y = 0, and y = ±e^θ a start close to it that another layer,
    as weak as y, keeps from passing. Integrated is v = −ln((θ∞ − θ)/(θ∞ − θ₀)), whose rate tends to a constant: steps
    grow with time, so that late times cost little, and the last of the approach keeps its digits.

    Args:
        start: x_l at time 0, of any signs, `(modes, layers)`.
        target: s, `(modes,)`.
        times: Times, `(T,)`, finite.

    Returns:
        x_l(t) with relative errors of some 1e-10; the mode is their product.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a time is negative.
    """
    x0, s, t = finite("start", start).numpy(), finite("target", target).numpy(), clock(finite("times", times)).numpy()
    if x0.ndim != 2 or s.shape != x0.shape[:1] or x0.shape[1] < 2:
        raise InputError(f"start {x0.shape} and target {s.shape}: expected (modes, layers >= 2) and (modes,).")
    found = np.empty((len(t), *x0.shape))
    increasing, place = np.unique(t, return_inverse=True)
    for mode in range(len(s)):
        found[:, mode] = _chain(x0[mode], float(s[mode]), increasing)[place]
    return torch.from_numpy(found)


def _ratio(part: float, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, 0.0)


@dataclass(frozen=True)
class _Chain:
    """One mode of a deep chain: the others by the weakest layer y, x_j = signs_j √(y² + gaps_j), signs_j y where tied.

    Attributes:
        signs: Of the other layers; of tied ones relative to y, `(layers − 1,)`.
        gaps: x_j² − y², 0 where tied.
        target: s.
    """

    signs: np.ndarray
    gaps: np.ndarray
    target: float

    @property
    def tied(self) -> bool:
        """Whether another layer is as weak as y, so that y keeps its sign."""
        return bool((self.gaps == 0).any())

    def others(self, y: float) -> np.ndarray:
        """x_j."""
        return self.signs * np.where(self.gaps == 0, y, np.sqrt(y * y + self.gaps))

    def end(self, y0: float) -> float:
        """y∞: the root of y Πx_j = s, or 0 if ties keep y from the sign it needs."""
        s, way = self.target, float(np.prod(self.signs))
        sign = np.sign(y0) if self.tied else np.sign(s) * way
        if s == 0 or way * sign ** (1 + (self.gaps == 0).sum()) != np.sign(s):
            return 0.0
        log_y = math.log(abs(s)) / (len(self.gaps) + 1)  # an upper bound; ln|yΠx_j| is convex in ln|y|
        for _ in range(200):
            squares = math.exp(2 * log_y) + self.gaps
            over = log_y + 0.5 * np.log(squares).sum() - math.log(abs(s))
            step = over / (1 + (math.exp(2 * log_y) / squares).sum())
            log_y -= step
            if abs(step) < 1e-16 * max(1.0, abs(log_y)):
                break
        return float(sign) * math.exp(log_y)

    def slope(self, y: float, end: float) -> float:
        """(s − u(y)) / (y∞ − y) with s = u(y∞), layer by layer, so that no near numbers are subtracted."""
        at_y, at_end = self.others(y), self.others(end)
        after = np.append(np.cumprod(at_end[::-1])[::-1], 1.0)
        total, before = float(after[0]), y
        for j in range(len(at_y)):
            change = self.signs[j] if self.gaps[j] == 0 else (end + y) / (at_end[j] + at_y[j])
            total += before * float(change) * float(after[j + 1])
            before *= float(at_y[j])
        return total


def _chain(x0: np.ndarray, s: float, t: np.ndarray) -> np.ndarray:
    """All layers of one mode at increasing times, `(T, layers)`."""
    weakest = int(np.argmin(np.abs(x0)))
    y0, rest = float(x0[weakest]), np.delete(x0, weakest)
    gaps = (np.abs(rest) - abs(y0)) * (np.abs(rest) + abs(y0))
    chain = _Chain(np.sign(rest) * np.where(gaps == 0, np.sign(y0), 1.0), gaps, s)
    if len(t) == 0 or (y0 == 0 and (chain.tied or s == 0)):  # a fixed point
        return np.tile(x0, (len(t), 1))
    unit = 0.0 if chain.tied else math.sqrt(float(gaps.min()))
    end = chain.end(y0)

    def height(angle: float) -> float:
        return unit * math.sinh(angle) if unit else math.copysign(math.exp(angle), y0)

    def angle_of(y: float) -> float:
        return math.asinh(y / unit) if unit else math.log(abs(y))

    def speed(y: float) -> float:
        """Π_j x_j over dy/dθ."""
        others = chain.others(y)
        if unit:
            return float(np.prod(others)) / math.hypot(y, unit)
        first = int(np.flatnonzero(gaps == 0)[0])
        return float(chain.signs[first] * np.prod(np.delete(others, first)))

    start = angle_of(y0)
    if chain.tied and end == 0:
        angle = _integrate(
            lambda a: speed(height(a)) * (s - height(a) * float(np.prod(chain.others(height(a))))), start, t
        )
    else:
        last = angle_of(end)
        way = last - start
        if way == 0:
            return np.tile(x0, (len(t), 1))

        def rate(v: float) -> float:
            left = way * math.exp(-v)  # θ∞ − θ
            y = height(last - left)
            if unit:
                change = (
                    unit
                    * math.cosh(last - left / 2)
                    * (math.sinh(left / 2) / (left / 2) if abs(left) > 1e-300 else 1.0)
                )
            else:
                change = end * (-math.expm1(-left) / left if abs(left) > 1e-300 else 1.0)
            return speed(y) * chain.slope(y, end) * change  # change is (y∞ − y)/(θ∞ − θ)

        angle = last - way * np.exp(-_integrate(rate, 0.0, t))
    return np.stack([np.insert(chain.others(y), weakest, y) for y in map(height, angle)])


def _integrate(rate: Callable[[float], float], start: float, t: np.ndarray) -> np.ndarray:
    """An autonomous scalar equation at increasing times."""
    solved = solve_ivp(
        lambda _, v: [rate(float(v[0]))],
        (0.0, max(float(t[-1]), 1e-300)),
        [start],
        method="DOP853",
        rtol=1e-12,
        atol=1e-14,
        t_eval=t,
    )
    if not solved.success:
        raise ArithmeticError(f"A mode of the chain could not be integrated: {solved.message}")
    return solved.y[0]
