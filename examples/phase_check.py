"""A run of one's own, in the middle of its training: is it chaotic, and from where on can branches be merged?

learndyn phase-check examples/phase_check.py:run
learndyn phase-check "examples/phase_check.py:run(lr=0.02)" --step 300 --window 60
learndyn phase-check examples/phase_check.py:run --weights checkpoint.pt --step 300
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from learndyn.dynamics import State, start, train
from learndyn.optimizers.schedules import cosine
from learndyn.tasks import Batch, Supervised

STEPS = 600  # of the whole run


class Net(nn.Module):
    """Two hidden layers with batch norm."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()),
            nn.Linear(width, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def data() -> Supervised:
    """Handwritten digits of 8 x 8 pixels, in batches of 64."""
    digits = load_digits()
    inputs, targets = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    return Supervised(Batch(inputs[:1500], targets[:1500]), Batch(inputs[1500:], targets[1500:]), batch_size=64)


def run(lr: float = 0.5, width: int = 64, trained: int = 100) -> State:
    """The run after some steps of training. Where there is a checkpoint, load both of its parts here instead:
    model.load_state_dict(...) and optimizer.load_state_dict(...), and give its step: replace(state, step=...).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return train(start(data(), model, optimizer, cosine(STEPS)), trained).state
