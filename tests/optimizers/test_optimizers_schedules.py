"""Schedules are functions of the step alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.optimizers.schedules import constant, cosine, linear, milestones

ALL = [constant, cosine(100), cosine(100, warmup=10), linear(100), linear(100, warmup=10), milestones((30, 60), 0.5)]


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: repr(schedule).partition(" at ")[0])
def test_factors_depend_on_the_step_and_lie_between_0_and_1(schedule):
    forward = [schedule(step) for step in range(150)]
    assert [schedule(step) for step in reversed(range(150))] == forward[::-1]
    assert all(0 <= factor <= 1 for factor in forward)
    assert max(forward) > 0.97


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_cosine_against_torch(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps + 1):
        assert cosine(steps)(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert cosine(steps)(steps + 1) == 0  # torch's would rise again


@given(st.integers(2, 200), st.data())
def test_warmup_rises_in_equal_steps_to_the_full_rate(steps, data):
    warmup = data.draw(st.integers(1, steps - 1))
    for schedule in (cosine(steps, warmup), linear(steps, warmup)):
        assert [schedule(t) for t in range(warmup)] == pytest.approx([(t + 1) / warmup for t in range(warmup)])
        falling = [schedule(t) for t in range(warmup, steps + 1)]
        assert falling == sorted(falling, reverse=True) and falling[-1] == pytest.approx(0, abs=1e-12)
    assert linear(steps, warmup)(warmup) == 1
    middle = (steps + warmup) / 2
    if middle == int(middle):
        assert linear(steps, warmup)(int(middle)) == pytest.approx(0.5)


def test_values_by_hand():
    assert [cosine(4)(t) for t in range(6)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0, 0])
    assert [linear(4)(t) for t in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [milestones((2, 3))(t) for t in range(5)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert milestones(())(10**6) == constant(10**6) == 1
    assert math.isclose(cosine(10, warmup=2)(5), 0.5)


@pytest.mark.parametrize("kind", [cosine, linear])
@pytest.mark.parametrize(("steps", "warmup"), [(10, 10), (10, -1), (0, 0), (-5, 0)])
def test_a_warmup_that_does_not_fit_is_refused(kind, steps, warmup):
    with pytest.raises(InputError, match=f"warmup={warmup} must lie between 0 and the {steps} steps"):
        kind(steps, warmup)


@pytest.mark.parametrize("at", [(5, 3), (5, 5)])
def test_milestones_must_increase(at):
    with pytest.raises(InputError, match="must increase"):
        milestones(at)
