"""A run of one's own that sits on a plateau: when does the loss drop, and what is learnt next?

learndyn plateau examples/plateau.py:run
learndyn plateau "examples/plateau.py:run(trained=120)" --json
"""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn

from learndyn.dynamics import State, start, train
from learndyn.tasks import Batch, Supervised
from learndyn.tasks.supervised import mean_squared_error


def data() -> Supervised:
    """Handwritten digits, centred, to one-hot targets."""
    digits = load_digits()
    inputs = torch.tensor(digits.data / 16, dtype=torch.float32)
    inputs, targets = inputs - inputs.mean(0), torch.eye(10)[digits.target] - 0.1
    return Supervised(
        Batch(inputs[:500], targets[:500]), Batch(inputs[500:], targets[500:]), 100, criterion=mean_squared_error
    )


def run(trained: int = 60, lr: float = 0.1, hidden: int = 16) -> State:
    """A ReLU network from a small start, after some steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-3)
    return train(start(data(), model, functools.partial(torch.optim.SGD, lr=lr)), trained).state
