"""From what a person writes to what the code calls: `mlp(width=64)`, `file.py:factory`, `module:factory(size=3)`.

Arguments are Python literals; nothing is evaluated.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from learndyn import models, tasks
from learndyn.dynamics import State, start
from learndyn.errors import InputError, unknown
from learndyn.noise import isolated, key
from learndyn.optimizers import schedules
from learndyn.tasks import Task, place


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split a specification into a name and keyword arguments.

    >>> parse("sgd(lr=0.1, momentum=0.9)")
    ('sgd', {'lr': 0.1, 'momentum': 0.9})
    """
    match = re.fullmatch(r"\s*([^()]+?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    try:
        call = ast.parse(f"_({match[2] or ''})", mode="eval").body if match else None
        assert match and isinstance(call, ast.Call) and not call.args and all(k.arg for k in call.keywords)
        return match[1], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise InputError(
            f"Cannot read {text!r}; write a name, or a name with keyword arguments such as mlp(width=64)."
        ) from None


_strangers: set[str] = set()  # files that were named on the command line


@contextlib.contextmanager
def blaming() -> Iterator[None]:
    """Turn what a stranger's file raises while it is at work into a sentence that says where."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _strangers]
        if not frames:
            raise  # our own fault
        where = f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}"
        raise InputError(f"{where} raised {type(error).__name__}: {error}.") from error


def _import(place: str) -> ModuleType:
    """A module by dotted name, or by the path of its file."""
    module = _imported(place)
    _strangers.add(getattr(module, "__file__", None) or "")
    return module


def _imported(place: str) -> ModuleType:
    path = Path(place if place.endswith(".py") else f"{place}.py")
    if path.is_file():
        name = f"_learndyn_user_{hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.resolve().parent))  # so that the file finds its neighbours
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            sys.path.remove(str(path.resolve().parent))
        return module
    if place.endswith(".py"):
        raise InputError(f"There is no file {place}; give an existing file or a module on the Python path.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(place)


def factory(
    text: str, kind: str, built_in: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What a specification names, and the arguments it gives.

    Raises:
        InputError: If the name is unknown, or the module or its attribute is not there.
    """
    name, arguments = parse(text)
    if ":" not in name:
        if name not in built_in:
            raise unknown(kind, name, built_in)
        return built_in[name], arguments
    place, _, attribute = name.rpartition(":")
    try:
        module = _import(place)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"--{kind} {text}: cannot import {place!r} ({error}); give a module or a file.py.") from error
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises
        raise InputError(f"--{kind} {text}: importing {place!r} raised {type(error).__name__}: {error}.") from error
    if not callable(getattr(module, attribute, None)):
        offered = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise unknown(f"{kind} factory in {place}", attribute, offered or ["nothing callable"])
    return getattr(module, attribute), arguments


def source(text: str) -> str:
    """A digest of the file that a `module:factory` comes from, so that a changed file is another experiment; "" for
    built-in names.
    """
    name, _ = parse(text)
    if ":" not in name:
        return ""
    try:
        file = inspect.getsourcefile(_import(name.rpartition(":")[0]))
    except (Exception, SystemExit):  # building it will say what is wrong, in better words
        return ""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest() if file else ""


def _call(make: Callable[..., Any], arguments: dict[str, Any], offered: dict[str, Any], text: str, kind: str) -> Any:
    """Call a factory with its arguments, and with those of `offered` that it takes and was not given."""
    try:
        takes = inspect.signature(make).parameters
        supplied = {name: value for name, value in offered.items() if name in takes and name not in arguments}
        inspect.signature(make).bind(**arguments, **supplied)
    except TypeError as error:
        known = ", ".join(name for name in takes if name not in ("self", "args", "kwargs"))
        raise InputError(f"--{kind} {text}: {error}; it takes {known or 'no arguments'}.") from error
    except ValueError:  # no signature to be had: let the call itself decide
        supplied = {}
    try:
        return make(**arguments, **supplied)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's factory raises
        raise InputError(f"--{kind} {text} raised {type(error).__name__}: {error}.") from error


def build_task(text: str, seed: int, data_dir: str | None = None) -> Task:
    """A task by specification; `seed` and `data_dir` go to factories that take them.

    Raises:
        InputError: If the factory fails, or what it returns has not the three methods of a task.
    """
    make, arguments = factory(text, "task", {name: getattr(tasks, name) for name in tasks.BUILT_IN})
    offered: dict[str, Any] = {"seed": seed} | ({} if data_dir is None else {"data_dir": data_dir})
    task = _call(make, arguments, offered, text, "task")
    lacking = [name for name in ("batch", "loss", "evaluation") if not callable(getattr(task, name, None))]
    if lacking:
        raise InputError(
            f"--task {text} gave a {type(task).__name__}, which lacks {', '.join(lacking)}; return a "
            f"learndyn.tasks.Supervised or an object with batch(step), loss(model, batch) and evaluation(split)."
        )
    return task


def build_model(text: str, task: Any, seed: int) -> nn.Module:
    """A freshly initialised model by specification; its weights are a function of the seed.

    `input_shape` and `classes` of the task (or of anything that has them) go to factories that take them.

    Raises:
        InputError: If the factory fails or returns something else than a module.
    """
    make, arguments = factory(text, "model", {name: getattr(models, name) for name in models.BUILT_IN})
    offered = {name: getattr(task, name) for name in ("input_shape", "classes") if hasattr(task, name)}
    with isolated():
        torch.default_generator.manual_seed(key(seed, "model") % 2**63)
        model = _call(make, arguments, offered, text, "model")
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {text} gave a {type(model).__name__}; return a torch.nn.Module.")
    return model


def _torch_optimizers() -> dict[str, Callable[..., Any]]:
    classes = {n: c for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, Optimizer)}
    return {name.lower(): c for name, c in classes.items() if c is not Optimizer}


def build_optimizer(text: str, parameters: Iterator[nn.Parameter]) -> Optimizer:
    """An optimizer by specification: any of torch.optim in small letters, or a factory that takes the parameters.

    Raises:
        InputError: If the factory fails or returns something else than an optimizer.
    """
    make, arguments = factory(text, "optimizer", _torch_optimizers())
    if "fused" in inspect.signature(make).parameters:
        arguments = {"fused": True, **arguments}  # one pass over the weights instead of three
    optimizer = _call(partial(make, list(parameters)), arguments, {}, text, "optimizer")
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"--optimizer {text} gave a {type(optimizer).__name__}; return a torch.optim.Optimizer.")
    return optimizer


def build_schedule(text: str, steps: int) -> schedules.Schedule:
    """A schedule by specification; `steps`, the length of the run, goes to factories that take it."""
    if parse(text)[0] == "constant":
        return schedules.constant
    built_in = {name: getattr(schedules, name) for name in ("cosine", "linear", "milestones")}
    make, arguments = factory(text, "schedule", {**built_in, "constant": schedules.constant})
    schedule = _call(make, arguments, {"steps": steps}, text, "schedule")
    if not callable(schedule):
        raise InputError(f"--schedule {text} gave a {type(schedule).__name__}; return a function of the step.")
    return schedule


def build_state(
    task: str,
    model: str,
    optimizer: str,
    schedule: str,
    steps: int,
    seed: int,
    dtype: str,
    device: str,
    data_dir: str | None,
    try_out: Callable[[State], Any],
) -> State:
    """A run by the specifications of its parts, before its first step, after it was tried out.

    Raises:
        InputError: If a name is unknown, a factory fails, or model, task and optimizer do not fit together.
    """
    precision = getattr(torch, dtype)
    try:
        data = place(build_task(task, seed, data_dir), device, precision)
        network = build_model(model, data, seed).to(device, precision)
        state = start(
            data, network, lambda parameters: build_optimizer(optimizer, parameters), build_schedule(schedule, steps)
        )
        try_out(state)
    except InputError:
        raise
    except Exception as error:  # a stranger's model on a stranger's task
        raise InputError(
            f"The model {model} cannot be trained on the task {task} with {optimizer}: "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}."
        ) from error
    return state
