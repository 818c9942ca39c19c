"""Parts, and from their files to labelled arrays."""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from learndyn.dynamics.determinism import deterministic
from learndyn.experiments.group_composition.architectures import (
    ARCHITECTURES,
    measure_exact,
    measure_sequence,
    measure_width,
)
from learndyn.experiments.group_composition.settings import Settings
from learndyn.experiments.group_composition.stairs import measure_small, measure_stair, measure_starved
from learndyn.record import Progress, part_file, read_part, side_by_side, write_part

ONCE: dict[str, Callable[[Settings, Progress], xr.Dataset]] = {
    "small": measure_small,
    "starved": measure_starved,
    "exact": measure_exact,
}
NUMBERED: dict[str, Callable[[Settings, int, Progress], xr.Dataset]] = {"stair": measure_stair, "width": measure_width}


def parts(settings: Settings) -> list[str]:
    """A part for every staircase, every architecture and length, and every group of the width map; the rest once."""
    s = settings
    made = [f"stair-{i}" for i in range(len(s.groups))][::-1]
    made += ["small"]
    made += [f"{name}-{i}" for name in ARCHITECTURES for i in range(len(s.sequence_lengths))][::-1]
    return [*made, *(f"width-{i}" for i in range(len(s.width_groups))), "starved", "exact"]


def work(settings: Settings) -> float:
    """About the training steps of a part, on average."""
    s = settings
    trained = len(ARCHITECTURES) * len(s.sequence_lengths) + len(s.width_groups)
    total = 2000.0 * len(s.groups) + s.width_steps * trained + 20_000
    return total / len(parts(s))


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """Do one part, unless its file is there.

    Raises:
        InputError: If it cannot be run.
    """
    if part_file(folder, part).exists():
        progress("found", work(settings))
        return
    kind, _, number = part.partition("-")
    with deterministic("cpu", settings.threads):
        if kind in ONCE:
            found = ONCE[kind](settings, progress)
        elif kind in NUMBERED:
            found = NUMBERED[kind](settings, int(number), progress)
        else:
            found = measure_sequence(settings, kind, int(number), progress)
    write_part(folder, part, found)


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All parts as labelled arrays; staircases side by side, filled up with nan to the one with most irreps."""
    s = settings
    each = [read_part(folder, f"stair-{i}") for i in range(len(s.groups))]
    each = [part.assign(stair_facts=part.stair_facts.astype(object)) for part in each]  # texts of any length
    stairs = xr.concat(each, "case", join="outer")
    sequences = xr.concat(
        [
            xr.concat([read_part(folder, f"{name}-{i}") for i in range(len(s.sequence_lengths))], "sequence_length")
            for name in ARCHITECTURES
        ],
        "architecture",
    ).assign_coords(architecture=list(ARCHITECTURES), sequence_length=list(s.sequence_lengths))
    found = [stairs, sequences, *(read_part(folder, kind) for kind in ONCE)]
    if s.width_groups:
        found.append(xr.concat([read_part(folder, f"width-{i}") for i in range(len(s.width_groups))], "width_case"))
    whole = xr.merge(found, combine_attrs="drop", compat="no_conflicts", join="outer")
    for name in whole.variables:
        whole[name].encoding.clear()  # of the parts: whole numbers there, with gaps here
    whole = whole.assign({n: whole[n].astype(str) for n in whole.data_vars if whole[n].dtype == object})
    return side_by_side(whole, settings)
