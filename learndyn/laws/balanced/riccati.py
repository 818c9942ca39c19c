"""The function, representations and loss of a balanced two-layer linear network at any time, in closed form.

With Q = [W₁ᵀ; W₂] and W₂ᵀW₂ − W₁W₁ᵀ = λI the gradient flow is a matrix Riccati equation (arXiv:2409.14623; λ = 0:
Fukumizu 1998 and Braun et al. 2022),

    Q' = F Q − ½ Q QᵀQ,    F = [[−λ/2 I, Σᵀ], [Σ, λ/2 I]],

and QQᵀ = e^{Ft}Q₀ [I + Q₀ᵀ ∫₀ᵗ e^{2Fτ}dτ Q₀]⁻¹ Q₀ᵀ e^{Ft}. Needed are balance and white inputs, and neither full rank, nor
equal widths, nor λ ≠ 0. The published closed form divides by λ and inverts a matrix that may be singular; here no
exponential grows and nothing is inverted (derived here):

- F has the eigenvalues ±√(λ²/4 + s²) for every singular value s of Σ, with eigenvectors in the plane of its two singular
  vectors, and −λ/2, +λ/2 on what is left of the inputs and outputs: one SVD of Σ, at the accuracy of its smallest s.
- Rotate the hidden units so that their components on the growing modes, fastest first, are a staircase: unit i has none
  on modes before its pivot p_i. Divide its column by e^{μ_p t}; then every exponent that is left is negative or zero.
- The bracket is AᵀA with A = [I; √D₋ G₋; √D₊ e^{..}G₊] in these scaled columns; one QR of A for every time.
"""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError

EPS = torch.finfo(torch.float64).eps
#: Largest |W₂ᵀW₂ − W₁W₁ᵀ − λI|, relative to max(|λ|, |Q|²), at which a start counts as balanced.
BALANCED = 1e-10
#: Largest entry of |Σxx − kI|, relative to k, at which inputs count as white.
WHITE = 1e-8
_BLOCK = 2**23  # entries of A that are factored at once (64 MiB)


class Balance(NamedTuple):
    """How balanced two layers are.

    Attributes:
        lam: λ* = tr(B)/h of B = W₂ᵀW₂ − W₁W₁ᵀ, the best λ in least squares; positive if the second layer is larger.
        ratio: |B − λ*I| / |B|, Frobenius: 0 for a balanced pair, 0.93 to 0.97 for a square Gaussian one of any width.
        defect: |B − λ*I|, Frobenius.
        size: |Q|² = |W₁|² + |W₂|², Frobenius, to compare the defect with.
    """

    lam: float
    ratio: float
    defect: float
    size: float


class Moments(NamedTuple):
    """All that the laws need of data with white inputs.

    Attributes:
        sigma: Σ = mean of y xᵀ, `(c, d)`.
        k: Mean of x xᵀ is k I.
        floor: Least mean of ½|y − Wx|², which is the part of the loss that no W changes.
    """

    sigma: Tensor
    k: float
    floor: float


@dataclass(frozen=True)
class Exact:
    """A balanced network at all times.

    The weights are those of gradient flow up to one rotation of the hidden units (at every time another one), on which
    nothing else here depends; they may be the start of another task.

    Attributes:
        times: Times, `(T,)`.
        w1: First layer, up to rotation, `(T, h, d)`.
        w2: Second layer, up to rotation, `(T, c, h)`.
        loss: Loss above its floor, (k/2)|W₂W₁ − Σ/k|², `(T,)`.
        lam: λ used.
        defect: |W₂ᵀW₂ − W₁W₁ᵀ − λI| at the start, relative to max(|λ|, |Q|²).
        trust: Time from which on rounding decides (inf if never): a component that is zero to rounding has grown then.
        missed: Task modes (0 is the strongest) that the start has no component on: never learned in exact arithmetic.
        remarks: Sentences on what is not exact, each of them also a Python warning.
    """

    times: Float[Tensor, " times"]
    w1: Float[Tensor, "times hidden inputs"]
    w2: Float[Tensor, "times outputs hidden"]
    loss: Float[Tensor, " times"]
    lam: float
    defect: float
    trust: float
    missed: tuple[int, ...]
    remarks: tuple[str, ...]

    @property
    def function(self) -> Float[Tensor, "times outputs inputs"]:
        """W₂W₁."""
        return self.w2 @ self.w1

    @property
    def rep_in(self) -> Float[Tensor, "times inputs inputs"]:
        """Input representation W₁ᵀW₁."""
        return _symmetric(self.w1.mT @ self.w1)

    @property
    def rep_out(self) -> Float[Tensor, "times outputs outputs"]:
        """Output representation W₂W₂ᵀ."""
        return _symmetric(self.w2 @ self.w2.mT)


def exact(
    w1: Tensor,
    w2: Tensor,
    sigma: Tensor,
    times: Tensor,
    lam: float | None = None,
    k: float = 1.0,
    etas: tuple[float, float] = (1.0, 1.0),
) -> Exact:
    """Solve W₁' = η₁ W₂ᵀ(Σ − k W₂W₁), W₂' = η₂ (Σ − k W₂W₁) W₁ᵀ from a λ-balanced start (arXiv:2409.14623).

    The loss is the mean over examples of ½|y − W₂W₁x|², inputs are white, E[xxᵀ] = k I, and Σ = E[yxᵀ]. Time is that of
    gradient flow: GD with learning rate η is at t = η · steps with the default `etas`, with an error O(η); a loss
    without the ½ runs at twice, a sum over P examples at P times this speed. With learning rates of their own, what is
    conserved is η₁W₂ᵀW₂ − η₂W₁W₁ᵀ = √(η₁η₂) λ I.

    Every width, rank, sign of λ and time is allowed, infinity too; errors are some 1e-13, relative to the largest
    entry, if no component of the start on a growing mode is tiny. Of a component p·|Q| the time at which its mode is
    learned has the error 1e-16/(pμ).

    Args:
        w1: First layer at time 0, `(h, d)`.
        w2: Second layer at time 0, `(c, h)`.
        sigma: Σ, `(c, d)`.
        times: Times in any order, `(T,)`.
        lam: λ; by default the one that fits the start best.
        k: Second moment of the inputs; 1/d for one-hot inputs.
        etas: Learning rates of the first and the second layer, relative to the one in the time.

    Raises:
        InputError: If a shape does not fit, a value is not finite, a time is negative, or k or a rate not positive.
    """
    first, second, target, t = _checked(w1, w2, sigma, times)
    if not (all(0 < v < math.inf for v in (k, *etas)) and (lam is None or math.isfinite(lam))):
        raise InputError(f"k={k:g} and etas={etas} must be positive and finite, and lam={lam} finite or None.")
    stretch = (etas[1] / etas[0]) ** 0.25
    first, second, target = first * stretch, second / stretch, target / k
    found = balance(first, second)
    if lam is None:
        lam = 0.0 if abs(found.lam) <= 4 * EPS * found.size else found.lam
    off = math.hypot(found.defect, math.sqrt(len(first)) * (found.lam - lam))
    defect = off / max(abs(lam), found.size) if off else 0.0
    modes = _Modes(first, second, target, lam)
    w1_t, w2_t = modes.at(t * k * math.sqrt(etas[0] * etas[1]))
    loss = k / 2 * (w2_t @ w1_t - target).square().sum((-2, -1))
    trust, missed, remarks = modes.horizon()
    clock = k * math.sqrt(etas[0] * etas[1])
    said = [text.format(after=trust / clock) for text in remarks]
    if defect > BALANCED:
        said.append(
            f"The start is not balanced: W2'W2 - W1W1' is off lambda = {lam:.4g} by {defect:.1e} of its scale, so the curves "
            "are approximate. For Gaussian starts (off by order 1) errors of 0.1 to 11 % in the function and of 1 to 47 % in "
            "the representations were measured."
        )
    for text in said:
        warnings.warn(text, stacklevel=2)
    return Exact(t, w1_t / stretch, w2_t * stretch, loss, lam, defect, trust / clock, missed, tuple(said))


def balance(w1: Tensor, w2: Tensor) -> Balance:
    """λ* and how far W₂ᵀW₂ − W₁W₁ᵀ is from λ*I (arXiv:2409.14623).

    Args:
        w1: First layer, `(h, d)`.
        w2: Second layer, `(c, h)`.

    Raises:
        InputError: If the shapes do not fit, or a weight is not finite.
    """
    first, second = finite("w1", w1), finite("w2", w2)
    if first.ndim != 2 or second.ndim != 2 or second.shape[1] != len(first) or 0 in (*first.shape, len(second)):
        raise InputError(
            f"Layers of shape {tuple(w1.shape)} and {tuple(w2.shape)} do not follow each other; expected (h, d) and (c, h)."
        )
    difference = second.mT @ second - first @ first.mT
    lam = float(difference.trace() / len(first))
    whole = float(difference.norm())
    rest = float((difference - lam * torch.eye(len(first), dtype=torch.float64)).norm())
    return Balance(lam, rest / whole if whole else 0.0, rest, float(first.square().sum() + second.square().sum()))


def moments(inputs: Tensor, targets: Tensor) -> Moments:
    """Σ = E[yxᵀ], k of E[xxᵀ] = kI, and the floor of the loss, from examples in rows; means over the P examples.

    Args:
        inputs: Inputs, `(P, d)`.
        targets: Targets, `(P, c)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or the inputs are not white up to a factor.
    """
    x, y = finite("inputs", inputs), finite("targets", targets)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, y.shape[1]):
        raise InputError(
            f"inputs {tuple(x.shape)} and targets {tuple(y.shape)} do not fit; expected rows (P, d) and (P, c)."
        )
    second, sigma = x.mT @ x / len(x), y.mT @ x / len(x)
    k = float(second.trace()) / x.shape[1]
    off = float((second - k * torch.eye(x.shape[1], dtype=torch.float64)).abs().max())
    if not off <= WHITE * k or k == 0:
        raise InputError(
            f"The inputs are not white: E[xx'] differs from {k:.4g} times the identity by up to {off:.1e}. Multiply them "
            "by the inverse root of E[xx'], or integrate the flow; there is no closed form."
        )
    return Moments(sigma, k, float(y.square().sum() / (2 * len(y)) - sigma.square().sum() / (2 * k)))


def steady_state(sigma: Tensor, lam: float, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """W₂W₁, W₁ᵀW₁ and W₂W₂ᵀ at t = ∞ from a generic λ-balanced start: 2 Σ μ p pᵀ over the h largest μ (k = 1).

    Without a bottleneck W₂W₁ = Σ, and the representations have the eigenvalues (√(λ²+4s²) ± λ)/2 in the singular
    vectors of Σ; with one, of its best approximation of rank h (arXiv:2409.14623). `exact` at t = ∞ knows starts that
    are not generic.

    Args:
        sigma: Σ, `(c, d)`.
        lam: λ.
        hidden: Hidden units h.

    Returns:
        `(c, d)`, `(d, d)`, `(c, c)`.

    Raises:
        InputError: If λ is infeasible for the shape, or the h largest eigenvalues are not unique, so that the limit
            depends on the start.
    """
    target = finite("sigma", sigma)
    if target.ndim != 2 or 0 in target.shape or hidden < 1 or not math.isfinite(lam):
        raise InputError(
            f"sigma {tuple(target.shape)}, hidden={hidden}, lam={lam:g}: expected (c, d), h >= 1, a number."
        )
    feasible(target.shape[1], hidden, target.shape[0], lam)
    u, s, vh = torch.linalg.svd(target)
    mu = torch.hypot(s, torch.tensor(abs(lam) / 2, dtype=torch.float64))
    rank, sides = len(s), max(target.shape)
    grows = torch.cat([mu, mu.new_full((abs(target.shape[0] - target.shape[1]),), abs(lam) / 2)])
    # what is left of the larger side grows if the larger layer is there
    grows = grows if (lam > 0) == (target.shape[0] > target.shape[1]) else mu
    if hidden < len(grows) and float(grows[hidden - 1] - grows[hidden]) <= sides * EPS * float(mu[0]):
        if float(grows[hidden]) > sides * EPS * float(mu[0]):
            raise InputError(
                f"With {hidden} hidden units the limit depends on the start: growth rates {hidden} and {hidden + 1} are both "
                f"{float(grows[hidden]):.6g}. Use exact(..., times=inf)."
            )
    kept = torch.arange(rank) < hidden
    large, small = split(torch.where(kept, s, 0.0), abs(lam))
    large, small = torch.where(kept, large, 0.0), torch.where(kept, small, 0.0)
    more = (torch.arange(rank, sides) < hidden) * abs(lam)
    in_values, out_values = (small, large) if lam >= 0 else (large, small)
    if target.shape[0] > rank and lam > 0:
        out_values = torch.cat([out_values, more])
    if target.shape[1] > rank and lam < 0:
        in_values = torch.cat([in_values, more])
    v, u_in = vh.mT[:, : len(in_values)], u[:, : len(out_values)]
    product = (u[:, :rank] * torch.where(kept, s, 0.0)) @ vh[:rank]
    return product, (v * in_values) @ v.mT, (u_in * out_values) @ u_in.mT


def split(strength: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Squares of the two layers' strengths on a mode, larger first, from their product ≥ 0 and |λ| (λ-balance).

    (√(λ²+4a²) ± |λ|)/2, the smaller as a²/larger, which does not cancel.
    """
    half = strength.new_tensor(abs(lam) / 2)
    large = torch.hypot(half, strength) + half
    return large, torch.where(large > 0, strength * (strength / large), 0.0)


def feasible(inputs: int, hidden: int, outputs: int, lam: float) -> None:
    """Refuse shapes for which no λ-balanced pair exists: W₂ᵀW₂ = λI + W₁W₁ᵀ has rank h > c (derived here).

    Raises:
        InputError: If λ > 0 and h > c, or λ < 0 and h > d.
    """
    if lam > 0 and hidden > outputs:
        raise InputError(f"lambda > 0 needs h <= c (h={hidden}, c={outputs}); take lambda <= 0 or fewer hidden units.")
    if lam < 0 and hidden > inputs:
        raise InputError(f"lambda < 0 needs h <= d (h={hidden}, d={inputs}); take lambda >= 0 or fewer hidden units.")


def plateau(product: Tensor, sigma: Tensor) -> float:
    """Loss above its floor on which a square network with λ = 0 ends: ½ s_min² if det(W₂W₁) and det(Σ) differ in sign.

    On the manifold λ = 0 the determinant cannot change sign, so the flow ends in the saddle that misses the weakest
    mode, for any h ≥ d = c (derived here). Half of all random starts are of this kind. Any λ ≠ 0 removes the plateau, and
    so do the steps of GD, which let λ drift.

    Args:
        product: W₂W₁ at the start, `(n, n)`.
        sigma: Σ, `(n, n)`.

    Returns:
        The plateau, 0 if the network learns all.

    Raises:
        InputError: If a matrix is not square, their shapes differ, or one is singular: then the sign says nothing.
    """
    start, target = finite("product", product), finite("sigma", sigma)
    if start.ndim != 2 or start.shape != target.shape or start.shape[0] != start.shape[1]:
        raise InputError(
            f"The sign of the determinant is a law of square maps, not of {tuple(start.shape)} and {tuple(target.shape)}."
        )
    weakest = []
    for name, matrix in (("product", start), ("sigma", target)):
        values = torch.linalg.svdvals(matrix)
        if not float(values[-1]) > len(values) * EPS * float(values[0]):
            raise InputError(f"{name} is singular to rounding: the sign of its determinant says nothing.")
        weakest.append(float(values[-1]))
    differ = torch.linalg.slogdet(start).sign != torch.linalg.slogdet(target).sign
    return weakest[1] ** 2 / 2 if differ else 0.0


class _Modes:
    """The start in the eigenvectors of F: growing ("plus", fastest first) and decaying ("minus") modes.

    Units are rotated into the staircase described above; `front` is how many have a pivot.
    """

    def __init__(self, w1: Tensor, w2: Tensor, sigma: Tensor, lam: float):
        u, s, vh = torch.linalg.svd(sigma, full_matrices=False)
        half = abs(lam) / 2
        mu = torch.hypot(s, s.new_tensor(half))
        far, near = mu + half, s
        norm = torch.hypot(far, near)
        far, near = torch.where(norm > 0, far / norm, 1.0), torch.where(norm > 0, near / norm, 0.0)
        self.cos, self.sin = (near, far) if lam >= 0 else (far, near)
        self.u, self.v, self.s = u, vh.mT, s
        x1, x2 = vh @ w1.mT, u.mT @ w2
        plus, minus = _turn(x1, x2, self.cos, self.sin)
        # what is left of inputs and outputs; its modes are all alike, so as many as hidden units are enough
        self.y1, rest1 = _rest(vh.mT, w1.mT, x1)
        self.y2, rest2 = _rest(u, w2, x2)
        up = [rest2] * (lam >= 0) + [rest1] * (lam <= 0)
        down = [rest1] * (lam > 0) + [rest2] * (lam < 0)
        self.lam, self.pairs = lam, len(s)
        grown, fallen = torch.cat([plus, *up]), torch.cat([minus, *down])
        self.mu = torch.cat([mu, mu.new_full((len(grown) - len(mu),), half)])
        self.fall = torch.cat([mu, mu.new_full((len(fallen) - len(mu),), half)])
        self.tiny = max(sigma.shape) * EPS * float(mu[0])
        gram = w1 @ w1.mT + w2.mT @ w2
        self.noise = 8 * EPS * math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))
        frame, self.pivots = _staircase(grown, 1e-14 * math.sqrt(float(gram.trace())))
        self.front = len(self.pivots)
        self.minus = fallen @ frame
        before = torch.arange(len(grown))[:, None] < self.pivots  # nothing there but rounding
        self.plus = (grown @ frame[:, : self.front]).masked_fill(before, 0.0)
        self.gaps = (self.mu[self.pivots] - self.mu[:, None]).clamp_min(0)

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers at all times, `(T, h, d)` and `(T, c, h)`."""
        hidden = self.minus.shape[1]
        rows = hidden + len(self.mu) + len(self.fall)
        found = times.new_empty(len(times), len(self.mu) + len(self.fall), hidden)
        late = times.isinf()
        for chosen in (~late).nonzero().flatten().split(max(1, _BLOCK // (rows * hidden))):
            found[chosen] = self._solve(times[chosen])
        if bool(late.any()):
            found[late] = self._limit()
        return self._layers(found)

    def _solve(self, times: Tensor) -> Tensor:
        """Components on plus and minus modes, `(T, modes, h)`, at finite times."""
        t = times[:, None]
        hidden = self.minus.shape[1]
        scale = torch.cat([(-self.mu[self.pivots] * t).exp(), t.new_ones(len(t), hidden - self.front)], 1)
        plus = t.new_zeros(len(t), len(self.mu), hidden)
        plus[:, :, : self.front] = (-self.gaps * t[:, :, None]).exp() * self.plus
        minus = self.minus * scale[:, None]
        stacked = torch.cat(
            [
                torch.diag_embed(scale),
                _grown(self.fall, t).sqrt()[:, :, None] * minus,
                _grown(self.mu, t).sqrt()[:, :, None] * plus,
            ],
            1,
        )
        root = torch.linalg.qr(stacked, mode="r").R
        minus = (-self.fall * t).exp()[:, :, None] * minus
        return torch.linalg.solve_triangular(root, torch.cat([plus, minus], 1), upper=True, left=False)

    def _limit(self) -> Tensor:
        """The same at t = ∞: every pivot has only the modes that grow as fast as it, equal to rounding."""
        settled = self.minus.new_zeros(len(self.mu) + len(self.fall), self.minus.shape[1])
        moving = self.mu[self.pivots] > self.tiny
        plus = torch.where(self.gaps <= self.tiny, self.plus, 0.0)[:, moving]
        rows = self.mu > self.tiny
        plus = plus[rows]
        root = torch.linalg.qr(plus / (2 * self.mu[rows]).sqrt()[:, None], mode="r").R
        settled[: len(rows)][rows, : plus.shape[1]] = torch.linalg.solve_triangular(root, plus, upper=True, left=False)
        return settled

    def _layers(self, found: Tensor) -> tuple[Tensor, Tensor]:
        plus, minus = found[:, : len(self.mu)], found[:, len(self.mu) :]
        k = self.pairs
        cos, sin = self.cos[:, None], self.sin[:, None]
        first = self.v @ (cos * plus[:, :k] - sin * minus[:, :k])
        second = self.u @ (sin * plus[:, :k] + cos * minus[:, :k])
        up, down = plus[:, k:], minus[:, k:]
        if self.lam > 0:
            rest1, rest2 = down, up
        elif self.lam < 0:
            rest1, rest2 = up, down
        else:
            rest1, rest2 = up[:, self.y2.shape[1] :], up[:, : self.y2.shape[1]]
        return (first + self.y1 @ rest1).mT, second + self.y2 @ rest2

    def horizon(self) -> tuple[float, tuple[int, ...], list[str]]:
        """Time at which rounding has grown to order one, modes without a component, and what to say (derived here).

        Rounding of η = 8·2.2e-16·|Q| on a mode that the start misses, or nearly so, reaches the mode's size √(2μ) after
        ln(√(2μ)/η)/μ.
        """
        full = int(self.pivots[-1]) if self.front == self.minus.shape[1] else len(self.mu)
        held = torch.zeros(len(self.mu), dtype=torch.float64)
        held[self.pivots] = self.plus[self.pivots, torch.arange(self.front)].abs()
        watched = (torch.arange(len(self.mu)) <= full) & (self.mu > self.tiny)
        faint = watched & (held < 1e3 * self.noise)
        gone = watched & (held == 0)
        trust, remarks = math.inf, []
        for j in faint.nonzero().flatten().tolist():
            mu = float(self.mu[j])
            reach = math.sqrt(2 * mu) / self.noise
            trust = min(trust, math.log(reach) / mu if reach > 1 else math.inf)
        missed = [j for j in gone.nonzero().flatten().tolist() if j < self.pairs and float(self.s[j]) > self.tiny]
        if bool(faint.any()) and trust < math.inf:
            first = missed[0] if missed else int(faint.nonzero()[0])
            what = (
                f"task mode {first} (s = {float(self.s[first]):.4g})"
                if first < self.pairs
                else "a mode outside the task"
            )
            how = "zero" if held[first] == 0 else "almost zero"
            then = "never learned in exact arithmetic; " if held[first] == 0 else "learned late; "
            remarks.append(
                f"The start's component on {what} is {how} to rounding: {then}any noise will trigger it after t = {{after:.3g}}."
            )
        return trust, tuple(missed), remarks


def _checked(w1: Tensor, w2: Tensor, sigma: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    balance(w1, w2)
    target = finite("sigma", sigma)
    if target.shape != (w2.shape[0], w1.shape[1]):
        raise InputError(
            f"sigma has shape {tuple(sigma.shape)}; expected (c, d) = ({w2.shape[0]}, {w1.shape[1]}), targets times inputs."
        )
    return finite("w1", w1), finite("w2", w2), target, clock(times)


def clock(times: Tensor) -> Tensor:
    """Times in float64, `(T,)`.

    Raises:
        InputError: If they are no vector, or one is negative or nan.
    """
    t = times.detach().cpu().double()
    if t.ndim != 1:
        raise InputError(f"times has shape {tuple(times.shape)}; expected (T,).")
    if bool((~(t >= 0)).any()):
        raise InputError(f"times must be at least 0, not {float(t[~(t >= 0)][0]):g}.")
    return t


def finite(name: str, values: Tensor) -> Tensor:
    """A detached copy in float64 on the CPU.

    Raises:
        InputError: If a value is not finite.
    """
    made = values.detach().cpu().double()
    if not bool(made.isfinite().all()):
        raise InputError(f"{name} is not finite at {tuple((~made.isfinite()).nonzero()[0].tolist())}.")
    return made


def _turn(x1: Tensor, x2: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    c, s = cos[:, None], sin[:, None]
    return c * x1 + s * x2, c * x2 - s * x1


def _rest(basis: Tensor, columns: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """What `columns` have outside `basis`: an orthonormal frame and the components in it."""
    size = min(basis.shape[0] - basis.shape[1], columns.shape[1])
    if size <= 0:
        return basis[:, :0], inside[:0]
    left = columns - basis @ inside
    left = left - basis @ (basis.mT @ left)
    if size < columns.shape[1]:
        frame = torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]
    else:
        frame = torch.linalg.qr(left).Q  # where `left` lacks rank, columns of any direction, with components of rounding
    return frame, frame.mT @ left


def _staircase(rows: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """An orthonormal frame in which row by row, from the first, at most one new column is not zero; the rows that had one.

    Gram-Schmidt of the rows; what is left of a row counts if it is longer than `least`.
    """
    hidden = rows.shape[1]
    most = min(rows.shape)
    frame, upper = torch.linalg.qr(rows.mT, mode="complete")
    if bool((upper.diagonal().abs() > least).all()):
        return frame, torch.arange(most)
    basis, pivots = rows.new_zeros(hidden, 0), []
    for j in range(len(rows)):
        left = rows[j]
        for _ in range(2):
            left = left - basis @ (basis.mT @ left)
        length = left.norm()
        if float(length) > least:
            basis, pivots = torch.cat([basis, (left / length)[:, None]], 1), [*pivots, j]
        if len(pivots) == hidden:
            break
    beyond = torch.linalg.qr(basis, mode="complete").Q[:, len(pivots) :]
    return torch.cat([basis, beyond], 1), torch.tensor(pivots, dtype=torch.long)


def _grown(rate: Tensor, t: Tensor) -> Tensor:
    """∫₀ᵗ e^{−2mτ} dτ of rates m ≥ 0."""
    return torch.where(rate > 0, -torch.expm1(-2 * rate * t) / (2 * rate), t)


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2
