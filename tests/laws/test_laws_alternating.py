"""Alternating gradient flows of any neurons, against closed forms and against gradient flow."""

import math

import numpy as np
import pytest
import torch

from learndyn import groups
from learndyn.dynamics import vanishing_flow
from learndyn.errors import InputError
from learndyn.laws.staircase import Staircase, alternate, diagonal_staircase, flow_time, linear_staircase, threshold
from learndyn.laws.staircase.awake import settle, settle_roughly
from learndyn.laws.staircase.dormant import climb
from learndyn.neurons import (
    Composition,
    InContext,
    Neuron,
    Start,
    activated,
    compressed,
    diagonal,
    gaussian,
    linear,
    of_hidden,
    polar,
    power,
    relu,
    sampled,
)

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def passed(run, levels) -> list[float]:
    """When the loss passes the middles between levels."""
    t, loss, found = run.times.numpy(), run.loss.numpy(), []
    for high, low in zip(levels[:-1], levels[1:]):
        middle = (high + low) / 2
        assert loss.min() < middle
        i = int(np.argmax(loss < middle))
        found.append(t[i - 1] + (t[i] - t[i - 1]) * (loss[i - 1] - middle) / (loss[i - 1] - loss[i]))
    return found


def white(singular: list[float], outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.eye(inputs, dtype=F64) * inputs**0.5
    teacher = torch.zeros(outputs, inputs, dtype=F64)
    for i, s in enumerate(singular):
        teacher[i, i] = s
    return x, x @ teacher.T


def test_a_dormant_neuron_of_constant_direction_wakes_when_the_closed_form_says():
    for degree in (2, 3, 5):
        x = torch.ones(1, 1, dtype=F64)
        problem = sampled(power(1, degree - 1), x, x, 2)
        best = torch.tensor([[math.sqrt((degree - 1) / degree), math.sqrt(1 / degree)]], dtype=F64)
        utility = float(problem.utility(best, x))
        log_norm = torch.tensor([math.log(1e-3)], dtype=F64)
        found = climb(lambda theta, p=problem: p.utility(theta, p.targets), best, log_norm, degree, degree - 2.0)
        wanted = float(threshold(log_norm.exp(), degree)) / (degree * utility)
        assert bool(found.crossed.all()) and float(found.times) == pytest.approx(wanted, rel=1e-8)


def test_dormant_neurons_move_as_the_frozen_flow_moves_them():
    problem = sampled(power(2, 2), drawn(20, 3), drawn(20, 2, seed=1), 5)
    start = gaussian(6, (3, 2), 0.2, seed=2)
    utility = lambda theta: problem.utility(theta, problem.targets)  # noqa: E731
    until = 0.5
    found = climb(utility, start.directions, start.log_norms, 3.0, 1.0, until, rtol=1e-10)
    theta = start.weights()
    for _ in range(800):  # fourth order, the raw weights
        h, k = until / 800, []
        for part in (0.0, 0.5, 0.5, 1.0):
            leaf = (theta + part * h * (k[-1] if k else 0)).requires_grad_()
            k.append(torch.autograd.grad(utility(leaf).sum(), leaf)[0])
        theta = theta + h / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3])
    slow = ~found.crossed
    assert slow.sum() >= 3
    got = found.log_norms.exp()[:, None] * found.directions
    assert torch.allclose(got[slow], theta[slow], rtol=1e-7, atol=1e-9)


def test_awake_neurons_end_where_gradient_flow_ends():
    problem = sampled(linear(3), drawn(30, 4), drawn(30, 3, seed=1), 7)
    theta = 0.5 * drawn(5, 7, seed=2)
    ended, how = settle(problem.loss, theta, 1e-9, 1e4)
    least = problem.targets - problem.inputs @ torch.linalg.lstsq(problem.inputs, problem.targets).solution
    assert how == "still"
    assert float(problem.loss(ended)) == pytest.approx(0.5 * float(least.square().sum(1).mean()), rel=1e-9)
    run = vanishing_flow(problem, polar(theta), 300.0, rest=0.0, rtol=1e-8)
    assert torch.allclose(run.weights()[-1], ended, atol=0.02)  # the same of many minima: the path is that of the flow
    rough, _ = settle_roughly(problem.loss, theta, 1e-6, 1e4)
    assert float(problem.loss(rough)) == pytest.approx(float(problem.loss(ended)), rel=1e-3)


def test_white_linear_network_learns_singular_values_in_order_at_any_start():
    x, y = white([4, 2.5, 1.5, 0.8], 6, 5)
    problem, shifts = sampled(linear(6), x, y, 11), []
    for alpha in (1e-4, 1e-8, 1e-12):
        found = alternate(problem, gaussian(20, (5, 6), alpha, seed=1))
        assert torch.allclose(found.levels, torch.tensor([12.57, 4.57, 1.445, 0.32, 0.0], dtype=F64), atol=1e-6)
        shifts.append(found.times + math.log(alpha) / torch.tensor([4, 2.5, 1.5, 0.8], dtype=F64))
    assert float((shifts[0] - shifts[1]).abs().max()) < 5e-3  # J = τ + C/ln(1/α): C does not depend on α
    assert float((shifts[1] - shifts[2]).abs().max()) < 5e-2
    modes = linear_staircase(x.T @ x / 5, y.T @ x / 5, 20)
    assert torch.allclose(modes.staircase.levels, found.levels, atol=1e-6)


def test_diagonal_network_up_to_where_a_coordinate_sleeps():
    turn = math.radians(150)
    r = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=F64)
    x = torch.linalg.cholesky(r @ torch.diag(torch.tensor([1.0, 25.0], dtype=F64)) @ r.T)
    y = x @ torch.tensor([-0.2, 2.0], dtype=F64)
    log_alpha = -200 * math.log(10)
    start = Start(torch.full((2,), log_alpha + 0.5 * math.log(2), dtype=F64), torch.tensor([[1.0, 0.0]] * 2, dtype=F64))
    found = alternate(sampled(diagonal(), x, y[:, None], 2), start)
    exact = diagonal_staircase(x, y).staircase
    assert torch.allclose(found.levels[:3], exact.levels[:3], atol=1e-6)
    assert torch.allclose(found.times[:2] / -log_alpha, exact.times[:2], rtol=2e-3)
    assert [(event.neuron, event.kind) for event in found.events[:3]] == [
        (0, "activation"),
        (1, "activation"),
        (0, "deactivation"),
    ]
    assert any("fell asleep" in sentence for sentence in found.sentences) == any(
        event.neuron == 0 and event.kind == "activation" for event in found.events[3:]
    )


def test_attention_staircase_is_met_by_its_flow():
    spectrum = torch.tensor([1, 1 / 2, 1 / 3, 1 / 4], dtype=F64)
    problem = InContext(torch.diag(2 * spectrum / spectrum.sum()), 32)
    theta = drawn(5, 9)
    theta[:, 0] = theta[:, 0].abs()
    for alpha in (1e-2, 1e-3):
        found = alternate(problem, polar(alpha * theta))
        assert torch.allclose(found.levels, torch.tensor([1, 0.56219, 0.35555, 0.22510, 0.13220], dtype=F64), atol=1e-5)
    run = vanishing_flow(problem, polar(1e-3 * theta), 2 * float(found.times[-1]), rest=0.14)
    assert passed(run, found.levels.tolist()) == pytest.approx(found.times.tolist(), rel=0.01)


def modular(p: int, sizes: dict[int, float], count: int, seed: int):
    group = groups.cyclic(p)
    x = groups.magnitudes(group, sizes)
    inputs, targets = groups.encode(group, x, groups.all_sequences(group, 2))
    first = 0.01 * torch.cat(
        [drawn(count, 2 * p, seed=seed) / (2 * p) ** 0.5, drawn(count, p, seed=seed + 99) / p**0.5], 1
    )
    return sampled(power(p, 2), inputs.flatten(1), targets, 3 * p), polar(first)


def test_modular_addition_has_the_levels_inside_a_frequency():
    problem, start = compressed(*modular(9, {1: 6.0, 2: 3.0}, 12, 0))
    found = alternate(problem, start)
    inner = [5, 4.5556, 3.2222, 2.3333]
    assert found.levels[:4].tolist() == pytest.approx(inner, abs=2e-3)  # −1/9, −4/9, −2/3 of the power of one frequency
    assert 1.0 == pytest.approx(float(found.levels[(found.levels - 1).abs().argmin()]), abs=1e-3)
    assert float(found.levels[-1]) < 1e-3
    assert "below 0.0001" in found.reason


def test_preconditioned_neurons_wake_as_the_groups_predict():
    group = groups.dihedral(3)
    x = groups.powers(group, [0, 10, 40])
    problem = Composition(group, x, 2)
    found = alternate(problem, gaussian(20, (12, 6), 1e-30, seed=1), preconditioned=True, until=math.inf, rounds=1)
    said = groups.predict(group, x, 2, start=float(gaussian(20, (12, 6), 1e-30, seed=1).log_norms.max().exp()))
    assert float(found.levels[0]) == pytest.approx(said.level, rel=1e-9)
    assert float(found.times[0]) == pytest.approx(said.stages[0].time, rel=0.05)  # the rest is the time of alignment
    share = groups.power(group, found.weights[found.awake][:, -6:])[0]
    assert int(share.argmax()) == said.stages[0].index


def gated(outputs: int) -> Neuron:
    """A stranger's own: a (w₁·x)(w₂·x)."""
    return of_hidden("gated", 3, lambda w, x: (w[:, :4] @ x.T) * (w[:, 4:] @ x.T), outputs)


def signed(outputs: int) -> Neuron:
    """Another: a (w·x)|w·x|."""
    return of_hidden("signed square", 3, lambda w, x: (w @ x.T) * (w @ x.T).abs(), outputs)


@pytest.mark.parametrize(("kind", "d"), [(gated, 8), (signed, 4)])
def test_a_strangers_neuron_gets_its_staircase_and_meets_it(kind, d: int):
    x = drawn(40, 4, seed=5)
    teacher = torch.zeros(3, d + 2, dtype=F64)
    for i, size in enumerate((1.4, 1.0, 0.7)):
        teacher[i, i] = size
        teacher[i, i + 4 if d == 8 else i] = size
        teacher[i, d + i % 2] = size
    neuron = kind(2)
    problem = sampled(neuron, x, neuron.answer(teacher, x), d + 2)
    start = gaussian(6, (d, 2), 1e-4, seed=3)
    found = alternate(problem, start, rounds=3)
    met = passed(vanishing_flow(problem, start, 1.5 * float(found.times[-1]), rest=1e-3), found.levels.tolist())
    assert met[:2] == pytest.approx(found.times[:2].tolist(), rel=1e-3)
    assert met[2] == pytest.approx(float(found.times[2]), rel=0.05)


def test_relu_at_1e_100():
    x, neuron = drawn(200, 3, seed=1), relu(2)
    teacher = torch.tensor([[1, 0, 0, 1.5, 0], [0, -1, 0.2, 0, 1.2]], dtype=F64)
    problem = sampled(neuron, x, neuron.answer(teacher, x), 5)
    start = gaussian(2, (3, 2), log_size=-100 * math.log(10), seed=1)  # one neuron in each basin
    found = alternate(problem, start, rounds=2)
    met = passed(vanishing_flow(problem, start, 1.5 * float(found.times[-1])), found.levels.tolist())
    assert met == pytest.approx(found.times.tolist(), rel=0.01)


def test_events_know_how_near_awake_neurons_are():
    x, y = white([4.0, 2.0, 1.0], 3, 3)
    found = alternate(sampled(linear(3), x, y, 6), gaussian(6, (3, 3), 1e-3))
    assert math.isnan(found.events[0].overlap) and len(found.events) == 3
    for event, settled in zip(found.events[1:], found.settled):
        others = settled[settled.norm(dim=1) > 0]
        cosines = others @ event.direction / others.norm(dim=1)
        assert event.overlap == pytest.approx(float(cosines.max()), abs=1e-12)
    assert len(others) == 2 and float(cosines.max() - cosines.min()) > 1e-9


def test_gelu_wakes_as_the_linear_neuron_of_half_its_slope():
    x, y = white([3.0, 1.0], 2, 2)
    start = gaussian(4, (2, 2), 1e-6)
    gelu = alternate(sampled(activated(torch.nn.functional.gelu, 2), x, y, 4), start, rounds=1)
    plain = alternate(sampled(linear(2), x, 0.5 * y, 4), start, rounds=1)
    assert float(gelu.times[0]) == pytest.approx(float(plain.times[0]), rel=1e-3)


def test_a_staircase_is_continuous_from_the_right():
    stairs = Staircase(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0, 0.0]), (), "")
    assert stairs.loss(torch.tensor([0.0, 1.0, 2.9, 3.0, 9.0])).tolist() == [2.0, 1.0, 1.0, 0.0, 0.0]
    assert flow_time(100, 0.1, 0.9, 2 / 4) == pytest.approx(50)


def test_why_it_ends():
    x, y = white([3.0, 1.0], 2, 2)
    problem = sampled(linear(2), x, y, 4)
    assert "all 1 neurons" in alternate(problem, gaussian(1, (2, 2), 1e-6)).reason
    assert "before flow time 1" in alternate(problem, gaussian(4, (2, 2), 1e-6), until=1.0).reason
    assert "as many as" in alternate(problem, gaussian(4, (2, 2), 1e-6), rounds=1).reason
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
    dead = sampled(relu(1), x, torch.ones(2, 1, dtype=F64), 3)
    silent = polar(1e-6 * torch.tensor([[-1.0, -1.0, 1.0], [-1.0, -2.0, 0.5]], dtype=F64))
    assert "can grow" in alternate(dead, silent).reason


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (gaussian(3, (2, 2), 1.0), "vanishing regime"),
        (gaussian(3, (2, 3), 1e-6), "do not fit"),
        (Start(torch.tensor([-9.0], dtype=F64), torch.tensor([[2.0, 0, 0, 0]], dtype=F64)), "norm 1"),
        (Start(torch.tensor([math.nan], dtype=F64), torch.tensor([[1.0, 0, 0, 0]], dtype=F64)), "not finite"),
    ],
)
def test_starts_that_are_refused(start: Start, says: str):
    x, y = white([3.0, 1.0], 2, 2)
    with pytest.raises(InputError, match=says):
        alternate(sampled(linear(2), x, y, 4), start)
