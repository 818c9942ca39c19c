"""In which phase is a live run? Local exponent, growth to be expected, turning of the kernel (arXiv:2505.13900).

Perturbations start half along gradient noise (the difference of two minibatch gradients), half isotropic. The first
half of the window is thrown away: there they turn towards the growing directions, and momentum sets in. Isotropic ones
alone would turn too slowly: the growing directions hold about 1/√P of their length, and for 100 steps there is nothing
to see.

What is said of steps beyond the window is an extrapolation: growth stays proportional to the learning rate, that is,
the curvature stays what it is. It was right to a factor of 2 on a network where the growth was known. "Safe" is a
start after which nothing more than doubles: branches that part imperceptibly end together much earlier.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from learndyn.dynamics import (
    directions,
    displace,
    fork,
    rounding_floor,
    tangent_growth,
    train,
    trainable,
    update,
    vector,
)
from learndyn.dynamics.state import State
from learndyn.dynamics.tangent import split
from learndyn.errors import InputError
from learndyn.noise import generator, isolated, seed_forward
from learndyn.observables.ntk import kernel
from learndyn.observables.series import kernel_distance

INPUTS = 48  # of the kernel
OUTPUTS = 16  # of the kernel: more are combined at random, which leaves its expectation
AHEAD = 100  # steps over which growth is judged where the end is not known
PIECES = 4  # of the part of the window that counts: their scatter is the error
TWIN = 1e-4  # distance of a twin, relative to ‖θ‖
APART, TOGETHER = math.log(10), math.log(2)
BELOW = 1e-3  # distance of replicas, relative to ‖θ‖, below which they count as the same


@dataclass(frozen=True)
class Phase:
    """Where a run stands between chaos and stability. Errors are standard errors.

    Attributes:
        step: Where the run stands.
        window: Steps that were looked at; fewer than asked for where the end is nearer.
        end: Last step of the schedule; None if it is not known.
        exponent: Growth rate of ln ‖δθ‖ over the second half of the window, in 1/step.
        exponent_error: Its error: of the mean over probes or over quarters of that half, whichever is larger.
        exponent_per_time: The same by gradient-flow time, the sum of the learning rates.
        growth: ln of the growth until `growth_until`, if the curvature stays.
        growth_error: Its error, of the exponent alone.
        growth_until: The end, or 100 steps ahead if that is not known.
        amplification: `growth` if the end is known, else None.
        regime: "chaotic": the exponent is positive by two errors and the growth beyond tenfold. "stable": the growth,
            with two errors, is below twofold, or the exponent negative by two errors. "marginal": neither.
        safe_from: First step from which on what is perturbed at most doubles until the end, if the curvature stays;
            None if that is not known.
        safe_between: The same for the exponent less and plus two errors; None like it.
        kernel_velocity: Turning of the tangent kernel, S = 1 − cos over the window, in 1/step; nan without a kernel.
            Of more than 16 outputs it takes 16 random combinations.
        kernel_scale: Relative change of the kernel's norm over the window.
        floor: Distance that rounding makes in a step (`rounding_floor`).
        rounding_reproducible: Whether what rounding makes stays below 1e-3 ‖θ‖ until the end; None if that is not
            known.
        way: "tangent": infinitely small perturbations, blind to kinks. "twin": copies at distance 1e-4 ‖θ‖.
        notes: Sentences on what was done in another way than usual, or not at all.
    """

    step: int
    window: int
    end: int | None
    exponent: float
    exponent_error: float
    exponent_per_time: float
    growth: float
    growth_error: float
    growth_until: int
    amplification: float | None
    regime: str
    safe_from: int | None
    safe_between: tuple[int, int] | None
    kernel_velocity: float
    kernel_scale: float
    floor: float
    rounding_reproducible: bool | None
    way: str
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """What it means, in sentences."""
        low, high = (self.growth + sign * 2 * self.growth_error for sign in (-1, 1))
        if self.regime == "chaotic":
            every = f"{1 / self.exponent:.{self.exponent > 0.1:d}f}"
            told = (
                f"a perturbation grows e-fold every {every} steps; expect a factor "
                f"{factor(self.growth)} by step {self.growth_until}"
            )
        elif self.regime == "stable":
            told = f"by step {self.growth_until} a perturbation grows by a factor of {factor(high)} at most"
        else:
            told = (
                f"by step {self.growth_until} a perturbation may grow by anything between {factor(low)} and "
                f"{factor(high)}; a longer window can tell"
            )
        return f"{self.regime}: {told}. {self._safety()}"

    def _safety(self) -> str:
        if self.safe_from is None:
            return "From where on branches can be averaged or merged depends on the end of the schedule; give it."
        first, last = self.safe_between or (self.safe_from, self.safe_from)
        if last <= self.step:
            return "Averaging or merging branches is safe from now on (nothing more than doubles), if curvature stays."
        return (
            f"Averaging or merging branches is safe from about step {self.safe_from} ({first} to {last}), where "
            "nothing more than doubles, if curvature stays."
        )


def factor(growth: float) -> str:
    """The factor that stands for a growth in nats, written short, however large.

    >>> factor(0.0), factor(14.5), factor(2000.0)
    ('1', '2e+06', '4e+868')
    """
    if abs(growth) < 700:
        value = math.exp(growth)
        return f"{value:.2g}" if value < 100 else f"{value:.0e}" if value >= 1e4 else f"{value:.0f}"
    if not math.isfinite(growth):
        return f"{growth:g}"
    power = math.floor(growth / math.log(10))
    return f"{math.exp(growth - power * math.log(10)):.0f}e{power:+d}"


def phase(
    state: State,
    window: int = 40,
    probes: int = 2,
    end: int | None = None,
    inputs: Tensor | None = None,
    seed: int = 0,
) -> Phase:
    """Probe a run for a few seconds; the state stays as it was.

    Args:
        state: Where the run stands, its optimizer's buffers filled.
        window: Steps to look ahead, at least 4. With 20 the perturbations are still turning and the growth comes out
            twice too large; beyond 40 little is gained.
        probes: Perturbations to follow.
        end: Last step of the run; by default that of a schedule which has one (`cosine`, `linear`).
        inputs: Inputs of the kernel `(n, ...)`; by default the first 48 of the training split.
        seed: Decides the directions.

    Raises:
        InputError: If an option is out of its range, a weight is not finite, the run diverges within the window, or
            nothing moves.
    """
    end = _end(state) if end is None else end
    window = _checked(state, window, probes, end)
    rates = _rates(state, state.step, state.step + window)
    half = window // 2
    rate = sum(rates[half:]) / (window - half)
    if rate == 0:
        raise InputError(
            f"The learning rate is 0 from step {state.step + half} to {state.step + window}: nothing moves there, and "
            "nothing can be told."
        )
    run = train(fork(state), window)
    if run.diverged is not None or not vector(run.state.model).isfinite().all():
        at = state.step + window if run.diverged is None else run.diverged
        raise InputError(
            f"The run diverges at step {at}, within the window of {window} steps after step {state.step}; lower its "
            "learning rate or start earlier."
        )
    curves, way, notes = _growth_curves(state, window, _starts(state, window, probes, seed))
    exponent, error = _slope(curves[:, half:])
    if inputs is None:
        inputs = _inputs(state)
    turned, scale, reason = _turning(state.model, run.state.model, inputs)
    until = state.step + AHEAD if end is None else end
    coming = _rates(state, state.step, until)
    growth, spread = (x * sum(coming) / rate for x in (exponent, error))
    steps = [
        _safe_step(x / rate, coming, state.step, end) for x in (exponent, exponent - 2 * error, exponent + 2 * error)
    ]
    floor = rounding_floor(state)
    return Phase(
        step=state.step,
        window=window,
        end=end,
        exponent=exponent,
        exponent_error=error,
        exponent_per_time=exponent / rate,
        growth=growth,
        growth_error=spread,
        growth_until=until,
        amplification=None if end is None else growth,
        regime=_regime(exponent, error, growth, spread),
        safe_from=steps[0],
        safe_between=None if None in steps else (steps[1], steps[2]),  # type: ignore[arg-type]
        kernel_velocity=turned / window,
        kernel_scale=scale,
        floor=floor,
        rounding_reproducible=None
        if end is None
        else _log(floor) + growth < _log(BELOW * float(vector(state.model).norm())),
        way=way,
        notes=(*_empty_buffers(state), *notes, *reason),
    )


def _end(state: State) -> int | None:
    """The last step of a schedule that has one which is still to come."""
    steps = getattr(state.schedule, "steps", None)
    return steps if isinstance(steps, int) and steps > state.step else None


def _checked(state: State, window: int, probes: int, end: int | None) -> int:
    """The window, not beyond the end."""
    if window < 4:
        raise InputError(f"window={window} must be at least 4; half of it is thrown away.")
    if probes < 1:
        raise InputError(f"probes={probes} must be at least 1.")
    if end is not None and end <= state.step:
        raise InputError(f"end={end} must lie after the step where the run stands, {state.step}.")
    if end is not None and end - state.step < 4:
        raise InputError(
            f"Only {end - state.step} steps are left from step {state.step} to end={end}; a probe takes 4."
        )
    for name, p in trainable(state.model).items():
        if not p.isfinite().all():
            raise InputError(f"The parameter {name!r} holds values that are not finite; the run is past saving.")
    return window if end is None else min(window, end - state.step)


def _rates(state: State, begin: int, stop: int) -> list[float]:
    return [replace(state, step=step).lr() for step in range(begin, stop)]


def _starts(state: State, window: int, count: int, seed: int) -> Tensor:
    """Directions `(count, P)`: gradient noise at θ and an isotropic vector, of unit length each, added."""
    scratch, slopes = fork(state), []
    scratch.model.train()
    parameters = list(trainable(scratch.model).values())
    with isolated(state.device):
        for i in range(2 * count):
            step = state.step + window - 1 - i % window  # a batch that is there, used only after they have turned
            seed_forward(state.seed, step, state.device)
            loss = state.task.loss(scratch.model, state.task.batch(step))
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            slopes.append(torch.cat([g.detach().flatten().double() for g in found]))
    noise = torch.stack(slopes[::2]) - torch.stack(slopes[1::2])
    length = noise.norm(dim=1, keepdim=True)
    noise = torch.where(length > 0, noise / length, 0.0)  # full batches have none
    return (noise + directions(state, count, seed).double()).to(state.dtype)


def _growth_curves(state: State, window: int, starts: Tensor) -> tuple[Tensor, str, list[str]]:
    """Growth in nats `(probes, window + 1)`, by tangent dynamics where there is one, else by twins, and why."""
    way: str
    try:
        curves, way, notes = tangent_growth(state, window, starts), "tangent", []
    except (InputError, RuntimeError) as error:  # no rule, no second derivative, or no memory for it
        reason = str(error).partition("\n")[0].rstrip(".")
        notes = [f"Twins were trained instead of tangent vectors: {reason}."]
        curves, way = _twin_growth(state, window, starts), "twin"
    if not curves.isfinite().all():
        raise InputError(
            f"A perturbation vanishes or overflows within the window of {window} steps after step {state.step}; choose "
            "a shorter window."
        )
    return curves, way, notes


def _twin_growth(state: State, window: int, starts: Tensor) -> Tensor:
    parameters = trainable(state.model)
    size = TWIN * (float(vector(state.model).norm()) or 1.0)
    base, twins = fork(state), []
    for row in starts.double():
        pieces = split(row * (size / row.norm()), list(parameters.values()))
        twins.append(displace(state, dict(zip(parameters, pieces)))[0])

    def distances() -> Tensor:
        here = vector(base.model)
        return torch.stack([(vector(twin.model) - here).norm() for twin in twins]).cpu()

    found = [distances()]
    with isolated(state.device):
        for _ in range(window):
            base, twins = update(base)[0], [update(twin)[0] for twin in twins]
            found.append(distances())
    return (torch.stack(found, dim=1) / found[0][:, None]).log()


def _slope(curves: Tensor) -> tuple[float, float]:
    """Mean slope of curves `(probes, steps + 1)` and its error; all perturbations turn into one another, so that their
    scatter alone would forget that of the run.
    """
    steps = curves.shape[1] - 1
    slopes = (curves[:, -1] - curves[:, 0]) / steps
    marks = torch.linspace(0, steps, min(PIECES, steps) + 1, dtype=torch.float64).round().long()
    pieces = curves.mean(0)[marks].diff() / marks.diff()
    errors = [float(x.std() / math.sqrt(len(x))) for x in (slopes, pieces) if len(x) > 1]
    return float(slopes.mean()), max(errors)


def _regime(exponent: float, error: float, growth: float, spread: float) -> str:
    if growth + 2 * spread < TOGETHER or exponent + 2 * error < 0:
        return "stable"
    return "chaotic" if exponent - 2 * error > 0 and growth > APART else "marginal"


def _safe_step(per_time: float, rates: list[float], step: int, end: int | None) -> int | None:
    """The first step after which no more than a doubling comes, from the learning rates that are still to come."""
    if per_time <= 0:
        return step
    if end is None:
        return None
    rests = [*reversed(list(accumulate(reversed(rates)))), 0.0]
    return next(step + i for i, rest in enumerate(rests) if per_time * rest <= TOGETHER)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _inputs(state: State) -> Tensor:
    try:
        return state.task.evaluation("train").inputs[:INPUTS]
    except Exception:  # a stranger's task may have no split to look at
        return state.task.batch(state.step).inputs[:INPUTS]


def _turning(before: nn.Module, after: nn.Module, inputs: Tensor) -> tuple[float, float, list[str]]:
    """S between two networks' kernels, the relative change of the norm, and why there is none."""

    def few(model: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        outputs = model(inputs).flatten(1)
        count = outputs.shape[1]
        if count <= OUTPUTS:
            return outputs
        signs = generator(0, "outputs", count).integers(0, 2, (count, OUTPUTS)) * 2 - 1
        return outputs @ torch.from_numpy(signs).to(outputs)

    try:
        first, second = (kernel(model, inputs, function=few).matrix.double() for model in (before, after))
        turned = float(kernel_distance(first, second))
    except (InputError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        return math.nan, math.nan, [f"The kernel was left out: {reason}."]
    return turned, float(second.norm() / first.norm() - 1), []


def _empty_buffers(state: State) -> list[str]:
    remembers = any(group.get("momentum") or "betas" in group for group in state.optimizer.param_groups)
    if state.step == 0 or not remembers or any(state.optimizer.state.values()):
        return []
    return [
        f"The optimizer's buffers are empty although the run stands at step {state.step}; load its state_dict in the "
        "factory, or the first steps are others than those of your run."
    ]
