"""The one loop: what it observes and when, how it ends, and what it leaves alone."""

import ast
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamics_cases import ADAMW, DECAYED, NESTEROV, SGD, assert_same, teacher, teacher_mlp
from jaxtyping import Float
from torch import Tensor, nn

import learndyn
from learndyn.dynamics import State, fork, start, train, update, vector
from learndyn.errors import InputError
from learndyn.observables import loss
from learndyn.optimizers.schedules import cosine, milestones
from learndyn.tasks import Batch, Supervised


def modes(state: State) -> Float[Tensor, "modes"]:
    return state.model[0].weight.detach().norm(dim=1)


def scaled(state: State, factor: float) -> Float[Tensor, "modes inputs"]:
    return factor * state.model[0].weight.detach()


@dataclass(frozen=True)
class Settled:
    factor: float = 2.0

    def __call__(self, state: State) -> Float[Tensor, "modes"]:
        return self.factor * modes(state)


def plain(state):
    return state.model[0].weight


@pytest.mark.parametrize(
    ("observable", "dims"),
    [
        (modes, ("step", "modes")),
        (partial(scaled, factor=2.0), ("step", "modes", "inputs")),
        (Settled(), ("step", "modes")),
        (Settled().__call__, ("step", "modes")),
        (plain, ("step", "seen_axis_0", "seen_axis_1")),
        (partial(plain), ("step", "seen_axis_0", "seen_axis_1")),
        (lambda state: 3, ("step",)),
        (lambda state: 0.5, ("step",)),
        (loss, ("step",)),
    ],
    ids=["function", "partial", "dataclass", "method", "plain", "plain partial", "int", "float", "scalar"],
)
def test_axes_are_named_by_annotations(observable, dims):
    series = train(teacher_mlp(), 2, {"seen": observable}).series["seen"]
    assert series.dims == dims and series.sizes["step"] == 3


def test_an_annotation_that_does_not_fit_names_nothing():
    def wrong(state) -> Float[Tensor, "modes"]:
        return state.model[0].weight.detach()

    assert train(teacher_mlp(), 1, {"seen": wrong}).series["seen"].dims == ("step", "seen_axis_0", "seen_axis_1")


def test_axes_that_cannot_be_named_as_wished_do_not_cost_the_run():
    """Names with two sizes, twice the same, taken, no names at all, or names that only a type checker knows."""

    def short(state) -> Float[Tensor, "modes"]:
        return torch.zeros(3)

    def square(state) -> Float[Tensor, "n n"]:
        return torch.zeros(2, 2)

    def taken(state) -> Float[Tensor, " step"]:
        return torch.zeros(4)

    def open_ended(state) -> Float[Tensor, "*batch n"]:
        return torch.zeros(5, 6)

    def foreign(state) -> "Somewhere[Else]":  # noqa: F821
        return torch.zeros(7)

    seen = {"norms": modes, "short": short, "square": square, "taken": taken, "open": open_ended, "foreign": foreign}
    series = train(teacher_mlp(), 1, seen | {"one": lambda s: torch.zeros(8), "two": lambda s: torch.zeros(9)}).series
    assert {name: series[name].dims[1:] for name in series} == {
        "norms": ("modes",),
        "short": ("short_axis_0",),
        "square": ("square_axis_0", "square_axis_1"),
        "taken": ("taken_axis_0",),
        "open": ("open_axis_0", "open_axis_1"),
        "foreign": ("foreign_axis_0",),
        "one": ("one_axis_0",),
        "two": ("two_axis_0",),
    }


def test_an_observable_may_be_called_like_an_axis():
    series = train(teacher_mlp(), 1, {"modes": modes, "inputs": partial(scaled, factor=1.0)}).series
    assert set(series.data_vars) == {"modes", "inputs"}
    assert series["modes"].dims == ("step", "modes_axis_0")


@pytest.mark.parametrize("name", ["step", "time"])
def test_names_of_coordinates_are_refused_at_the_door(name):
    with pytest.raises(InputError, match=f"An observable cannot be called '{name}'"):
        train(teacher_mlp(), 1, {name: loss})


def test_what_was_seen_does_not_move_on():
    """An observable may return a weight itself, which training changes in place."""
    state = teacher_mlp()
    first = state.model[0].weight.detach().clone()
    run = train(state, 3, {"weight": plain})
    np.testing.assert_array_equal(run.series["weight"][0], first)
    np.testing.assert_array_equal(run.series["weight"][-1], run.state.model[0].weight.detach())
    assert (np.diff(run.series["weight"], axis=0) != 0).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [5, 6, 7, 8, 9, 10, 11, 12]),
        (4, [8, 12]),
        (5, [5, 10, 12]),
        (100, [12]),
        ((5, 7, 11, 40), [5, 7, 11]),
        ({6}, [6]),
        (range(0, 13, 6), [6, 12]),
        ((), []),
    ],
)
def test_when_it_looks(every, expected):
    state = train(teacher_mlp(schedule=cosine(40)), 5).state
    called = []
    run = train(fork(state), 7, {"seen": lambda s: called.append(s.step) or s.step, "loss": loss}, every=every)
    assert called == expected
    if expected:
        assert run.series["step"].values.tolist() == expected
        times = [0.1 * sum(cosine(40)(t) for t in range(step)) for step in expected]
        assert run.series["time"].values.tolist() == pytest.approx(times, rel=1e-12)
        alone = [loss(train(fork(state), step - 5).state).item() for step in expected]
        assert run.series["loss"].values.tolist() == alone
    else:
        assert not run.series.data_vars
    assert run.state.step == 12 and run.loss.shape == (7,)


def test_a_run_is_made_of_updates():
    state = teacher_mlp(schedule=milestones((2, 4)))
    by_hand = fork(state)
    with torch.random.fork_rng(devices=[]):
        for step in range(6):
            inputs, targets = state.task.batch(step)
            expected = nn.functional.cross_entropy(by_hand.model.train()(inputs), targets)
            by_hand, found = update(by_hand)
            assert found.item() == pytest.approx(expected.item(), rel=1e-12) and not found.requires_grad
            assert by_hand.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.1 ** sum(step >= m for m in (2, 4)))
    seen = []
    run = train(state, 6, after=lambda s: seen.append(s.step))
    # The forward passes by hand moved the running statistics, which do not feed back into training.
    assert torch.equal(vector(run.state.model), vector(by_hand.model))
    assert run.state.time == pytest.approx(0.222) and seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("optimizer", [SGD, DECAYED, NESTEROV, ADAMW])
def test_the_first_group_keeps_the_time_and_each_its_own_rate(optimizer):
    def grouped(parameters):
        first, *others = list(parameters)
        return optimizer.func([{"params": [first], "lr": 0.03}, {"params": others}], **optimizer.keywords)

    state = teacher_mlp(optimizer=grouped, schedule=cosine(10))
    other = optimizer.keywords["lr"]
    assert (state.lr(), state.lr(1)) == (0.03, other)
    run = train(state, 5)
    assert run.state.time == pytest.approx(0.03 * sum(cosine(10)(t) for t in range(5)))
    assert run.state.lr(1) == pytest.approx(other * 0.5)


def test_a_run_that_diverges_says_when():
    """A task whose loss becomes infinite at a chosen step."""

    class Exploding:
        seed = 0
        base = teacher()

        def batch(self, step):
            return Batch(self.base.batch(step).inputs, torch.full((16,), step))

        def loss(self, model, batch):
            loss = model(batch.inputs).square().mean()
            return loss / (batch.targets[0] != 13)

        def evaluation(self, split):
            return self.base.evaluation(split)

    state = teacher_mlp(task=Exploding())
    seen = []
    run = train(state, 30, {"seen": lambda s: s.step}, every=4, after=lambda s: seen.append(s.step))
    assert run.diverged == 13 and len(run.loss) == 14
    assert run.loss[:13].isfinite().all() and run.loss[13] == torch.inf
    assert run.series["step"].values.tolist() == [0, 4, 8, 12]  # nothing is observed of what diverged
    assert seen == list(range(1, 14))
    assert train(teacher_mlp(task=Exploding()), 13).diverged is None


def test_no_steps():
    state = teacher_mlp()
    before = fork(state)
    run = train(state, 0, {"loss": loss})
    assert run.series["loss"].sizes == {"step": 1} and run.loss.shape == (0,) and run.diverged is None
    assert_same(run.state, before)


@pytest.mark.parametrize(
    ("steps", "every", "message"),
    [
        (-1, 1, "steps=-1 must not be negative"),
        (1, 0, "every=0 must be at least 1"),
        (1, -3, "every=-3 must be at least 1"),
    ],
)
def test_negative_numbers_are_refused(steps, every, message):
    state = teacher_mlp()
    before = fork(state)
    with pytest.raises(InputError, match=message):
        train(state, steps, {"loss": loss}, every=every)
    assert_same(state, before)


def test_random_numbers_of_the_caller_are_not_touched():
    """Dropout draws from torch's global generator; not from the caller's sequence."""
    torch.manual_seed(5), np.random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    train(teacher_mlp(dropout=0.5), 5, {"loss": loss})
    assert torch.equal(torch.random.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]

    def failing(state):
        torch.rand(3)
        raise KeyError("observable")

    with pytest.raises(KeyError):
        train(teacher_mlp(dropout=0.5), 5, {"bad": failing})
    assert torch.equal(torch.random.get_rng_state(), before[0])


def test_the_library_does_not_use_pythons_own_generator():
    """By its imports, as beartype, which checks the annotations here, draws from it."""
    for path in Path(learndyn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert "random" not in names and "numpy.random" not in names, path


def test_the_global_generators_do_not_matter():
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        ends.append(train(teacher_mlp(dropout=0.5), 5).state)
    assert_same(*ends)


def test_dropout_masks_differ_between_steps_and_seeds():
    data = Batch(torch.ones(8, 6).double(), torch.zeros(8, dtype=torch.int64))
    masks = {}

    class Listening(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3).double())

        def forward(self, x):
            seen.append(self.layers[0](x))
            return self.layers[1](seen[-1])

    for seed in (0, 1):
        seen = []
        train(start(Supervised(data, data, 8, seed=seed), Listening(), SGD), 2)
        masks[seed] = list(seen)
    assert not torch.equal(masks[0][0], masks[0][1])
    assert not torch.equal(masks[0][0], masks[1][0])
