"""From records to labelled arrays: what was measured and what was predicted, under the same names."""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from learndyn.dynamics.determinism import deterministic
from learndyn.errors import InputError
from learndyn.experiments.cone.kernels import dataset, note_network, read_series
from learndyn.experiments.two_phase.grid import CONTROL, SPLITS
from learndyn.experiments.two_phase.settings import Settings, kernel_steps, switch_steps
from learndyn.laws.growth import log_growth, log_growth_error
from learndyn.names import build_model, build_task
from learndyn.observables.barrier import BATCH_NORM, CONVENTIONS
from learndyn.record import plain
from learndyn.storage import read_json

#: What is measured of a pair of twins, and its unit.
UNITS = {
    "distance": "",
    "relative_distance": "",
    "dissimilarity": "",
    "log_growth": "nats",
    "disagreement": "",
    "function_distance": "",
    "kinks": "",
}
BARRIERS = {"loss_barrier": "nats", "error_barrier": ""}
PROFILE = {"split": list(SPLITS), "batch_norm": list(BATCH_NORM), "convention": list(CONVENTIONS)}
FORKS = ("requested", "realised", "changed", "on_zeros", "floor")
TWIN = ("seed", "direction", "t0")


class Table:
    """Labelled arrays, filled cell by cell; what is never filled stays nan."""

    def __init__(self, **coordinates: Sequence[Any]):
        self.coordinates = {name: list(values) for name, values in coordinates.items()}
        self.arrays: dict[str, tuple[tuple[str, ...], np.ndarray, str]] = {}

    def add(self, name: str, dims: Sequence[str], unit: str = "") -> None:
        """An empty array."""
        shape = [len(self.coordinates[dim]) for dim in dims]
        self.arrays[name] = (tuple(dims), np.full(shape, np.nan), unit)

    def put(self, name: str, value: Any, **at: Any) -> None:
        """Fill what lies at these labels: a number, or a nested list over the dimensions that are left. None is nan."""
        dims, array, _ = self.arrays[name]
        labels = (self.coordinates[dim].index(at[dim]) if dim in at else slice(None) for dim in dims)
        array[tuple(labels)] = np.asarray(value, dtype=float)

    def dataset(self, **units: str) -> xr.Dataset:
        """The arrays as a dataset; units of coordinates by name."""
        coords = {name: (name, values, {"units": units.get(name, "")}) for name, values in self.coordinates.items()}
        return xr.Dataset({n: (dims, array, {"units": unit}) for n, (dims, array, unit) in self.arrays.items()}, coords)


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All records as labelled arrays: /measured over (seed, direction, t0, t1), /predicted over (seed, t0, t1)."""
    measured = xr.merge([_measured(settings, folder), _kernels(settings, folder)], combine_attrs="no_conflicts")
    groups = {"/measured": measured, "/predicted": _predicted(settings, folder)}
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["settings"] = json.dumps(plain(settings))
    return tree


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file if what it holds is not what was written."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); delete it and run again.") from error


def _measured(s: Settings, folder: Path) -> xr.Dataset:
    standing = sorted({0, *s.t0, *s.t1, s.steps})
    twins = {"seed": range(s.seeds), "direction": range(s.directions), "t0": s.t0, "t1": s.t1, "horizon": s.horizons}
    table = Table(**twins, **PROFILE, step=standing)
    for name, unit in UNITS.items():
        table.add(name, (*TWIN, "t1"), unit)
        table.add(f"{name}_after", (*TWIN, "horizon"), unit)
    for name, unit in BARRIERS.items():
        table.add(name, (*TWIN, "t1", *PROFILE), unit)
    for name in FORKS:
        table.add(f"perturbation_{name}", TWIN)
    for name, dims in {"loss": ("split",), "error": ("split",), "norm": (), "time": ()}.items():
        table.add(f"base_{name}", ("seed", "step", *dims), "nats" if name == "loss" else "")
    table.add("control_distance", ("seed", "t1"))
    for seed in range(s.seeds):
        for path in sorted((folder / "records" / f"seed-{seed}").glob("[0-9]*.json")):
            with _naming(path):
                _put_record(table, read_json(path), seed, s)
    return table.dataset(t0="step", t1="step", step="step", horizon="step")


def _kernels(s: Settings, folder: Path) -> xr.Dataset:
    """The kernels of the base runs; and how their linearisations ended, over (seed, switch)."""
    table = Table(seed=range(s.seeds), switch=switch_steps(s), split=SPLITS)
    for name, dims in {"loss": ("split",), "error": ("split",), "factor": ()}.items():
        table.add(f"switched_{name}", ("seed", "switch", *dims), "nats" if name == "loss" else "")
    why = ""
    for seed in range(s.seeds):
        for step in switch_steps(s):
            path = folder / "records" / f"seed-{seed}" / f"switch-{step:06d}.json"
            if path.exists():
                with _naming(path):
                    content = read_json(path)
                    why = content["why"] or why
                    for name in ("loss", "error", "factor"):
                        table.put(f"switched_{name}", content[name], seed=seed, switch=step)
    found = table.dataset(switch="step").assign_attrs(switch_why=why)
    runs = [read_series(folder / "kernels" / f"seed-{seed}", s.reductions) for seed in range(s.seeds)]
    if not kernel_steps(s) or not all(runs):
        return found
    model = build_model(s.model, build_task(s.task, 0, s.data_dir), 0)
    with deterministic("cpu", 1):  # the same bits whoever gathers
        kernels = dataset(runs)
    return xr.merge([found, note_network(kernels, model)], combine_attrs="no_conflicts")


def _put_record(table: Table, record: dict[str, Any], seed: int, s: Settings) -> None:
    step = record["step"]
    for fork in record["forks"]:
        for name in FORKS:
            table.put(f"perturbation_{name}", fork[name], seed=seed, direction=fork["direction"], t0=step)
    for name, value in record.get("base", {}).items():
        table.put(f"base_{name}", value, seed=seed, step=step)
    for row in record["rows"]:
        _put_row(table, row, seed, step, s)


def _put_row(table: Table, row: dict[str, Any], seed: int, step: int, s: Settings) -> None:
    if row["direction"] == CONTROL:
        if step in s.t1:
            table.put("control_distance", row["distance"], seed=seed, t1=step)
        return
    twin = {"seed": seed, "direction": row["direction"], "t0": row["t0"]}
    for name in UNITS:
        if step in s.t1:
            table.put(name, row[name], **twin, t1=step)
        if step - row["t0"] in s.horizons:
            table.put(f"{name}_after", row[name], **twin, horizon=step - row["t0"])
    for name in BARRIERS:
        if name in row:
            table.put(name, row[name], **twin, t1=step)


def _predicted(s: Settings, folder: Path) -> xr.Dataset:
    """What the law says of the growth up to the last t1, under the name of the measurement."""
    end = s.t1[-1]
    table, why = Table(seed=range(s.seeds), t0=s.t0, t1=[end]), ""
    table.add("log_growth", ("seed", "t0", "t1"), "nats")
    table.add("log_growth_error", ("seed", "t0", "t1"), "nats")
    for seed in range(s.seeds):
        path = folder / "records" / f"seed-{seed}" / "adjoint.json"
        if not path.exists():
            continue
        with _naming(path):
            content = read_json(path)
            why = content["why"] or why
            if content["norms"] is not None:
                # null stands for a sweep that overflowed
                norms = torch.tensor(np.array(content["norms"], dtype=float)).nan_to_num(nan=math.inf)
                growth, error = log_growth(norms, content["parameters"]), log_growth_error(norms)
                for i, t0 in enumerate(t0 for t0 in s.t0 if t0 < end):
                    table.put("log_growth", float(growth[i]), seed=seed, t0=t0, t1=end)
                    table.put("log_growth_error", float(error[i]), seed=seed, t0=t0, t1=end)
    return table.dataset(t0="step", t1="step").assign_attrs(why=why)
