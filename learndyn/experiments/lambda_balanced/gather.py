"""Parts, and from their files to labelled arrays."""

import warnings
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from learndyn.dynamics.determinism import deterministic
from learndyn.experiments.lambda_balanced.overlay import measure_overlay
from learndyn.experiments.lambda_balanced.sequences import measure_reversal, measure_sequence
from learndyn.experiments.lambda_balanced.settings import Settings
from learndyn.experiments.lambda_balanced.shapes import measure_map, measure_shapes
from learndyn.experiments.lambda_balanced.starts import measure_conserved, measure_inits, measure_saddles
from learndyn.experiments.lambda_balanced.tree import STARTS, measure_tree
from learndyn.record import Progress, part_file, read_part, side_by_side, write_part

SEEDED: dict[str, Callable[[Settings, int, Progress], xr.Dataset]] = {
    "tree": measure_tree,
    "overlay": measure_overlay,
    "sequence": measure_sequence,
}
ONCE: dict[str, Callable[[Settings, Progress], xr.Dataset]] = {
    "conserved": measure_conserved,
    "map": measure_map,
    "shapes": measure_shapes,
    "reversal": measure_reversal,
    "inits": measure_inits,
    "saddles": measure_saddles,
}


def parts(settings: Settings) -> list[str]:
    """What is done for every seed, and what once; the longest ones first."""
    return [*(f"{kind}-{seed}" for kind in SEEDED for seed in range(settings.seeds)), *ONCE]


def work(settings: Settings) -> float:
    """About the training steps of a part, on average."""
    s = settings
    seeded = len(STARTS) * s.tree_steps + len(s.lams) * s.steps + s.sequence * s.sequence_steps
    once = 6 * s.trial_steps + 20 * s.map_points * len(s.map_shapes) + 1000 * len(s.shapes) + 5000
    return (s.seeds * seeded + once) / len(parts(s))


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
        warnings.filterwarnings("ignore", message="The start", category=UserWarning)  # remarks of the law, kept as data
        found = SEEDED[kind](settings, int(seed), progress) if seed else ONCE[kind](settings, progress)
    write_part(folder, part, found)


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All parts as labelled arrays; what has seeds has them in front."""
    seeds = range(settings.seeds)
    found = [
        xr.concat([read_part(folder, f"{kind}-{seed}") for seed in seeds], "seed", join="exact") for kind in SEEDED
    ]
    found = [each.assign_coords(seed=list(seeds)) for each in found] + [read_part(folder, kind) for kind in ONCE]
    whole = xr.merge(found, combine_attrs="drop", compat="no_conflicts", join="outer")
    whole = whole.assign({n: whole[n].astype(str) for n in whole.data_vars if whole[n].dtype == object})
    return side_by_side(whole, settings)
