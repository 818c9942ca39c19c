"""Parts, each a run, a sweep or the self-tests; and from their files to labelled arrays."""

import contextlib
import json
import shutil
from pathlib import Path

import xarray as xr

from learndyn.dynamics.determinism import deterministic
from learndyn.experiments.noether_dynamics.exact import EPS, MOMENTA, STEPS, measure_exact
from learndyn.experiments.noether_dynamics.robustness import measure_robustness
from learndyn.experiments.noether_dynamics.runs import measure_run
from learndyn.experiments.noether_dynamics.settings import Settings
from learndyn.record import Progress, part_file, plain, read_part, write_part


def parts(settings: Settings) -> list[str]:
    """Every run, the sweep of every seed, and what is exact; the longest ones first."""
    s = settings
    made = [f"run-{i}-{seed}" for i in range(len(s.optimizers)) for seed in range(s.seeds)]
    return [*made, *(f"rates-{seed}" for seed in range(s.seeds) if s.rates), "exact"]


def work(settings: Settings) -> float:
    """Training steps of a part, on average."""
    s = settings
    runs = s.seeds * (len(s.optimizers) * s.steps + 2 * len(s.rates) * s.sweep_steps)
    return (runs + 2 * len(MOMENTA) * len(EPS) * STEPS) / len(parts(s))


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """Do one part, unless its file is there.

    Raises:
        InputError: If a run diverges or cannot be recorded.
    """
    kind, *numbers = part.split("-")
    if part_file(folder, part).exists():
        progress("found", work(settings))
        return
    with deterministic(settings.device if kind != "exact" else "cpu", settings.threads):
        if kind == "run":
            at = folder / "work" / part
            found = measure_run(settings, int(numbers[0]), int(numbers[1]), at, progress)
        elif kind == "rates":
            found = measure_robustness(settings, int(numbers[0]), progress)
        else:
            found = measure_exact(progress)
    write_part(folder, part, found)
    shutil.rmtree(folder / "work" / part, ignore_errors=True)  # records of every step are large, and can be made again
    with contextlib.suppress(OSError):  # others may be at work
        (folder / "work").rmdir()


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All parts as labelled arrays: runs over (run, seed, step, charge)."""
    s = settings
    runs = xr.concat(
        [
            xr.concat([read_part(folder, f"run-{i}-{seed}") for seed in range(s.seeds)], "seed", join="exact")
            for i in range(len(s.optimizers))
        ],
        "run",
        join="outer",
        combine_attrs="drop",
    ).assign_coords(run=list(s.optimizers), seed=list(range(s.seeds)))
    kinds = [read_part(folder, f"run-{i}-0").attrs for i in range(len(s.optimizers))]
    for name in ("optimizer", "left_out"):
        runs[{"optimizer": "rule"}.get(name, name)] = "run", [str(k[name]) for k in kinds]
    exact = read_part(folder, "exact")
    if s.rates:
        sweep = [read_part(folder, f"rates-{seed}") for seed in range(s.seeds)]
        exact = exact.merge(xr.concat(sweep, "seed").assign_coords(seed=list(range(s.seeds))))
    predicted = {name: name.replace("predicted_", "") for name in map(str, runs.data_vars) if "predicted_" in name}
    runs = runs.assign({name: runs[name].astype(str) for name in runs.data_vars if runs[name].dtype == object})
    measured = xr.merge([runs.drop_vars(list(predicted)), exact], compat="override", combine_attrs="drop")
    law = runs[list(predicted)].rename(predicted)
    for found in (measured, law):
        found["step"].attrs["units"] = "step"
    tree = xr.DataTree.from_dict({"/measured": measured, "/predicted": law})
    tree.attrs["settings"] = json.dumps(plain(settings))
    return tree
