"""One run under the recorder, seen through the lens: channels of all scale laws over time, and what the laws say."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from learndyn.dynamics import State
from learndyn.errors import InputError
from learndyn.experiments.noether_dynamics.charge import noether
from learndyn.experiments.noether_dynamics.settings import Settings
from learndyn.experiments.noether_dynamics.twin import twin
from learndyn.laws import inertia
from learndyn.names import build_state
from learndyn.observables import evaluate
from learndyn.record import Progress
from learndyn.recorder import lens, read, train_recorded
from learndyn.recorder.lens import COLLAPSING, DECAYING, EQUILIBRIUM, FREE, GROWING
from learndyn.symmetries import find

VERDICTS = (GROWING, DECAYING, EQUILIBRIUM, COLLAPSING, FREE)
CHECKPOINT_SECONDS = 30.0
PIECE = 50  # steps between two looks at the clock
SAMPLES = 4  # that the symmetries are found with
#: from the lens to the results; what is predicted bears the name of what is measured
MEASURED = ("q", "effective_lr", "angle", "memory_factor", "sphere_gradient")
PREDICTED = {
    "predicted_q": "fourth_power",
    "predicted_q_smooth": "fourth_power_smooth",
    "predicted_q_exact": "discrete",
    "predicted_effective_lr": "predicted_effective_lr",
}


def initial_state(settings: Settings, optimizer: str, seed: int) -> State:
    """A run before its first step.

    Raises:
        InputError: If a name is unknown, a factory fails, or model, task and optimizer do not fit together.
    """
    s = settings
    made = s.task, s.model, optimizer, s.schedule, s.steps, seed, s.dtype, s.device, s.data_dir
    return build_state(*made, lambda state: evaluate(state.model, state.task, "test"))


def scale_laws(state: State) -> tuple[list[Any], list[Any]]:
    """The scale laws of a network, and the laws of biases that have a part in them.

    Raises:
        InputError: If there is no scale law.
    """
    laws = find(state.model, state.task.batch(0).inputs[:SAMPLES].cpu(), certify=False).laws
    scale = [law for law in laws if law.kind == "scale"]
    if not scale:
        raise InputError("The model has no weights in front of a normalisation; this experiment is about these.")
    own = {name for law in scale for name in law.parameters}
    return scale, [law for law in laws if law.kind == "dead" and set(law.parameters) < own]


def measure_run(settings: Settings, number: int, seed: int, folder: Path, progress: Progress) -> xr.Dataset:
    """One optimizer and seed: trained, seen through the lens, and laid beside its RMSProp twin."""
    s, text = settings, settings.optimizers[number]
    state = initial_state(s, text, seed)
    laws, dead = scale_laws(state)
    first = initial_state(s, text, seed)
    try:
        state, losses = train_recorded(state, [*laws, *dead], s.steps, s.every, folder, progress)
    except InputError as error:
        raise InputError(f"{text}: {error}") from error
    record = read(folder / "record")
    seen = [channels(s, record, str(law)) for law in laws]
    found = xr.concat(seen, "charge")
    bins = np.unique(np.linspace(0, s.steps, s.points).astype(int))
    total = np.concatenate([[0.0], losses.double().cumsum(0).numpy()])
    loss = np.diff(total[bins]) / np.diff(bins)
    end = evaluate(state.model, state.task, "test")
    found = found.assign(
        loss=("step", np.concatenate([[np.nan], loss])), test_error=float(end.error), test_loss=float(end.loss)
    )
    found.attrs = {"optimizer": seen[0].attrs["optimizer"], "left_out": seen[0].attrs["left_out"]}
    if s.twin:
        progress("twins", 0)
        found = found.assign(twin(s, first, state, laws, losses, bins, found))
    return found.assign_coords(charge=np.arange(found.sizes["charge"]))


def channels(settings: Settings, record: xr.Dataset, law: str) -> xr.Dataset:
    """What is kept of one law: rows at some steps, numbers of every channel, and Noether's charge."""
    s, seen = settings, lens(record, law)
    bins = np.unique(np.linspace(0, s.steps, s.points).astype(int))
    rows = np.unique(np.searchsorted(seen.step.values, bins).clip(max=seen.sizes["step"] - 1))
    if len(rows) < len(bins):  # the record has fewer rows: the last one at or before
        bins = seen.step.values[rows]
    data: dict[str, Any] = {}
    for name in MEASURED:
        if name in seen:
            data[name] = ("step", "charge"), _thinned(seen[name].values, rows, squares=name == "angle")
    for name, source in PREDICTED.items():
        if source in seen:
            values = seen[source].values[rows]
            data[name] = ("step", "charge"), np.sqrt(values) if source.startswith("fourth") else values
    if "equilibrium_angle" in seen:
        each = np.broadcast_to(seen.equilibrium_angle.values[:, None], seen.q.shape)
        data["predicted_angle"] = ("step", "charge"), _thinned(each, rows, squares=True)
    data |= {name: ("charge", values) for name, values in numbers(s, seen).items()}
    data["verdict"] = "charge", np.array([VERDICTS.index(v) for v in seen.verdict.values])
    for name, values in noether(record, law, rows).items():
        dims = ("close", "charge") if name.endswith("_close") else ("step", "charge")
        data[name] = dims[-values.ndim :], values
    size = seen.sizes["charge"]
    place = law.partition(" at ")[2]
    coordinates = {"step": bins, "place": ("charge", [place] * size), "unit": ("charge", np.arange(size))}
    return xr.Dataset(data, coordinates, seen.attrs)


def _thinned(values: np.ndarray, rows: np.ndarray, squares: bool = False) -> np.ndarray:
    """At some rows; of squares the root of their mean since the row before."""
    if not squares:
        return values[rows]
    made = np.full((len(rows), values.shape[1]), np.nan)
    for i, (a, b) in enumerate(zip(rows, rows[1:]), 1):
        made[i] = np.sqrt(np.nanmean(values[a + 1 : b + 1] ** 2, 0))
    return made


def numbers(settings: Settings, seen: xr.Dataset) -> dict[str, np.ndarray]:
    """One number for every channel: how well the picture holds, and the balance at the end."""
    late = slice(int(settings.late * seen.sizes["step"]) + 1, None)
    made = {"late_angle": np.sqrt((seen.angle[late] ** 2).mean("step").values)}
    if "equilibrium_angle" in seen:
        expected = math.sqrt(float((seen.equilibrium_angle[late] ** 2).mean()))
        made["late_predicted_angle"] = np.full(seen.sizes["charge"], expected)
    if "memory_factor" not in seen:
        return made
    off = np.abs(seen.predicted_effective_lr / seen.effective_lr - 1)
    smooth = np.abs(seen.q / np.sqrt(seen.fourth_power_smooth) - 1)
    made |= {"deviation_mean": off.mean("step").values, "deviation_max": off.max("step").values}
    made["deviation_smooth"] = smooth.mean("step").values
    # over the largest norm: that of a dead channel falls below the rounding of where it came from
    made["exact_error"] = (np.abs(seen.discrete - seen.q).max("step") / seen.q.max("step")).values
    made["deviation_late"] = off[late].mean("step").values
    fair = (seen.equilibrium_angle[late] ** 2).mean()  # decay and steps of the late steps each in all
    made["balance"] = (fair * seen.q[late].mean("step") / seen.squared_step[late].mean("step")).values
    made["late_memory_factor"] = _late_factor(seen, late).numpy()
    made["steps_to_equilibrium"] = seen.steps_to_equilibrium[-1].values
    made["memory"] = np.full(seen.sizes["charge"], 1 / np.mean(1 / seen.memory.values[1:]))
    return made | _equilibria(seen, late)


def _equilibria(seen: xr.Dataset, late: slice) -> dict[str, np.ndarray]:
    """|q|² at equilibrium over |q|², by the memory factor as measured, of white gradients, and of smooth ones."""
    settings = setting(seen)
    if settings is None or settings[1] == 0:
        return {}
    gradients, norms = (torch.from_numpy(seen[n][late].mean("step").values) for n in ("sphere_gradient", "q"))
    beta = settings[2]
    factors: dict[str, float | torch.Tensor] = {
        "measured": _late_factor(seen, late),
        "white": (1 - beta) / (1 + beta),
        "smooth": 1.0,
    }
    return {
        f"norm_ratio_{name}": (inertia.equilibrium_norm(gradients, *settings, factor) / norms).numpy()
        for name, factor in factors.items()
    }


def _late_factor(seen: xr.Dataset, late: slice) -> torch.Tensor:
    """μ²⟨|b|²⟩/⟨|∇f|²⟩ of the late steps alone, which a running mean has not got rid of the early ones for."""
    buffers = (((1 - seen.momentum) / seen.lr) ** 2 * seen.squared_step)[late].mean("step")
    return torch.from_numpy((buffers / (seen.sphere_gradient / seen.q)[late].mean("step")).values)


def setting(seen: xr.Dataset) -> tuple[float, float, float] | None:
    """η, λ and β of a run, if they were always the same."""
    found = [seen[name].values[1:] for name in ("lr", "decay", "momentum")]
    return tuple(float(x[0]) for x in found) if all((x == x[0]).all() for x in found) else None  # type: ignore[return-value]
