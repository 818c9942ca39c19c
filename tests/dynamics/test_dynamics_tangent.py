"""Tangent dynamics against finite differences (two-phase sheet, check 4): float64, lr 0.1, momentum 0.9."""

import math
from functools import partial

import pytest
import torch
from dynamics_cases import (
    ADAMW,
    DECAYED,
    NESTEROV,
    SGD,
    along,
    digits_mlp,
    distance,
    small_cnn,
    teacher,
    teacher_mlp,
)
from torch import nn

from learndyn.dynamics import directions, displace, fork, start, tangent_growth, train, train_together
from learndyn.dynamics.exponents import first_kink
from learndyn.optimizers.schedules import cosine

AT = (1, 2, 5, 10, 20, 60, 100, 150, 200)
NETWORKS = {  # options and steps; ln-growth at the end, as measured: 2.26, 1.73, 0.42, 0.28, 0.18
    "gelu": ({"activation": "gelu"}, 200),
    "tanh": ({"activation": "tanh"}, 200),
    "bn-gelu": ({"activation": "gelu", "batch_norm": True}, 60),
    "bn-relu": ({"activation": "relu", "batch_norm": True}, 60),
    "relu": ({"activation": "relu"}, 60),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_tangent_is_the_limit_of_finite_differences(name):
    options, steps = NETWORKS[name]
    state = digits_mlp(width=32, depth=2, **options)
    direction = directions(state, 1, seed=3)
    curve = tangent_growth(state, steps, direction)[0]
    assert curve.shape == (steps + 1,) and curve[0] == 0
    assert curve[-1] > 0.1  # no comparison of 0 with 0

    twins = [displace(state, along(state, size * direction[0]))[0] for size in (1e-7, 1e-9, 1e-11)]
    kinks = [math.inf] * 3
    if "relu" in name:  # equal until a unit is on for one twin and off for the other
        twins = twins[1:]
        found = first_kink(state, twins[0], steps)
        kinks = [math.inf if found is None else found, math.inf]
        assert kinks[0] > 20
    begin = [distance(state, twin) for twin in twins]
    states = [fork(state), *twins]
    for last, step in zip((0, *AT), AT):
        if step > steps:
            break
        states, _ = train_together(states, step - last, "loop")
        for twin, size, kink in zip(states[1:], begin, kinks):
            if step <= kink:
                growth = math.log(distance(states[0], twin) / size)
                assert growth == pytest.approx(curve[step].item(), abs=1e-3), (step, size)


def two_groups(kind, **settings):
    """An optimizer that treats the first layer differently: its own learning rate and weight decay."""

    def make(parameters):
        first, *others = list(parameters)
        return kind(
            [{"params": [first], "weight_decay": 0.05, "lr": 0.5 * settings["lr"]}, {"params": others}], **settings
        )

    return make


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD,
        DECAYED,
        NESTEROV,
        ADAMW,
        partial(torch.optim.Adam, lr=1e-2, weight_decay=0.01),
        partial(torch.optim.SGD, lr=0.2, momentum=0.5, dampening=0.3),
        two_groups(torch.optim.SGD, lr=0.1, momentum=0.9),
        two_groups(torch.optim.AdamW, lr=0.01),
    ],
    ids=["sgd", "decay", "nesterov", "adamw", "adam", "dampening", "sgd groups", "adamw groups"],
)
def test_every_rule_with_dropout_and_a_schedule_in_the_middle_of_a_run(optimizer):
    state = teacher_mlp(optimizer=optimizer, schedule=cosine(40, warmup=3), dropout=0.2)
    state = train(state, 5).state
    rows = directions(state, 2, seed=1)
    curves = tangent_growth(state, 10, rows)
    for row, curve in zip(rows, curves):
        for size in (1e-6, 1e-7):
            twin, _ = displace(state, along(state, size * row))
            first = distance(state, twin)
            ended, _ = train_together([fork(state), twin], 10, "loop")
            # The error is that of curvature, proportional to the size; measured up to 0.15 × size.
            assert math.log(distance(*ended) / first) == pytest.approx(curve[-1].item(), abs=size)
            assert curve.abs().max() > 1e-3


def test_from_the_very_first_step():
    """Without buffers the first update differs from the later ones, most of all with dampening."""
    for optimizer in (partial(torch.optim.SGD, lr=0.2, momentum=0.5, dampening=0.3), NESTEROV, ADAMW):
        state = teacher_mlp(optimizer=optimizer)
        row = directions(state, 1, seed=1)
        twin, _ = displace(state, along(state, 1e-7 * row[0]))
        first = distance(state, twin)
        ended, _ = train_together([fork(state), twin], 2, "loop")
        found = tangent_growth(state, 2, row)[0, -1].item()
        # Adam's first update is a sign of the gradient, with a width of eps = 1e-8: looser there.
        assert math.log(distance(*ended) / first) == pytest.approx(found, abs=1e-5 if optimizer is not ADAMW else 1e-2)


def test_max_pooling_and_convolutions():
    state = train(small_cnn(dtype=torch.float64), 3).state
    row = directions(state, 1, seed=1)
    twin, _ = displace(state, along(state, 1e-9 * row[0]))
    assert first_kink(state, twin, 10) is None
    first = distance(state, twin)
    ended, _ = train_together([fork(state), twin], 10, "loop")
    assert math.log(distance(*ended) / first) == pytest.approx(tangent_growth(state, 10, row)[0, -1].item(), abs=1e-4)


def test_rows_do_not_know_of_each_other():
    state = train(teacher_mlp(), 3).state
    rows = directions(state, 3, seed=0)
    together = tangent_growth(state, 6, rows)
    assert together.shape == (3, 7) and together.dtype == torch.float64
    for row, curve in zip(rows, together):
        torch.testing.assert_close(tangent_growth(state, 6, 1e-3 * row[None])[0], curve, rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_directions_are_isotropic_unit_vectors():
    state = teacher_mlp()
    rows = directions(state, 200, seed=5)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(200, dtype=torch.float64))
    size = rows.shape[1]
    assert size == sum(p.numel() for p in state.model.parameters())
    covariance = size * rows.T @ rows / 200
    # Entries of a sample covariance scatter by 1/√200 off the diagonal and √2/√200 on it.
    assert (covariance - torch.eye(size)).square().mean().sqrt().item() == pytest.approx(200**-0.5, rel=0.1)
    assert torch.equal(directions(state, 3, seed=5), rows[:3])
    assert not torch.equal(directions(state, 3, seed=6), rows[:3])
    assert directions(teacher_mlp(dtype=torch.float32), 1, seed=5).dtype == torch.float32


class Spare(nn.Module):
    """A network with a parameter that its loss does not depend on."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.used = nn.Linear(6, 3).double()

    def forward(self, x):
        return self.used(x)


def test_an_unused_parameter_stays_where_it_is():
    """torch.optim leaves a parameter without a gradient alone, weight decay and all."""
    state = train(start(teacher(), Spare(), DECAYED), 2).state
    assert torch.equal(state.model.spare, torch.ones(2))
    row = torch.zeros(1, 2 + 21, dtype=torch.float64)
    row[0, 0] = 1
    assert torch.equal(tangent_growth(state, 5, row), torch.zeros(1, 6, dtype=torch.float64))
