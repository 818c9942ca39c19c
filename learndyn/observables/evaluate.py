"""Looking at a network without touching it: outputs, loss and error on a split."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.dynamics.state import State
from learndyn.noise import isolated
from learndyn.tasks import Batch, Task

CHUNK = 256  # examples in one forward pass: activations stay in cache, which is worth a factor of 1.4 to 3 on a CPU


@dataclass(frozen=True)
class Evaluation:
    """What a network does with the examples of a split.

    Attributes:
        loss: Mean loss, float64 scalar.
        outputs: Logits `(n, ..., classes)`, as the network gave them.
        targets: The task's targets `(n, ...)`.
    """

    loss: Tensor
    outputs: Tensor
    targets: Tensor

    @property
    def error(self) -> Tensor:
        """Fraction of wrong decisions, float64 scalar; nan where the targets are no class labels."""
        if self.targets.is_floating_point() or self.targets.shape != self.outputs.shape[:-1]:
            return torch.tensor(torch.nan, dtype=torch.float64)
        counted = self.targets >= 0
        return (decisions(self.outputs) != self.targets)[counted].double().mean()


def decisions(outputs: Tensor) -> Tensor:
    """The class that each output stands for: the largest of the last dimension, or the sign where that has length 1."""
    return outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs[..., 0] > 0).long()


@contextmanager
def looking(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; module modes and random state are afterwards what they were."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), isolated(device):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(model: nn.Module, task: Task, split: str) -> Evaluation:
    """Run a network in evaluation mode over a split; the task calls the model, we listen."""
    batch = task.evaluation(split)
    heard: list[Tensor] = []
    total, device = torch.zeros((), dtype=torch.float64), next(model.parameters()).device

    def listening(*inputs: Tensor, **options: Tensor) -> Tensor:
        heard.append(model(*inputs, **options))
        return heard[-1]

    with looking(model, device):
        for chunk in chunks(batch):
            total = total + task.loss(listening, chunk).double().cpu() * (len(chunk.inputs) / len(batch.inputs))
    return Evaluation(total, torch.cat(heard), batch.targets)


def chunks(batch: Batch) -> Iterator[Batch]:
    """The examples in pieces of even size: batch norm could not be calibrated on a last one of a single example."""
    total = len(batch.inputs)
    count = -(-total // CHUNK)
    for i in range(count):
        piece = slice(total * i // count, total * (i + 1) // count)
        yield Batch(batch.inputs[piece], batch.targets[piece])


def loss(state: State, split: str = "test") -> Float[Tensor, ""]:
    """Mean loss on a split, in evaluation mode."""
    return evaluate(state.model, state.task, split).loss


def error(state: State, split: str = "test") -> Float[Tensor, ""]:
    """Fraction of a split that is classified wrongly, in evaluation mode."""
    return evaluate(state.model, state.task, split).error


def scratch(model: nn.Module) -> nn.Module:
    """A copy to play with, without gradients."""
    return copy.deepcopy(model).requires_grad_(False)
