"""A network between two steps, and its copies."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learndyn.errors import InputError
from learndyn.optimizers.schedules import Schedule, constant
from learndyn.tasks import Task


@dataclass(frozen=True)
class State:
    """All that an observable may look at, and all that the next step depends on.

    Attributes:
        step: Updates done so far.
        time: Gradient-flow time, the sum of the learning rates used so far (of the first parameter group).
        model: The network, on its device and in its precision.
        optimizer: Bound to the model's parameters.
        task: What is learnt; `task.batch(step)` is the noise of the next step.
        schedule: Factor on every group's initial learning rate, as a function of the step.
    """

    step: int
    time: float
    model: nn.Module
    optimizer: Optimizer
    task: Task
    schedule: Schedule = constant

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the first parameter."""
        return next(self.model.parameters()).dtype

    @property
    def seed(self) -> int:
        """The tape seed of the task; 0 where a task has none."""
        return int(getattr(self.task, "seed", 0))

    def lr(self, group: int = 0) -> float:
        """Learning rate that the next step will use."""
        return self.optimizer.param_groups[group]["initial_lr"] * self.schedule(self.step)


@dataclass(frozen=True)
class ForeignState(State):
    """A state of somebody else's training: perhaps without a task or an optimizer, or with one that is none of torch's.

    What an observable needs of it must be there.
    """

    optimizer: Any
    task: Any


def start(
    task: Task,
    model: nn.Module,
    optimizer: Callable[[Iterator[nn.Parameter]], Optimizer] | Optimizer,
    schedule: Schedule = constant,
) -> State:
    """The state before the first step.

    Args:
        task: What is to be learnt.
        model: Any module with at least one trainable parameter.
        optimizer: An optimizer of the model's parameters, or what makes one from them, such as
            `functools.partial(torch.optim.SGD, lr=0.1)`.
        schedule: Factor on the optimizer's learning rates as a function of the step.

    Raises:
        InputError: If nothing can be trained, or the optimizer holds none of the model's parameters.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError(
            f"{type(model).__name__} has no trainable parameter; give a module whose parameters require gradients."
        )
    if not isinstance(optimizer, Optimizer):
        optimizer = optimizer(iter(trained))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in trained}:
        raise InputError("The optimizer holds none of the model's parameters; make it from model.parameters().")
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", float(group["lr"]))
    return State(0, 0.0, model, optimizer, task, schedule)


def fork(state: State) -> State:
    """A copy that shares nothing but the task, hence sees the same noise from here on."""
    model, optimizer = copy.deepcopy((state.model, state.optimizer))
    return State(state.step, state.time, model, optimizer, state.task, state.schedule)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters by name, shared ones once: the coordinates θ that distances are measured in."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def vector(model: nn.Module) -> Tensor:
    """All trainable parameters as one float64 vector `(P,)`, detached."""
    return torch.cat([p.detach().flatten().double() for p in trainable(model).values()])
