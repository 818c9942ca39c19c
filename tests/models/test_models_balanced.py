"""Balanced weights: shapes, products, feasibility, and the distribution of the rotations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn import noise
from learndyn.errors import InputError
from learndyn.models.balanced import balance_defects, rebalance, sample_balanced


def rng(seed=0):
    return noise.generator(seed, "balanced")


def gaussian(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def product(weights):
    made = weights[0]
    for weight in weights[1:]:
        made = weight @ made
    return made


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(*[st.integers(1, 7)] * 3), st.integers(-8, 2), st.sampled_from([-1, 0, 1]), st.integers(-6, 2))
def test_two_layers_are_balanced_wherever_they_can_be(shape, power, sign, size):
    d, h, c = shape
    lam = sign * 10.0**power
    if lam > 0 and h > c or lam < 0 and h > d:
        with pytest.raises(InputError, match=r"lambda [<>] 0 needs h <= [cd]"):
            sample_balanced(shape, (lam,), rng())
        return
    w1, w2 = sample_balanced(shape, (lam,), rng(), scale=10.0**size)
    assert w1.shape == (h, d) and w2.shape == (c, h)
    assert max(balance_defects([w1, w2], [lam])) < 1e-15 * (3 + h)
    if h >= min(c, d):
        wanted = gaussian(c, d) * 10.0**size
        w1, w2 = sample_balanced(shape, (lam,), rng(), product=wanted)
        assert torch.allclose(w2 @ w1, wanted, rtol=0, atol=1e-14 * float(wanted.norm() + abs(lam)))
        assert max(balance_defects([w1, w2], [lam])) < 1e-15 * (3 + h)


@pytest.mark.parametrize(
    ("widths", "lams"),
    [
        ((3, 5, 5, 6), (1.0, 0.3)),
        ((6, 4, 4, 3), (-0.2, -1.0)),
        ((4, 4, 3, 4), (-0.5, 0.7)),
        ((5, 3, 3, 5), (2.0, -1.0)),
        ((3, 6, 6, 3), (1.0, -1.0)),
        ((2, 4, 5, 4, 2), (0.0, 0.0, 0.0)),
        ((3, 4, 6, 6, 4, 3), (0.0, 1.5, -1.5, 0.0)),
        ((1, 5, 5, 1), (0.3, -0.3)),
        ((4, 2, 2, 2, 6), (1.0, -3.0, 0.5)),
    ],
)
def test_chains_are_balanced_and_have_the_product(widths, lams):
    weights = sample_balanced(widths, lams, rng())
    assert [w.shape for w in weights] == list(zip(widths[1:], widths))
    assert max(balance_defects(weights, lams)) < 2e-15
    least = min(widths)
    wanted = gaussian(widths[-1], least) @ gaussian(least, widths[0], seed=1)
    assert torch.allclose(product(sample_balanced(widths, lams, rng(), product=wanted)), wanted, atol=1e-13)


@pytest.mark.parametrize(
    ("widths", "lams", "message"),
    [
        ((3, 6, 6, 3), (1.0, 1.0), "hidden layers 1 to 2 has no neighbour before or after.* sum to 0, not 2"),
        ((3, 6, 3, 3), (0.1, 1.0), "unit 4 of hidden layer 1 has no neighbour"),
        ((3, 5, 5, 6), (-1.0, 0.3), r"unit 4 begins at hidden layer 1, so W_2 needs lambda_1 >= 0, not -1"),
        ((3, 5, 5, 6), (1.0, -1.5), r"begins at hidden layer 1, so W_3 needs lambda_1 \+ lambda_2 >= 0, not -0.5"),
        ((6, 4, 4, 3), (-0.2, 1.0), r"unit 4 ends at hidden layer 2, so W_2 needs lambda_2 <= 0, not 1"),
        ((6, 4, 4, 3), (3.0, -1.0), r"W_1 needs lambda_1 \+ lambda_2 <= 0, not 2"),
        ((8, 6, 3), (1.0,), r"lambda > 0 needs h <= c \(h=6, c=3\)"),
        ((3, 6, 8), (-1.0,), r"lambda < 0 needs h <= d \(h=6, d=3\)"),
        ((3, 6, 4), (-1.0,), r"lambda < 0 needs h <= d"),
    ],
)
def test_impossible_networks_are_refused_with_their_reason(widths, lams, message):
    with pytest.raises(InputError, match=message):
        sample_balanced(widths, lams, rng())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=6), st.integers(0, 10**6))
def test_whatever_is_not_refused_is_balanced(widths, seed):
    lams = np.random.default_rng(seed).integers(-2, 3, len(widths) - 2).astype(float).tolist()
    try:
        weights = sample_balanced(widths, lams, rng(seed))
    except InputError:
        return
    assert max(balance_defects(weights, lams)) < 1e-14


def test_what_is_refused_cannot_be_built():
    # W₃ᵀW₃ = λ₂I + W₂W₂ᵀ and W₂ᵀW₂ = λ₁I + W₁W₁ᵀ: ranks decide, by search over the signs of Σ of strands
    for widths in [(2, 3, 2), (1, 2, 3), (3, 2, 1), (2, 2, 2)]:
        for lam in (-1.0, 0.0, 1.0):
            d, h, c = widths
            possible = not (lam > 0 and h > c or lam < 0 and h > d)
            # least |W₂ᵀW₂ − W₁W₁ᵀ − λI|² over all weights, by descent
            w1, w2 = (
                torch.randn(*s, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
                for s in ((h, d), (c, h))
            )
            w1.requires_grad_(), w2.requires_grad_()
            optimizer = torch.optim.LBFGS([w1, w2], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

            def closure(w1=w1, w2=w2, lam=lam, h=h, optimizer=optimizer):
                optimizer.zero_grad()
                loss = (w2.T @ w2 - w1 @ w1.T - lam * torch.eye(h, dtype=torch.float64)).square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)
            assert (closure().item() < 1e-8) == possible


def test_the_same_generator_draws_the_same():
    one, two = (sample_balanced((3, 4, 5), (0.2,), rng(1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], sample_balanced((3, 4, 5), (0.2,), rng(2))[0])


def test_scale_and_alignment_of_the_default_product():
    sizes = [float(product(sample_balanced((20, 30, 25), (0.0,), rng(s), scale=0.7)).norm()) for s in range(20)]
    assert np.mean(sizes) == pytest.approx(0.7 * math.sqrt(20), rel=0.05)
    task = gaussian(4, 3)
    weights = sample_balanced((3, 5, 4), (0.0,), rng(), align=task)
    u, _, vt = torch.linalg.svd(task, full_matrices=False)
    modes = u.T @ product(weights) @ vt.T
    assert torch.allclose(modes, modes.diagonal().diag(), atol=1e-14) and bool((modes.diagonal() > 0).all())
    assert float(product(sample_balanced((3, 5, 4), (0.0,), rng(), scale=0.0)).abs().max()) == 0


def test_hidden_rotations_are_uniform():
    # E[R_ij²] = 1/h and E[R_ij⁴] = 3/(h(h+2)) on O(h)
    h = 3
    turns = np.stack([sample_balanced((h, h, h), (0.0,), rng(s), product=torch.eye(h))[0].numpy() for s in range(1000)])
    assert np.allclose((turns**2).mean(0), 1 / h, atol=0.03) and np.allclose(turns.mean(0), 0, atol=0.07)
    assert (turns**4).mean() == pytest.approx(3 / (h * (h + 2)), rel=0.05)


@pytest.mark.parametrize("lam", [0.0, 1e-6, 3.0, -3.0])
def test_rebalancing_keeps_the_function_and_moves_least(lam):
    w1, w2 = gaussian(4, 5), gaussian(6, 4, seed=1)
    first, second = rebalance(w1, w2, lam)
    assert max(balance_defects([first, second], [lam])) < 1e-14
    assert torch.allclose(second @ first, w2 @ w1, atol=1e-13)
    moved = float((first - w1).square().sum() + (second - w2).square().sum())
    for seed in range(20):
        turn = torch.linalg.qr(gaussian(4, 4, seed=seed)).Q
        assert moved <= float((turn @ first - w1).square().sum() + (second @ turn.T - w2).square().sum())
    small = torch.eye(4) + 1e-3 * (gaussian(4, 4) - gaussian(4, 4).T)
    turn = torch.linalg.qr(small.double()).Q
    turn = turn * turn.diagonal().sign()
    assert moved <= float((turn @ first - w1).square().sum() + (second @ turn.T - w2).square().sum())
    again = rebalance(first, second, lam)
    assert torch.allclose(again[0], first, atol=1e-7) and torch.allclose(again[1], second, atol=1e-7)


def test_bad_input_to_the_sampler_is_refused():
    for call, message in [
        (lambda: sample_balanced((3, 4), (), rng()), "at least three widths"),
        (lambda: sample_balanced((3, 4, 5), (0.0, 1.0), rng()), "for each hidden layer"),
        (lambda: sample_balanced((3, 0, 5), (0.0,), rng()), "widths >= 1"),
        (lambda: sample_balanced((3, 4, 5), (math.nan,), rng()), "finite"),
        (lambda: sample_balanced((3, 4, 5), (0.0,), rng(), scale=-1.0), "scale=-1"),
        (lambda: sample_balanced((3, 4, 5), (0.0,), rng(), product=torch.zeros(3, 5)), r"product has shape \(3, 5\)"),
        (lambda: sample_balanced((3, 2, 3), (0.0,), rng(), product=torch.eye(3)), "rank above 2"),
        (lambda: sample_balanced((3, 3, 3), (0.0,), rng(), product=torch.eye(3) * math.nan), r"not finite at \(0, 0\)"),
        (lambda: sample_balanced((3, 3, 3), (0.0,), rng(), product=torch.eye(3), align=torch.eye(3)), "not both"),
        (lambda: rebalance(torch.eye(3), torch.ones(2, 2), 0.0), "expected"),
        (lambda: rebalance(torch.ones(3, 2), torch.ones(2, 3), 1.0), "needs h <= c"),
        (lambda: balance_defects([torch.eye(3), torch.eye(3)], []), "need 1 lams"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
