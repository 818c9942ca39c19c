"""The adjoint sweep (two-phase sheet, check 5): dual to the tangent map, right on a net of 34 weights, and predictive."""

import math
from functools import partial

import pytest
import torch
from dynamics_cases import ADAMW, DECAYED, NESTEROV, digits_mlp, distance, seeded, teacher, teacher_mlp
from torch import nn

from learndyn.dynamics import Trajectory, adjoint_norms, directions, fork, start, tangent, train, train_together
from learndyn.dynamics.perturb import gaussian
from learndyn.dynamics.tangent import pull, push, record
from learndyn.errors import InputError
from learndyn.laws.growth import log_growth, log_growth_error
from learndyn.optimizers.schedules import cosine


def grouped(kind, **settings):
    """Three parameter groups with their own weight decay and learning rate."""

    def make(parameters):
        first, second, *others = list(parameters)
        groups = [
            {"params": [first], "weight_decay": 0.05, "lr": 0.5 * settings["lr"]},
            {"params": [second], "weight_decay": 0.0},
            {"params": others, "weight_decay": 1e-3},
        ]
        return kind(groups, **settings)

    return make


@pytest.mark.parametrize(
    "optimizer",
    [
        grouped(torch.optim.SGD, lr=0.1, momentum=0.9),
        grouped(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        grouped(torch.optim.AdamW, lr=0.01),
    ],
    ids=["sgd", "nesterov", "adamw"],
)
def test_duality_over_300_steps(optimizer):
    """⟨u, Mv⟩ = ⟨Mᵀu, v⟩ in the joint space of parameters and buffers, two pairs at once. The sheet: 4e-14."""
    state = teacher_mlp(optimizer=optimizer, width=6, schedule=cosine(600))
    tape, scratch = record(train(state, 3).state, 300), fork(state)
    draw = torch.Generator().manual_seed(0)
    count = 1 + len(tape[0].buffers)
    v = torch.randn(count, 2, len(tape[0].theta), generator=draw, dtype=torch.float64)
    u = torch.randn(count, 2, len(tape[0].theta), generator=draw, dtype=torch.float64)
    moved, back = tuple(v), tuple(u)
    for point in tape:
        moved = push(scratch, point, moved)
    for point in reversed(tape):
        back = pull(scratch, point, back)
    moved, back = torch.stack(moved), torch.stack(back)
    forward, backward = (u * moved).sum((0, 2)), (back * v).sum((0, 2))
    largest = (u * moved).abs().sum((0, 2))  # the inner product may cancel; its terms may not
    assert ((forward - backward).abs() / largest).max() < 1e-10
    assert moved.norm() > 1e-3 and (forward.abs() / largest).min() > 1e-4


@pytest.fixture(scope="module")
def small_task():
    return teacher(inputs=3, classes=2, examples=64)


def small_net(small_task, optimizer=DECAYED, seed=0):
    """34 weights: 3 -> 4 (batch norm, tanh) -> 2."""
    layers = lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))  # noqa: E731
    return start(small_task, seeded(seed, layers).double(), optimizer, cosine(30))


def jacobian(state, steps):
    """M_θθ over the coming steps, column by column: unit vectors pushed through every step."""
    tape, scratch = record(fork(state), steps), fork(state)
    size = len(tape[0].theta)
    rows = (torch.eye(size, dtype=torch.float64), *(torch.zeros(size, size).double() for _ in tape[0].buffers))
    for point in tape:
        rows = push(scratch, point, rows)
    return rows[0].T


@pytest.mark.parametrize("optimizer", [DECAYED, NESTEROV, ADAMW], ids=["sgd", "nesterov", "adamw"])
def test_the_sweep_against_explicit_jacobians(small_task, optimizer):
    first = train(small_net(small_task, optimizer), 2).state
    states = {step: train(fork(first), step - 2).state for step in (2, 5, 9)}
    found = adjoint_norms(lambda step: fork(states[step]), [2, 5, 9], [9, 2, 5, 12], 12, probes=3, seed=4)
    size = 34
    probes = directions(first, 3, seed=4) * size**0.5
    for column, step in enumerate((9, 2, 5)):
        exact = (probes @ jacobian(states[step], 12 - step)).square().sum(1)
        torch.testing.assert_close(found[:, column], exact, rtol=1e-10, atol=0)
    torch.testing.assert_close(found[:, 3], torch.full((3,), 34.0, dtype=torch.float64))


def test_the_mean_over_probes_is_the_frobenius_norm(small_task):
    state = train(small_net(small_task), 2).state
    matrix = jacobian(state, 6)
    found = adjoint_norms(lambda step: state, [2], [2], 8, probes=120)[:, 0]
    error = found.std() / 120**0.5
    exact = matrix.square().sum()
    assert abs(found.mean() - exact) < 3 * error and error < 0.15 * exact
    assert log_growth(found[:, None], 34).item() == pytest.approx(math.log(exact.sqrt() / 34**0.5), abs=0.15)


@pytest.mark.parametrize("stored", [[0], [0, 7], [0, 3, 4, 10, 15], list(range(16))], ids=len)
@pytest.mark.parametrize("points", [1, 4, None])
def test_how_the_run_is_cut_does_not_matter(small_task, monkeypatch, tmp_path, stored, points):
    """Stored densely or sparsely, recorded in one piece or in many: the same points in the same order, to the bit."""
    if points is not None:
        monkeypatch.setattr(tangent, "TAPE_BYTES", points * 2 * 34 * 8)
    state = small_net(small_task)
    whole = adjoint_norms(lambda step: state, [0], [0, 4, 10, 13], 15, probes=2) if points is None else None
    trajectory = Trajectory(tmp_path, small_net(small_task, seed=1))
    for step in stored:
        state = train(state, step - state.step).state
        trajectory.save(state)
    swept = []
    found = adjoint_norms(trajectory.__getitem__, trajectory.steps, [0, 4, 10, 13], 15, probes=2, after=swept.append)
    assert swept == list(range(1, 16))
    if whole is None:
        monkeypatch.setattr(tangent, "TAPE_BYTES", 2**30)
        start_again = small_net(small_task)
        whole = adjoint_norms(lambda step: start_again, [0], [0, 4, 10, 13], 15, probes=2)
    assert torch.equal(found, whole)


@pytest.mark.parametrize("tape_bytes", [1, 2**30])
def test_stored_states_stay_as_they_are(small_task, monkeypatch, tape_bytes):
    monkeypatch.setattr(tangent, "TAPE_BYTES", tape_bytes)
    state = small_net(small_task)
    before = {name: t.clone() for name, t in state.model.state_dict().items()}
    adjoint_norms({0: state}.__getitem__, [0], [0], 5, probes=1)
    assert all(torch.equal(t, before[name]) for name, t in state.model.state_dict().items())
    assert not state.optimizer.state


def test_starts_outside_the_run_are_refused(small_task):
    state = train(small_net(small_task), 2).state
    for at in ([1, 4], [4, 9]):
        with pytest.raises(InputError, match=r"must lie between the first stored step, 2, and the end, 8"):
            adjoint_norms(lambda step: state, [2], at, 8)
    # The end itself need not be stored: nothing has grown there.
    assert adjoint_norms({2: state}.__getitem__, [2], [8], 8, probes=1).item() == pytest.approx(34)


def test_a_sweep_that_overflows_says_so(small_task):
    """Growth by some 1e6 a step: 1e360 after 60 steps is beyond float64, and the law says infinite."""
    state = start(small_task, nn.Sequential(nn.Linear(3, 2)).double(), partial(torch.optim.SGD, lr=1.0, weight_decay=1e6))
    norms = adjoint_norms(lambda step: state, [0], [0, 40, 60], 60, probes=1)
    assert norms[0, 0] == math.inf and norms[0, 2] == pytest.approx(8)
    growth = log_growth(norms, 8)
    assert growth[0] == math.inf
    assert growth[1].item() == pytest.approx(20 * math.log(1e6 - 1), rel=1e-3)


def test_prediction_of_a_smooth_network_against_twins():
    """G(t0) of a GELU-MLP, 3 probes, against the growth of ε = 1e-7 in four directions.

    The sheet, T = 1000: 7.44 predicted for t0 = 0 against 6.74 and 7.50; single directions scatter by ±0.7. The
    prediction is for the root mean square over directions. Measured here: MEASURED.
    """
    steps, starts = 300, (0, 60, 150, 240)
    optimizer = partial(torch.optim.SGD, lr=0.2, momentum=0.9, weight_decay=5e-4)
    base = digits_mlp("gelu", width=32, depth=2, optimizer=optimizer, schedule=cosine(steps))
    size = sum(p.numel() for p in base.model.parameters())
    states = {}
    for t0 in starts:
        base = train(base, t0 - base.step).state
        states[t0] = fork(base)
    norms = adjoint_norms(states.__getitem__, list(states), list(starts), steps, probes=3)
    predicted = log_growth(norms, size)
    scatter = log_growth_error(norms)
    measured = []
    for t0 in starts:
        twins = [gaussian(states[t0], 1e-7, seed)[0] for seed in range(4)]
        ended, _ = train_together([fork(states[t0]), *twins], steps - t0, "loop")
        single = [math.log(distance(ended[0], twin) / 1e-7) for twin in ended[1:]]
        measured.append(0.5 * math.log(sum(math.exp(2 * g) for g in single) / 4))
        print(t0, single, measured[-1], predicted, scatter)
