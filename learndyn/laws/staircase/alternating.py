"""Alternating Gradient Flows: the staircase of any sum of homogeneous neurons (arXiv:2506.06489)."""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.awake import settle, settle_roughly
from learndyn.laws.staircase.dormant import climb, rewound
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing
from learndyn.neurons import Problem, Start

ROUNDING = -37.0  # ln of a norm at which float64 mixes features of different size


@dataclass(frozen=True)
class Alternation(Staircase):
    """A staircase with the neurons that make it.

    Attributes:
        awake: Which neurons are awake at the end.
        weights: θ at the end; dormant neurons as unit directions.
        log_norms: ln ‖θ‖ of the dormant neurons at the last drop; that of the weights for awake ones.
        waking: Flow time at which every neuron first woke; inf if it did not.
        settled: Weights of all neurons after every drop, zero where dormant, `(drops, neurons, D)`.
    """

    awake: Bool[Tensor, " neurons"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    weights: Float[Tensor, "neurons weights"] = field(default_factory=lambda: torch.zeros(0, 0))
    log_norms: Float[Tensor, " neurons"] = field(default_factory=lambda: torch.zeros(0))
    waking: Float[Tensor, " neurons"] = field(default_factory=lambda: torch.zeros(0))
    settled: Float[Tensor, "drops neurons weights"] = field(default_factory=lambda: torch.zeros(0, 0, 0))


def alternate(
    problem: Problem,
    start: Start,
    preconditioned: bool = False,
    until: float = math.inf,
    rest: float = 1e-4,
    ties: float = 1e-6,
    asleep: float = 1e-3,
    gradient: float = 1e-7,
    patience: float | None = None,
    rtol: float | None = None,
    rounds: int = 1000,
) -> Alternation:
    """Predict the staircase of gradient flow on L = ½E‖y − f‖² from first weights, without training.

    In turn: dormant neurons climb their utility against the residual of the awake ones until the first has norm 1; the
    awake ones flow to a stationary point at once; an awake one that shrinks to nothing falls asleep. Times are flow
    times; the smaller the start, the nearer the true drops come, as 1/ln(1/α) for κ = 2.

    >>> from learndyn.neurons import gaussian, linear, sampled
    >>> x = torch.eye(3, dtype=torch.float64) * 3**0.5  # white
    >>> stairs = alternate(sampled(linear(3), x, x @ torch.diag(x.new_tensor([3, 2, 1])), 6), gaussian(8, (3, 3), 1e-8))
    >>> [round(level, 4) for level in stairs.levels.tolist()]
    [7.0, 2.5, 0.5, 0.0]

    Args:
        problem: What is to be learnt, by which neurons.
        start: First weights.
        preconditioned: Neurons have the rates ‖θ_i‖^(2−κ), as in arXiv:2602.03655; growth is exponential for every κ.
        until: No drop after this flow time is looked for.
        rest: The staircase ends at this part of the first loss.
        ties: Neurons within this of the threshold, in ln ‖θ‖, wake together with the first.
        asleep: An awake neuron below this part of the largest norm, whose utility is not positive, falls asleep.
        gradient: Awake neurons stand still when no entry of the gradient is above this times √(first loss).
        patience: They are left where they are after this many times the flow time of the drop, if they still move; 10
            for smooth neurons, 1 for others.
        rtol: Of the dormant neurons' steps; 1e-8 for smooth neurons and 1e-3 for others, on whose kinks steps crawl.
        rounds: At most so many drops.

    Raises:
        InputError: If the start does not fit the problem, is not finite, or is not small.
    """
    _check(problem, start)
    kappa, stretch = float(problem.degree), 0.0 if preconditioned else float(problem.degree) - 2
    rtol = rtol or (1e-8 if problem.smooth else 1e-3)
    patience = patience or (10.0 if problem.smooth else 1.0)
    count = len(start.log_norms)
    phi, ell = start.directions.clone(), start.log_norms.clone()
    theta, awake = torch.zeros_like(phi), torch.zeros(count, dtype=torch.bool)
    waking = torch.full_like(ell, math.inf)
    first = float(problem.loss(_of(problem, theta, awake)))
    tolerance = gradient * max(first, 1e-300) ** 0.5
    time, level, reason = 0.0, first, f"{rounds} drops were found, as many as were asked for"
    times: list[float] = []
    levels, events, kept = [first], list[Event](), list[Tensor]()
    restless, highest = 0, 0.0
    while len(times) < rounds:
        if level <= rest * first:
            reason = f"the loss is below {rest:g} of the first"
            break
        if awake.all():
            reason = f"all {count} neurons are awake; more neurons might learn more"
            break
        residual = problem.residual(_of(problem, theta, awake))

        def utility(at: Tensor, residual: object = residual) -> Tensor:
            return problem.utility(at, residual)

        dormant = ~awake
        # neurons that know their place by their row are followed all together, awake ones far below the threshold
        who = torch.ones_like(awake) if problem.placed else dormant
        low = torch.where(awake, torch.full_like(ell, -1e6), ell)
        found = climb(utility, phi[who], low[who], kappa, stretch, until - time, rtol, first_only=True, traced=True)
        arrival = torch.full_like(ell, math.inf)
        arrival[who] = torch.where(found.crossed, found.times, torch.full_like(found.times, math.inf))
        arrival[awake] = math.inf
        wait = float(arrival.min())
        if math.isinf(wait):
            grows = bool((_reached(utility, phi, who) > 0)[dormant].any()) if math.isfinite(until) else False
            reason = (
                f"no dormant neuron wakes before flow time {until:g}"
                if grows
                else "no dormant neuron can grow any more"
            )
            break
        near, norms, since = rewound(found.trail, wait)
        moved = climb(utility, near, norms, kappa, stretch, wait, rtol, since=since)
        phi[who], ell[who] = moved.directions, moved.log_norms
        time += wait
        wakes = dormant & ((arrival <= wait) | (ell >= -ties))
        values = problem.utility(phi, residual) if problem.placed else _spread(problem, phi, residual, dormant)
        strongest = float(values[wakes].max())
        highest = max(highest, strongest)
        if strongest <= rest**1.5 * highest:
            reason = f"no utility is above {rest**1.5:g} of the largest"
            break
        overlap = torch.full_like(ell, math.nan) if problem.placed or not awake.any() else _overlap(theta[awake], phi)
        theta[wakes] = phi[wakes]
        awake |= wakes
        waking[wakes] = waking[wakes].clamp_max(time)
        tired, still = _minimised(problem, theta, awake, phi, ell, tolerance, patience * time, asleep)
        restless += not still
        level = float(problem.loss(_of(problem, theta, awake)))
        events += [
            Event(time, int(i), "activation", level, float(values[i]), phi[i].clone(), float(overlap[i]))
            for i in wakes.nonzero().flatten()
        ]
        events += [Event(time, i, "deactivation", level, math.nan, phi[i].clone()) for i in tired]
        times.append(time)
        levels.append(level)
        kept.append(theta.clone())
    ell = torch.where(awake, theta.norm(dim=1).clamp_min(1e-300).log(), ell)
    slept = {event.neuron for event in events if event.kind == "deactivation"}
    sentences = list[str]()
    if again := sorted(slept & set(awake.nonzero().flatten().tolist())):
        sentences.append(
            f"Neurons {again} fell asleep and woke again: what their direction remembers is below rounding, so that "
            "the time is a lower bound; for diagonal networks the exact algorithm knows it."
        )
    if kappa == 2 and float(start.log_norms.min()) < ROUNDING and len(times) > 1:
        sentences.append(
            "Starts below 1e-16 with κ = 2: what a neuron keeps of later features is lost in rounding, so that drops "
            "after the first can come early; the laws of linear and diagonal networks know them."
        )
    if restless:
        sentences.append(
            f"After {restless} of {len(times)} drops the awake neurons still moved; their levels are upper ones."
        )
    return Alternation(
        times=torch.tensor(times, dtype=torch.float64),
        levels=torch.tensor(levels, dtype=torch.float64),
        events=tuple(events),
        reason=reason,
        sentences=tuple(sentences),
        awake=awake,
        weights=torch.where(awake[:, None], theta, phi),
        log_norms=ell,
        waking=waking,
        settled=torch.stack(kept) if kept else theta.new_zeros((0, *theta.shape)),
    )


def _of(problem: Problem, theta: Tensor, awake: Tensor) -> Tensor:
    return theta if problem.placed else theta[awake]


def _loss(problem: Problem, theta: Tensor, awake: Tensor, part: Tensor) -> Tensor:
    """L of the awake neurons."""
    if not problem.placed:
        return problem.loss(part)
    return problem.loss(torch.zeros_like(theta).index_put((awake.nonzero().flatten(),), part))


def _spread(problem: Problem, phi: Tensor, residual: object, dormant: Tensor) -> Tensor:
    values = torch.full_like(phi[:, 0], math.nan)
    values[dormant] = problem.utility(phi[dormant], residual)
    return values


def _overlap(awake: Tensor, phi: Tensor) -> Tensor:
    """Largest cosine of every direction with an awake neuron."""
    return (phi @ (awake / awake.norm(dim=1, keepdim=True)).T).amax(1)


def _reached(utility: object, phi: Tensor, who: Tensor) -> Tensor:
    values = torch.zeros_like(phi[:, 0])
    values[who] = utility(phi[who])  # type: ignore[operator]
    return values


def _minimised(
    problem: Problem,
    theta: Tensor,
    awake: Tensor,
    phi: Tensor,
    ell: Tensor,
    tolerance: float,
    time: float,
    asleep: float,
) -> tuple[list[int], bool]:
    """Let awake neurons flow to rest, in place; who fell asleep on the way, and whether the others stand still."""
    flowed, moves, shrunk = settle if problem.smooth else settle_roughly, "asleep", asleep
    tired = list[int]()
    while moves == "asleep" and awake.any():
        loss = partial(_loss, problem, theta.clone(), awake.clone())
        theta[awake], moves = flowed(loss, theta[awake], tolerance, time, shrunk)
        small = _sleepers(problem, theta, awake, asleep)
        shrunk = asleep if small else 0.0  # small ones that are pushed to grow are left to
        phi[small], ell[small] = theta[small] / theta[small].norm(dim=1, keepdim=True), 0.0
        theta[small], awake[small] = 0.0, False
        tired += small
    return tired, moves != "moving"


def _sleepers(problem: Problem, theta: Tensor, awake: Tensor, asleep: float) -> list[int]:
    """Awake neurons that have shrunk to nothing and are pushed no other way."""
    norms = theta.norm(dim=1)
    small = awake & (norms < asleep * norms.max())
    if not small.any():
        return []
    others = torch.where(small[:, None], torch.zeros_like(theta), theta)
    residual = problem.residual(_of(problem, others, awake & ~small))
    directions = theta / norms.clamp_min(1e-300)[:, None]
    values = problem.utility(directions, residual)
    return [int(i) for i in (small & (values <= 0)).nonzero().flatten()]


def _check(problem: Problem, start: Start) -> None:
    log_norms, directions = start
    if directions.ndim != 2 or directions.shape[1] != problem.weights or len(log_norms) != len(directions):
        raise InputError(
            f"First weights of shape {tuple(directions.shape)} do not fit neurons of {problem.weights} numbers; give "
            f"(neurons, {problem.weights})."
        )
    if not bool(torch.isfinite(log_norms).all() and torch.isfinite(directions).all()):
        raise InputError("First weights are not finite; nothing can be predicted.")
    if bool((directions.norm(dim=1) - 1).abs().max() > 1e-6):
        raise InputError("Directions of first weights must have norm 1; make the start with learndyn.neurons.polar.")
    check_vanishing(math.exp(float(log_norms.max())), "the largest norm of a first neuron")
