"""First filters of a small convolutional network on oriented gratings, divided by α (Fig. 6b)."""

from functools import partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from learndyn.dynamics import start, train
from learndyn.experiments.get_rich_quick.settings import Settings
from learndyn.names import build_model
from learndyn.observables import evaluate, smoothness
from learndyn.record import Progress
from learndyn.tasks import gratings

SIZE, FILTERS, RATE, MOMENTUM = 15, 12, 0.05, 0.9
PRINTED = 2.0  # centre of the Laplacian as the paper prints it; 3 sums to zero


class FilterNet(nn.Module):
    """Large filters, normalised, pooled; a convolution, the mean over the image, a readout."""

    def __init__(self, channels: int, classes: int, alpha: float):
        super().__init__()
        self.first = nn.Conv2d(channels, FILTERS, SIZE, padding=SIZE // 2, bias=False)
        self.norm = nn.BatchNorm2d(FILTERS)
        self.second = nn.Conv2d(FILTERS, 16, 3)
        self.last = nn.Linear(16, classes)
        with torch.no_grad():
            self.first.weight /= alpha

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = nn.functional.max_pool2d(nn.functional.relu(self.norm(self.first(x))), 4)
        return self.last(nn.functional.relu(self.second(x)).mean((-2, -1)))


def filter_net(input_shape: tuple[int, ...], classes: int, alpha: float = 1.0) -> FilterNet:
    """The network; its first filters are in front of a norm, so that α is a learning rate of theirs, ∝ α²."""
    return FilterNet(input_shape[0], classes, alpha)


def measure_filters(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Over filter_alpha: filters `(filter, row, column)` before and after, their roughness, and the test accuracy."""
    s, rows = settings, []
    task = gratings(seed=seed, data_seed=seed)
    steps = s.filter_epochs * task.steps_per_epoch
    for alpha in s.filter_alphas:
        model = build_model(f"{__name__}:filter_net(alpha={alpha!r})", task, seed)
        before = smoothness(model.get_parameter("first.weight"), PRINTED).mean()
        run = train(start(task, model, partial(torch.optim.SGD, lr=RATE, momentum=MOMENTUM)), steps)
        progress("filters", steps * 20)
        w = run.state.model.get_parameter("first.weight").detach()
        data: dict[str, Any] = {
            "roughness": ("filter", smoothness(w, PRINTED).numpy()),
            "roughness_first": float(before),
            "filter_accuracy": 1 - float(evaluate(run.state.model, task, "test").error),
            "filter_weights": (("filter", "row", "column"), w[:, 0].numpy()),
        }
        rows.append(xr.Dataset(data))
    return xr.concat(rows, "filter_alpha").assign_coords(filter_alpha=list(s.filter_alphas))
