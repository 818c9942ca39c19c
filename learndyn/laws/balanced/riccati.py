"""The matrix Riccati flow of a balanced two-layer linear network, solved for all times (arXiv:2409.14623).

With Q = [W₁ᵀ; W₂], white inputs and W₂ᵀW₂ − W₁W₁ᵀ = λI, gradient flow is (λ = 0: Fukumizu 1998, Braun et al. 2022)

    Q' = F Q − ½ Q QᵀQ,    F = [[−λ/2 I, Σᵀ], [Σ, λ/2 I]],
    QQᵀ(t) = e^{Ft}Q₀ [I + Q₀ᵀ ∫₀ᵗ e^{2Fτ}dτ Q₀]⁻¹ Q₀ᵀ e^{Ft}.

Needed are balance and white inputs, and neither full rank, nor equal widths, nor λ ≠ 0; the published closed form
divides by λ and inverts what may be singular. Here no exponential grows and nothing is inverted (derived here):

- For every singular value s of Σ, F has the eigenvalues ±√(λ²/4 + s²) in the plane of its two singular vectors, and
  −λ/2 and +λ/2 on what is left of the inputs and of the outputs: one SVD of Σ, as accurate as its smallest s.
- Hidden units are rotated so that their components on the growing modes, fastest first, are a staircase: unit i has
  none on the modes before its pivot p_i. With its column divided by e^{μt} of the pivot, no exponent is positive.
- In these columns the bracket is AᵀA with A = [E; √D₋ G₋; √D₊ G₊], so one QR of A for every time is all.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
_BLOCK = 2**20  # entries of A that are factored at once (8 MiB)


class Horizon(NamedTuple):
    """Until when a solution can be trusted.

    Attributes:
        time: Time from which on rounding decides, inf if never.
        missed: Task modes on which the start has no component; 0 is the strongest.
        remark: What to say, "" if nothing.
    """

    time: float
    missed: tuple[int, ...]
    remark: str


class Riccati:
    """A start, taken apart into growing ("plus", fastest first) and decaying ("minus") modes; see above.

    Args:
        w1: First layer, `(h, d)`.
        w2: Second layer, `(c, h)`.
        sigma: Σ, `(c, d)`.
        lam: λ.
    """

    def __init__(self, w1: Tensor, w2: Tensor, sigma: Tensor, lam: float):
        u, s, vh = torch.linalg.svd(sigma, full_matrices=False)
        half = abs(lam) / 2
        mu = torch.hypot(s, s.new_tensor(half))
        norm = torch.hypot(mu + half, s)
        far, near = torch.where(norm > 0, (mu + half) / norm, 1.0), torch.where(norm > 0, s / norm, 0.0)
        self.cos, self.sin = (near, far) if lam >= 0 else (far, near)  # the growing eigenvector is (cos v, sin u)
        self.u, self.v, self.s, self.lam, self.pairs = u, vh.mT, s, lam, len(s)
        x1, x2 = vh @ w1.mT, u.mT @ w2
        plus = self.cos[:, None] * x1 + self.sin[:, None] * x2
        minus = self.cos[:, None] * x2 - self.sin[:, None] * x1
        self.y1, rest1 = _rest(self.v, w1.mT, x1)
        self.y2, rest2 = _rest(u, w2, x2)
        grown = torch.cat([plus, *[rest2] * (lam >= 0), *[rest1] * (lam <= 0)])
        fallen = torch.cat([minus, *[rest1] * (lam > 0), *[rest2] * (lam < 0)])
        self.mu = torch.cat([mu, mu.new_full((len(grown) - len(mu),), half)])
        self.fall = torch.cat([mu, mu.new_full((len(fallen) - len(mu),), half)])
        self.tiny = max(sigma.shape) * EPS * float(mu[0])  # what a rate is known to
        gram = w1 @ w1.mT + w2.mT @ w2
        self.noise = 8 * EPS * math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))
        frame, self.pivots = _staircase(grown, 1e-14 * math.sqrt(float(gram.trace())))
        self.front = len(self.pivots)
        self.minus = fallen @ frame
        before = torch.arange(len(grown))[:, None] < self.pivots  # nothing is there but rounding
        self.plus = (grown @ frame[:, : self.front]).masked_fill(before, 0.0)
        self.gaps = (self.mu[self.pivots] - self.mu[:, None]).clamp_min(0)

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers at times `(T,)`, infinity too, up to a rotation: `(T, h, d)` and `(T, c, h)`."""
        modes, hidden = len(self.mu) + len(self.fall), self.minus.shape[1]
        found = times.new_empty(len(times), modes, hidden)
        late = times.isinf()
        for chosen in (~late).nonzero().flatten().split(max(1, _BLOCK // ((hidden + modes) * hidden))):
            found[chosen] = self._solve(times[chosen, None])
        if bool(late.any()):
            found[late] = self._limit()
        return self._layers(found)

    def _solve(self, t: Tensor) -> Tensor:
        """Components on plus and minus modes `(T, modes, h)` at finite times `(T, 1)`."""
        hidden = self.minus.shape[1]
        scale = torch.cat([(-self.mu[self.pivots] * t).exp(), t.new_ones(len(t), hidden - self.front)], 1)
        plus = t.new_zeros(len(t), len(self.mu), hidden)
        plus[:, :, : self.front] = (-self.gaps * t[:, :, None]).exp() * self.plus
        minus = self.minus * scale[:, None]
        grown, fallen = (_integral(rate, t).sqrt()[:, :, None] for rate in (self.mu, self.fall))
        root = torch.linalg.qr(torch.cat([torch.diag_embed(scale), fallen * minus, grown * plus], 1), mode="r").R
        now = torch.cat([plus, (-self.fall * t).exp()[:, :, None] * minus], 1)
        return torch.linalg.solve_triangular(root, now, upper=True, left=False)

    def _limit(self) -> Tensor:
        """The same at t = ∞, `(modes, h)`: of a unit, the modes as fast as its pivot (to rounding) are left."""
        settled = self.minus.new_zeros(len(self.mu) + len(self.fall), self.minus.shape[1])
        growing = int((self.mu > self.tiny).sum())
        left = torch.where(self.gaps <= self.tiny, self.plus, 0.0)[:growing, self.pivots < growing]
        root = torch.linalg.qr(left / (2 * self.mu[:growing, None]).sqrt(), mode="r").R
        settled[:growing, : left.shape[1]] = torch.linalg.solve_triangular(root, left, upper=True, left=False)
        return settled

    def _layers(self, found: Tensor) -> tuple[Tensor, Tensor]:
        k = self.pairs
        (plus, up), (minus, down) = (
            (part[:, :k], part[:, k:]) for part in (found[:, : len(self.mu)], found[:, len(self.mu) :])
        )
        cos, sin = self.cos[:, None], self.sin[:, None]
        if self.lam:
            rest1, rest2 = (down, up) if self.lam > 0 else (up, down)
        else:
            rest2, rest1 = up.split([self.y2.shape[1], self.y1.shape[1]], 1)
        first = self.v @ (cos * plus - sin * minus) + self.y1 @ rest1
        return first.mT, self.u @ (sin * plus + cos * minus) + self.y2 @ rest2

    def horizon(self) -> Horizon:
        """When rounding has grown to order one (derived here).

        Rounding η = 8·2.2e-16·|Q| on a growing mode that the start misses, or has less than 1e3 η of, becomes √(2μ),
        the mode's own size, at t = ln(√(2μ)/η)/μ. If all units have modes of their own, it has to outgrow the slowest
        of them, of rate μ' and size g: t = ln(g/η)/(μ − μ').
        """
        if not self.noise:
            missed = [j for j in range(self.pairs) if self._of_task(j)]
            return Horizon(math.inf, tuple(missed), "The start is zero, where nothing ever moves.")
        full = self.front == self.minus.shape[1]
        held = torch.zeros_like(self.mu)
        held[self.pivots] = self.plus[self.pivots, torch.arange(self.front)].abs()
        slowest, beaten = (float(v[self.pivots[-1]]) if full else 0.0 for v in (self.mu, held))
        missed, ends = list[int](), dict[int, float]()
        for j in (held < 1e3 * self.noise).nonzero().flatten().tolist():
            gone, rate = not held[j], float(self.mu[j])
            if gone and full:
                rate -= slowest
            if rate <= self.tiny:
                continue
            reach = (beaten if gone and full else math.sqrt(2 * rate)) / self.noise
            if gone and self._of_task(j):
                missed.append(j)
            if reach > 1:
                ends[j] = math.log(reach) / rate
        if not ends:
            return Horizon(math.inf, tuple(missed), "")
        first = min(ends, key=ends.__getitem__)
        mode = (
            f"task mode {first} (s = {float(self.s[first]):.4g})" if self._of_task(first) else "a mode outside the task"
        )
        fate = "almost zero: learned late" if held[first] else "zero to rounding: never learned in exact arithmetic"
        remark = f"The start's component on {mode} is {fate}; any noise will trigger it after t = {{time:.3g}}."
        return Horizon(ends[first], tuple(missed), remark)

    def _of_task(self, j: int) -> bool:
        return j < self.pairs and float(self.s[j]) > self.tiny


def _rest(basis: Tensor, columns: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """What `columns` have outside `basis`: an orthonormal frame and the components in it.

    All modes there are alike, so a frame of as many dimensions as there are columns is enough.
    """
    size = basis.shape[0] - basis.shape[1]
    if size == 0:
        return basis[:, :0], inside[:0]
    left = columns - basis @ inside
    left = left - basis @ (basis.mT @ left)
    if size < columns.shape[1]:
        frame = torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]
    else:
        frame = torch.linalg.qr(left).Q  # without full rank some of it is arbitrary, with components of rounding
    return frame, frame.mT @ left


def _staircase(rows: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Gram-Schmidt of rows in their order: an orthonormal frame `(h, h)`, and the rows that gave it a new direction.

    What is left of a row counts if it is longer than `least`; directions that no row has come last.
    """
    hidden = rows.shape[1]
    frame, upper = torch.linalg.qr(rows.mT, mode="complete")
    if bool((upper.diagonal().abs() > least).all()):
        return frame, torch.arange(min(rows.shape))
    basis, pivots = rows.new_zeros(hidden, 0), list[int]()
    for j, row in enumerate(rows):
        left = row - basis @ (basis.mT @ row)
        left = left - basis @ (basis.mT @ left)
        length = left.norm()
        if float(length) > least and len(pivots) < hidden:
            basis, pivots = torch.cat([basis, (left / length)[:, None]], 1), [*pivots, j]
    beyond = torch.linalg.qr(basis, mode="complete").Q[:, len(pivots) :]
    return torch.cat([basis, beyond], 1), torch.tensor(pivots, dtype=torch.long)


def _integral(rate: Tensor, t: Tensor) -> Tensor:
    """∫₀ᵗ e^{−2mτ} dτ of rates m ≥ 0."""
    return torch.where(rate > 0, -torch.expm1(-2 * rate * t) / (2 * rate), t)
