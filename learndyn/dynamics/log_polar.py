"""Gradient flow of sums of homogeneous neurons from any start, however small, in ln ‖θ_i‖ and directions.

In these coordinates (arXiv:2506.06489, polar form, with the residual of all neurons) a neuron of norm 1e-100 is as good
as one of norm 1. Awake neurons make the flow stiff, dormant ones unstable: an implicit method is used, whose steps are
kept short enough for what grows to grow as it should.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import BDF, RK23, OdeSolution
from torch import Tensor

from learndyn.errors import InputError
from learndyn.neurons import Problem, Start, with_slope

CHUNK = 64  # rows of a Jacobian at once
STRIDE = 0.5  # of a step, times the rate at which the directions of dormant neurons change
DORMANT = -1.0  # ln ‖θ‖ below which a neuron counts as dormant for that
PROBE = 1e-5


@dataclass(frozen=True, eq=False)
class VanishingFlow:
    """A gradient flow, at the steps that its solver took.

    Attributes:
        times: Flow times, from 0 on, `(T,)`.
        loss: L at them.
        log_norms: ln ‖θ_i‖, `(T, neurons)`.
        directions: θ_i/‖θ_i‖, `(T, neurons, D)`.
        stopped: Why it ended.
        solution: Both at any time between, flat.
    """

    times: Float[Tensor, " times"]
    loss: Float[Tensor, " times"]
    log_norms: Float[Tensor, "times neurons"]
    directions: Float[Tensor, "times neurons weights"]
    stopped: str
    solution: OdeSolution

    def weights(self) -> Float[Tensor, "times neurons weights"]:
        """θ at the steps; zero below 1e-308."""
        return self.log_norms.exp()[..., None] * self.directions

    def at(self, time: float) -> Start:
        """Norms and directions at any time of the flow.

        Raises:
            InputError: If the flow was not followed to that time.
        """
        if not 0 <= time <= float(self.times[-1]):
            raise InputError(f"The flow was followed from t=0 to {float(self.times[-1]):g}; t={time:g} is outside.")
        return _split(torch.from_numpy(np.asarray(self.solution(time))), self.log_norms.shape[1])


def vanishing_flow(
    problem: Problem,
    start: Start,
    until: float,
    preconditioned: bool = False,
    rest: float = 1e-6,
    rtol: float | None = None,
    most: int = 50_000,
) -> VanishingFlow:
    """Integrate dθ_i/dt = −∂L/∂θ_i from a start of any size, in float64.

    >>> from learndyn.neurons import gaussian, linear, sampled
    >>> x = 2**0.5 * torch.eye(2, dtype=torch.float64)
    >>> problem = sampled(linear(2), x, x @ torch.diag(x.new_tensor([2.0, 1.0])), 4)
    >>> run = vanishing_flow(problem, gaussian(6, (2, 2), log_size=-230.0), until=400.0)
    >>> round(float(run.loss[0]), 9), float(run.loss[-1]) < 1e-5
    (2.5, True)

    Args:
        problem: Neurons that are homogeneous, and what they learn.
        start: First norms and directions.
        until: Flow time at which it ends.
        preconditioned: θ_i' = −‖θ_i‖^(2−κ) ∂L/∂θ_i (arXiv:2602.03655).
        rest: It ends as well when the loss is below this part of the first.
        rtol: Relative tolerance of a step, a thousandth of it the absolute one of ln ‖θ‖ and directions; 1e-6 for
            smooth neurons, 1e-3 for others, whose steps are explicit.
        most: Steps that it may take.

    Raises:
        InputError: If the start does not fit, the neurons are homogeneous at the origin only, the time is not positive,
            or it would take more steps than allowed.
    """
    if start.directions.ndim != 2 or start.directions.shape[1] != problem.weights:
        raise InputError(
            f"First weights of shape {tuple(start.directions.shape)} do not fit neurons of {problem.weights} numbers."
        )
    neuron = getattr(problem, "neuron", None)
    if neuron is not None and not neuron.homogeneous:
        raise InputError(
            f"{neuron.name} is homogeneous at the origin only, so that norms and directions do not part; integrate its "
            "module with learndyn.dynamics.flow."
        )
    if not until > 0:
        raise InputError(f"until={until:g} is no flow time; give a number above 0.")
    count, stretch = len(start.log_norms), 0.0 if preconditioned else float(problem.degree) - 2

    def field(_: float, y: np.ndarray) -> np.ndarray:
        log_norms, unit = _split(torch.from_numpy(np.array(y)), count)
        with torch.no_grad():
            residual = problem.residual(log_norms.exp()[:, None] * unit)
        return _polar(log_norms, unit, _slope(problem, unit, residual), stretch).numpy()

    def jacobian(_: float, y: np.ndarray) -> np.ndarray:
        return _jacobian(problem, stretch, torch.from_numpy(np.array(y)), count).numpy()

    y = torch.cat([start.log_norms, start.directions.flatten()]).numpy()
    if problem.smooth:
        rtol, longest = rtol or 1e-6, _longest(problem, stretch, y, count)
        solver = BDF(field, 0.0, y, until, jac=jacobian, rtol=rtol, atol=1e-3 * rtol, max_step=longest)
    else:
        rtol = rtol or 1e-3
        solver = RK23(field, 0.0, y, until, rtol=rtol, atol=1e-3 * rtol)
    times, states, pieces = [0.0], [y], list[Any]()
    losses = [_loss(problem, y, count)]
    stopped = f"flow time {until:g}"
    while solver.status == "running":
        if len(pieces) == most:
            raise InputError(
                f"After {most} steps the flow has come to t={solver.t:g} of {until:g}; give a shorter time, looser "
                "tolerances, or most=."
            )
        message = solver.step()
        if solver.status == "failed":
            raise InputError(f"The flow could not be followed beyond t={solver.t:g}: {message}")
        times.append(solver.t)
        states.append(solver.y.copy())
        pieces.append(solver.dense_output())
        losses.append(_loss(problem, solver.y, count))
        if losses[-1] <= rest * losses[0]:
            stopped = f"the loss is below {rest:g} of the first"
            break
        if problem.smooth:
            solver.max_step = _longest(problem, stretch, solver.y, count)
    found = [_split(torch.from_numpy(state), count) for state in states]
    return VanishingFlow(
        times=torch.tensor(times, dtype=torch.float64),
        loss=torch.tensor(losses, dtype=torch.float64),
        log_norms=torch.stack([start.log_norms for start in found]),
        directions=torch.stack([start.directions for start in found]),
        stopped=stopped,
        solution=OdeSolution(times, pieces),
    )


def _split(y: Tensor, count: int) -> Start:
    directions = y[count:].view(count, -1)
    return Start(y[:count], directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True))


def _polar(log_norms: Tensor, unit: Tensor, slope: Tensor, stretch: float) -> Tensor:
    """Velocities of ln ‖θ‖ and of directions, flat; κU = ⟨φ, ∇U⟩ by Euler."""
    pace, along = (stretch * log_norms).exp(), (slope * unit).sum(1)
    return torch.cat([pace * along, (pace[:, None] * (slope - along[:, None] * unit)).flatten()])


def _loss(problem: Problem, y: np.ndarray, count: int) -> float:
    with torch.no_grad():
        return float(problem.loss(_split(torch.from_numpy(np.array(y)), count).weights()))


def _jacobian(problem: Problem, stretch: float, y: Tensor, count: int) -> Tensor:
    """Of the slopes: the residual follows all neurons, the utility's gradient is that of each at a residual given."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        log_norms, unit = _split(leaf, count)
        residual = problem.residual(log_norms.exp()[:, None] * unit)
        probe = unit.detach().requires_grad_()
        # U(φ; r) at φ = probe with r a function of y, then the probe is put where the neurons are
        (slope,) = torch.autograd.grad(problem.utility(probe, residual).sum(), probe, create_graph=True)
        out = _polar(log_norms, unit, slope, stretch)
        rows, turned = [], []
        for some in torch.eye(len(y), dtype=y.dtype).split(CHUNK):
            one, two = torch.autograd.grad(
                out, (leaf, probe), some, retain_graph=True, is_grads_batched=True, allow_unused=True
            )
            rows.append(one)
            turned.append(two)
    found = torch.cat(rows)
    if turned[0] is not None:
        by_direction = torch.cat(turned)  # (rows, neurons, D): ∂/∂φ of the unit vector, through φ/|φ|
        raw = y[count:].view(count, -1)
        norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        unit = raw / norm
        tangent = (by_direction - (by_direction * unit).sum(2, keepdim=True) * unit) / norm
        found[:, count:] += tangent.flatten(1)
    return found


def _longest(problem: Problem, stretch: float, y: np.ndarray, count: int) -> float:
    """A step in which no direction of a dormant neuron changes too much: implicit steps damp what should grow."""
    log_norms, unit = _split(torch.from_numpy(np.array(y)), count)
    dormant = log_norms < DORMANT
    if not dormant.any():
        return math.inf
    with torch.no_grad():
        residual = problem.residual(log_norms.exp()[:, None] * unit)
    aside = unit.roll(1, 1) - (unit.roll(1, 1) * unit).sum(1, keepdim=True) * unit
    aside = aside / torch.linalg.vector_norm(aside, dim=1, keepdim=True).clamp_min(1e-300)
    turned = _slope(problem, unit + PROBE * aside, residual) - _slope(problem, unit, residual)
    rate = torch.linalg.vector_norm(turned, dim=1) / PROBE * (stretch * log_norms).exp()
    fastest = float(rate[dormant].max())
    return STRIDE / fastest if fastest > 0 else math.inf


def _slope(problem: Problem, at: Tensor, residual: object) -> Tensor:
    return with_slope(lambda theta: problem.utility(theta, residual), at)[1]
