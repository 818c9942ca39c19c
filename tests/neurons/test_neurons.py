"""Kinds of neurons, problems and vanishing starts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn import groups, neurons
from learndyn.errors import InputError
from learndyn.groups.loss import outputs
from learndyn.neurons import (
    Composition,
    InContext,
    activated,
    compressed,
    diagonal,
    gaussian,
    head,
    linear,
    of_hidden,
    polar,
    power,
    relu,
    sampled,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


X, Y = drawn(40, 4), drawn(40, 3, seed=1)
PROBLEMS = {
    "linear": sampled(linear(3), X, Y, 7),
    "relu": sampled(relu(3), X, Y, 7),
    "leaky": sampled(relu(3, 0.3), X, Y, 7),
    "abs": sampled(relu(3, -1.0), X, Y, 7),
    "square": sampled(power(3, 2), X, Y, 7),
    "cube": sampled(power(3, 3), X, Y, 7),
    "diagonal": sampled(diagonal(), X, Y[:, :1], 2),
    "head": sampled(head(3), torch.stack([X, X.roll(1, 0)], 1), Y, 11),
    "attention": InContext(torch.diag(torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)), 8),
    "modular": Composition(groups.cyclic(5), groups.one_hot(groups.cyclic(5)), 2),
    "dihedral, three": Composition(groups.dihedral(3), groups.generic(groups.dihedral(3), [0, 2, 5]), 3),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_euler_homogeneity_and_the_gradient_of_the_loss(name: str):
    problem = PROBLEMS[name]
    theta = drawn(4, problem.weights, seed=2)
    awake = 0.3 * drawn(4, problem.weights, seed=3)
    residual = problem.residual(awake)
    leaf = theta.clone().requires_grad_()
    utility = problem.utility(leaf, residual)
    (slope,) = torch.autograd.grad(utility.sum(), leaf)
    assert torch.allclose((leaf * slope).sum(1), problem.degree * utility, rtol=1e-12)
    assert torch.allclose(problem.utility(2 * theta, residual), 2**problem.degree * utility, rtol=1e-11)

    leaf = awake.clone().requires_grad_()
    (whole,) = torch.autograd.grad(problem.loss(leaf), leaf)
    (each,) = torch.autograd.grad(problem.utility(leaf, residual).sum(), leaf)
    assert torch.allclose(each, -whole, rtol=1e-9, atol=1e-12)  # at the residual of all of them
    for _ in range(3):  # the gradient itself, by finite differences
        way = drawn(4, problem.weights, seed=7)
        step = 1e-5
        change = (problem.loss(awake + step * way) - problem.loss(awake - step * way)) / (2 * step)
        assert float(change) == pytest.approx(float((whole * way).sum()), rel=1e-6, abs=1e-9)


def test_nothing_awake_leaves_the_whole_target():
    for problem in PROBLEMS.values():
        if not problem.placed:
            none = torch.zeros(0, problem.weights, dtype=torch.float64)
            tiny = 1e-9 * drawn(4, problem.weights)
            assert float(problem.loss(none)) == pytest.approx(float(problem.loss(tiny)), rel=1e-9)


def test_composition_by_moments_is_the_sampled_one():
    group = groups.dihedral(3)
    x = groups.generic(group, [0, 2, 5])
    problem = Composition(group, x, 2)
    inputs, targets = groups.encode(group, x, groups.all_sequences(group, 2))
    other = sampled(power(6, 2), inputs.flatten(1), targets, 18)
    theta, awake = drawn(5, 18), 0.3 * drawn(3, 18, seed=1)
    assert float(problem.loss(theta)) == pytest.approx(float(other.loss(theta)), rel=1e-12)
    assert torch.allclose(
        problem.utility(theta, problem.residual(awake)), other.utility(theta, other.residual(awake)), rtol=1e-10
    )
    u, w = problem.parts(theta)
    assert torch.allclose(outputs(inputs, u, w), other.neuron.answer(theta, inputs.flatten(1)), rtol=1e-12)


def test_attention_in_closed_form_is_the_mean_over_prompts():
    sigma, n = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64)), 6
    problem = InContext(sigma, n)
    theta = 0.2 * drawn(3, 5)
    m = problem.learnt(theta)
    root = sigma.sqrt()
    x, w, q = drawn(200_000, n, 2, seed=1) @ root, drawn(200_000, 2, seed=2), drawn(200_000, 2, seed=3) @ root
    label = (w * q).sum(1)
    s_w = torch.einsum("bni,bn->bi", x, torch.einsum("bni,bi->bn", x, w))
    losses = 0.5 * (label - ((s_w @ m) * q).sum(1)).square()
    assert abs(float(losses.mean() - problem.loss(theta))) < 5 * float(losses.std()) / 200_000**0.5


@given(st.integers(1, 4), st.integers(0, 10))
@settings(max_examples=10, deadline=None)
def test_faster_forms_agree_with_the_outputs_themselves(count: int, seed: int):
    theta, r = drawn(count, 7, seed=seed), drawn(40, 3, seed=seed + 1)
    for neuron in (linear(3), relu(3), power(3, 2)):
        plain = neurons.Neuron(neuron.name, neuron.degree, neuron.outputs)
        assert torch.allclose(neuron.answer(theta, X), plain.answer(theta, X), rtol=1e-12, atol=1e-12)
        assert torch.allclose(neuron.correlation(theta, X, r), plain.correlation(theta, X, r), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "degree", "homogeneous", "smooth"),
    [
        (torch.nn.functional.gelu, 2, False, True),
        (torch.tanh, 2, False, True),
        (torch.nn.functional.silu, 2, False, True),
        (torch.relu, 2, True, False),
        (torch.nn.functional.leaky_relu, 2, True, False),
        (torch.square, 3, True, True),
        (lambda z: z.tanh() ** 2, 3, False, True),
        (lambda z: z * z.abs(), 3, True, True),
    ],
)
def test_the_degree_of_an_activation_is_measured(activation, degree: int, homogeneous: bool, smooth: bool):
    neuron = activated(activation, outputs=3)
    assert (neuron.degree, neuron.homogeneous, neuron.smooth) == (degree, homogeneous, smooth)
    sampled(neuron, X, Y, 7)


def test_the_leading_part_is_what_a_small_neuron_is():
    neuron = activated(torch.nn.functional.gelu, outputs=3)  # z/2 at the origin
    theta = drawn(4, 7)
    assert torch.allclose(neuron.leading().outputs(theta, X), 0.5 * linear(3).outputs(theta, X), atol=1e-2)
    assert not torch.allclose(neuron.outputs(theta, X), 0.5 * linear(3).outputs(theta, X), atol=1e-2)


def test_starts_far_below_the_smallest_number():
    start = gaussian(2000, (4, 3), log_size=-1000.0, seed=3)
    assert float((2 * (start.log_norms + 1000)).exp().mean()) == pytest.approx(1, abs=0.05)  # E‖θ‖² = α²
    shares = start.scaled(1000.0).weights().square().mean(0)
    assert torch.allclose(shares, torch.tensor([1 / 8] * 4 + [1 / 6] * 3, dtype=torch.float64), rtol=0.2)
    again = polar(start.scaled(1000.0).weights())
    assert torch.allclose(again.directions, start.directions) and torch.allclose(
        again.log_norms, start.log_norms + 1000
    )


def test_compression_keeps_utilities_losses_and_norms():
    basis = torch.linalg.qr(drawn(12, 3))[0]
    inputs = drawn(30, 3, seed=1) @ basis.T  # in three of twelve dimensions
    problem, start = sampled(power(2, 2), inputs, drawn(30, 2, seed=2), 14), gaussian(5, (12, 2), 0.5)
    small, begin = compressed(problem, start)
    assert small.weights == 3 + 1 + 2
    assert torch.allclose(begin.directions.norm(dim=1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    one, two = start.weights(), begin.weights()
    assert float(problem.loss(one)) == pytest.approx(float(small.loss(two)), rel=1e-12)
    assert torch.allclose(problem.utility(one, problem.residual(one)), small.utility(two, small.residual(two)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sampled(linear(3), X[:3], Y, 7), "do not belong together"),
        (lambda: sampled(linear(3), X.float(), Y.float(), 7), "float64"),
        (lambda: sampled(linear(3), X * math.nan, Y, 7), "not finite"),
        (lambda: sampled(linear(3), X, 0 * Y, 7), "nothing to learn"),
        (lambda: sampled(of_hidden("wrong", 3, lambda w, x: w @ x.T, 3), X, Y, 7), "not homogeneous of degree 3"),
        (lambda: sampled(of_hidden("low", 1, lambda w, x: w @ x.T, 3), X, Y, 7), "below 2"),
        (lambda: sampled(neurons.Neuron("flat", 2, lambda t, x: t @ t.T), X, Y, 7), "samples, outputs"),
        (lambda: sampled(linear(3), 0 * X, Y, 7), "answers 0"),
        (lambda: activated(torch.sigmoid, 1), "0.5 at 0"),
        (lambda: activated(lambda z: z.abs().sqrt(), 1), "no power"),
        (lambda: activated(lambda z: (z - 1).relu(), 1), "flat at 0"),
        (lambda: power(1, 0), "at least 1"),
        (lambda: relu(1, math.inf), "finite"),
        (lambda: polar(torch.zeros(2, 3, dtype=torch.float64)), "never leaves"),
        (lambda: polar(torch.ones(2, 3)), "float64"),
        (lambda: gaussian(0, (3,)), "at least 1"),
        (lambda: gaussian(2, (3,), size=0.0), "above 0"),
        (lambda: InContext(torch.zeros(2, 2, dtype=torch.float64), 4), "positive definite"),
        (lambda: Composition(groups.cyclic(5), torch.zeros(4, dtype=torch.float64)), "do not fit"),
        (lambda: sampled(diagonal(), X, Y[:, :1], 2).loss(drawn(3, 2)), "one for each input"),
        (lambda: compressed(PROBLEMS["diagonal"], gaussian(4, (2,))), "cannot be compressed"),
    ],
)
def test_what_is_no_problem_is_refused_in_a_sentence(make, says: str):
    with pytest.raises(InputError, match=says):
        make()
