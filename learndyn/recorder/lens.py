"""Normalisation as an adaptive optimizer, seen in the record of any run (arXiv:2105.02716).

In front of a normalisation only the direction of the weights q counts, and it learns at the rate η_eff = η/(μ|q|²), so
that their norm is the second moment of an RMSProp that nobody has asked for. From the charges |q|² that a `Recorder`
has written of a scale law, and what moved them: how fast every channel learns, how long it remembers, how far it turns
in a step, whether it has come to the balance of decay and steps, and what the laws say of all that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from learndyn.errors import InputError, unknown
from learndyn.laws import charges, inertia

GROWING, DECAYING = "transient: norm growing", "transient: norm decaying"
EQUILIBRIUM, COLLAPSING, FREE = "equilibrium", "collapsing", "no weight decay"
LATE = 0.25  # of the record, which the verdict is about
NEAR = 0.1  # of the equilibrium angle, within which there is equilibrium
ALTERNATING = 0.5  # of the memory factor of white gradients, below which they must change their sign
WIDE = 0.5  # radians a step at equilibrium: no direction is left that could be learnt
REWRITTEN = 1e-5  # of |q|², by which somebody must have written weights between steps; rounding is less
VANISHED = 1e-12  # of |q|² at the first row
COLUMNS = {
    "q": ("|q|², without biases that nothing depends on", "weight^2"),
    "bias_share": ("share of those biases in the charge", ""),
    "angle": ("root-mean-square angle of a step", "rad"),
    "equilibrium_angle": ("angle of a step where decay and steps balance; for AdamW an upper bound", "rad"),
    "squared_step": ("N(Δ), mean over the steps of the window", "weight^2"),
    "balance": ("what decay takes over what steps give, 2ηλ|q|² / ((1+β) N(step)); 1 at equilibrium", ""),
    "effective_lr": ("η/(μ|q|²), the learning rate of the direction", "1/gradient^2"),
    "sphere_gradient": ("|ĝ|² = |q|²|∇f|², mean over the window", "loss^2"),
    "memory_factor": ("ϕ = μ²⟨|b|²⟩/⟨|∇f|²⟩", ""),
    "fourth_power": ("|q|⁴ of the adaptive-optimizer picture with the measured ϕ", "weight^4"),
    "fourth_power_smooth": ("|q|⁴ of the adaptive-optimizer picture with ϕ = 1", "weight^4"),
    "predicted_effective_lr": ("η/(μ|q|²) of the picture with the measured ϕ", "1/gradient^2"),
    "discrete": ("|q|² of the exact law of SGD", "weight^2"),
    "lr": ("learning rate η(1−τ)", ""),
    "decay": ("weight decay λ", ""),
    "momentum": ("momentum β", ""),
    "memory": ("memory (1−β)/(4ηλ) of the implicit RMSProp", "step"),
    "equilibrium_norm": ("|q|² where the picture stands still, gradients as they are now", "weight^2"),
    "steps_to_equilibrium": ("steps until |q|² is within a tenth of that", "step"),
}
PICTURE = (
    "effective_lr", "sphere_gradient", "memory_factor", "fourth_power", "fourth_power_smooth", "predicted_effective_lr",
    "discrete", "equilibrium_norm", "steps_to_equilibrium",
)  # fmt: skip
Array = np.ndarray


class _Windows(NamedTuple):
    """Sums over the steps of every window between two rows, `(windows, C)`, and its settings, `(windows,)`."""

    steps: Array
    start: Array  # mean of |q|² before each step
    norm: Array
    radial: Array  # B(θ, Δ)
    gradient: Array
    velocity: Array
    current: Array
    jump: Array
    rate: Array
    decay: Array
    momentum: Array
    dampening: Array


def lens(record: xr.Dataset, law: str | int | None = None, horizon: float | None = None) -> xr.Dataset:
    """What a scale law's record says of the directions: effective learning rates, memories, angles, predictions.

    For SGD with any momentum, dampening, coupled decay and schedule. Rows may be any number of steps apart: what is
    known of a window is then its mean, its settings are taken in the middle of their range, and `discrete`, which needs
    every step, is nan. Of Adam and AdamW there are only angles, with AdamW's bound (derived here), and of Nesterov's
    method and other optimizers only angles; `left_out` says so. Predictions start from the measured |q|² in the first
    row, and again where a record was resumed or somebody wrote weights between steps. `discrete` starts with momentum
    one row later, with the buffer that the first step has shown.

    A bias in front of the norm takes part in the charge but has no direction, and decays by itself. Where the record
    has its law as well (`dead`, which `symmetries.find` finds) its share is taken out of everything; else `q` contains
    it, angles are too small by its share, and `left_out` warns.

    Args:
        record: As `read` gives it.
        law: Name or number of the law; needed where there are several scale laws.
        horizon: Steps over which ϕ and equilibria are averaged; by default max(50, 5/(1−β)).

    Returns:
        Over (step, charge), `COLUMNS`; of these the settings, `memory` and `equilibrium_angle` over (step). What is of
        a window stands at its end and is nan in the first row. And `verdict` over (charge), of the last quarter of
        the rows.

    Raises:
        InputError: If there is no such law or no two rows, the law is no scale law, or its parameters had different
            settings.
    """
    index = _index(record, law)
    dead = _dead(record, index)
    q, share, w, rows = _windows(record, index, dead)
    kind, notes = _optimizer(record), []
    name = str(record.law.values[index])
    if dead is None and " at " in name and any(p.rsplit(".", 1)[-1] == "bias" for p in _places(name)):
        notes.append("The charge contains a bias, which does not turn; record its dead law to have it taken out.")
    steps = record.step.values[rows]
    columns: dict[str, Array] = {"q": q, "bias_share": share, "angle": _first(_angles(w))}
    columns["squared_step"] = _first(w.norm / w.steps)
    columns |= {"lr": _first(_lr(w)), "decay": _first(w.decay), "momentum": _first(w.momentum)}
    fits = bool((4 * _lr(w) * w.decay < 1 - w.momentum).all())
    if kind == "SGD":
        columns |= _balance(w) | _picture(q, w, fits, horizon, notes)
    elif kind == "AdamW":
        columns["equilibrium_angle"] = _first(_by_setting(w, inertia.adamw_angle))
        notes.append("AdamW: only angles; at equilibrium they stay below the angle given.")
    else:
        notes.append(f"{kind}: only angles; the laws of effective learning rates are those of SGD with heavy ball.")
    data: dict[str, Any] = {}
    for key, values in columns.items():
        words, units = COLUMNS[key]
        data[key] = ("step", "charge")[: values.ndim], values, {"long_name": words, "units": units}
    data["verdict"] = "charge", _verdicts(kind, q, w, columns)
    coordinates = {"step": steps, "time": ("step", record.time.values[rows]), "unit": ("charge", np.arange(q.shape[1]))}
    attributes = {"law": name, "optimizer": kind, "left_out": " ".join(notes)}
    return xr.Dataset(data, coordinates, attributes)


def _index(record: xr.Dataset, law: str | int | None) -> int:
    names, kinds = [str(x) for x in record.law.values], [str(x) for x in record.kind.values]
    if law is None:
        scale = [i for i, kind in enumerate(kinds) if kind == "scale"]
        if len(scale) != 1:
            told = f"has {len(scale)} scale laws; name one of them: {'; '.join(names[i] for i in scale)}."
            raise InputError(f"The record {told if scale else 'has no scale law, which only a norm gives.'}")
        return scale[0]
    if isinstance(law, str) and law not in names:
        raise unknown("law", law, names)
    if not isinstance(law, str) and not 0 <= law < len(names):
        raise InputError(f"There is no law number {law} among {len(names)}.")
    index = names.index(law) if isinstance(law, str) else law
    if kinds[index] != "scale":
        raise InputError(f"{names[index]} is a {kinds[index]} law; effective learning rates belong to scale laws.")
    return index


def _places(name: str) -> list[str]:
    return name.partition(" at ")[2].split(", ")


def _dead(record: xr.Dataset, index: int) -> int | None:
    """The law of the biases among a scale law's parameters, if it was recorded, charge by charge."""
    places, sizes = _places(str(record.law.values[index])), np.bincount(record.law_of.values)
    for other, (name, kind) in enumerate(zip(record.law.values, record.kind.values)):
        if kind == "dead" and set(_places(str(name))) < set(places) and sizes[other] == sizes[index]:
            return other
    return None


def _windows(record: xr.Dataset, index: int, dead: int | None) -> tuple[Array, Array, _Windows, Array]:
    """|q|² in rows, the share of biases there, what happened between, and which rows these are."""
    own = record.isel(charge=np.flatnonzero(record.law_of.values == index))
    rows = np.flatnonzero(np.isfinite(own.q.values).all(1))
    if len(rows) < 2:
        raise InputError("The record has no two rows with finite charges; a lens needs a window between two.")
    q, steps = own.q.values[rows], record.step.values[rows]
    window = {
        n: own[n].values[rows][1:] for n in ("step_norm", "velocity_norm", "gradient_norm", "loss_current", "jump")
    }
    radial, count, share = own.step_current.values[rows][1:] / 2, np.diff(steps)[:, None], np.zeros_like(q)
    bounds = {n: record[n].values[rows][1:, index] for n in ("rate", "weight_decay", "momentum", "dampening")}
    if dead is not None:
        bias = record.isel(charge=np.flatnonzero(record.law_of.values == dead))
        b, change = bias.q.values[rows], bias.step_current.values[rows][1:]
        share, q = b**2 / np.where(q > 0, q, 1), q - b**2
        radial = radial - change * (b[:-1] + (b[1:] - b[:-1]) * (count - 1) / (2 * count))
        rate = bounds["rate"].mean(1)[:, None]
        window["step_norm"] = window["step_norm"] - change**2 / count  # it decays evenly
        fast = np.divide(change, rate, out=np.zeros_like(change), where=rate > 0)
        window["velocity_norm"] = window["velocity_norm"] - fast**2 / count
        for name in bounds:
            bounds[name] = _without(bounds[name], record[name].values[rows][1:, dead])
    settings = {name: _settled(name, values, count[:, 0]) for name, values in bounds.items()}
    start = q[:-1] + (q[1:] - q[:-1]) * (count - 1) / (2 * count)
    named = settings["rate"], settings["weight_decay"], settings["momentum"], settings["dampening"]
    norm, velocity = (np.maximum(window[n], 0.0) for n in ("step_norm", "velocity_norm"))
    made = (count, start, norm, radial, window["gradient_norm"], velocity, window["loss_current"])
    return q, share, _Windows(*made, window["jump"], *named), rows


def _without(bounds: Array, dead: Array) -> Array:
    """The bounds of the weights, where the biases are one end of those of all."""
    one = dead[:, :1] == dead[:, 1:]
    low = np.where(one & (bounds[:, :1] == dead[:, :1]), bounds[:, 1:], bounds[:, :1])
    high = np.where(one & (bounds[:, 1:] == dead[:, 1:]), bounds[:, :1], bounds[:, 1:])
    return np.sort(np.concatenate([low, high], 1), 1)


def _settled(name: str, bounds: Array, count: Array) -> Array:
    """One setting a window. Ranges that lie beside each other are a schedule, ranges that overlap are groups."""
    low, high = bounds.T
    apart = low < high
    overlapping = apart[1:] & apart[:-1] & (np.maximum(low[1:], low[:-1]) < np.minimum(high[1:], high[:-1]))
    if (apart & (count == 1)).any() or overlapping.sum() > apart.sum() / 2:
        raise InputError(
            f"The parameters of this law have different {name}, between {np.nanmin(low):g} and {np.nanmax(high):g}: "
            "then there is no effective learning rate; train them in one parameter group."
        )
    return np.nan_to_num((low + high) / 2)


def _optimizer(record: xr.Dataset) -> str:
    name, groups = str(record.attrs["optimizer"]), json.loads(record.attrs["options"])
    if name == "Adam" and any(group.get("decoupled_weight_decay") for group in groups):
        return "AdamW"
    if name == "SGD" and any(group.get("nesterov") and group.get("momentum") for group in groups):
        return "SGD with Nesterov's momentum"
    return name


def _first(values: Array) -> Array:
    """With nan in the first row, which ends no window."""
    return np.concatenate([np.full_like(values[:1], np.nan), values])


def _angles(w: _Windows) -> Array:
    """With the tangent |Δ across| / (|q| + Δ along), by means over the window; of B there is only the mean."""
    norm, radial, length = w.norm / w.steps, w.radial / w.steps, np.sqrt(w.start)
    with np.errstate(divide="ignore", invalid="ignore"):
        across = np.sqrt(np.maximum(norm - radial**2 / w.start, 0.0))
        return np.where(w.start > 0, np.arctan2(across, length + radial / length), np.nan)


def _lr(w: _Windows) -> Array:
    """η(1−τ): what the laws take for η. Without momentum torch ignores the dampening."""
    return w.rate * np.where(w.momentum > 0, 1 - w.dampening, 1.0)


def _by_setting(w: _Windows, law: Callable[[float, float, float], float]) -> Array:
    """A law of (η, λ, β), at every window."""
    table, where = np.unique(np.stack([_lr(w), w.decay, w.momentum]), axis=1, return_inverse=True)
    return np.array([law(*map(float, s)) if s[0] > 0 else 0.0 for s in table.T])[where.ravel()]


def _balance(w: _Windows) -> dict[str, Array]:
    angle = _by_setting(w, inertia.equilibrium_angle)
    with np.errstate(divide="ignore", invalid="ignore"):
        balance = angle[:, None] ** 2 * w.start * w.steps / w.norm
    return {"equilibrium_angle": _first(angle), "balance": _first(balance)}


def _picture(q: Array, w: _Windows, fits: bool, horizon: float | None, notes: list[str]) -> dict[str, Array]:
    """SGD as RMSProp on the sphere, between the rows where something else happened."""
    broken = (np.abs(w.jump) > REWRITTEN * w.start).any(1)
    broken |= ~np.isfinite(np.concatenate([w.norm, w.gradient, w.radial], 1)).all(1)
    if broken.any():
        notes.append(f"Predictions start anew after {int(broken.sum())} windows that the record does not explain.")
    if not fits:
        notes.append("4ηλ/(1−β) reaches 1: there is no implicit RMSProp with a memory shorter than a step.")
    lr = _lr(w)
    made = {name: np.full_like(q, np.nan) for name in PICTURE}
    rate = np.concatenate([lr[:1], lr]), np.concatenate([w.momentum[:1], w.momentum])
    positive = (q > 0).all(1)
    made["effective_lr"][positive] = inertia.effective_lr(
        torch.from_numpy(q[positive]), *(torch.from_numpy(r[positive]) for r in rate)
    )
    sphere = w.start * w.gradient / w.steps
    made["sphere_gradient"] = _first(sphere)
    if fits:
        memory = _by_setting(w, lambda *s: inertia.rmsprop(*s).memory if s[1] > 0 else math.inf)
        made["memory"] = _first(np.asarray(memory, float))
    else:
        made["memory"] = np.full(len(q), np.nan)
    if (_by_setting(w, lambda *s: charges.regime(*s) == "underdamped") > 0).any():
        notes.append(
            "The weight decay is above the critical one, (1−β)²/(4η(1+β)): norms swing, and the picture, which has no "
            "inertia, holds for their means at best."
        )
    if (w.steps > 1).any():
        notes.append("`discrete` needs a row of every step; recorder.forecast has the exact law for any rows.")
    ends = [-1, *np.flatnonzero(broken), len(broken)]
    for before, after in zip(ends, ends[1:]):
        part = slice(before + 1, after)
        if after > before + 1:
            found = _segment(
                q[before + 1 : after + 1], _Windows(*(x[part] for x in w)), sphere[part], lr[part], fits, horizon
            )
            for name, values in found.items():
                made[name][after + 1 - len(values) : after + 1] = values
    return made


def _segment(q: Array, w: _Windows, sphere: Array, lr: Array, fits: bool, horizon: float | None) -> dict[str, Array]:
    """What the laws say of windows that follow each other."""
    eta, lam, beta = (torch.from_numpy(x) for x in (lr, w.decay, w.momentum))
    mu, count = 1 - beta, torch.from_numpy(w.steps.astype(float))
    start, gradients = torch.from_numpy(q[0]), torch.from_numpy(sphere)
    buffers = torch.from_numpy(w.velocity / w.steps) * mu[:, None].square()
    damped = torch.from_numpy(np.where(w.momentum > 0, 1 - w.dampening, 1.0))[:, None]
    wide = max(50.0, 5 / (1 - float(beta.max()))) if horizon is None else horizon
    rows = max(1.0, wide / float(count.mean()))
    # momentum 0, since friction may change along a schedule and is in the buffers already
    phi = inertia.memory_factor(buffers / damped.square(), torch.from_numpy(w.gradient / w.steps), 0.0, rows)
    mean = inertia.memory_factor(gradients, torch.ones_like(gradients), 0.0, rows)
    found = {"memory_factor": phi}
    if fits:
        # a window of n steps is one of the recursion, with the decay of n and what n steps gain
        share = (4 * eta * lam / mu)[:, None]
        forgotten = -torch.expm1(count * torch.log1p(-share)).clamp_min(-1 + 1e-15)
        gained = gradients * torch.where(share > 0, forgotten / share.clamp_min(1e-300), count)
        decay = torch.where(eta > 0, forgotten[:, 0] * mu / (4 * eta).clamp_min(1e-300), 0.0)
        for name, factor in (("fourth_power", phi), ("fourth_power_smooth", 1.0)):
            found[name] = inertia.fourth_power(start, gained, eta, decay, beta, factor)
        after = torch.cat([eta[:1], eta]), torch.cat([beta[:1], beta])
        if bool((found["fourth_power"] > 0).all()):
            found["predicted_effective_lr"] = inertia.effective_lr(found["fourth_power"].sqrt(), *after)
        found |= _equilibrium(q[1:], eta, lam, beta, phi, mean)
    if (w.steps == 1).all():
        found["discrete"] = _discrete(q, w)
    return {name: values.numpy() for name, values in found.items()}


def _equilibrium(
    q: Array, eta: torch.Tensor, lam: torch.Tensor, beta: torch.Tensor, phi: torch.Tensor, mean: torch.Tensor
) -> dict[str, torch.Tensor]:
    norm, wait = torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
    settings = torch.stack([eta, lam, beta], 1)
    for setting in settings.unique(dim=0):
        where = (settings == setting).all(1)
        values = setting.tolist()
        if values[0] * values[1] > 0:
            norm[where] = inertia.equilibrium_norm(mean[where], values[0], values[1], values[2], phi[where])
            wait[where] = inertia.steps_to_equilibrium(torch.from_numpy(q)[where], norm[where], *values)
    return {"equilibrium_norm": norm, "steps_to_equilibrium": wait}


def _discrete(q: Array, w: _Windows) -> torch.Tensor:
    """The exact law; with momentum from the second row on, with the buffer that the first step shows."""
    charge, squares, current = (torch.from_numpy(x) for x in (q, w.norm, w.current))
    eta, lam, beta, tau = (torch.from_numpy(x) for x in (w.rate, w.decay, w.momentum, w.dampening))
    if not bool((beta > 0).any()):
        return charges.discrete(charge[0], squares, eta, lam, current=current)
    lr = float(eta[0])
    if lr == 0 or len(q) < 3:
        return torch.full_like(charge[1:], torch.nan)
    overlap = charges.overlap_of(charge[0], charge[1], lr, squares[0])
    settings = eta[1:], lam[1:], beta[1:], tau[1:]
    return charges.discrete(charge[1], squares[1:], *settings, False, None, overlap, current[1:])


def _verdicts(kind: str, q: Array, w: _Windows, columns: dict[str, Array]) -> list[str]:
    """Of every charge, by the last quarter of the windows."""
    late = slice(-max(1, math.ceil(LATE * len(w.rate))), None)
    lr, lam, beta = (x[late] for x in (_lr(w), w.decay, w.momentum))
    steps = w.steps[late].sum()
    drift = np.log(np.maximum(q[-1], 1e-300)) - np.log(np.maximum(q[-1 - len(lr)], 1e-300))
    if kind == "SGD":
        angle = np.sqrt(np.mean(columns["angle"][1:][late] ** 2, 0))
        fair = math.sqrt(np.mean(columns["equilibrium_angle"][1:][late] ** 2))
        excess = angle / fair - 1 if fair > 0 else np.zeros_like(angle)
        white = float(np.mean((1 - beta) / (1 + beta)))
        phi = columns["memory_factor"][1:][late].mean(0)
        gone = (phi < ALTERNATING * white) | (q[-1] <= VANISHED * q[0]) | (fair > WIDE)
    else:  # ln|q|² goes on at this rate for a memory, 1/(4ηλ) for decoupled decay
        memory = 1 / (4 * np.mean(lr * lam)) if kind == "AdamW" and (lr * lam > 0).all() else steps
        excess, gone = drift * memory / steps, q[-1] <= VANISHED * q[0]
    found = np.where(excess > NEAR, GROWING, np.where(excess < -NEAR, DECAYING, EQUILIBRIUM)).astype(object)
    found[gone] = COLLAPSING
    if kind in ("SGD", "AdamW", "Adam") and not (lr * lam).any():
        found[:] = FREE
    return [str(x) for x in found]
