"""States on disk, by step."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from learndyn.dynamics.state import State, fork
from learndyn.errors import InputError
from learndyn.storage import ByStep, load_tree, read_weights, save_tree, wrapping

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
BESIDE = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")  # what trainers put beside the weights


def pack(state: State) -> dict[str, Any]:
    """Everything of a state that is not code: step, time, parameters, buffers, optimizer."""
    return {
        "step": state.step,
        "time": state.time,
        "model": dict(state.model.state_dict()),
        "optimizer": state.optimizer.state_dict(),
    }


def must_fit(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], origin: str, precisely: bool = False) -> None:
    """Refuse weights of another model.

    Raises:
        InputError: If names or shapes differ, or, if asked to be precise, precisions.
    """
    if own.keys() != stored.keys():
        odd = sorted(own.keys() ^ stored.keys())[0]
        raise InputError(
            f"{origin} is from another model: {odd!r} is in only one of the two; give the model it was made with."
        )
    for name, tensor in own.items():
        if tensor.shape != stored[name].shape or (precisely and tensor.dtype != stored[name].dtype):
            told = " {}" if precisely else ""
            there, here = (str(tuple(t.shape)) + told.format(str(t.dtype)[6:]) for t in (stored[name], tensor))
            raise InputError(f"{origin} is from another model: {name!r} is {there} there and {here} here.")


def unpack(tree: dict[str, Any], template: State, origin: str = "The stored state") -> State:
    """A new state with the content of `tree` and the code (model, optimizer, task, schedule) of `template`.

    Raises:
        InputError: If the content belongs to another model, precision or optimizer.
    """
    twin = fork(template)
    own, stored = twin.model.state_dict(), tree["model"]
    must_fit(own, stored, origin, precisely=True)
    twin.model.load_state_dict(stored)
    groups, own_groups = tree["optimizer"]["param_groups"], twin.optimizer.param_groups
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in own_groups]:
        raise InputError(f"{origin} is from another optimizer: its parameter groups differ in size.")
    options = sorted({name for g, h in zip(groups, own_groups) for name in g.keys() ^ h.keys()})
    if options:
        raise InputError(f"{origin} is from another optimizer: only one of the two has the option {options[0]!r}.")
    twin.optimizer.load_state_dict(copy.deepcopy(tree["optimizer"]))
    return State(tree["step"], tree["time"], twin.model, twin.optimizer, twin.task, twin.schedule)


@dataclass(frozen=True)
class Trajectory(ByStep):
    """The states stored along a run: `trajectory[500]` is the state after 500 steps, read from disk each time.

    Attributes:
        folder: Where the files `000500.safetensors` lie.
        template: A state with the same model, optimizer, task and schedule.
    """

    template: State

    def save(self, state: State) -> None:
        """Store a state under its step."""
        save_tree(self.path(state.step), pack(state))

    def __getitem__(self, step: int) -> State:
        tree = load_tree(self.path(step), ("step", "time", "model", "optimizer"))
        return unpack(tree, self.template, str(self.path(step)))

    def __iter__(self) -> Iterator[State]:
        return (self[step] for step in self.steps)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with weights that somebody has saved, in the precision of the model; tied ones may be there once.

    Raises:
        InputError: If the file cannot be read, is from another model, or holds numbers that are not finite.
    """
    stored = read_weights(path)
    own = model.state_dict(keep_vars=True)  # the tensors themselves: tied ones are one
    prefix = wrapping(own)  # the model may be wrapped itself, or have a module of that name
    stored = {prefix + name: tensor for name, tensor in stored.items()}
    tied = {id(p): stored[name] for name, p in own.items() if name in stored}
    stored |= {name: tied[id(p)] for name, p in own.items() if name not in stored and id(p) in tied}
    must_fit(own, stored, str(path))
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path} holds values that are not finite in {name!r}; take an earlier checkpoint.")
    model.load_state_dict(stored)


@dataclass(frozen=True)
class Checkpoints:
    """Somebody's checkpoints of one network: `checkpoints[500]` is a copy of it with the weights of step 500.

    The step is the last number in a file's name, or in that of its folder where the name has none
    (`checkpoint-500/model.safetensors`).

    Attributes:
        folder: Where the files lie, `.safetensors`, `.pt`, `.pth`, `.ckpt` or `.bin`, also one folder deeper.
        model: The network, as it was trained.
    """

    folder: Path
    model: nn.Module

    @property
    def files(self) -> dict[int, Path]:
        """The files by step, increasing.

        Raises:
            InputError: If two names hold the same number. Files without one are no checkpoints.
        """
        found: dict[int, Path] = {}
        for path in sorted(p for p in (*self.folder.glob("*"), *self.folder.glob("*/*")) if p.suffix in SUFFIXES):
            where = path.parent.name if path.parent != self.folder else ""
            numbers = re.findall(r"\d+", path.stem) or re.findall(r"\d+", where)
            if not numbers or path.name.startswith((".", *BESIDE)):
                continue
            if int(numbers[-1]) in found:
                raise InputError(
                    f"{path} and {found[int(numbers[-1])]} both seem to be of step {numbers[-1]}; the last number of a "
                    "name is taken for the step."
                )
            found[int(numbers[-1])] = path
        return dict(sorted(found.items()))

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, increasing."""
        return list(self.files)

    def __getitem__(self, step: int) -> nn.Module:
        model = copy.deepcopy(self.model)
        load_weights(model, self.files[step])
        return model

    def __len__(self) -> int:
        return len(self.files)
