"""Training as a particle with mass and friction: Noether's learning dynamics (arXiv:2105.02716).

SGD with momentum follows m q̈ + μ q̇ = −∇f − λq with m = η(1+β)/2, μ = 1−β, in time t = η · steps: the Lagrangian is
e^{(μ/m)t} (T − f − (λ/2)|q|²) with T = (m/2)|q̇|². Along a symmetry of the loss with the generator X(q) the charge
𝒬 = ⟨∂T/∂q̇, X(q)⟩ then obeys

    d𝒬/dt + (μ/m) 𝒬 = δT − λ ⟨q, X(q)⟩,    δT = d/ds T(q + s X, q̇ + s ∂X q̇) at s = 0.                            (1)

δT ≠ 0, the kinetic energy without the symmetry of the loss, is what drives the norms of weights in front of a
normalisation, and so their effective learning rate: SGD becomes RMSProp on the sphere (its constants are derived here).
Logged quantities are those of `charges`: N(step) and the charges C themselves. With dampening τ, lr is η(1−τ).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from learndyn.errors import InputError, unknown
from learndyn.laws.charges import Setting, logged, per_step, recursion, vector

#: Kinetic energy T(q, q̇), a scalar, and the generator X(q) of a symmetry, in the shape of q.
Kinetic = Callable[[Tensor, Tensor], Tensor]
Generator = Callable[[Tensor], Tensor]


def mass(lr: float, momentum: float = 0.0) -> float:
    """Mass m = η(1+β)/2; without momentum it is the inertia of a finite step.

    Raises:
        InputError: If the learning rate is not positive or the momentum not in [0, 1).
    """
    eta, _, beta = _numbers(lr, 0.0, momentum)
    return eta * (1 + beta) / 2


def friction(momentum: float = 0.0) -> float:
    """Friction μ = 1 − β; charges relax at the rate μ/m in time, 2(1−β)/(1+β) a step.

    Raises:
        InputError: If the momentum is not in [0, 1).
    """
    return 1 - _numbers(1.0, 0.0, momentum)[2]


def noether_charge(charges: Tensor, momentum: Setting, linear: bool = False) -> Float[Tensor, "steps charges"]:
    """𝒬 halfway through every step: (m/2η)(C_{k+1} − C_k) of quadratic charges C, (m/η)(C_{k+1} − C_k) of linear ones.

    That is m ⟨Δθ/η, X⟩ in the middle of the step, for Euclid's kinetic energy. The learning rate cancels.

    Args:
        charges: C at all steps + 1 times, `(steps + 1, C)`.
        momentum: β, a number or `(steps,)`.
        linear: Whether the charges are sums of parameters (translation), not of their squares (scale, rescale).

    Raises:
        InputError: If a shape does not fit, or a value is out of its range.
    """
    change = _path(charges).diff(dim=0)
    beta = per_step("momentum", momentum, len(change), high=1)
    return (1 + beta)[:, None] / (2 if linear else 4) * change


class NLD(NamedTuple):
    """The terms of (1) at the steps between the first and the last, `(steps − 1, C)` each.

    Attributes:
        inertia: d𝒬/dt.
        friction: (μ/m) 𝒬.
        asymmetry: δT.
        decay: λ ⟨q, X(q)⟩.
    """

    inertia: Tensor
    friction: Tensor
    asymmetry: Tensor
    decay: Tensor

    @property
    def drive(self) -> Tensor:
        """The right-hand side of (1)."""
        return self.asymmetry - self.decay

    @property
    def residual(self) -> Tensor:
        """Left minus right side of (1)."""
        return self.inertia + self.friction - self.drive


def nld_terms(
    charges: Tensor,
    lr: Setting,
    decay: Setting,
    momentum: Setting,
    squared_steps: Tensor | None = None,
    balanced: bool = True,
) -> NLD:
    """Every term of (1) as measured, Euclidean kinetic energy, by central differences between half steps.

    At step k, with velocities of charge R = 𝒬/m on both sides, the mass is (η_k + β_k η_{k−1})/2, friction acts on R
    interpolated to t_k, and δT = m (w₊ N(d_{k+1})/η_k² + w₋ N(d_k)/η_{k−1}²) with w₊ : w₋ = η_k : β_k η_{k−1}, hence
    1/(1+β) and β/(1+β) at constant settings. Then the scheme is heavy ball itself, and its residual is rounding, under
    any schedule (derived here). With equal weights it is off by (1−β)(N(d_{k+1}) − N(d_k))/(4η).

    Args:
        charges: C at all steps + 1 times, `(steps + 1, C)`.
        lr: Learning rate η; this and the other settings are numbers, or `(steps,)`. Positive.
        decay: Weight decay λ.
        momentum: β.
        squared_steps: N(θ_{k+1} − θ_k), `(steps, C)`; None for linear charges, whose δT is 0.
        balanced: Whether the weights are those, or equal.

    Raises:
        InputError: If a shape does not fit, or a value is out of its range.
    """
    path = _path(charges)
    if len(path) < 3:
        raise InputError(f"{len(path)} times are no two steps: (1) has its terms between one step and the next.")
    steps = len(path) - 1
    eta, lam, beta = (v[:, None] for v in _settings(steps, lr, decay, momentum))
    rate = path.diff(dim=0) / ((1 if squared_steps is None else 2) * eta)
    new, old, beta = eta[1:], eta[:-1], beta[1:]
    inertia_mass = (new + beta * old) / 2
    asymmetry = torch.zeros_like(rate[1:])
    if squared_steps is not None:
        squares = logged("squared_steps", squared_steps, path[0], steps) / eta.square()
        share = new / (new + beta * old) if balanced else torch.full_like(new, 0.5)
        asymmetry = inertia_mass * (share * squares[1:] + (1 - share) * squares[:-1])
    return NLD(
        inertia=inertia_mass * rate.diff(dim=0) / ((new + old) / 2),
        friction=(1 - beta) * (old * rate[1:] + new * rate[:-1]) / (new + old),
        asymmetry=asymmetry,
        decay=lam[1:] * path[1:-1],
    )


def nld(
    initial: Tensor, drive: Tensor, lr: Setting, momentum: Setting, scheme: str = "exponential"
) -> Float[Tensor, "steps charges"]:
    """𝒬 integrated from its drive δT − λ⟨q, X⟩ by (1).

    "exponential": 𝒬 ← e^{−x} 𝒬 + (1 − e^{−x}) (m/μ) drive, x = μη/m = 2(1−β)/(1+β), which takes the drive as constant
    between half steps. "central": 𝒬 ← β 𝒬 + m drive, the scheme of `nld_terms`, exact for heavy ball (derived here).

    Args:
        initial: 𝒬 halfway through the first step, `(C,)`.
        drive: Right-hand side at the steps after the first, such as `nld_terms(...).drive`, `(steps − 1, C)`.
        lr: Learning rate η, a number or `(steps,)`. Positive.
        momentum: β, likewise.
        scheme: "exponential" or "central".

    Returns:
        𝒬 halfway through every step, `(steps, C)`.

    Raises:
        InputError: If a shape does not fit, or a value is out of its range.
    """
    start = vector("initial", initial)
    force = logged("drive", drive, start)
    eta, _, beta = _settings(len(force) + 1, lr, 0.0, momentum)
    half = eta * (1 + beta) / 2  # the mass at half steps: 𝒬 = m R, and R is what does not jump
    new, old, beta = eta[1:], eta[:-1], beta[1:]
    if scheme == "exponential":
        kept = (-(1 - beta) * (new + old) / (new + beta * old)).exp()
        gained = (1 - kept) / (1 - beta)
    elif scheme == "central":
        kept, gained = beta, torch.ones_like(beta)
    else:
        raise unknown("scheme", scheme, ["exponential", "central"])
    return recursion(
        start[None], (kept * half[1:] / half[:-1])[:, None, None], ((gained * half[1:])[:, None] * force)[:, None]
    )


def euclidean(mass: float = 1.0) -> Kinetic:
    """T = (m/2)|q̇|²: gradient descent. Translation and rotation are symmetries of it, scale and rescale are not."""
    return lambda q, velocity: mass / 2 * velocity.square().sum()


def diagonal(metric: Tensor, mass: float = 1.0) -> Kinetic:
    """T = (m/2) Σ G_i q̇_i² with a frozen metric G: steps −(η/G_i) ∇_i.

    1/lr for learning rates of their own; √v̂ + ε for Adam and RMSProp, whose own change Ġ is left out.

    Raises:
        InputError: If the metric is not positive.
    """
    if not bool(((metric > 0) & metric.isfinite()).all()):
        raise InputError("The diagonal of a metric must be positive and finite.")
    return lambda q, velocity: mass / 2 * (metric * velocity.square()).sum()


def layerwise(lr: Tensor, mass: float = 1.0) -> Kinetic:
    """T of gradient descent with a learning rate for every coordinate, in the shape of q: G = 1/lr.

    Raises:
        InputError: If a learning rate is not positive.
    """
    return diagonal(1 / lr, mass)


def adam(second_moment: Tensor, eps: float = 1e-8, mass: float = 1.0) -> Kinetic:
    """T of Adam or RMSProp with v̂ frozen: G = √v̂ + ε.

    Raises:
        InputError: If √v̂ + ε is not positive.
    """
    return diagonal(second_moment.sqrt() + eps, mass)


def multiplicative(mass: float = 1.0) -> Kinetic:
    """T = (m/2) Σ q̇_i²/q_i²: exponentiated gradient. Scale and rescale are symmetries of it, translation is not."""
    return lambda q, velocity: mass / 2 * (velocity / q).square().sum()


def momentum_along(kinetic: Kinetic, generator: Generator, q: Tensor, velocity: Tensor) -> Float[Tensor, ""]:
    """The Noether charge 𝒬 = ⟨∂T/∂q̇, X(q)⟩ of any kinetic energy and symmetry (arXiv:2105.02716).

    Args:
        kinetic: T(q, q̇), differentiable by torch.
        generator: X(q), in the shape of q.
        q: Parameters, any shape.
        velocity: q̇ in the shape of q; (θ_{k+1} − θ_k)/η is the one halfway through a step.

    Raises:
        InputError: If shapes do not fit.
    """
    q, velocity = _point(q, velocity)
    direction = _along(generator, q, velocity)[0]
    return _scalar(jvp(lambda v: kinetic(q, v), (velocity,), (direction,))[1])


def kinetic_asymmetry(kinetic: Kinetic, generator: Generator, q: Tensor, velocity: Tensor) -> Float[Tensor, ""]:
    """δT = ⟨∂T/∂q, X⟩ + ⟨∂T/∂q̇, (∂X/∂q) q̇⟩: how T changes along the symmetry (arXiv:2105.02716).

    m|q̇_A|² for scale under Euclid's T, m(|q̇_A1|² − |q̇_A2|²) for rescale, 0 for translation and rotation. Arguments as
    in `momentum_along`.

    Raises:
        InputError: If shapes do not fit.
    """
    q, velocity = _point(q, velocity)
    return _scalar(jvp(kinetic, (q, velocity), _along(generator, q, velocity))[1])


def relative_asymmetry(
    kinetic: Kinetic, generator: Generator, q: Tensor, velocity: Tensor, mask: Tensor | None = None
) -> Float[Tensor, ""]:
    """κ = |δT| / (2 T_A), T_A the kinetic energy of what takes part: 0 if T has the symmetry, 1 for scale and Euclid.

    Args:
        kinetic: T(q, q̇), differentiable by torch.
        generator: X(q), in the shape of q.
        q: Parameters, any shape.
        velocity: q̇, in the shape of q.
        mask: Coordinates that take part; by default those that X or its change (∂X/∂q) q̇ moves.

    Returns:
        κ; nan where nothing that takes part moves.

    Raises:
        InputError: If shapes do not fit.
    """
    q, velocity = _point(q, velocity)
    if mask is None:
        direction, turn = _along(generator, q, velocity)
        mask = (direction != 0) | (turn != 0)
    energy = _scalar(kinetic(q, velocity * mask))
    return kinetic_asymmetry(kinetic, generator, q, velocity).abs() / (2 * energy)


class RMSProp(NamedTuple):
    """RMSProp on the sphere that SGD with momentum, decay and normalisation amounts to (arXiv:2105.02716).

    v ← ρ v + (1 − ρ)|ĝ|², q̂ ← normalise(q̂ − η_RMS ĝ/√v), one v for every normalised channel.

    Attributes:
        rho: ρ = 1 − 4ηλ/(1−β).
        lr: η_RMS = √(2ηλ / ((1+β)ϕ)).
        memory: 1/(1 − ρ) in steps; inf without decay.
    """

    rho: float
    lr: float
    memory: float


def rmsprop(lr: float, decay: float, momentum: float = 0.0, memory_factor: float = 1.0) -> RMSProp:
    """Constants of the implicit RMSProp (derived here from arXiv:2105.02716).

    Args:
        lr: Learning rate η.
        decay: Weight decay λ.
        momentum: β.
        memory_factor: ϕ = μ²⟨|q̇|²⟩/⟨|∇f|²⟩: 1 if gradients change slowly over 1/(1−β) steps, (1−β)/(1+β) if each is
            independent of the last (mini-batches); see `memory_factor`.

    Raises:
        InputError: If a setting is out of its range, or the memory is shorter than a step.
    """
    eta, lam, beta = _numbers(lr, decay, momentum)
    phi = _positive("memory_factor", memory_factor)
    forgotten = _forgotten(eta, lam, beta)
    return RMSProp(1 - forgotten, math.sqrt(2 * eta * lam / ((1 + beta) * phi)), 1 / forgotten if lam else math.inf)


def effective_lr(squared_norm: Tensor, lr: Setting, momentum: Setting = 0.0) -> Float[Tensor, "times charges"]:
    """η_eff = η / ((1−β)|q|²): the learning rate of the direction q/|q| in front of a normalisation.

    Args:
        squared_norm: |q|², `(times, C)`.
        lr: Learning rate η, a number or `(times,)`.
        momentum: β, likewise.

    Raises:
        InputError: If a shape does not fit, or a value is out of its range.
    """
    norms = _path(squared_norm)
    eta, beta = per_step("lr", lr, len(norms)), per_step("momentum", momentum, len(norms), high=1)
    return (eta / (1 - beta))[:, None] / norms


def memory_factor(
    squared_buffers: Tensor, squared_gradients: Tensor, momentum: float, horizon: float | None = None
) -> Float[Tensor, "steps charges"]:
    """Running ϕ: exponential means of μ²|b|² over those of |g|² (derived here).

    Both begin with nothing, so that their common normalisation cancels. Take it wherever β > 0: ϕ = 1 is wrong by
    (1+β)/(1−β) for the noise of mini-batches, in |q|⁴.

    Args:
        squared_buffers: |b_{k+1}|² = N(step)/η², `(steps, C)`.
        squared_gradients: |∇f(q_k)|² without decay, `(steps, C)`.
        momentum: β.
        horizon: Of the means, in steps; max(50, 5/(1−β)) by default.

    Returns:
        ϕ `(steps, C)`; 1 as long as there was no gradient.

    Raises:
        InputError: If a shape does not fit, or a value is out of its range.
    """
    gradients = _not_negative("squared_gradients", _path(squared_gradients))
    steps, count = gradients.shape
    buffers = _not_negative("squared_buffers", logged("squared_buffers", squared_buffers, gradients.new_zeros(count)))
    if len(buffers) != steps:
        raise InputError(f"squared_buffers has {len(buffers)} steps and squared_gradients {steps}.")
    beta = _numbers(1.0, 0.0, momentum)[2]
    span = max(50.0, 5 / (1 - beta)) if horizon is None else float(horizon)
    if not span >= 1:
        raise InputError(f"horizon={span:g} must be at least one step.")
    kept = gradients.new_full((steps, 1, 1), 1 - 1 / span)
    both = torch.cat([(1 - beta) ** 2 * buffers, gradients], 1)
    means = recursion(both.new_zeros(1, 2 * count), kept, both[:, None])[1:]
    above, below = means[:, :count], means[:, count:]
    return torch.where(below > 0, above / below, 1.0)


def fourth_power(
    initial: Tensor,
    sphere_gradients: Tensor,
    lr: Setting,
    decay: Setting,
    momentum: Setting = 0.0,
    memory_factor: Setting = 1.0,
) -> Float[Tensor, "times charges"]:
    """|q|⁴ ← (1 − 4ηλ/μ)|q|⁴ + (2η²(1+β)/μ³) ϕ |ĝ|²: the norm in front of a normalisation (arXiv:2105.02716).

    (1) without inertia, for gradients ĝ = |q|∇f(q) on the unit sphere. η/(μ|q|²) of it is the predicted effective
    learning rate. Good where 4ηλ/μ and the angle of a step are small; `charges.discrete` is exact.

    Args:
        initial: |q|² at the start, `(C,)`.
        sphere_gradients: |ĝ|² = |q|²|∇f(q)|² at every step, `(steps, C)`.
        lr: Learning rate η; this and the other settings are numbers, or `(steps,)`.
        decay: Weight decay λ.
        momentum: β.
        memory_factor: ϕ (see `memory_factor`); also `(steps, C)`.

    Returns:
        |q|⁴ `(steps + 1, C)`.

    Raises:
        InputError: If a shape does not fit, a value is out of its range, or the memory is shorter than a step.
    """
    norms = _not_negative("initial", vector("initial", initial))
    squares = _not_negative("sphere_gradients", logged("sphere_gradients", sphere_gradients, norms))
    eta, lam, beta = _settings(len(squares), lr, decay, momentum, positive=False)
    phi = torch.as_tensor(memory_factor, dtype=torch.float64)
    if phi.ndim == 2:
        phi = _not_negative("memory_factor", logged("memory_factor", phi, norms, len(squares)))
    else:
        phi = per_step("memory_factor", phi, len(squares))[:, None]
    forgotten = 4 * eta * lam / (1 - beta)
    if bool((forgotten >= 1).any()):
        _too_strong(float(forgotten.max()))
    gained = 2 * eta.square() * (1 + beta) / (1 - beta) ** 3
    return recursion(norms.square()[None], (1 - forgotten)[:, None, None], (gained[:, None] * phi * squares)[:, None])


def second_moment(fourth: Tensor, lr: float, decay: float, momentum: float = 0.0, memory_factor: float = 1.0) -> Tensor:
    """RMSProp's v = |q|⁴ λμ²/(mϕ), with which η_RMS/√v is the effective learning rate; in the shape of |q|⁴.

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, lam, beta = _numbers(lr, decay, momentum)
    return fourth.double() * (lam * (1 - beta) ** 2 / (mass(eta, beta) * _positive("memory_factor", memory_factor)))


def equilibrium_angle(lr: float, decay: float, momentum: float = 0.0) -> float:
    """√(2ηλ/(1+β)): the root-mean-square angle a step turns by when decay and steps balance (λ|q|² = m|q̇|²).

    Whatever the gradients; derived here.

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, lam, beta = _numbers(lr, decay, momentum)
    return math.sqrt(2 * eta * lam / (1 + beta))


def equilibrium_norm(
    sphere_gradient: Tensor, lr: float, decay: float, momentum: float = 0.0, memory_factor: float | Tensor = 1.0
) -> Tensor:
    """|q|² where `fourth_power` stands still: √(η(1+β)ϕ⟨|ĝ|²⟩ / (2λ(1−β)²)) (derived here).

    Args:
        sphere_gradient: Mean |ĝ|² on the unit sphere, any shape.
        lr: Learning rate η.
        decay: Weight decay λ, positive.
        momentum: β.
        memory_factor: ϕ.

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, lam, beta = _numbers(lr, decay, momentum)
    if lam == 0:
        raise InputError("decay=0 has no equilibrium: norms in front of a normalisation then only grow.")
    phi = _not_negative("memory_factor", torch.as_tensor(memory_factor, dtype=torch.float64))
    mean = _not_negative("sphere_gradient", sphere_gradient.double())
    return (eta * (1 + beta) * phi * mean / (2 * lam * (1 - beta) ** 2)).sqrt()


def steps_to_equilibrium(
    squared_norm: Tensor, equilibrium: Tensor, lr: float, decay: float, momentum: float = 0.0, within: float = 0.1
) -> Tensor:
    """Steps until |q|² is, and stays, within a share of its equilibrium, gradients on the sphere staying as they are.

    `fourth_power` solved: ln((|q|⁴/q_eq⁴ − 1) / ((1 ± within)² − 1)) / −ln ρ. Far above equilibrium this is the free
    decay (1−β)/(2ηλ) ln(|q|²/|q|²_eq) (derived here).

    Args:
        squared_norm: |q|² now, any shape.
        equilibrium: |q|² there, in this shape.
        lr: Learning rate η.
        decay: Weight decay λ, positive.
        momentum: β.
        within: Relative deviation of |q|² that counts as there, in (0, 1).

    Returns:
        Steps, not rounded, in the shape of `squared_norm`; 0 where it is there.

    Raises:
        InputError: If a setting is out of its range, or the memory is shorter than a step.
    """
    eta, lam, beta = _numbers(lr, decay, momentum)
    if lam == 0:
        raise InputError("decay=0 has no equilibrium: norms in front of a normalisation then only grow.")
    if not 0 < within < 1:
        raise InputError(f"within={within:g} must lie between 0 and 1.")
    excess = (squared_norm.double() / equilibrium.double()).square() - 1
    allowed = torch.where(excess > 0, (1 + within) ** 2 - 1, (1 - within) ** 2 - 1)
    return (excess / allowed).clamp_min(1).log() / -math.log1p(-_forgotten(eta, lam, beta))


def equivalent_hparams(lr: float, decay: float, weights: Tensor, factor: float) -> tuple[float, float, Tensor]:
    """(cη, λ/c, √c q): the same functions at every step, for weights in front of a normalisation (derived here).

    With any momentum. A momentum buffer taken over is to be divided by √c.

    Args:
        lr: Learning rate η.
        decay: Weight decay λ.
        weights: q, all weights that one normalisation removes the scale of.
        factor: c, positive.

    Raises:
        InputError: If a value is out of its range.
    """
    eta, lam, _ = _numbers(lr, decay, 0.0)
    c = _positive("factor", factor)
    return c * eta, lam / c, math.sqrt(c) * weights


def adamw_equilibrium(
    squared_update: Tensor, lr: float, decay: float, beta1: float = 0.9, current: float | Tensor = 0.0
) -> Tensor:
    """|q|² at which AdamW's decoupled decay balances its updates (derived here).

    θ ← (1−ηλ)θ − ηu, where u is an exponential mean, with β₁, of ĝ/(√v̂+ε). With a = β₁(1−ηλ) and updates of mean square
    N(u), |q|² (1 − (1−ηλ)²) = η² N(u)(1+a)/(1−a) − 2η(1−ηλ)(1−β₁) J/(1−a), where J = ⟨θ, ĝ/(√v̂+ε)⟩ is what the
    preconditioner breaks the symmetry by. For J = 0 and small ηλ it is ηN(u)(1+β₁) / (2λ(1−β₁)).

    Args:
        squared_update: Mean |u|², any shape.
        lr: Learning rate η.
        decay: Weight decay λ, positive.
        beta1: β₁.
        current: Mean J.

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, lam, beta = _numbers(lr, decay, beta1)
    if not 0 < eta * lam < 1:
        raise InputError(f"lr * decay = {eta * lam:g} must lie between 0 and 1 for AdamW to have an equilibrium.")
    kept = 1 - eta * lam
    a = beta * kept
    pushed = eta**2 * (1 + a) / (1 - a) * _not_negative("squared_update", squared_update.double())
    return (pushed - 2 * eta * kept * (1 - beta) / (1 - a) * torch.as_tensor(current)) / (1 - kept**2)


def adamw_angle(lr: float, decay: float, beta1: float = 0.9) -> float:
    """√(2ηλ(1−β₁)/(1+β₁)): AdamW's angle a step at equilibrium stays below it (derived here).

    Reached if its preconditioner leaves the symmetry alone, J = 0 in `adamw_equilibrium`, and ηλ is small; in networks
    J < 0 feeds the norm, and angles are some 0.7 of it.

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, lam, beta = _numbers(lr, decay, beta1)
    return math.sqrt(2 * eta * lam * (1 - beta) / (1 + beta))


def _numbers(lr: float, decay: float, momentum: float) -> tuple[float, float, float]:
    eta, lam, beta = _settings(1, lr, decay, momentum)
    return float(eta), float(lam), float(beta)


def _settings(
    steps: int, lr: Setting, decay: Setting, momentum: Setting, positive: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """At each step; the learning rate positive, if it has to be."""
    eta = per_step("lr", lr, steps, positive=positive)
    return eta, per_step("decay", decay, steps), per_step("momentum", momentum, steps, high=1)


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise InputError(f"{name}={value:g} must be positive and finite.")
    return float(value)


def _not_negative(name: str, values: Tensor) -> Tensor:
    if not bool((values >= 0).all()):
        raise InputError(f"{name} is a mean or sum of squares and cannot be {float(values.min()):g}.")
    return values


def _forgotten(eta: float, lam: float, beta: float) -> float:
    share = 4 * eta * lam / (1 - beta)
    if share >= 1:
        _too_strong(share)
    return share


def _too_strong(share: float) -> None:
    raise InputError(
        f"4 lr decay / (1 - momentum) = {share:g} must be below 1: there is no implicit RMSProp with a memory "
        "shorter than a step."
    )


def _path(charges: Tensor) -> Tensor:
    """Charges over time, `(times, C)`, finite."""
    if charges.ndim != 2:
        raise InputError(f"A series of charges has the shape (times, charges), not {tuple(charges.shape)}.")
    return logged("The series", charges, charges.new_zeros(charges.shape[1]))


def _point(q: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    if q.shape != velocity.shape:
        raise InputError(f"A velocity of shape {tuple(velocity.shape)} does not fit q of shape {tuple(q.shape)}.")
    return q.detach().double(), velocity.detach().double()


def _along(generator: Generator, q: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """X(q) and (∂X/∂q) q̇: the direction of the symmetry in q and in q̇."""
    moved = jvp(generator, (q,), (velocity,))
    direction, turn = moved[0], moved[1]
    if direction.shape != q.shape:
        raise InputError(f"The generator has shape {tuple(direction.shape)} for q of shape {tuple(q.shape)}.")
    return direction, turn


def _scalar(value: Tensor) -> Tensor:
    if value.ndim:
        raise InputError(f"A kinetic energy is one number; this one has shape {tuple(value.shape)}.")
    return value
