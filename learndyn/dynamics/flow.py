"""Gradient flow of any small module, integrated: what exact solutions are scored against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.func import functional_call

from learndyn.dynamics.state import ForeignState, State
from learndyn.dynamics.train import Observable, dimensions
from learndyn.errors import InputError
from learndyn.noise import isolated

METHODS = ("DOP853", "RK45", "LSODA", "BDF", "Radau")


@dataclass(frozen=True)
class Flow:
    """What came of a gradient flow.

    Attributes:
        series: `loss` and what was observed, by time.
        at: The network at any time from the first to the last, a fresh module.
        stopped: When it was stopped, before the last time; None if it was not.
        gradients: How many gradients it took.
    """

    series: xr.Dataset
    at: Callable[[float], nn.Module]
    stopped: float | None
    gradients: int


class _Field:
    """−∇L of a network as a vector field on its trainable parameters, flat, in float64."""

    def __init__(
        self, model: nn.Module, loss: Callable[[nn.Module], Tensor], rates: Mapping[str, float], most: float = np.inf
    ):
        self.model, self.loss = copy.deepcopy(model).double(), loss
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise InputError(f"{type(model).__name__} has no trainable parameter; nothing can flow.")
        strange = sorted(set(rates) - set(self.parameters))
        if strange:
            raise InputError(f"rates names {strange[0]!r}, which is no trainable parameter of the network.")
        self.rates = np.concatenate(
            [np.full(p.numel(), float(rates.get(name, 1.0))) for name, p in self.parameters.items()]
        )
        self.most, self.taken = most, 0
        self.buffers = {name: b.clone() for name, b in self.model.named_buffers()}

    @property
    def start(self) -> np.ndarray:
        return torch.cat([p.detach().flatten() for p in self.parameters.values()]).numpy()

    def split(self, y: np.ndarray) -> dict[str, Tensor]:
        flat, found, begin = torch.from_numpy(np.array(y, np.float64)), {}, 0
        for name, p in self.parameters.items():
            found[name] = flat[begin : begin + p.numel()].view(p.shape)
            begin += p.numel()
        return found

    def value(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """The loss, a scalar; buffers are as they were at the start, so that it depends on the parameters alone."""
        tensors = {**leaves, **{name: b.clone() for name, b in self.buffers.items()}}
        found = self.loss(
            lambda *inputs, **options: functional_call(self.model, tensors, inputs, options)  # type: ignore[arg-type]
        )
        if found.ndim or not found.is_floating_point():
            raise InputError(f"loss(model) gave {found.dtype} of shape {tuple(found.shape)}; it must be one number.")
        return found

    def __call__(self, time: float, y: np.ndarray) -> np.ndarray:
        self.taken += 1
        if self.taken > self.most:
            raise InputError(
                f'After {self.most} gradients the flow has come to t={time:g}: it is stiff (try method="LSODA"), or '
                "slides along a kink of ReLU or pooling (take a smooth activation, looser tolerances or a larger most)."
            )
        leaves = {name: part.requires_grad_() for name, part in self.split(y).items()}
        found = torch.autograd.grad(self.value(leaves), list(leaves.values()), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves.values(), found)]
        return -self.rates * torch.cat([g.flatten() for g in flat]).numpy()

    def module(self, y: np.ndarray) -> nn.Module:
        made = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, part in self.split(y).items():
                made.get_parameter(name).copy_(part)
        return made


def flow(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    times: Tensor,
    observe: Mapping[str, Observable] | None = None,
    rates: Mapping[str, float] | None = None,
    stop: Callable[[nn.Module], float] | None = None,
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    most: int = 100_000,
) -> Flow:
    """Integrate dθ/dt = −∇L(θ) in float64, by one of SciPy's adaptive solvers.

    Args:
        model: Any module; it is left as it is, and a copy in float64 flows, in its mode.
        loss: The loss of a network on all data, in float64: called with something that behaves as the module.
        times: When to look, `(T,)`, not negative and increasing; `torch.logspace` for flows that slow down. The flow
            begins at 0.
        observe: Functions of a State by name; the state has the network and the time, and neither task nor optimizer.
        rates: Factors on the velocity of some parameters, by name: learning rates of their own.
        stop: A function of the network; the flow ends where it falls through 0 or rises through it.
        method: "DOP853"; for stiff flows, with rates of decay that differ by 1e4 or more, "LSODA", "BDF" or "Radau".
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step, in units of the parameters.
        most: Gradients that it may take. A flow of a network with ReLU can slide along a kink, for ever.

    Raises:
        InputError: If the times do not increase, nothing can flow, the loss is not one number or not the same each
            time, the solver gives up, or it would take more gradients than allowed.
    """
    looked = increasing(times)
    if method not in METHODS:
        raise InputError(f"method={method!r} is none of {', '.join(METHODS)}.")
    field = _Field(model, loss, rates or {}, most)
    with isolated():
        first = [field(0.0, field.start) for _ in range(2)]
        if not np.isfinite(first[0]).all():
            raise InputError("The gradient at the start is not finite.")
        if (first[0] != first[1]).any():
            raise InputError("The loss is another one each time (dropout?): a flow needs one that does not change.")
        event = None
        if stop is not None:
            event = lambda t, y: float(stop(field.module(y)))  # noqa: E731
            event.terminal = True  # type: ignore[attr-defined]
        end = max(looked[-1], np.finfo(float).tiny)
        solved = solve_ivp(
            field, (0.0, end), field.start, method, dense_output=True, events=event, rtol=rtol, atol=atol
        )
        if solved.status < 0:
            raise InputError(
                f"The flow could not be followed beyond t={solved.t[-1]:g}: {solved.message.rstrip('.')} A stiff one "
                'needs method="LSODA", one that ends in infinity an earlier last time.'
            )
        stopped = float(solved.t[-1]) if solved.status == 1 else None
        kept = looked if stopped is None else np.append(looked[looked < stopped], stopped)
        series = _observe(field, solved.sol, kept, observe or {})
    return Flow(series, lambda time: field.module(_inside(solved.sol, solved.t[-1], time)), stopped, solved.nfev)


def increasing(times: Tensor) -> np.ndarray:
    """Times at which a flow is looked at.

    Raises:
        InputError: If they are no vector of finite times from 0 on that increase.
    """
    looked = np.asarray(times.detach().cpu().double().numpy())
    if looked.ndim != 1 or not len(looked) or looked[0] < 0 or (np.diff(looked) <= 0).any() or not looked[-1] < np.inf:
        raise InputError("times must be a vector of finite times from 0 on that increase.")
    return looked


def _inside(solution: Callable[[float], np.ndarray], end: float, time: float) -> np.ndarray:
    if not 0 <= time <= end:
        raise InputError(f"The flow was followed from t=0 to {end:g}; t={time:g} is outside.")
    return solution(time)


def _observe(
    field: _Field, solution: Callable[[float], np.ndarray], times: np.ndarray, observe: Mapping[str, Observable]
) -> xr.Dataset:
    if strange := {"time", "loss"} & set(observe):
        raise InputError(f"An observable cannot be called {strange.pop()!r}, which is in every flow; rename it.")
    losses: list[float] = []
    seen: dict[str, list[np.ndarray]] = {name: [] for name in observe}
    for time in times:
        y = solution(time)
        with torch.no_grad():
            losses.append(float(field.value(field.split(y))))
        if observe:
            state: State = ForeignState(0, float(time), field.module(y), None, None)
            for name, observable in observe.items():
                seen[name].append(torch.as_tensor(observable(state)).detach().cpu().clone().numpy())
    sizes = dict.fromkeys(("time", *observe), -1)
    data = {
        name: (("time", *dimensions(observe[name], name, arrays[0].shape, sizes)), np.stack(arrays))
        for name, arrays in seen.items()
    }
    return xr.Dataset({"loss": ("time", np.array(losses)), **data}, {"time": times})


def descent(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    time: float,
    steps: int,
    rates: Mapping[str, float] | None = None,
) -> nn.Module:
    """Gradient descent in float64 with learning rate time / steps, up to the same time: what a flow is the limit of.

    Each time that the steps are doubled it comes twice as near.

    Args:
        model: Any module; a copy is trained.
        loss: As in `flow`.
        time: Learning rate times steps.
        steps: Updates.
        rates: As in `flow`.

    Raises:
        InputError: If the time is not positive, there is no step, or nothing can be trained.
    """
    if not 0 < time < np.inf or steps < 1:
        raise InputError(f"time={time:g} and steps={steps} must be positive.")
    with isolated():
        field = _Field(model, loss, rates or {})
        y = field.start
        for _ in range(steps):
            y = y + time / steps * field(0.0, y)
    return field.module(y)
