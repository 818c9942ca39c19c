"""Any model and task at several α: lazy or rich, as foretold from the first weights and as it came (section 5)."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from learndyn.dynamics import start
from learndyn.errors import InputError
from learndyn.experiments.get_rich_quick.settings import Settings
from learndyn.names import build_model, build_task
from learndyn.record import Progress
from learndyn.regime import card, imbalance, learning_rate, scaled
from learndyn.tasks import Batch, Supervised, cross_entropy, half_squared_error

MOVED = ("kernel", "patterns", "parameters")
LOOKS = 12
REGIMES = ("lazy", "rich", "rapid rich", "delayed rich")


def problem(settings: Settings, seed: int) -> tuple[Supervised, Any]:
    """All examples at once in float64, and the task that they come from.

    Raises:
        InputError: If inputs are tokens and classes shall be learnt by squares of something else than one class each.
    """
    task = build_task(settings.task, seed, settings.data_dir)
    splits = []
    classes = getattr(task, "classes", 0)
    for split, count in (("train", settings.examples), ("test", None)):
        x, y = (t[:count] for t in task.evaluation(split))
        x = x.double() if x.is_floating_point() else x
        if settings.squared and not y.is_floating_point():
            if y.ndim != 1:
                raise InputError(
                    f"The targets of {settings.task} are {tuple(y.shape)}, not one class an example; set squared=False."
                )
            y = F.one_hot(y, classes or int(y.max()) + 1)
        splits.append(Batch(x, y.double() if y.is_floating_point() or settings.squared else y))
    own = getattr(task, "criterion", cross_entropy)
    criterion = half_squared_error if settings.squared else own
    train, test = splits
    outputs = classes or train.targets.shape[-1]
    shapes = SimpleNamespace(input_shape=tuple(train.inputs.shape[1:]), classes=outputs)
    return Supervised(train, test, len(train.inputs), criterion=criterion, classes=outputs), shapes


def network(settings: Settings, alpha: float, seed: int, shapes: Any, inputs: Tensor) -> tuple[nn.Module, float]:
    """The model with its readout made small and α set, and by how much α changed its function."""
    s = settings
    model = build_model(s.model, shapes, seed).double()
    some = inputs[:8]
    if s.readout != 1:
        reading = imbalance(model, some)
        if not reading.units:
            raise InputError(f"{s.model} has no hidden units in front of a readout; set readout=1.")
        names = {t.parameter for t in reading.units[-1].law.terms if bool((t.weight < 0).any())}
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in names:
                    p.mul_(s.readout)
    changed = scaled(model, alpha, some, first=s.first, last=s.last)
    return changed.model, changed.function_change


def measure_overlay(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Every α: foretold, trained with a learning rate that means the same, and measured.

    Returns:
        Over (alpha, overlay_step): `kernel`, `patterns`, `parameters`, `overlay_loss`; over alpha: their ends `*_end`
        with `predicted_`, `regime` and `predicted_regime` (numbers in `REGIMES`), `rho`,
        `overlay_rate`, `function_change`, `early`, `audit`.
    """
    task, shapes = problem(settings, seed)
    rows = []
    for alpha in settings.alphas:
        model, change = network(settings, alpha, seed, shapes, task.train.inputs)
        criterion = task.criterion
        rate = learning_rate(model, *task.train, criterion, settings.sharpness)
        state = start(task, model, partial(torch.optim.SGD, lr=rate))
        found = card(state, settings.steps, min(settings.samples, len(task.train.inputs)), LOOKS)
        progress("your model", settings.steps)
        curves = found.curves
        data: dict[str, Any] = {name: ("overlay_step", curves[name].values) for name in MOVED}
        data["overlay_loss"] = ("overlay_step", curves.loss.values)
        for name in MOVED:
            data[f"{name}_end"] = getattr(found.movement, name)
            data[f"predicted_{name}_end"] = getattr(found.foresight.linearised, name)
        data |= {
            "regime": REGIMES.index(found.regime),
            "predicted_regime": REGIMES.index(found.foresight.regime),
            "rho": found.foresight.rho,
            "overlay_rate": rate,
            "function_change": change,
            "early": found.early,
            "audit": found.audit,
            "overlay_misfit": found.foresight.misfit,
        }
        rows.append(xr.Dataset(data, {"overlay_step": curves.step.values}))
    made = xr.concat(rows, "alpha")
    return made.assign_coords(alpha=np.array(settings.alphas))
