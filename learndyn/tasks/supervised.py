"""What is to be learnt: examples, loss, and the batch of every step as a pure function of (seed, step)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.noise import generator


class Batch(NamedTuple):
    """Inputs and targets of the same length."""

    inputs: Tensor
    targets: Tensor


@runtime_checkable
class Task(Protocol):
    """The three methods that every experiment needs; write your own, or fill in a `Supervised`.

    `batch(step)` must depend on nothing but the task's seed and the step. `loss(model, batch)` calls `model` once on
    the inputs and returns the mean loss as a scalar; `model` is any callable with a module's behaviour.
    `evaluation(split)` gives all examples of "train" (without augmentation) or "test". Outputs have the classes in
    their last dimension.
    """

    def batch(self, step: int) -> Batch:  # noqa: D102
        ...

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:  # noqa: D102
        ...

    def evaluation(self, split: str) -> Batch:  # noqa: D102
        ...


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats; classes last, any number of leading dimensions; targets of -100 are left out."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=-100)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of (f − y)² over examples and outputs, without ½.

    Raises:
        InputError: If the shapes differ.
    """
    return _differences(outputs, targets).square().mean()


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over examples of ½|y − f|²: summed over outputs, and with the ½ that the laws of gradient flow have.

    Raises:
        InputError: If the shapes differ.
    """
    return _differences(outputs, targets).square().sum(-1).mean() / 2


def _differences(outputs: Tensor, targets: Tensor) -> Tensor:
    """Broadcast against each other, n outputs and n targets would make n² errors."""
    if outputs.shape != targets.shape:
        raise InputError(
            f"Outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}; "
            "build the model with as many outputs as a target has numbers."
        )
    return outputs - targets


@lru_cache(maxsize=4)
def _order(seed: int, examples: int, epoch: int) -> np.ndarray:
    return generator(seed, "order", epoch).permutation(examples)


@dataclass(frozen=True, eq=False)
class Supervised:
    """A task made of tensors.

    Attributes:
        train: Training examples, inputs `(n, ...)` and targets `(n, ...)`.
        test: Held-out examples.
        batch_size: Examples per step. Every epoch is a fresh permutation; the last, partial batch is dropped unless
            `keep_last`.
        seed: Decides the order of examples and the augmentation, nothing else.
        criterion: (outputs, targets) -> scalar mean loss.
        augment: (inputs, NumPy generator) -> inputs, applied to training batches only.
        keep_last: Train on the partial batch at the end of an epoch, too.
        classes: Number of classes, for models that are built to fit, or numbers in a target of a regression; 0 where
            neither has a meaning.

    Raises:
        InputError: If inputs and targets differ in length, a split is empty, or a batch is larger than the training
            set.
    """

    train: Batch
    test: Batch
    batch_size: int = 64
    seed: int = 0
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    augment: Callable[[Tensor, np.random.Generator], Tensor] | None = None
    keep_last: bool = False
    classes: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            inputs, targets = getattr(self, name)
            if len(inputs) != len(targets):
                raise InputError(
                    f"The {name} split has {len(inputs)} inputs but {len(targets)} targets; give one target each."
                )
            if len(inputs) == 0:
                raise InputError(f"The {name} split is empty; give at least one example.")
        if not 1 <= self.batch_size <= len(self.train.inputs):
            raise InputError(
                f"batch_size={self.batch_size} must lie between 1 and the {len(self.train.inputs)} training examples."
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def steps_per_epoch(self) -> int:
        """Batches that one permutation of the training set gives."""
        examples = len(self.train.inputs)
        return -(-examples // self.batch_size) if self.keep_last else examples // self.batch_size

    def batch(self, step: int) -> Batch:
        """The training batch of `step`, the same whenever and wherever it is asked for."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, len(self.train.inputs), epoch)
        chosen = torch.from_numpy(order[position * self.batch_size : (position + 1) * self.batch_size])
        chosen = chosen.to(self.train.inputs.device)
        inputs = self.train.inputs.index_select(0, chosen)
        if self.augment is not None:
            inputs = self.augment(inputs, generator(self.seed, "augment", step))
        return Batch(inputs, self.train.targets.index_select(0, chosen))

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Mean loss of the model on a batch, a scalar."""
        return self.criterion(model(batch.inputs), batch.targets)

    def evaluation(self, split: str) -> Batch:
        """All examples of a split, without augmentation."""
        if split not in ("train", "test"):
            raise InputError(f"There is no split {split!r}; ask for 'train' or 'test'.")
        return self.train if split == "train" else self.test

    def reseed(self, seed: int) -> "Supervised":
        """The same data in another order and with other augmentation: another tape of gradient noise."""
        return dataclasses.replace(self, seed=seed)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Supervised":
        """The same task with its data on `device`, floating inputs and targets as `dtype`."""
        train, test = (
            Batch(*(t.to(device, dtype if t.is_floating_point() else None) for t in split))
            for split in (self.train, self.test)
        )
        return dataclasses.replace(self, train=train, test=test)


@dataclass(frozen=True, eq=False)
class Placed:
    """Somebody's task, its batches moved to a device and floating tensors cast to a precision."""

    task: Task
    device: torch.device
    dtype: torch.dtype

    def _move(self, batch: Batch) -> Batch:
        return Batch(*(t.to(self.device, self.dtype if t.is_floating_point() else None) for t in batch))

    def batch(self, step: int) -> Batch:
        """The task's batch of `step`."""
        return self._move(self.task.batch(step))

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """The task's loss."""
        return self.task.loss(model, batch)

    def evaluation(self, split: str) -> Batch:
        """The task's examples of a split."""
        return self._move(self.task.evaluation(split))

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "task":
            raise AttributeError(name)
        found = getattr(self.task, name)
        return (lambda seed: dataclasses.replace(self, task=found(seed))) if name == "reseed" else found


def place(task: Task, device: torch.device | str, dtype: torch.dtype) -> Task:
    """A task whose batches come on `device`, floating tensors as `dtype`."""
    if isinstance(task, Supervised):
        return task.to(device, dtype)
    return Placed(task, torch.device(device), dtype)
