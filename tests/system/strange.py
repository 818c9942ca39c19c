"""A stranger's file: each thing in it is wrong in one way, as its name says."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from learndyn.tasks import Batch, Supervised

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(64) % 3


class Right:
    """A task of its own, with nothing wrong."""

    input_shape, classes = (6,), 3

    def batch(self, step):
        return Batch(X[:16] + 0.01 * step, Y[:16])

    def loss(self, model, batch):
        return F.cross_entropy(model(batch.inputs), batch.targets)

    def evaluation(self, split):
        return Batch(X, Y)


class Impure(Right):
    def batch(self, step):
        chosen = torch.randperm(64)[:16]
        return Batch(X[chosen], Y[chosen])


class Counting(Right):
    calls = itertools.count()

    def batch(self, step):
        return Batch(X[:16] + next(self.calls), Y[:16])


class BatchIsNone(Right):
    def batch(self, step):
        return None


class BatchOfLists(Right):
    def batch(self, step):
        return Batch([1.0, 2.0], [0, 1])


class EndsAtStep10(Right):
    batches = tuple(Batch(X[i : i + 4], Y[i : i + 4]) for i in range(10))

    def batch(self, step):
        return self.batches[step]


class LossOfEach(Right):
    def loss(self, model, batch):
        return F.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class LossIsFloat(Right):
    def loss(self, model, batch):
        return 3.0


class LossOfNothing(Right):
    def loss(self, model, batch):
        return torch.tensor(1.0)


class LossIsNaN(Right):
    def loss(self, model, batch):
        return super().loss(model, batch) * float("nan")


class NaNAtStep21(Right):
    def batch(self, step):
        return Batch(X[:16] * (float("inf") if step == 21 else 1), Y[:16])


class NoTrainingData(Right):
    def evaluation(self, split):
        if split == "train":
            raise FileNotFoundError("train.bin")
        return Batch(X, Y)


class LabelsBeyond(Right):
    def evaluation(self, split):
        return Batch(X, Y + 7)


class Unequal(Right):
    def evaluation(self, split):
        return Batch(X, Y[:10])


class NaNInputs(Right):
    def batch(self, step):
        return Batch(X[:16] * float("nan"), Y[:16])


def of_lists():
    return Supervised(([1.0, 2.0], [0, 1]), ([1.0], [0]))


def empty():
    return Supervised(Batch(X[:0], Y[:0]), Batch(X, Y))


def number():
    return 3


def nothing():
    return None


def raising():
    raise KeyError("weights")


def raising_lines():
    raise RuntimeError("first line\nsecond line\n\nthird line")


def leaving():
    raise SystemExit(0)


class Network(nn.Module):
    """A network with nothing wrong."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x)


class AssertingNothing(Network):
    def forward(self, x):
        assert len(x) == 7
        return self.layer(x)


class TwoOutputs(Network):
    def forward(self, x):
        return self.layer(x), x


class Drifting(Network):
    calls = itertools.count()

    def forward(self, x):
        return self.layer(x) * (1 + 1e-3 * next(Drifting.calls))


class NoForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)


class Frozen(Network):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


def nan_at_step_30():
    return lambda step: float("nan") if step == 30 else 1.0


def text():
    return lambda step: "fast"


def dividing_by_zero_at_step_25():
    return lambda step: 1 / (25 - step)


def of_others(parameters):
    return torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.1)
