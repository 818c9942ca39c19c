"""Two-layer ReLU networks against a teacher: cells of the grid at full size, a map over (τ, δ), and two inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.dynamics.grid import Grid, Nets, advance_grid, grid, grid_outputs
from learndyn.dynamics.grid_measures import grid_metrics
from learndyn.experiments.get_rich_quick.settings import Settings
from learndyn.record import Progress
from learndyn.storage import load_tree, save_tree
from learndyn.tasks import Batch, Supervised, mean_squared_error, relu_teacher, xor

CELLS = ((0.1, 1.0), (0.1, 0.0), (0.1, -0.25), (0.1, -1.0), (1.0, 0.0))
PLANE = ((0.1, 0.0), (2.0, 0.0), (0.1, 0.9999), (0.1, -0.9999))  # Fig. 1a
PLANE_SEED, PLANE_RATE = 15, 2e-3
XOR = ((0.1, 0.25), (0.1, 0.0), (0.1, -0.25), (1.5, 0.0))
XOR_RATE, XOR_WIDTH, XOR_EXAMPLES = 5e-3, 16, 100
METRICS = (
    "kernel_distance", "kernel_distance_weights", "kernel_distance_patterns", "hamming", "hamming_fraction",
    "distance", "relative_distance", "train_loss", "test_loss", "delta_drift",
)  # fmt: skip
PIECE, BUDGET = 50, 4e9  # steps at least between two files; multiplications between two
KERNELS = 500  # examples of which tangent kernels are taken


def measure_cells(settings: Settings, seed: int, folder: Path, progress: Progress) -> xr.Dataset:
    """The grid of Fig. 1b at full size, a few cells of it: metrics over (cell, cell_step)."""
    tau, delta = zip(*CELLS)
    at = grid(tau, delta, (seed,))
    looks = _looks(settings.cell_steps)
    values = _followed(at, looks, folder / "states" / f"cells-{seed}.safetensors", progress)
    data = {f"cell_{name}": (("cell", "cell_step"), values[name]) for name in METRICS}
    return xr.Dataset(data, {"cell": [_name(*c) for c in CELLS], "cell_step": looks})


def measure_map(settings: Settings, seed: int, folder: Path, progress: Progress) -> xr.Dataset:
    """The whole grid, smaller: metrics over (tau, map_delta, map_step)."""
    s = settings
    pairs = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in (s.taus, s.map_deltas)))
    task = relu_teacher(s.map_examples, 2000, s.inputs, dtype="float64", data_seed=seed)
    at = grid(pairs[:, 0], pairs[:, 1], (seed,), [task], s.width)
    looks = _looks(s.map_steps)
    values = _followed(at, looks, folder / "states" / f"map-{seed}.safetensors", progress)
    shape = len(s.taus), len(s.map_deltas), len(looks)
    data = {f"map_{n}": (("tau", "map_delta", "map_step"), values[n].reshape(shape)) for n in METRICS}
    return xr.Dataset(data, {"tau": list(s.taus), "map_delta": list(s.map_deltas), "map_step": looks})


def _looks(steps: int) -> list[int]:
    """1, 3, 10, 30, 100, ... and the last."""
    factors = [m * 10**k for k in range(9) for m in (1, 3)]
    return sorted({*(n for n in factors if n < steps), steps})


def _followed(at: Grid, looks: list[int], kept: Path, progress: Progress) -> dict[str, np.ndarray]:
    """All metrics at the looks, `(cells, looks)`; goes on from what a killed process has left."""
    step, nets, rows = 0, at.start, []
    if kept.exists():
        tree = load_tree(kept, ("step", "first", "last", "rows"))
        step, nets, rows = tree["step"], Nets(tree["first"], tree["last"]), tree["rows"]
    cost = at.start.first[0].numel() * at.inputs.shape[1]
    piece = max(PIECE, int(BUDGET / cost))
    while len(rows) < len(looks):
        then = min(looks[len(rows)], step + piece)
        progress("grids", (then - step) * cost / 2e7)
        nets, step = advance_grid(at, nets, step, then)
        if step == looks[len(rows)]:
            found = grid_metrics(at, nets, KERNELS)
            rows.append({name: found[name][0] for name in METRICS})
        if step >= piece:
            save_tree(kept, {"step": step, "first": nets.first, "last": nets.last, "rows": rows})
    kept.unlink(missing_ok=True)
    return {name: torch.stack([row[name] for row in rows], 1).numpy() for name in METRICS}


def measure_plane(settings: Settings, progress: Progress) -> xr.Dataset:
    """Fig. 1a: students of a teacher with two inputs, and what becomes of |a_k| w_k.

    Returns:
        Over (plane, plane_step, unit, axis): `plane_path`; over (plane, plane_step): `plane_loss`; over (neuron, axis):
        `plane_teacher`, signed directions by the largest slope of the targets.
    """
    task = relu_teacher(20, 500, 2, dtype="float64", data_seed=PLANE_SEED)
    tau, delta = zip(*PLANE)
    at = grid(tau, delta, (PLANE_SEED,), [task], lr=PLANE_RATE)
    looks = _even(settings.plane_steps, 60)
    paths, losses = _watched(at, looks, lambda nets: nets.last[0].abs()[..., None] * nets.first[0], progress)
    made: dict[str, Any] = {
        "plane_path": (("plane_step", "plane", "unit", "axis"), paths),
        "plane_loss": (("plane_step", "plane"), losses),
        "plane_sign": (("plane", "unit"), at.start.last[0].sign().numpy()),
        "plane_inputs": (("plane_example", "axis"), at.inputs[0].numpy()),
    }
    return xr.Dataset(made, {"plane": [_name(*p) for p in PLANE], "plane_step": looks}).transpose("plane", ...)


def measure_xor(settings: Settings, progress: Progress) -> xr.Dataset:
    """Fig. 5a: exclusive or, with a constant third input, and the lines on which units change sides.

    Returns:
        Over (case, xor_step): `xor_loss`, `xor_flipped`, the share of units and examples that have changed sides,
        `xor_turned`, the mean angle in radians; over (case, when, line, weight): `xor_first` at the beginning and end.
    """
    task = xor(XOR_EXAMPLES, spread=0.25, signs=True)
    splits = []
    for split in ("train", "test"):
        x, y = task.evaluation(split)
        splits.append(Batch(torch.cat([x, torch.ones(len(x), 1)], 1).double(), y.double()))
    tau, delta = zip(*XOR)
    data = Supervised(splits[0], splits[1], XOR_EXAMPLES, criterion=mean_squared_error, classes=1)
    at = grid(tau, delta, (0,), [data], XOR_WIDTH, lr=XOR_RATE)
    looks = _even(settings.xor_steps, 60)
    paths, losses = _watched(at, looks, lambda nets: nets.first[0], progress)
    w = torch.from_numpy(paths)  # (look, case, unit, 3)
    sides = w @ splits[0].inputs.T > 0
    unit = w / w.norm(dim=-1, keepdim=True)
    turned = (unit * unit[0]).sum(-1).clamp(-1, 1).arccos().mean(-1)
    made: dict[str, Any] = {
        "xor_loss": (("xor_step", "case"), losses),
        "xor_flipped": (("xor_step", "case"), (sides != sides[0]).double().mean((-2, -1)).numpy()),
        "xor_turned": (("xor_step", "case"), turned.numpy()),
        "xor_first": (("when", "case", "line", "weight"), paths[[0, -1]]),
        "xor_inputs": (("xor_example", "axis"), splits[0].inputs[:, :2].numpy()),
        "xor_target": ("xor_example", splits[0].targets[:, 0].numpy()),
    }
    return xr.Dataset(made, {"case": [_name(*c) for c in XOR], "xor_step": looks})


def _name(tau: float, delta: float) -> str:
    return f"τ = {tau:g}, δ = {delta:+.2g}" if delta else f"τ = {tau:g}, δ = 0"


def _even(steps: int, count: int) -> list[int]:
    """From 0 to the last, evenly in the logarithm."""
    return sorted({0, *np.geomspace(1, steps, count).round().astype(int).tolist()})


def _watched(
    at: Grid, looks: list[int], see: Callable[[Nets], Tensor], progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """What is seen of all cells at the looks, and their training losses."""
    nets, step, seen, losses = at.start, 0, [], []
    for then in looks:
        nets, step = advance_grid(at, nets, step, then)
        seen.append(see(nets).numpy().copy())
        losses.append((grid_outputs(nets, at.inputs)[0] - at.targets).square().mean(-1).numpy())
    progress("in the plane", 200)
    return np.stack(seen), np.stack(losses)
