"""How large a learning rate hidden weights take, with and without normalisation."""

from typing import Any

import numpy as np
import torch
import xarray as xr

from learndyn.dynamics import start, train
from learndyn.experiments.noether_dynamics.settings import Settings
from learndyn.names import build_model, build_task
from learndyn.observables import evaluate
from learndyn.record import Progress
from learndyn.tasks import place

OTHERS = 0.05  # learning rate of all other parameters
DECAY = 1e-3
LAST = 50  # steps whose mean loss counts


def measure_robustness(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Train both networks in float32 by SGD at every rate of their hidden weights.

    Returns:
        `final_loss` (mean of the last steps; inf where it diverged), `final_error` on the test set and `norm_factor`,
        the median over rows of hidden weights of |w|² at the end over the start, by (network, rate).
    """
    networks = {"normalised": settings.normalised, "unnormalised": settings.unnormalised}
    shape = len(networks), len(settings.rates)
    loss, error, factor = (np.full(shape, np.nan) for _ in range(3))
    task = place(build_task(settings.task, seed, settings.data_dir), settings.device, torch.float32)
    for i, text in enumerate(networks.values()):
        for j, rate in enumerate(settings.rates):
            model = build_model(text, task, seed).to(settings.device)
            hidden = [p for p in model.parameters() if p.ndim > 1][:-1]
            others = [p for p in model.parameters() if all(p is not w for w in hidden)]
            groups: list[dict[str, Any]] = [{"params": hidden, "lr": rate}, {"params": others}]
            optimizer = torch.optim.SGD(groups, OTHERS, weight_decay=DECAY)
            before = _norms(hidden)
            run = train(start(task, model, optimizer), settings.sweep_steps)
            loss[i, j] = float(run.loss[-LAST:].double().mean()) if run.diverged is None else np.inf
            error[i, j] = float(evaluate(model, task, "test").error)
            factor[i, j] = float((_norms(hidden) / before).median())
            progress("learning rates", settings.sweep_steps)
    names = ("network", "rate")
    data = {"final_loss": (names, loss), "final_error": (names, error), "norm_factor": (names, factor)}
    return xr.Dataset(data, {"network": list(networks), "rate": list(settings.rates)})


def _norms(weights: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([w.detach().double().flatten(1).square().sum(1) for w in weights])
