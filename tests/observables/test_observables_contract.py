"""Every observable looks and does not touch; found in `learndyn.observables.OF_ONE` and `OF_TWO`, never named here.

Afterwards weights, buffers, gradients, modes, requires_grad, optimizer and random states are what they were, and the
result is a float64 scalar without gradient.
"""

import copy
import inspect
import random
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import nn

from learndyn import observables
from learndyn.dynamics import start, train
from learndyn.dynamics.perturb import gaussian
from learndyn.tasks import Batch, Supervised, place, teacher

NEEDED = {"size": 0.5}  # values for arguments without a default, by their name


class Mixed(nn.Module):
    """Batch norm, dropout, a frozen layer, a buffer of integers, an unused parameter; 1-d and 2-d weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.last = nn.Linear(8, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.tensor(7))

    def forward(self, x):
        return self.last(self.first(x) + self.frozen(self.first[0](x)))


@cache
def data():
    return teacher(examples=80, test_examples=40, inputs=6, classes=3, batch_size=16)


def pair(dtype, optimizer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mixed().to(dtype)
    state = train(start(place(data(), "cpu", dtype), model, optimizer), 3).state
    twin, _ = gaussian(state, 0.5, seed=1)
    return state, train(twin, 2).state


def modes(state, training):
    """Not all modules in one mode, as after freezing a layer."""
    state.model.train(training)
    state.model.frozen.train(not training)
    return state


def everything(state):
    model, optimizer = state.model, state.optimizer
    held = {
        (i, key): copy.deepcopy(value)
        for i, p in enumerate(model.parameters())
        for key, value in optimizer.state.get(p, {}).items()
    }
    return {
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "places": [t.data_ptr() for t in model.state_dict().values()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "momenta": [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm1d)],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "held": held,
        "known": len(optimizer.state),
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "data": [t.clone() for split in ("train", "test") for t in state.task.evaluation(split)],
        "clock": (state.step, state.time),
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),
        "grad mode": torch.is_grad_enabled(),
    }


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def call(name, states):
    observable = getattr(observables, name)
    parameters = list(inspect.signature(observable).parameters.values())[len(states) :]
    return observable(*states, **{p.name: NEEDED[p.name] for p in parameters if p.default is p.empty})


OBSERVABLES = [*((name, 1) for name in observables.OF_ONE), *((name, 2) for name in observables.OF_TWO)]


@pytest.fixture(params=OBSERVABLES, ids=lambda case: case[0])
def case(request):
    return request.param


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_observable_leaves_no_trace(case, dtype, training):
    name, count = case
    optimizer = partial(torch.optim.AdamW, lr=0.01) if training else partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    states = [modes(state, training) for state in pair(dtype, optimizer)][:count]
    before = [everything(state) for state in states]
    result = call(name, states)
    for state, then in zip(states, before):
        now = everything(state)
        assert [key for key in then if not equal(then[key], now[key])] == []
    assert isinstance(result, torch.Tensor) and result.shape == () and result.dtype == torch.float64
    assert not result.requires_grad and result.device.type == "cpu" and result.isfinite()


def test_the_result_does_not_depend_on_mode_or_random_state(case):
    name, count = case
    results = []
    for training, seed in ((True, 0), (False, 1)):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        states = pair(torch.float64, partial(torch.optim.SGD, lr=0.1))[:count]
        results.append(call(name, [modes(state, training) for state in states]))
    assert torch.equal(*results)


def test_the_result_is_a_measurement(case):
    """It differs between different networks, and is not tied to them: it stays when they move on."""
    name, count = case
    state, twin = pair(torch.float64, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    first = call(name, [state, twin][:count])
    then = first.clone()
    moved = [train(s, 5).state for s in (state, twin)]
    assert torch.equal(first, then)
    assert not torch.equal(call(name, moved[:count]), first) or name.endswith("barrier")  # of this pair there is none


def test_an_observable_says_what_it_is(case):
    name, count = case
    observable = getattr(observables, name)
    signature = inspect.signature(observable)
    assert observable.__doc__ and name in observables.__all__
    assert list(signature.parameters)[:count] == (["state"] if count == 1 else ["a", "b"])
    assert getattr(signature.return_annotation, "dim_str", None) == ""


def test_a_gradient_that_is_there_stays(case):
    """Also where the caller has a graph under construction."""
    name, count = case
    state, twin = pair(torch.float64, partial(torch.optim.SGD, lr=0.1))
    states = [state, twin][:count]
    batch = state.task.batch(9)
    pending = state.task.loss(state.model.eval(), Batch(*batch))
    call(name, states)
    pending.backward()  # would fail had a weight been written to, even with its own value
    assert state.model.last.weight.grad.abs().sum() > 0


def test_observables_work_with_regression():
    """Targets that are no class labels: losses and distances have a meaning, decisions have none."""
    inputs = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).double()
    split = Batch(inputs, inputs[:, :3].sin())
    task = Supervised(split, split, 10, criterion=nn.functional.mse_loss)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mixed().double()
    state = train(start(task, model, partial(torch.optim.SGD, lr=0.01)), 2).state
    twin, _ = gaussian(state, 0.5, seed=1)
    for name, count in OBSERVABLES:
        result = call(name, [state, twin][:count])
        without_meaning = "error" in name or name == "disagreement"
        assert result.isnan() if without_meaning else result.isfinite(), name
