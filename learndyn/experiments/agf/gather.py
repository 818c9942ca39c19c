"""Parts, and from their files to labelled arrays."""

import warnings
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from learndyn.dynamics.determinism import deterministic
from learndyn.experiments.agf.attention import measure_attention
from learndyn.experiments.agf.diagonal import measure_diagonal
from learndyn.experiments.agf.linear import measure_linear
from learndyn.experiments.agf.modular import measure_modular
from learndyn.experiments.agf.modules import measure_modules
from learndyn.experiments.agf.relu import measure_relu
from learndyn.experiments.agf.settings import Settings
from learndyn.record import Progress, part_file, read_part, side_by_side, write_part

SEEDED: dict[str, Callable[[Settings, int, Progress], xr.Dataset]] = {
    "relu": measure_relu,
    "attention": measure_attention,
    "modular": measure_modular,
    "linear": measure_linear,
    "modules": measure_modules,
}


def parts(settings: Settings) -> list[str]:
    """What is done for every seed, and what once; the longest ones first."""
    return [*(f"{kind}-{seed}" for kind in SEEDED for seed in range(settings.seeds)), "diagonal"]


def work(settings: Settings) -> float:
    """About the units that parts report, on average."""
    s = settings
    seeded = 300 * len(s.widths) + 100 * (len(s.attention_alphas) + 1) + 800 + 300 * len(s.linear_alphas) + 200
    seeded += s.module_steps // 5
    return (s.seeds * seeded + 2800) / len(parts(s))


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """Do one part, unless its file is there.

    Raises:
        InputError: If it cannot be run.
    """
    if part_file(folder, part).exists():
        progress("found", work(settings))
        return
    kind, _, seed = part.partition("-")
    with deterministic("cpu", settings.threads), warnings.catch_warnings():
        found = SEEDED[kind](settings, int(seed), progress) if seed else measure_diagonal(settings, progress)
    write_part(folder, part, found)


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All parts as labelled arrays; what has seeds has them in front."""
    seeds = range(settings.seeds)
    found = [
        xr.concat([read_part(folder, f"{kind}-{seed}") for seed in seeds], "seed", join="outer") for kind in SEEDED
    ]
    found = [each.assign_coords(seed=list(seeds)) for each in found] + [read_part(folder, "diagonal")]
    whole = xr.merge(found, combine_attrs="drop", compat="no_conflicts", join="outer")
    return side_by_side(whole, settings)
