"""Which optimizer keeps which symmetry: one step of it, and what that step does to the charges at first order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.optim import Optimizer

from learndyn.errors import InputError, unknown
from learndyn.noise import isolated, seed_forward

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]
GRADIENT = "gradient"


def kept(
    model: nn.Module,
    laws: Iterable[Any],
    optimizers: Optimizer | Factory | Mapping[str, Optimizer | Factory],
    loss: Callable[[nn.Module], Tensor],
    names: Iterable[str] | None = None,
) -> xr.Dataset:
    """The relative current ⟨u, X⟩ / (|u| |θ|) of one step u of each optimizer, for every charge of a network.

    A conservation law of the gradient, ⟨g, X(θ)⟩ = 0, is one of the optimizer if its steps are orthogonal to X, too: 0
    for SGD, for a global clipping of gradients, and for every law inside of a tensor under one learning rate a tensor;
    not for Adam or the sign of the gradient (arXiv:2105.02716: the metric of the learning rule breaks the symmetry; the
    table is derived here). The step is the first that the optimizer would make: without what it remembers, and without
    its weight decay, whose part in the charges is known. For a translation it is Σ u / (√n |u|), for a
    dead parameter u over the root-mean-square u of all.

        found = kept(model, find(model, x).laws, torch.optim.Adam(model.parameters()), lambda m: F.mse_loss(m(x), y))

    Args:
        model: Any module; it and the optimizers are left untouched, since the step is made by copies.
        laws: Laws of this model, as `learndyn.symmetries.find` finds them.
        optimizers: An optimizer of the model's parameters, or what makes one from them; or several by name. Of one that
            is given its options count. Parameters that one does not have stand still.
        loss: From the model to a loss, on a batch of your choice.
        names: Names of the laws; by default what they call themselves.

    Returns:
        `current` by (optimizer, charge), of which the first optimizer, "gradient", is the gradient itself; nan where
        nothing moves. `largest` by (optimizer, law), and whether the law is `kept`: no current is above ten times that
        of the gradient (for which the eps of norms is to blame) plus a hundred roundings of the weights, which are
        |θ|/|u| times larger in a step. In float32 give learning rates that are not tiny, or a model in float64.

    Raises:
        InputError: If there is no law, a law does not fit the model, the loss is not a finite number, or an optimizer
            has none of the parameters, fails, or takes no step.
    """
    laws = list(laws)
    if not laws:
        raise InputError("There is no law to keep: give those that learndyn.symmetries.find has found.")
    known = dict(model.named_parameters(remove_duplicate=False))
    for law in laws:
        for name in law.parameters:
            if name not in known:
                raise unknown("parameter", name, known)
    given = optimizers if isinstance(optimizers, Mapping) else {_name(optimizers): optimizers}
    if GRADIENT in given:
        raise InputError(f"No optimizer can be called {GRADIENT!r}, which is the gradient itself; rename it.")
    rows = {GRADIENT: _currents(laws, *_step(model, None, loss, GRADIENT))}
    for name, optimizer in given.items():
        rows[name] = _currents(laws, *_step(model, optimizer, loss, name))
    current, ratio = np.stack(list(rows.values()), 1)
    owner = np.repeat(np.arange(len(laws)), [law.size for law in laws])
    largest = np.stack([_largest(current[:, owner == i]) for i in range(len(laws))], 1)
    rounding = max(torch.finfo(p.dtype).eps for p in known.values() if p.is_floating_point())
    excess = np.abs(current) - 10 * np.nan_to_num(np.abs(current[:1])) - 100 * rounding * (1 + ratio)
    moved = np.isfinite(largest)
    holds = moved & np.stack([~(excess[:, owner == i] > 0).any(1) for i in range(len(laws))], 1)
    data = {
        "current": (("optimizer", "charge"), current, {"long_name": "⟨u, X⟩ / (|u| |θ|) of one step u"}),
        "largest": (("optimizer", "law"), largest),
        "kept": (("optimizer", "law"), holds),
    }
    coordinates = {
        "optimizer": list(rows),
        "law": [str(law) for law in laws] if names is None else list(names),
        "kind": ("law", [law.kind for law in laws]),
        "law_of": ("charge", owner),
    }
    return xr.Dataset(data, coordinates)


def _name(optimizer: Any) -> str:
    return type(optimizer).__name__ if isinstance(optimizer, Optimizer) else getattr(optimizer, "__name__", "optimizer")


def _largest(current: np.ndarray) -> np.ndarray:
    """Over charges; nan where nothing moves."""
    some = np.isfinite(current).any(1)
    return np.where(some, np.nan_to_num(np.abs(current)).max(1), np.nan)


def _step(
    model: nn.Module, optimizer: Optimizer | Factory | None, loss: Callable[[nn.Module], Tensor], name: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of a copy before a step, and the step, in float64; without an optimizer the negative gradient."""
    mover: Any = None
    if optimizer is None:
        twin = copy.deepcopy(model)
    elif isinstance(optimizer, Optimizer):
        twin, mover = copy.deepcopy((model, optimizer))
        mover.state.clear()
    else:
        twin = copy.deepcopy(model)
        mover = optimizer(p for p in twin.parameters() if p.requires_grad)
    own = dict(twin.named_parameters(remove_duplicate=False))
    groups = mover.param_groups if mover else []
    if mover and not {id(p) for group in groups for p in group["params"]} & {id(p) for p in own.values()}:
        raise InputError(f"The optimizer {name} has none of the model's parameters; make it from model.parameters().")
    for group in groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    before = {n: p.detach().double().clone() for n, p in own.items()}
    twin.zero_grad(set_to_none=True)
    device = next(iter(own.values())).device
    with isolated(device), torch.enable_grad():
        seed_forward(0, 0, device)  # the same dropout for all
        value = loss(twin)
        if value.ndim or not bool(value.isfinite()):
            raise InputError(f"The loss must be one finite number; it is {value.detach().cpu().tolist()}.")
        value.backward()
        if mover is None:
            slopes = {n: p.grad for n, p in own.items()}
            return before, {n: -g.double() if g is not None else 0 * before[n] for n, g in slopes.items()}
        try:
            mover.step()
        except TypeError as error:
            raise InputError(f"The optimizer {name} makes no step without a closure ({error}).") from error
    step = {n: p.detach().double() - before[n] for n, p in own.items()}
    if not any(bool((u != 0).any()) for u in step.values()):
        raise InputError(f"The optimizer {name} made no step; give it a positive learning rate.")
    return before, step


def _currents(laws: list[Any], theta: dict[str, Tensor], step: dict[str, Tensor]) -> np.ndarray:
    """⟨u, X⟩ / (|u| |θ|) and |θ|/|u| of every charge, `(2, C)`."""
    return torch.cat([_current(law, theta, step).cpu() for law in laws], 1).numpy()


def _current(law: Any, theta: dict[str, Tensor], step: dict[str, Tensor]) -> Tensor:
    found = law.current(theta, step)
    if not hasattr(law, "absolute"):  # a law of matrices: by all of its parameters
        sizes = [torch.full_like(found, sum(float(t[n].square().sum()) for n in law.parameters)) for t in (theta, step)]
        of_theta, of_step, x = *sizes, sizes[0]
    else:
        positive = law.absolute()
        squares = [{n: t[n].square() for n in law.parameters} for t in (theta, step)]
        ones = {n: torch.ones_like(t) for n, t in squares[0].items()}
        of_theta, of_step = (positive.form(t, ones) for t in squares)
        x = positive.form(ones, ones) if law.linear else of_theta
    if law.kind == "dead":  # nothing else moves there: against the mean motion of all parameters
        of_step = torch.full_like(found, sum(float(u.square().sum()) for u in step.values()))
        of_step /= sum(u.numel() for u in step.values())
    moves = of_step * x > 0
    current = torch.where(moves, found / (of_step * x).clamp_min(1e-300).sqrt(), torch.nan)
    return torch.stack([current, torch.where(moves, (of_theta / of_step).sqrt(), torch.nan)])
