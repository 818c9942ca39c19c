"""Parts, and from their files to labelled arrays."""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from learndyn.dynamics.determinism import deterministic
from learndyn.experiments.get_rich_quick.filters import measure_filters
from learndyn.experiments.get_rich_quick.grids import measure_cells, measure_map, measure_plane, measure_xor
from learndyn.experiments.get_rich_quick.grokking import budget, measure_grokking
from learndyn.experiments.get_rich_quick.neuron import measure_neuron
from learndyn.experiments.get_rich_quick.overlay import measure_overlay
from learndyn.experiments.get_rich_quick.settings import Settings
from learndyn.experiments.get_rich_quick.trees import measure_tree
from learndyn.record import Progress, part_file, read_part, side_by_side, write_part

ONCE: dict[str, Callable[[Settings, Progress], xr.Dataset]] = {
    "neuron": measure_neuron,
    "plane": measure_plane,
    "xor": measure_xor,
}
SEEDED: dict[str, Callable[[Settings, int, Progress], xr.Dataset]] = {
    "overlay": measure_overlay,
    "tree": measure_tree,
    "filters": measure_filters,
}
LONG: dict[str, Callable[[Settings, int, Path, Progress], xr.Dataset]] = {"cells": measure_cells, "map": measure_map}
FIRST = 100  # seed of the grids, as in the paper


def _seeds(settings: Settings, kind: str) -> int:
    s = settings
    counts = {"overlay": s.seeds, "tree": s.tree_seeds, "cells": s.cell_seeds, "map": s.map_seeds}
    counts["filters"] = s.filter_seeds if s.filter_alphas else 0
    return counts[kind]


def parts(settings: Settings) -> list[str]:
    """What is done for every seed, what for every seed and α, and what once; the longest ones first."""
    s = settings
    made = [f"grokking-{i}-{seed}" for i in range(len(s.grok_alphas)) for seed in range(s.grok_seeds)]
    made += [f"{kind}-{seed}" for kind in ("map", "cells", "overlay", "tree") for seed in range(_seeds(s, kind))]
    return [*made, *ONCE, *(f"filters-{seed}" for seed in range(_seeds(s, "filters")))]


def work(settings: Settings) -> float:
    """About the work of a part on average, in tenths of a step of grokking."""
    s = settings
    total = 10.0 * s.grok_seeds * sum(budget(s, alpha) for alpha in s.grok_alphas)
    cells = len(s.taus) * len(s.map_deltas) * s.width * s.inputs * s.map_examples
    total += (s.map_seeds * s.map_steps * cells + s.cell_seeds * s.cell_steps * 2.5e7) / 2e7
    total += s.seeds * s.steps * len(s.alphas) + s.tree_seeds * len(s.tree_alphas) * sum(
        0.4 * s.tree_epochs * (size // 128) for size in s.tree_sizes
    )
    total += _seeds(s, "filters") * len(s.filter_alphas) * s.filter_epochs * 31 * 20 + 3000
    return total / len(parts(s))


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """Do one part, unless its file is there; grids and grokking go on from where they were.

    Raises:
        InputError: If it cannot be run.
    """
    if part_file(folder, part).exists():
        progress("found", work(settings))
        return
    kind, _, rest = part.partition("-")
    with deterministic("cpu", settings.threads):
        if kind == "grokking":
            number, _, seed = rest.partition("-")
            found = measure_grokking(settings, int(number), int(seed), folder, progress)
        elif kind in LONG:
            found = LONG[kind](settings, FIRST + int(rest), folder, progress)
        else:
            found = SEEDED[kind](settings, int(rest), progress) if rest else ONCE[kind](settings, progress)
    write_part(folder, part, found)


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All parts as labelled arrays; what has seeds has `seed`, `cell_seed` and so on in front."""
    s = settings
    found = [read_part(folder, kind) for kind in ONCE]
    for kind in (*SEEDED, *LONG):
        if count := _seeds(s, kind):
            each = [read_part(folder, f"{kind}-{seed}") for seed in range(count)]
            name = "seed" if kind == "overlay" else f"{kind}_seed"
            found.append(xr.concat(each, name, join="outer").assign_coords({name: range(count)}))
    grokked = [
        xr.concat([read_part(folder, f"grokking-{i}-{seed}") for seed in range(s.grok_seeds)], "grok_seed")
        for i in range(len(s.grok_alphas))
    ]
    found.append(xr.concat(grokked, "grok_alpha").assign_coords(grok_alpha=list(s.grok_alphas)))
    whole = xr.merge(found, combine_attrs="drop", compat="no_conflicts", join="outer")
    return side_by_side(whole, settings)
