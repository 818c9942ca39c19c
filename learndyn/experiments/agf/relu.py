"""ReLU networks on digits: few neurons make steps, many a slide."""

import math

import numpy as np
import torch
import xarray as xr

from learndyn.compare import drops
from learndyn.dynamics import vanishing_flow
from learndyn.experiments.agf.attention import seen
from learndyn.experiments.agf.settings import Settings
from learndyn.laws import staircase as law
from learndyn.neurons import Sampled, gaussian, relu, sampled
from learndyn.record import Progress
from learndyn.tasks import digits

LOOKS = 300
CLASSES = 10
PATIENCE = 0.1  # awake neurons slide along kinks for ever


def problem(settings: Settings) -> Sampled:
    """Digits, centred, on their first principal components, whitened to E|x|² = 1; labels are one-hot less 0.1."""
    x, y = digits().train
    x = x[: settings.samples].double()
    left = torch.linalg.svd(x - x.mean(0), full_matrices=False)[0][:, : settings.features]
    inputs = left * (settings.samples / settings.features) ** 0.5
    targets = torch.nn.functional.one_hot(y[: settings.samples], CLASSES).double() - 1 / CLASSES
    return sampled(relu(CLASSES), inputs, targets, settings.features + CLASSES)


def measure_relu(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Networks of every width under the general algorithm, by explicit steps: gradients jump.

    Returns:
        Over (width, relu_look): `relu_time`, `relu_loss` with `predicted_`; over (width, relu_drop): `relu_jumps` with
        `predicted_`, nan beyond the last; over (width, relu_plateau): `relu_levels` with `predicted_`; over width:
        `relu_end` with `predicted_`, the loss at the end, and `relu_own`, drops before the first neuron that is to wake
        at an acute angle to an awake one: until then each learns what no other does, digits less their mean being at
        obtuse angles.
    """
    task, most = problem(settings), max(settings.widths)
    made = []
    for width in settings.widths:
        start = gaussian(width, (settings.features, CLASSES), log_size=math.log(settings.relu_alpha), seed=seed)
        said = law.alternate(task, start, rest=1e-3, patience=PATIENCE)
        run = vanishing_flow(task, start, 1.2 * float(said.times[-1]))
        times = torch.linspace(0.8 * float(said.times[0]), float(run.times[-1]), LOOKS, dtype=torch.float64)
        times[-1] = run.times[-1]
        found = drops(run.times, run.loss, said.levels.cummin(0).values.numpy(), log=False)
        jumps, told = (np.full(most, np.nan) for _ in range(2))
        jumps[: len(found.times)], told[: len(said.times)] = found.times, said.times
        levels, wanted = (np.full(most + 1, np.nan) for _ in range(2))
        levels[: len(found.levels)], wanted[: len(said.levels)] = found.levels, said.levels
        beside = [event.time for event in said.events if event.overlap > 0]
        own = int((said.times < min(beside, default=math.inf)).sum())
        made.append(
            xr.Dataset(
                {
                    "relu_time": ("relu_look", times.numpy()),
                    "relu_loss": ("relu_look", seen(task, run, times)[1].numpy()),
                    "predicted_relu_loss": ("relu_look", said.loss(times).numpy()),
                    "relu_jumps": ("relu_drop", jumps),
                    "predicted_relu_jumps": ("relu_drop", told),
                    "relu_levels": ("relu_plateau", levels),
                    "predicted_relu_levels": ("relu_plateau", wanted),
                    "relu_own": float(own),
                    "relu_end": float(run.loss[-1]),
                    "predicted_relu_end": float(said.levels[-1]),
                }
            )
        )
        progress("ReLU", 300)
    return xr.concat(made, "width").assign_coords(width=list(settings.widths))
