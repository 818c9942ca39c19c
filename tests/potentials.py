"""Dynamics of a single weight, whose answers are known."""

from functools import partial

import torch
from torch import nn

from learndyn.dynamics import start
from learndyn.tasks import Batch


class Number(nn.Module):
    """A single weight θ, and no inputs worth the name."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def forward(self, inputs):
        return self.value


class Potential:
    """A loss that is a function of the weight alone, the same at every step."""

    def __init__(self, function):
        self.function = function

    def batch(self, step):
        return Batch(torch.zeros(1), torch.zeros(1))

    def loss(self, model, batch):
        return self.function(model(batch.inputs)).sum()

    def evaluation(self, split):
        return self.batch(0)


def logistic(r, value):
    """θ → r θ (1 − θ), as gradient descent with lr 1."""
    task = Potential(lambda x: r * x**3 / 3 + (1 - r) * x**2 / 2)
    return start(task, Number(value), partial(torch.optim.SGD, lr=1.0))
