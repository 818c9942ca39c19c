"""From checkpoints to kernels on disk, and from those to labelled arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.observables import KernelSeries, kernel_series
from learndyn.observables.cone import normalised
from learndyn.observables.evaluate import looking
from learndyn.tasks import Task

GROUPS = 8  # of probe inputs, left out in turn to see how much hangs on them
OUTPUTS = 64  # of a network, above which its kernel is that of their sum: the others take a backward pass for each


def probe_inputs(task: Task, count: int) -> tuple[Tensor, Tensor]:
    """A fixed random subset of the training set, with its targets.

    Raises:
        InputError: If there are fewer than two examples.
    """
    batch = task.evaluation("train")
    total = len(batch.inputs)
    if total < 2:
        raise InputError(f"The training set has {total} examples; a kernel takes at least two.")
    chosen = generator(0, "probe inputs").permutation(total)[:count]
    where = torch.from_numpy(np.sort(chosen)).to(batch.inputs.device)
    return batch.inputs[where], batch.targets[where]


def add_kernel(
    model: nn.Module, step: int, probe: tuple[Tensor, Tensor], folder: Path, reductions: Sequence[str]
) -> None:
    """Store the kernels of a network at a step, unless they are there, with their layers' shares."""
    inputs, targets = probe
    with looking(model, inputs.device):
        width = model(inputs[:1]).numel()
    labels = targets if targets.dim() == 1 or targets.is_floating_point() else None
    kernel_series(
        lambda _: model, [step], inputs, folder, labels, reductions if width <= OUTPUTS else ("sum",), layers=True
    )


def read_series(folder: Path, reductions: Sequence[str]) -> dict[str, KernelSeries]:
    """The kernels that `add_kernel` has stored, by reduction."""
    found = {name: KernelSeries(folder / name) for name in (*reductions, "sum")}
    return {name: series for name, series in found.items() if series.steps}


def dataset(runs: Sequence[dict[str, KernelSeries]]) -> xr.Dataset:
    """What was measured of some runs, seeds first.

    Returns:
        `kernel_cosine` (seed, reduction, kernel_step, other_step); `kernel_norm`, `kernel_trace`, `kernel_alignment`
        and `kernel_residual` of each kernel; and for the first reduction `layer_cosine` by layer and `cosine_without`
        each group of probe inputs.

    Raises:
        InputError: If the runs have no three steps in common.
    """
    every = [series for run in runs for series in run.values()]
    steps = sorted(set.intersection(*(set(series.steps) for series in every)))
    if len(steps) < 3:
        raise InputError(f"The runs have {len(steps)} kernels at the same steps; a cone takes at least three.")

    def kept(series: KernelSeries) -> list[int]:
        return [series.steps.index(step) for step in steps]

    def cosines(series: KernelSeries, layer: str = "", without: Tensor | None = None) -> np.ndarray:
        where = kept(series)
        try:
            return normalised(series.gram(layer, without)[where][:, where]).numpy()
        except InputError:
            if not layer:
                raise
            return np.full((len(steps), len(steps)), np.nan)  # a layer that nothing reaches has no direction

    firsts = [next(iter(run.values())) for run in runs]
    reductions, layers, groups = list(runs[0]), firsts[0].layers, _groups(firsts[0])
    pair = ("kernel_step", "other_step")

    def stacked(rows: list[list[np.ndarray]]) -> np.ndarray:
        return np.array(rows).reshape(len(runs), -1, len(steps), len(steps))

    numbers = {
        f"kernel_{what}": (
            ("seed", "reduction", "kernel_step"),
            np.array([[s.numbers(what).numpy()[kept(s)] for s in run.values()] for run in runs]),
        )
        for what in ("norm", "trace", "alignment", "residual")
    }
    matrices = {
        "kernel_cosine": (("seed", "reduction", *pair), stacked([[cosines(s) for s in run.values()] for run in runs])),
        "layer_cosine": (("seed", "layer", *pair), stacked([[cosines(s, name) for name in layers] for s in firsts])),
        "cosine_without": (("seed", "group", *pair), stacked([[cosines(s, "", g) for g in groups] for s in firsts])),
    }
    coordinates = {
        "seed": list(range(len(runs))),
        "reduction": reductions,
        "layer": layers,
        "group": list(range(len(groups))),
        "kernel_step": ("kernel_step", steps, {"units": "step"}),
        "other_step": ("other_step", steps, {"units": "step"}),
    }
    return xr.Dataset({**numbers, **matrices}, coordinates, {"inputs": firsts[0].inputs})


def _groups(series: KernelSeries) -> list[Tensor]:
    count = min(GROUPS, series.inputs // 2)
    return list(torch.arange(series.inputs).tensor_split(count)) if count > 1 else []


def note_network(found: xr.Dataset, model: nn.Module) -> xr.Dataset:
    """The same with what the words of the report ask of the network."""
    batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return found.assign_attrs(batch_norm=int(batch_norm))
