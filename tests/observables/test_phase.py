"""The probe of a live run, where exponent, growth and kernel are known."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from potentials import Number, Potential, logistic
from torch import nn

from learndyn.dynamics import fork, start, train
from learndyn.errors import InputError
from learndyn.observables import kernel
from learndyn.observables.phase import factor, phase
from learndyn.optimizers.schedules import cosine
from learndyn.tasks import place, teacher


class Unknown(torch.optim.SGD):
    """An optimizer without a tangent rule."""


def quadratic(h, value=1.0, optimizer=torch.optim.SGD, momentum=0.0, **options):
    """θ → (1 − 0.1 h) θ."""
    task = Potential(lambda x: h * x**2 / 2)
    return start(task, Number(value), partial(optimizer, lr=0.1, momentum=momentum), **options)


def network(dropout=0.3, **options):
    task = place(teacher(examples=80, test_examples=40, inputs=6, classes=3, batch_size=16), "cpu", torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 3)
        ).double()
    return train(start(task, model, partial(torch.optim.SGD, lr=0.1, momentum=0.9), **options), 5).state


@pytest.mark.parametrize("h, probes", [(1.0, 1), (9.0, 2), (19.0, 3), (20.5, 1), (25.0, 2)])
def test_the_exponent_of_a_quadratic(h, probes):
    found = phase(quadratic(h), window=11, probes=probes)
    assert found.exponent == pytest.approx(math.log(abs(1 - 0.1 * h)), abs=1e-6) and found.way == "tangent"
    assert found.exponent_error < 1e-6
    assert found.exponent_per_time == pytest.approx(10 * found.exponent)
    assert found.growth == pytest.approx(100 * found.exponent) and found.growth_until == 100


def test_momentum_has_set_in_after_half_the_window():
    """Beyond the edge of stability the modes are −1 ± √0.1; the smaller one has died away as 0.52^20 = 2e-6."""
    found = phase(quadratic(39.0, momentum=0.9))
    assert found.exponent == pytest.approx(math.log(1 + 0.1**0.5), abs=1e-6)


@pytest.mark.parametrize("h", [1.0, 19.0, 25.0])
def test_twins_say_the_same(h):
    found = phase(quadratic(h, optimizer=Unknown), window=20)
    assert found.way == "twin" and "Unknown" in found.notes[0]
    assert found.exponent == pytest.approx(math.log(abs(1 - 0.1 * h)), abs=1e-3)


def test_twins_agree_with_tangents_on_a_network():
    """Smooth, and at a distance of 1e-4: the same curve, but for what is of second order."""
    state = network(dropout=0.0)
    other = fork(state)
    other.optimizer.__class__ = Unknown
    first, second = phase(state, window=20), phase(other, window=20)
    assert (first.way, second.way) == ("tangent", "twin")
    assert second.exponent == pytest.approx(first.exponent, abs=1e-3)


def test_twins_where_a_kernel_has_no_second_derivative():
    rows, one = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 1, 3), torch.tensor([[1]])
    task = Potential(lambda x: nn.functional.ctc_loss((x * rows).log_softmax(-1), one, (5,), (1,)) + x**2 / 2)
    found = phase(start(task, Number(0.3), partial(torch.optim.SGD, lr=0.1)), window=10)
    assert found.way == "twin" and "ctc_loss" in found.notes[0] and found.exponent < 0


def test_regimes():
    chaos = phase(logistic(4.0, 0.3), window=20, end=200)
    assert chaos.regime == "chaotic" and chaos.exponent == pytest.approx(math.log(2), abs=0.15)
    assert chaos.verdict.startswith("chaotic: a perturbation grows e-fold every 1.") and "by step 200" in chaos.verdict
    assert phase(quadratic(25.0), window=10).regime == "chaotic"
    assert phase(logistic(2.5, 0.6), window=10).regime == phase(quadratic(1.0), window=10).regime == "stable"
    # 1 % a step: not yet a doubling by step 60, no tenfold by step 100
    assert [phase(quadratic(20.1), window=10, end=end).regime for end in (60, 100, 400)] == [
        "stable",
        "marginal",
        "chaotic",
    ]


@pytest.mark.parametrize("h, trained", [(19.0, 0), (20.5, 0), (21.0, 30), (25.0, 30)])
def test_safe_from_is_where_a_doubling_is_left(h, trained):
    """Against the sum over a cosine schedule, step by step."""
    state = train(quadratic(h, schedule=cosine(300)), trained).state
    found = phase(state, window=8)
    assert found.end == 300 and found.amplification == found.growth
    rates = [0.05 * (1 + math.cos(math.pi * step / 300)) for step in range(300)]
    left = [found.exponent_per_time * sum(rates[start:]) for start in range(trained, 301)]
    assert found.growth == pytest.approx(left[0])
    assert found.safe_from == trained + [growth <= math.log(2) for growth in left].index(True)
    first, last = found.safe_between
    assert trained <= first <= found.safe_from <= last <= 300
    assert ("from now on" in found.verdict) == (found.safe_from == trained)


def test_without_an_end():
    chaos, calm = (phase(quadratic(h), window=4) for h in (25.0, 1.0))
    assert chaos.end is chaos.amplification is chaos.safe_from is chaos.safe_between is None
    assert chaos.rounding_reproducible is None and "give it" in chaos.verdict
    assert calm.end is None and calm.safe_from == 0


def test_the_window_ends_where_the_run_ends():
    assert phase(quadratic(1.0), window=40, end=10).window == 10
    state = train(quadratic(1.0, schedule=cosine(50)), 40).state
    assert (phase(state).window, phase(state).end) == (10, 50)


@pytest.mark.parametrize("end, kept", [(40, True), (200, False)])
def test_rounding(end, kept):
    """1e-16 grows as 1.5^n: to 1e-9 in 40 steps, to 1e19 in 200."""
    found = phase(quadratic(25.0), window=10, end=end)
    assert 1e-17 < found.floor < 1e-15 and found.rounding_reproducible is kept


def test_the_kernel():
    state = network()
    found = phase(state, window=10)
    inputs = state.task.evaluation("train").inputs
    before, after = (kernel(s.model, inputs[:48]).matrix for s in (state, train(fork(state), 10).state))
    cosine_of = (before * after).sum() / (before.norm() * after.norm())
    assert found.kernel_velocity == pytest.approx(float(1 - cosine_of) / 10, rel=1e-6) and found.kernel_velocity > 0
    assert found.kernel_scale == pytest.approx(float(after.norm() / before.norm()) - 1)
    assert phase(state, window=10, inputs=inputs[:5]).kernel_velocity != found.kernel_velocity


def test_a_kernel_of_many_outputs_and_none():
    state = network()
    draw = torch.Generator().manual_seed(0)
    state.model[4].weight.data = torch.randn(80, 8, generator=draw, dtype=torch.float64) / 3
    state.model[4].bias.data = torch.zeros(80, dtype=torch.float64)
    state.optimizer.state.clear()  # of three outputs
    found, inputs = phase(state, window=4), state.task.evaluation("train").inputs[:48]
    before, after = (kernel(s.model, inputs).matrix for s in (state, train(fork(state), 4).state))
    turned = 1 - float((before * after).sum() / (before.norm() * after.norm()))
    assert found.kernel_velocity == pytest.approx(turned / 4, rel=0.3)
    assert found.kernel_scale == pytest.approx(float(after.norm() / before.norm()) - 1, rel=0.3)
    odd = phase(quadratic(1.0), window=4)
    assert math.isnan(odd.kernel_velocity) and "kernel was left out" in odd.notes[0]


@pytest.mark.parametrize("training, optimizer", [(True, torch.optim.SGD), (False, Unknown)])
def test_the_state_stays_as_it_was(training, optimizer):
    state = network()
    state.optimizer.__class__ = optimizer
    state.model.train(training)[3].train(not training)

    def everything():
        return (
            {name: t.clone() for name, t in state.model.state_dict().items()},
            copy.deepcopy(state.optimizer.state_dict()),
            [m.training for m in state.model.modules()],
            [None if p.grad is None else p.grad.clone() for p in state.model.parameters()],
            torch.random.get_rng_state(),
            torch.as_tensor(np.random.get_state()[1].astype(np.int64)),
        )

    before = everything()
    first = phase(state, window=8)
    torch.testing.assert_close(everything(), before, rtol=0, atol=0)
    assert phase(state, window=8) == first  # and says the same when asked again


def test_the_seed_decides_the_directions():
    assert phase(network(), window=8, seed=1).exponent != phase(network(), window=8).exponent


def test_empty_buffers_are_told():
    state = network()
    state.optimizer.state.clear()
    assert "buffers are empty" in phase(state, window=8).notes[0]
    assert not phase(network(), window=8).notes


class Lost(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([math.nan]))


@pytest.mark.parametrize(
    "state, options, expected",
    [
        (quadratic(1.0), {"window": 3}, "window=3 must be at least 4"),
        (quadratic(1.0), {"probes": 0}, "probes=0 must be at least 1"),
        (quadratic(1.0), {"end": 0}, "end=0 must lie after the step where the run stands, 0"),
        (quadratic(1.0), {"end": 3}, "Only 3 steps are left"),
        (quadratic(1.0, schedule=lambda step: 0.0), {}, "learning rate is 0"),
        (quadratic(1.0, value=math.nan), {}, "'value' holds values that are not finite"),
        (quadratic(1e30), {}, "diverges at step [4-7], within the window of 40 steps"),
        (quadratic(10.0, value=0.5), {"window": 8}, "vanishes or overflows"),
    ],
)
def test_refusals(state, options, expected):
    with pytest.raises(InputError, match=expected):
        phase(state, **options)


def test_factors_are_written_short():
    told = {0.0: "1", -1.0: "0.37", 1.0: "2.7", 6.0: "403", 14.5: "2e+06", 2000.0: "4e+868", math.inf: "inf"}
    assert {growth: factor(growth) for growth in told} == told
