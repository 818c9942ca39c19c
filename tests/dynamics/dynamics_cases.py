"""Small tasks, networks and states that the tests of this folder share."""

from functools import cache, partial

import torch
from torch import nn

from learndyn import models, tasks
from learndyn.dynamics import start, trainable, vector
from learndyn.optimizers.schedules import constant

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
DECAYED = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
NESTEROV = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)
ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


@cache
def digits(dtype=torch.float64, **options):
    return tasks.place(tasks.digits(**options), "cpu", dtype)


@cache
def teacher(dtype=torch.float64, **options):
    """Six inputs, three classes; steps of well under a millisecond."""
    wanted = {"examples": 200, "test_examples": 60, "inputs": 6, "classes": 3, "label_noise": 0.2, "batch_size": 16}
    return tasks.place(tasks.teacher(**wanted | options), "cpu", dtype)


def seeded(seed, make):
    """What `make` builds after torch's generator was seeded; the generator is afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def digits_mlp(activation="gelu", seed=0, optimizer=SGD, schedule=constant, task=None, **options):
    """An MLP on digits with 20 % label noise in float64: the setting of the sheet's checks 4 to 6."""
    task = task or digits(label_noise=0.2)
    model = seeded(seed, lambda: models.mlp((64,), 10, activation=activation, **options)).double()
    return start(task, model, optimizer, schedule)


def teacher_mlp(seed=0, width=8, dtype=torch.float64, optimizer=DECAYED, schedule=constant, task=None, dropout=0.0):
    """6 -> width (batch norm, GELU, perhaps dropout) -> 3 on the teacher.

    No bias before the batch norm: its gradient is zero but for rounding, which Adam divides by eps = 1e-8.
    """
    task = task or teacher(dtype)
    model = seeded(
        seed,
        lambda: nn.Sequential(
            nn.Linear(6, width, bias=False), nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 3)
        ),
    ).to(dtype)
    return start(task, model, optimizer, schedule)


def small_cnn(seed=0, dtype=torch.float32, optimizer=SGD, schedule=constant, task=None, dropout=0.0):
    """Two convolutions with batch norm, ReLU and max-pooling, perhaps dropout, on digits shifted by up to a pixel."""
    task = task or digits(dtype, image=True, shift=1, batch_size=32)
    model = seeded(
        seed,
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, 10)),
        ),
    ).to(dtype)
    return start(task, model, optimizer, schedule)


def distance(a, b):
    return (vector(a.model) - vector(b.model)).norm().item()


def along(state, direction):
    """A flat vector as tensors by parameter name, for `displace`."""
    parameters = trainable(state.model)
    pieces = direction.double().split([p.numel() for p in parameters.values()])
    return {name: piece.view(p.shape) for (name, p), piece in zip(parameters.items(), pieces)}


def assert_same(a, b):
    """Two states agree in every bit: step, time, parameters, buffers, optimizer."""
    assert (a.step, a.time) == (b.step, b.time)
    first, second = a.model.state_dict(), b.model.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    first, second = a.optimizer.state_dict(), b.optimizer.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert first["state"].keys() == second["state"].keys()
    for index, held in first["state"].items():
        assert held.keys() == second["state"][index].keys()
        for name, value in held.items():
            other = second["state"][index][name]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, (index, name)
