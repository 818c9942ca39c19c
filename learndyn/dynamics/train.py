"""The one loop."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.dynamics.state import State
from learndyn.errors import InputError
from learndyn.noise import isolated, seed_forward
from learndyn.tasks import Batch

Observable = Callable[[State], Tensor | float]


@dataclass(frozen=True)
class Run:
    """What came of a training run.

    Attributes:
        state: Where it ended.
        series: What was observed, by step, with `time` as a second coordinate.
        loss: Training loss of every step done, before its update; `(steps,)` on the CPU.
        diverged: First step whose loss was not finite; None if there was none. The run ends there.
    """

    state: State
    series: xr.Dataset
    loss: Tensor
    diverged: int | None = None


def update(state: State, batch: Batch | None = None) -> tuple[State, Tensor]:
    """One training step, in place on the model and optimizer of `state`.

    Wrap a loop of them in `noise.isolated`: dropout seeds the global generator. An update is made whatever the loss is.

    Returns:
        The state after the step, and the mean loss before it (a detached scalar on the model's device).
    """
    rate = state.schedule(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate
    state.model.train()
    seed_forward(state.seed, state.step, state.device)
    state.optimizer.zero_grad(set_to_none=True)
    loss = state.task.loss(state.model, state.task.batch(state.step) if batch is None else batch)
    loss.backward()
    state.optimizer.step()
    return replace(state, step=state.step + 1, time=state.time + state.optimizer.param_groups[0]["lr"]), loss.detach()


def train(
    state: State,
    steps: int,
    observe: Mapping[str, Observable] | None = None,
    every: int | Collection[int] = 1,
    after: Callable[[State], None] | None = None,
) -> Run:
    """Train for `steps` updates and look at the state along the way.

    The model and optimizer of `state` move on in place; `fork` first to keep them.

    Args:
        state: Where to begin.
        steps: Updates to make, at least 0.
        observe: Observables by name; each is called on the state, first before the first update.
        every: Observe when the step is a multiple of this number, and at the end; or the steps to observe at.
        after: Called with the state after every update, for progress bars and storage.

    Returns:
        The run; it ends early where the loss is not finite.

    Raises:
        InputError: If `steps` is negative, `every` is not positive, or an observable is called "step" or "time".
    """
    if steps < 0:
        raise InputError(f"steps={steps} must not be negative.")
    if isinstance(every, int) and every < 1:
        raise InputError(f"every={every} must be at least 1.")
    observe = observe or {}
    for name in ("step", "time"):
        if name in observe:
            raise InputError(f"An observable cannot be called {name!r}, which is a coordinate of every run; rename it.")
    end = state.step + steps
    seen: dict[str, list[np.ndarray]] = {name: [] for name in observe}
    stamps: list[tuple[int, float]] = []
    losses: list[Tensor] = []

    def look(state: State) -> None:
        due = state.step in every if not isinstance(every, int) else state.step % every == 0 or state.step == end
        if observe and due:
            stamps.append((state.step, state.time))
            for name, observable in observe.items():
                # a copy: an observable may return a weight itself, which moves on
                seen[name].append(torch.as_tensor(observable(state)).detach().cpu().clone().numpy())

    diverged = None
    with isolated(state.device):
        look(state)
        while state.step < end:
            state, loss = update(state)
            losses.append(loss)
            if not torch.isfinite(loss):
                diverged = state.step - 1
                break
            look(state)
            if after is not None:
                after(state)
    loss_series = torch.stack(losses).cpu() if losses else torch.empty(0)
    return Run(state, _labelled(observe, seen, stamps), loss_series, diverged)


def _labelled(
    observe: Mapping[str, Observable], seen: dict[str, list[np.ndarray]], stamps: list[tuple[int, float]]
) -> xr.Dataset:
    steps, times = zip(*stamps) if stamps else ((), ())
    coordinates = {"step": ("step", np.array(steps, dtype=int)), "time": ("step", np.array(times, dtype=float))}
    values = {}
    sizes = dict.fromkeys(("step", "time", *observe), -1)  # taken: no axis can be called so
    for name, arrays in seen.items():
        if arrays:
            values[name] = ("step", *dimensions(observe[name], name, arrays[0].shape, sizes)), np.stack(arrays)
    return xr.Dataset(values, coordinates)


def dimensions(observable: Observable, name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[str, ...]:
    """Names of the axes, read from a return annotation such as Float[Tensor, "modes"].

    Numbered ones where there is no annotation, or where it does not fit the shape or the `sizes` of the names given so
    far, to which these are added.
    """
    function = getattr(observable, "func", observable)  # of a functools.partial
    function = function if inspect.isroutine(function) else type(function).__call__
    try:
        annotation = typing.get_type_hints(function).get("return") if hasattr(function, "__annotations__") else None
    except NameError:  # an annotation that only a type checker can read
        annotation = None
    names = tuple(getattr(annotation, "dim_str", "").split())
    fitting = [n for n, size in zip(names, shape) if n.isidentifier() and sizes.get(n, size) == size]
    if not len(set(fitting)) == len(names) == len(shape):
        names = tuple(f"{name}_axis_{i}" for i in range(len(shape)))
    sizes.update(zip(names, shape))
    return names
