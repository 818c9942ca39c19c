"""The random hierarchy model at several α: how many examples a network takes to see through it (Fig. 6c)."""

import math
from functools import partial

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from learndyn.dynamics import start, train
from learndyn.experiments.get_rich_quick.settings import TEST, Settings
from learndyn.names import build_model
from learndyn.observables import evaluate
from learndyn.optimizers.schedules import Schedule
from learndyn.record import Progress
from learndyn.tasks import random_hierarchy

WIDTH, HIDDEN, BATCH, MOMENTUM = 64, 3, 128, 0.9
RATE = 0.1 * WIDTH
DECAYING = 0.8  # of the epochs


class MeanField(nn.Module):
    """ReLU layers without biases, weights N(0, 1), divided by √inputs when they act; the readout by its inputs."""

    def __init__(self, inputs: int, outputs: int, alpha: float):
        super().__init__()
        sizes = (inputs, *(WIDTH,) * HIDDEN, outputs)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(n, m)) for m, n in zip(sizes, sizes[1:])])
        with torch.no_grad():
            self.weights[0] /= alpha
            self.weights[-1] *= alpha

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        *hidden, readout = self.weights
        for w in hidden:
            x = F.relu(F.linear(x, w) / math.sqrt(w.shape[1]))
        return F.linear(x, readout) / readout.shape[1]


def mean_field(input_shape: tuple[int, ...], classes: int, alpha: float = 1.0) -> MeanField:
    """The network of arXiv:2307.02129 and arXiv:2406.06158, Fig. 6c, first layer divided by α, readout multiplied."""
    return MeanField(math.prod(input_shape), classes, alpha)


def _schedule(steps: int) -> Schedule:
    """A cosine from 1 to 0 over the first 80 % of the steps; then 0."""
    last = max(1, round(DECAYING * steps))
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / last)))


def measure_tree(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Training and test accuracy over (tree_alpha, tree_size), after the last epoch."""
    found = torch.zeros(2, len(settings.tree_alphas), len(settings.tree_sizes))
    for j, size in enumerate(settings.tree_sizes):
        task = random_hierarchy(size, TEST, batch_size=min(BATCH, size), seed=seed, data_seed=seed)
        steps = math.ceil(DECAYING * settings.tree_epochs * task.steps_per_epoch)  # later ones have no rate
        for i, alpha in enumerate(settings.tree_alphas):
            model = build_model(f"{__name__}:mean_field(alpha={alpha!r})", task, seed)
            sgd = partial(torch.optim.SGD, lr=RATE, momentum=MOMENTUM)
            run = train(start(task, model, sgd, _schedule(round(steps / DECAYING))), steps)
            for k, split in enumerate(("train", "test")):
                found[k, i, j] = 1 - float(evaluate(run.state.model, task, split).error)
            progress("hierarchy", steps / 2)
    dims = ("tree_alpha", "tree_size")
    data = {"tree_train": (dims, found[0].numpy()), "tree_test": (dims, found[1].numpy())}
    return xr.Dataset(data, {"tree_alpha": list(settings.tree_alphas), "tree_size": list(settings.tree_sizes)})
