"""Training runs with a recorder, and from their records to labelled arrays."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from learndyn.dynamics import State
from learndyn.dynamics.determinism import check_replay, deterministic
from learndyn.errors import InputError
from learndyn.experiments.neural_mechanics.settings import Settings
from learndyn.names import build_state
from learndyn.record import Progress, plain
from learndyn.recorder import read, train_recorded
from learndyn.recorder.forecast import overlay
from learndyn.storage import read_json, write_json
from learndyn.symmetries import Report, find

SNAPSHOT_SECONDS = 20.0
LOOKED_AT = 8  # training inputs that the finder sees


def runs(settings: Settings) -> list[tuple[str, str, str, int]]:
    """(part, model, optimizer, seed) of every run."""
    return [
        (f"model-{i}-optimizer-{j}-seed-{seed}", model, optimizer, seed)
        for i, model in enumerate(settings.models)
        for j, optimizer in enumerate(settings.optimizers)
        for seed in range(settings.seeds)
    ]


def parts(settings: Settings) -> list[str]:
    """One part a run."""
    return [part for part, *_ in runs(settings)]


def work(settings: Settings) -> float:
    """Units of work of one part: steps."""
    return settings.steps


def initial_state(settings: Settings, model: str, optimizer: str, seed: int) -> State:
    """Task, network and optimizer before the first step.

    Raises:
        InputError: If a name is unknown or a factory fails, or they do not fit together.
    """
    s = settings
    made = s.task, model, optimizer, s.schedule, s.steps, seed, s.dtype, s.device, s.data_dir
    return build_state(*made, check_replay)


def look(state: State, settings: Settings) -> Report:
    """The symmetries of the network."""
    return find(state.model, state.task.evaluation("train").inputs[:LOOKED_AT], softmax=settings.softmax)


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """One run, from where it was.

    Raises:
        InputError: If the network has no symmetries, cannot be trained, or the run diverges.
    """
    _, model, optimizer, seed = next(run for run in runs(settings) if run[0] == part)
    place = folder / "records" / part
    with deterministic(settings.device, settings.threads):
        state = initial_state(settings, model, optimizer, seed)
        found = look(state, settings)
        if not found.laws:
            frozen = "; ".join(f"{r.parameter}: {r.why}" for r in found.rejected[:3]) or "nothing in it is homogeneous"
            raise InputError(f"{model} has no symmetry whose charge could be followed ({frozen}).")
        write_json(place / "symmetries.json", found.plain())
        try:
            train_recorded(state, found.laws, settings.steps, settings.every, place, progress)
        except InputError as error:
            raise InputError(f"{model} with {optimizer}: {error}") from error


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All runs, each as a group /run-i with measured and predicted."""
    tree: dict[str, xr.Dataset] = {}
    for i, (part, model, optimizer, seed) in enumerate(runs(settings)):
        record = read(folder / "records" / part / "record")
        measured, predicted = overlay(record)
        symmetries = read_json(folder / "records" / part / "symmetries.json")
        certificate = symmetries["certificate"] or {}
        attributes = {
            "model": model,
            "optimizer": optimizer,
            "seed": seed,
            "counted": json.dumps(certificate),
            "complete": str(symmetries["complete"]),
            "broken": json.dumps([law["broken_by"] for law in symmetries["laws"]]),
        }
        tree[f"/measured/run-{i}"] = measured.assign_attrs({**record.attrs, **attributes})
        tree[f"/predicted/run-{i}"] = predicted
    found = xr.DataTree.from_dict({name: _storable(data) for name, data in tree.items()})
    found.attrs["settings"] = json.dumps(plain(settings))
    return found


def _storable(data: xr.Dataset) -> xr.Dataset:
    """Texts as NetCDF has them."""
    return data.assign_coords({k: v.astype(str) for k, v in data.coords.items() if v.dtype == np.dtype(object)})
