"""How the charges of symmetries move when training breaks their conservation (arXiv:2012.04728).

A charge q is a quadratic form of the parameters (scale |θ_A|², rescale |θ_A1|² − |θ_A2|², each entry of the matrix
W_QW_Qᵀ − W_KW_Kᵀ) or a linear one (translation Σ θ_A). SGD is torch's: b ← β b + (1−τ)(ĝ + λθ), θ ← θ − η b, with the
decay λ coupled and the same for all that a charge is made of; time is t = Σ η(1−τ). The gradient has no part in the
charge, ⟨ĝ, X(θ)⟩ = 0: what moves a quadratic charge is decay and the length of the steps. So all that the laws need
from a run, besides its settings, is

    squared_steps[k] = N(θ_{k+1} − θ_k),    N(u): the form of the charge taken of u, with its signs,

which can be logged under any optimizer; the exact Nesterov law also needs form(θ_{k+1} − θ_k, b_{k+1}). Where N(ĝ) was
logged instead: N(step) = η²(N(ĝ) + λ² q) for SGD without momentum. Linear charges need nothing.

| law | of | left out, and the error that makes, relative to the change of the charge |
|---|---|---|
| `gradient_flow` | flow | finite steps, decay: all of the change |
| `decay_only` | flow with decay | finite steps: of order one |
| `first_order` | SGD without momentum | order η: some 1e-3 |
| `oscillator`, `translation_oscillator` | SGD with momentum | order η: up to 1e-2; with `start_velocity` some 1e-4 |
| `discrete`, `translation_discrete` | SGD, heavy ball, Nesterov, any schedule (derived here) | nothing: rounding |

All arithmetic is in float64 on the CPU; give settings as numbers or in float64, as a learning rate rounded to float32
costs eight digits. Every law is a recursion in which nothing grows that the charge does not.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError, unknown

Setting = float | Tensor
Charges = Float[Tensor, "times charges"]

#: Where in a step its forcing acts, as a share of the step that is left: at the beginning (as in the paper's code), or
#: in the middle, between the two points whose difference is the step.
RULES = {"left": 1.0, "midpoint": 0.5}


def gradient_flow(initial: Tensor, steps: int) -> Charges:
    """Every charge is conserved: `initial` at all steps + 1 times (arXiv:2012.04728, section 3).

    Raises:
        InputError: If `initial` is not a finite vector or `steps` is negative.
    """
    return vector("initial", initial).repeat(_count(steps) + 1, 1)


def decay_only(
    initial: Tensor, steps: int, lr: Setting, decay: Setting, momentum: Setting = 0.0, linear: bool = False
) -> Charges:
    """Gradient flow with weight decay: q(0) e^{−2λt/(1−β)}, or c(0) e^{−λt/(1−β)} for a linear charge.

    Without momentum this is arXiv:2012.04728's law for translation charges, and for the others what is left of it when
    the finite step is forgotten; momentum only rescales time, its inertia is dropped.

    Args:
        initial: Charges at the start, `(C,)`.
        steps: Number of steps.
        lr: Learning rate η; this and the other settings are numbers, or `(steps,)`.
        decay: Weight decay λ.
        momentum: β.
        linear: Whether the charges are sums of parameters, not of their squares.

    Returns:
        Charges `(steps + 1, C)`.

    Raises:
        InputError: If a setting is out of its range or does not fit the steps.
    """
    q = vector("initial", initial)
    eta, lam, beta = _settings(_count(steps), lr, decay, momentum)
    exponent = -(1 if linear else 2) * lam * eta / (1 - beta)
    return torch.cat([exponent.new_zeros(1), exponent.cumsum(0)]).exp()[:, None] * q


def first_order(initial: Tensor, squared_steps: Tensor, lr: Setting, decay: Setting, rule: str = "midpoint") -> Charges:
    """Quadratic charges under SGD without momentum, continuous: q(t) = e^{−2λt} q(0) + η ∫ e^{−2λ(t−s)} N(g(s)) ds.

    arXiv:2012.04728, the law for scale and rescale from the modified loss L + (η/4)|∇L|². Its forcing in a step is
    η² N(g), and N(step) up to (ηλ)² q, as in the paper's code; pass η² N(g) for the letter of the formula.

    Args:
        initial: Charges at the start, `(C,)`.
        squared_steps: N(θ_{k+1} − θ_k), `(steps, C)`.
        lr: Learning rate η, a number or `(steps,)`.
        decay: Weight decay λ, likewise.
        rule: "midpoint", or "left" as in the paper's code.

    Returns:
        Charges `(steps + 1, C)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a setting is out of its range.
    """
    q = vector("initial", initial)
    forcing = logged("squared_steps", squared_steps, q)
    eta, lam, _ = _settings(len(forcing), lr, decay)
    kept = (-2 * lam * eta).exp()
    acting = (-2 * lam * eta * _share(rule)).exp()
    return recursion(q[None], kept[:, None, None], (acting * forcing.T).T[:, None])


def oscillator(
    initial: Tensor,
    squared_steps: Tensor,
    lr: Setting,
    decay: Setting,
    momentum: Setting,
    dampening: Setting = 0.0,
    rule: str = "midpoint",
    velocity: Tensor | None = None,
) -> Charges:
    """Quadratic charges under SGD with momentum: q̈ + 2γ q̇ + ω² q = 2 N(θ̇), a damped oscillator (arXiv:2012.04728).

    γ = (1−β) / (η(1+β)), ω² = 4λ / (η(1+β)), θ̇ = step / Δt, Δt = η(1−τ) in the place of η throughout. The state (q, q̇)
    goes through every step by the exact solution of the equation, in a form that is smooth across critical damping. So
    it goes on correctly from a step to the next when η, λ, β or τ change: b = −θ̇ does not jump then. It does not hold
    for Nesterov's method, whose steps are not its buffer.

    Args:
        initial: Charges at the start, `(C,)`.
        squared_steps: N(θ_{k+1} − θ_k), `(steps, C)`.
        lr: Learning rate η; this and the other settings are numbers, or `(steps,)`. A step with η = 0 takes no time.
        decay: Weight decay λ.
        momentum: β.
        dampening: τ; without momentum torch ignores it, and so does this.
        rule: "midpoint", or "left" as in the paper's code.
        velocity: dq/dt at the start `(C,)`; zero by default, as in the paper (`start_velocity` is better).

    Returns:
        Charges `(steps + 1, C)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a setting is out of its range.
    """
    q = vector("initial", initial)
    forcing = logged("squared_steps", squared_steps, q)
    matrix, span, damping, squared_frequency = _oscillation(len(forcing), lr, decay, momentum, dampening, 2)
    # 2 N(θ̇) Δt = 2 N(step) / Δt, times G and dG/dt over the rest of the step
    _, sine, cosine = _propagate(damping, squared_frequency, _share(rule))
    acting = torch.stack([sine[:, None] * forcing, cosine[:, None] * _ratio(forcing, span)], 1)
    return recursion(_pair(q, velocity, "velocity"), matrix, 2 * acting)


def translation_oscillator(
    initial: Tensor,
    steps: int,
    lr: Setting,
    decay: Setting,
    momentum: Setting,
    dampening: Setting = 0.0,
    velocity: Tensor | None = None,
) -> Charges:
    """Linear charges under SGD with momentum: c̈ + 2γ ċ + ω² c = 0, ω² = 2λ / (η(1+β)) (arXiv:2012.04728).

    As `oscillator`, without forcing.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a setting is out of its range.
    """
    c = vector("initial", initial)
    matrix, *_ = _oscillation(_count(steps), lr, decay, momentum, dampening, 1)
    return recursion(_pair(c, velocity, "velocity"), matrix, c.new_zeros(steps, 2, 1).expand(-1, -1, len(c)))


def start_velocity(
    initial: Tensor,
    decay: float,
    momentum: float,
    dampening: float = 0.0,
    overlap: Tensor | None = None,
    linear: bool = False,
) -> Float[Tensor, " charges"]:
    """dq/dt with which the oscillator starts so that it does not lag behind heavy ball (derived here).

    The paper starts from rest. But the buffer is the velocity half a step before the start. By what it is off its
    balance with decay dies out as β^k, in the oscillator as e^{−2γt}; charges come as far meanwhile if

        q̇ = −(2 λ q + 4 β s / (1−τ)) / (1 + β),

    half of it for a linear charge. Without a buffer s = 0, and torch's first step, which ignores the dampening, makes
    λ q in it (1+τ)/(1−τ) times as large.

    Args:
        initial: Charges at the start, `(C,)`.
        decay: Weight decay λ at the start; likewise the other settings.
        momentum: β.
        dampening: τ; without momentum torch ignores it, and so does this.
        overlap: form(θ, b), or Σ b for a linear charge, where there is a buffer, `(C,)`.
        linear: Whether the charges are sums of parameters, not of their squares.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or a setting is out of its range.
    """
    q = vector("initial", initial)
    lam, beta = float(per_step("decay", decay, 1)), float(per_step("momentum", momentum, 1, high=1))
    tau = float(per_step("dampening", dampening, 1, high=1)) if beta > 0 else 0.0
    if overlap is None:
        pull = lam * q * (1 + tau) / (1 - tau)
    else:
        pull = lam * q + 2 * beta / (1 - tau) * vector("overlap", overlap, len(q))
    return -(1 if linear else 2) / (1 + beta) * pull


def discrete(
    initial: Tensor,
    squared_steps: Tensor,
    lr: Setting,
    decay: Setting,
    momentum: Setting = 0.0,
    dampening: Setting = 0.0,
    nesterov: bool = False,
    step_buffer: Tensor | None = None,
    overlap: Tensor | None = None,
    current: Tensor | None = None,
) -> Charges:
    """Quadratic charges under torch.optim.SGD, exactly: any momentum, dampening and schedule (derived here).

    With s = form(θ, b) and r = β s + (1−τ) λ q, which is form(θ_k, b_{k+1}):

        heavy ball    q ← q − 2η r + N(step),                s ← r − N(step) / η
        Nesterov      q ← q − 2η (λ q + β r) + N(step),      s ← r + form(step, b)

    Without momentum this is q ← (1 − 2ηλ) q + N(step), the same as (1 − ηλ)² q + η² N(ĝ). At constant settings it is
    q_{k+1} = (1 + β − 2ηλ) q_k − β q_{k−1} + N(d_{k+1}) + β N(d_k).

    Args:
        initial: Charges at the start, `(C,)`.
        squared_steps: N(θ_{k+1} − θ_k), `(steps, C)`.
        lr: Learning rate η; this and the other settings are numbers, or `(steps,)`.
        decay: Weight decay λ.
        momentum: β.
        dampening: τ. Like torch, the first step with momentum ignores it, and so does a step without momentum.
        nesterov: Whether the steps were Nesterov's, as torch makes them.
        step_buffer: form(θ_{k+1} − θ_k, b_{k+1}) with the buffer after the step, `(steps, C)`; for Nesterov only.
        overlap: s = form(θ, b) at the start `(C,)` where training goes on with a momentum buffer (see `overlap_of`);
            None where there is no buffer yet.
        current: form(θ_k, ĝ_k) `(steps, C)` where the symmetry is broken by the loss itself, such as by the epsilon of
            a normalisation; zero by default.

    Returns:
        Charges `(steps + 1, C)`.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, a setting is out of its range, what Nesterov needs
            is missing, or momentum pauses in between.
    """
    q = vector("initial", initial)
    squares = logged("squared_steps", squared_steps, q)
    steps = len(squares)
    if nesterov != (step_buffer is not None):
        raise InputError("step_buffer, form(step, buffer), is what Nesterov's law needs; give both or none.")
    eta, _, _ = _settings(steps, lr, decay, momentum)
    matrix, push = _discretely(steps, lr, decay, momentum, dampening, nesterov, overlap is not None, 2)
    if step_buffer is not None:
        product = logged("step_buffer", step_buffer, q, steps)
    else:
        product = -_ratio(squares, eta)
    forcing = torch.stack([squares, product], 1)
    if current is not None:
        forcing = forcing + push[:, :, None] * logged("current", current, q, steps)[:, None]
    return recursion(_pair(q, overlap, "overlap"), matrix, forcing)


def translation_discrete(
    initial: Tensor,
    steps: int,
    lr: Setting,
    decay: Setting,
    momentum: Setting = 0.0,
    dampening: Setting = 0.0,
    nesterov: bool = False,
    overlap: Tensor | None = None,
    current: Tensor | None = None,
) -> Charges:
    """Linear charges under torch.optim.SGD, exactly: p ← β p + (1−τ) λ c, c ← c − η p with p = Σ b (derived here).

    Nesterov: c ← c − η (λ c + β p) with the new p. Arguments as in `discrete`; `overlap` is p at the start, and
    `current` is Σ ĝ.

    Raises:
        InputError: As `discrete`.
    """
    c = vector("initial", initial)
    matrix, push = _discretely(_count(steps), lr, decay, momentum, dampening, nesterov, overlap is not None, 1)
    forcing = c.new_zeros(steps, 2, 1).expand(-1, -1, len(c))
    if current is not None:
        forcing = push[:, :, None] * logged("current", current, c, steps)[:, None]
    return recursion(_pair(c, overlap, "overlap"), matrix, forcing)


def overlap_of(
    before: Tensor, after: Tensor, lr: float, squared_step: Tensor | None = None
) -> Float[Tensor, " charges"]:
    """form(θ, b) after a heavy-ball step, from the charges before and after it: −(Δq + N(step)) / (2η).

    With it a prediction starts in the middle of a run whose buffer was not kept (derived here). Without `squared_step`,
    Σ b of a linear charge: −Δc / η. The steps of Nesterov's method do not tell the buffer; read it from the optimizer.

    Args:
        before: Charges before the step, `(C,)`.
        after: Charges after it, where the prediction is to start, `(C,)`.
        lr: Learning rate η of this step.
        squared_step: N(step), `(C,)`.

    Raises:
        InputError: If the shapes differ, a value is not finite, or the learning rate is not positive.
    """
    if not 0 < lr < math.inf:
        raise InputError(f"lr={lr:g} must be positive: a step with lr=0 says nothing about the buffer.")
    first = vector("before", before)
    change = vector("after", after, len(first)) - first
    if squared_step is None:
        return -change / lr
    return -(change + vector("squared_step", squared_step, len(first))) / (2 * lr)


def per_group(parts: Tensor, lr: Tensor) -> Tensor:
    """The charge that groups with learning rates η_g of their own conserve: Σ_g q_g / η_g (arXiv:2012.04728, for two).

    The same sum of N(step) is its forcing: with initial charges and squared steps summed in this way, all laws of this
    module hold at learning rate 1 (times a schedule common to all groups) and weight decay η_g λ_g, if this is the same
    for all groups (derived here).

    Args:
        parts: What each group contributes to charges or squared steps, with its sign, `(..., groups, C)`.
        lr: Learning rates, `(groups,)`.

    Returns:
        `(..., C)`.

    Raises:
        InputError: If the shapes do not fit or a learning rate is not positive.
    """
    eta = lr.double()
    if parts.ndim < 2 or eta.shape != parts.shape[-2:-1]:
        raise InputError(f"Learning rates of shape {tuple(eta.shape)} do not fit the groups of {tuple(parts.shape)}.")
    if not bool(((eta > 0) & eta.isfinite()).all()):
        raise InputError(f"The learning rates {eta.tolist()} must be positive.")
    return (parts.double() / eta[:, None]).sum(-2)


def critical_decay(lr: float, momentum: float, linear: bool = False) -> float:
    """The weight decay λ_c = (1−β)² / (4η(1+β)) above which charges oscillate; twice that for linear charges.

    arXiv:2012.04728, γ = ω. With dampening, lr is η(1−τ).

    Raises:
        InputError: If the learning rate is not positive or the momentum is not in [0, 1).
    """
    eta, beta = _numbers(lr, momentum)
    return (1 - beta) ** 2 / ((2 if linear else 4) * eta * (1 + beta))


def regime(lr: float, decay: float, momentum: float, linear: bool = False) -> str:
    """How charges are damped: "overdamped", "critical" or "underdamped" (arXiv:2012.04728).

    Raises:
        InputError: If a setting is out of its range.
    """
    critical = critical_decay(lr, momentum, linear)
    lam = float(per_step("decay", decay, 1))
    if math.isclose(lam, critical, rel_tol=1e-12):
        return "critical"
    return "overdamped" if lam < critical else "underdamped"


def half_life(lr: float, decay: float, momentum: float = 0.0, linear: bool = False) -> float:
    """Steps in which weight decay alone halves a charge: (1−β) ln 2 / (2ηλ); for a linear charge twice as many.

    The half-life of `decay_only`; inf without decay. With dampening, lr is η(1−τ).

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, beta = _numbers(lr, momentum)
    rate = (1 if linear else 2) * eta * float(per_step("decay", decay, 1))
    return (1 - beta) * math.log(2) / rate if rate > 0 else math.inf


def equilibrium(squared_step: Tensor, lr: float, decay: float, momentum: float = 0.0, dampening: float = 0.0) -> Tensor:
    """The quadratic charge at which decay balances steps of this mean square: (1+β) N / (2η(1−τ)λ).

    Where q̇ = 0, exactly in the discrete law of SGD and heavy ball (derived here). Steps grow when weights in front of a
    normalisation shrink, so that the charge moves towards it.

    Args:
        squared_step: Mean N(θ_{k+1} − θ_k), any shape.
        lr: Learning rate η.
        decay: Weight decay λ.
        momentum: β.
        dampening: τ; without momentum torch ignores it, and so does this.

    Returns:
        In the shape of `squared_step`; without decay, inf where the charge is pushed.

    Raises:
        InputError: If a setting is out of its range.
    """
    eta, beta = _numbers(lr, momentum)
    tau = float(per_step("dampening", dampening, 1, high=1)) if beta > 0 else 0.0
    rate = 2 * eta * (1 - tau) * float(per_step("decay", decay, 1))
    pushed = (1 + beta) * squared_step.double()
    return torch.where(pushed == 0, 0.0, pushed / rate)


def linear_flow(matrix: Tensor, start: Tensor, times: Tensor, lr: float = 0.0) -> Float[Tensor, "times parameters"]:
    """θ̇ = −(A + (η/2) A²) θ: for η = 0 the flow of the field −Aθ, else the one that Euler steps of size η follow.

    To first order in η, the error is O(η²) at a given time. For a quadratic loss ½ θᵀAθ it is the gradient flow of the
    modified loss L + (η/4)|∇L|² (arXiv:2012.04728, backward error analysis).

    Args:
        matrix: A, `(P, P)`, symmetric or not.
        start: θ(0), `(P,)`.
        times: Times t = η k, `(T,)`.
        lr: Step size η.

    Raises:
        InputError: If the shapes do not fit or the step size is negative.
    """
    a, theta = _field(matrix, start)
    eta = float(per_step("lr", lr, 1))
    return torch.linalg.matrix_exp(-(a + eta / 2 * (a @ a)) * times.double()[:, None, None]) @ theta


def modified_flow(
    matrix: Tensor,
    start: Tensor,
    times: Tensor,
    lr: float,
    momentum: float = 0.0,
    velocity: Tensor | None = None,
) -> Float[Tensor, "times parameters"]:
    """(η(1+β)/2) θ̈ + (1−β) θ̇ + Aθ = 0: heavy ball on a quadratic loss as a flow (arXiv:2012.04728).

    From rest, as there, and without momentum it is worse than gradient flow, with an error of the same order in η. From
    θ̇(0) = −Aθ/(1+β), with which the flow does not lag behind the steps (derived here), the error at a given time is
    O(η²).

    Args:
        matrix: A, `(P, P)`, symmetric or not.
        start: θ(0), `(P,)`.
        times: Times t = η k, `(T,)`.
        lr: Step size η.
        momentum: β.
        velocity: θ̇(0), `(P,)`; zero by default.

    Raises:
        InputError: If the shapes do not fit or a setting is out of its range.
    """
    a, theta = _field(matrix, start)
    eta, beta = _numbers(lr, momentum)
    rest = torch.zeros_like(theta) if velocity is None else _field(matrix, velocity)[1]
    mass = eta * (1 + beta) / 2
    one = torch.eye(len(theta), dtype=torch.float64, device=a.device)
    generator = torch.cat([torch.cat([0 * one, one], 1), torch.cat([-a / mass, -(1 - beta) / mass * one], 1)])
    flow = torch.linalg.matrix_exp(generator * times.double()[:, None, None])
    return (flow @ torch.cat([theta, rest]))[:, : len(theta)]


def rotation_radius(times: Tensor, lr: float) -> Float[Tensor, " times"]:
    """e^{ηt/2}: how the radius grows when steps of size η follow a rotation, whose flow keeps it (arXiv:2012.04728).

    `linear_flow` of an antisymmetric matrix with A² = −1; the steps' own radius is (1 + η²)^{t/2η}.

    Raises:
        InputError: If the step size is negative.
    """
    return (float(per_step("lr", lr, 1)) / 2 * times.double()).exp()


def per_step(
    name: str, value: Setting, steps: int, high: float = math.inf, positive: bool = False
) -> Float[Tensor, " steps"]:
    """A setting at each step, in float64, from a number or one for each step.

    Raises:
        InputError: If it has another shape, or a value is negative (or zero, if it must be `positive`), not finite, or
            not below `high`.
    """
    made = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    if made.shape not in ((), (steps,)):
        raise InputError(f"{name} has shape {tuple(made.shape)}; give a number, or one for each of the {steps} steps.")
    wrong = made[~((made >= 0) & (made < high)) | ((made == 0) & positive)]
    if len(wrong):
        lower = "positive" if positive else "at least 0"
        upper = "finite" if math.isinf(high) else f"below {high:g}"
        raise InputError(f"{name}={wrong[0].item():g} must be {lower} and {upper}.")
    return made.expand(steps)


def vector(name: str, values: Tensor, size: int | None = None) -> Tensor:
    """A finite vector of one number for each charge, in float64.

    Raises:
        InputError: If it is none, or not of this size.
    """
    if values.ndim != 1 or size not in (None, len(values)):
        expected = "one number for each charge" if size is None else f"({size},), one number for each charge"
        raise InputError(f"{name} has shape {tuple(values.shape)}; expected {expected}.")
    if not bool(values.isfinite().all()):
        raise InputError(f"{name} is not finite at charge {int((~values.isfinite()).nonzero()[0])}.")
    return values.detach().cpu().double()


def logged(name: str, values: Tensor, initial: Tensor, steps: int | None = None) -> Tensor:
    """What was logged at every step for the charges of `initial`, `(steps, C)`, in float64.

    Raises:
        InputError: If it has another shape, or is not finite.
    """
    rows = steps if steps is not None or values.ndim == 0 else len(values)
    if values.shape != (rows, len(initial)):
        rows_text = "steps" if steps is None else steps
        raise InputError(f"{name} has shape {tuple(values.shape)}; expected ({rows_text}, {len(initial)}).")
    if not bool(values.isfinite().all()):
        step = int((~values.isfinite()).any(1).nonzero()[0])
        raise InputError(f"{name} is not finite at step {step}; use what comes before it.")
    return values.detach().cpu().double()


def recursion(state: Tensor, matrix: Tensor, forcing: Tensor) -> Tensor:
    """The first component at all steps + 1 times of x ← M_k x + f_k, from x = `state`, `(n, C)`."""
    x, factors, terms = state.numpy(), matrix.numpy(), forcing.numpy()  # a fifth of the time that torch takes
    path = np.empty((len(factors) + 1, x.shape[1]))
    path[0] = x[0]
    for k in range(len(factors)):
        x = factors[k] @ x + terms[k]
        path[k + 1] = x[0]
    return torch.from_numpy(path)


def _settings(steps: int, lr: Setting, decay: Setting, momentum: Setting = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    return per_step("lr", lr, steps), per_step("decay", decay, steps), per_step("momentum", momentum, steps, high=1)


def _numbers(lr: float, momentum: float) -> tuple[float, float]:
    return float(per_step("lr", lr, 1, positive=True)), float(per_step("momentum", momentum, 1, high=1))


def _count(steps: int) -> int:
    if steps < 0:
        raise InputError(f"steps={steps} must not be negative.")
    return steps


def _share(rule: str) -> float:
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    return RULES[rule]


def _pair(charge: Tensor, second: Tensor | None, name: str) -> Tensor:
    """The state of a law of second order, `(2, C)`."""
    return torch.stack([charge, torch.zeros_like(charge) if second is None else vector(name, second, len(charge))])


def _ratio(squares: Tensor, lr: Tensor) -> Tensor:
    """N(step)/η at every step, which is η N(b): 0 where η is."""
    return torch.where(lr[:, None] > 0, squares / lr[:, None], 0.0)


def _field(matrix: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    if start.ndim != 1 or matrix.shape != (len(start), len(start)):
        raise InputError(f"A field of shape {tuple(matrix.shape)} has no start of shape {tuple(start.shape)}.")
    return matrix.double(), start.double()


def _oscillation(
    steps: int, lr: Setting, decay: Setting, momentum: Setting, dampening: Setting, degree: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(q, q̇) over every step without forcing: matrices `(steps, 2, 2)`, Δt, γΔt and (ωΔt)².

    In units of the step γΔt = (1−β)/(1+β) does not depend on η, so that η = 0 needs no case of its own.
    """
    eta, lam, beta = _settings(steps, lr, decay, momentum)
    tau = per_step("dampening", dampening, steps, high=1)
    span = eta * torch.where(beta > 0, 1 - tau, 1.0)
    damping = (1 - beta) / (1 + beta)
    stiffness = 2 * degree * lam / (1 + beta)  # ω² Δt
    cosine, sine, slope = _propagate(damping, stiffness * span, 1.0)
    matrix = torch.stack([torch.stack([cosine, sine * span], 1), torch.stack([-stiffness * sine, slope], 1)], 1)
    return matrix, span, damping, stiffness * span


def _propagate(damping: Tensor, squared_frequency: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
    """h, G and dG/dt of ẍ + 2γẋ + ω²x = 0: x = h x(0) + G ẋ(0). One formula on each side of γ = ω, no e^{+...}."""
    squared = damping.square() - squared_frequency
    z = squared.clamp_min(0).sqrt()
    slow = (-squared_frequency / (damping + z) * time).exp()  # of −γ + z, which would lose its digits
    spread = torch.where(z > 0, -torch.expm1(-2 * z * time) / (2 * z), time)
    delta = (-squared).clamp_min(0).sqrt()
    fall = (-damping * time).exp()
    over = squared >= 0
    sine = torch.where(over, slow * spread, fall * time * torch.sinc(delta * time / math.pi))
    cosine = torch.where(over, slow * (1 + torch.exp(-2 * z * time)) / 2, fall * torch.cos(delta * time))
    return cosine + damping * sine, sine, cosine - damping * sine


def _discretely(
    steps: int,
    lr: Setting,
    decay: Setting,
    momentum: Setting,
    dampening: Setting,
    nesterov: bool,
    resumed: bool,
    degree: int,
) -> tuple[Tensor, Tensor]:
    """(q, s) over every step of torch.optim.SGD: matrices `(steps, 2, 2)`, and what a current adds, `(steps, 2)`."""
    eta, lam, beta = _settings(steps, lr, decay, momentum)
    fresh = 1 - per_step("dampening", dampening, steps, high=1)
    if nesterov and bool((fresh != 1).any()):
        raise InputError("Nesterov's method has no dampening (torch refuses it as well); set one of them only.")
    moving = (beta > 0).nonzero().flatten()
    first, last = (int(moving[0]), int(moving[-1])) if len(moving) else (steps, 0)
    pauses = (beta[0 if resumed else first : last] == 0).nonzero()
    if len(pauses):
        # torch neither uses nor changes its buffer in such a step, but θ moves, and with it form(θ, b)
        step = int(pauses[0]) + (0 if resumed else first)
        raise InputError(f"momentum is 0 at step {step} and positive later: predict the parts one after the other.")
    fresh = torch.where(beta > 0, fresh, 1.0)
    starts = not resumed and first < steps
    if starts:
        fresh[first] = 1.0
    push = torch.stack([fresh * lam, beta, fresh], 1)  # r by q, s and current
    turn = torch.stack([lam + beta * push[:, 0], beta * beta, 1 + beta * fresh], 1) if nesterov else push
    change = -degree * eta[:, None] * turn
    change[:, 0] += 1
    rows = torch.stack([change, push], 1)
    if starts:
        rows[first, :, 1] = 0  # torch begins its buffer with the gradient itself, whatever s was before
    return rows[:, :, :2], rows[:, :, 2]
