"""States on disk by step, and what is refused because it belongs to another run."""

from functools import partial

import pytest
import torch
from dynamics_cases import ADAMW, DECAYED, NESTEROV, SGD, assert_same, small_cnn, teacher_mlp
from torch import nn

from learndyn.dynamics import Trajectory, fork, start, train
from learndyn.errors import InputError
from learndyn.optimizers.schedules import cosine


def test_steps_are_found_and_read_in_order(tmp_path):
    states = {}
    trajectory = Trajectory(tmp_path / "run", teacher_mlp(seed=1))
    assert trajectory.steps == [] and len(trajectory) == 0

    def store(state):
        if state.step in (2, 10, 12):
            trajectory.save(state)
            states[state.step] = fork(state)

    run = train(teacher_mlp(), 12, after=store)
    (tmp_path / "run" / "notes.txt").write_text("no state")
    (tmp_path / "run" / "best.safetensors").write_text("no step")
    (tmp_path / "run" / ".000011.safetensors.123.tmp").write_text("half written")
    assert trajectory.steps == [2, 10, 12] and len(trajectory) == 3
    assert [state.step for state in trajectory] == [2, 10, 12]
    for step in (10, 2, 12):
        assert_same(trajectory[step], states[step])
    assert_same(trajectory[12], run.state)
    assert trajectory.path(7).name == "000007.safetensors" and trajectory.path(1234567).name == "1234567.safetensors"


def test_every_read_is_a_state_of_its_own(tmp_path):
    template = teacher_mlp(seed=1)
    untouched = fork(template)
    trajectory = Trajectory(tmp_path, template)
    trajectory.save(train(teacher_mlp(), 3).state)
    first, second = trajectory[3], trajectory[3]
    train(first, 2)
    assert_same(second, trajectory[3])
    assert_same(template, untouched)
    assert second.task is template.task


@pytest.mark.parametrize("optimizer", [SGD, DECAYED, NESTEROV, ADAMW, partial(torch.optim.SGD, lr=0.1)])
@pytest.mark.parametrize("build", [teacher_mlp, small_cnn, partial(teacher_mlp, dtype=torch.float32)])
def test_everything_that_is_no_code_comes_back(tmp_path, build, optimizer):
    state = build(optimizer=optimizer, schedule=cosine(20))
    trajectory = Trajectory(tmp_path, build(seed=1, optimizer=optimizer, schedule=cosine(20)))
    for _ in range(2):
        trajectory.save(state)
        assert_same(trajectory[state.step], state)
        assert trajectory[state.step].lr() == state.lr()
        state = train(state, 3).state


def stored(tmp_path, state, steps=2):
    trajectory = Trajectory(tmp_path, state)
    trajectory.save(train(fork(state), steps).state)
    return lambda template: Trajectory(tmp_path, template)[steps]


def net(*layers, optimizer=SGD):
    return start(teacher_mlp().task, nn.Sequential(*layers).double(), optimizer)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: net(nn.Linear(6, 3), nn.ReLU()), None),
        (lambda: net(nn.Linear(6, 3, bias=False)), "'0.bias' is in only one of the two"),
        (lambda: net(nn.Linear(6, 3), nn.BatchNorm1d(3)), "'1.bias' is in only one of the two"),
        (lambda: net(nn.Linear(6, 4)), r"'0.weight' is \(3, 6\) float64 there and \(4, 6\) float64 here"),
    ],
)
def test_another_model_is_refused(tmp_path, other, message):
    read = stored(tmp_path, net(nn.Linear(6, 3)))
    if message is None:
        assert read(other()).step == 2
        return
    with pytest.raises(InputError, match=f"000002.safetensors is from another model: {message}"):
        read(other())


def test_another_precision_is_refused(tmp_path):
    read = stored(tmp_path, teacher_mlp(dtype=torch.float64))
    with pytest.raises(InputError, match=r"000002.safetensors is from another model: .* float64 there and .* float32"):
        read(teacher_mlp(dtype=torch.float32))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda parameters: torch.optim.SGD([{"params": [p]} for p in parameters], lr=0.1), "groups differ in size"),
        (ADAMW, "only one of the two has the option 'amsgrad'"),
    ],
)
def test_another_optimizer_is_refused(tmp_path, optimizer, message):
    read = stored(tmp_path, teacher_mlp())
    with pytest.raises(InputError, match=f"000002.safetensors is from another optimizer: .*{message}"):
        read(teacher_mlp(optimizer=optimizer))


def test_steps_that_are_not_there_are_refused(tmp_path):
    trajectory = Trajectory(tmp_path, teacher_mlp())
    with pytest.raises(InputError, match="000003.safetensors is missing or damaged"):
        trajectory[3]
    trajectory.path(3).write_bytes(b"")
    with pytest.raises(InputError, match="000003.safetensors is missing or damaged"):
        trajectory[3]
