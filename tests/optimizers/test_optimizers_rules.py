"""Update rules reproduce torch.optim; schedules are functions of the step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.optimizers.rules import read_buffers, rule
from learndyn.optimizers.schedules import constant, cosine, linear, milestones


def follow(optimizer, parameters, steps=7):
    """Largest relative difference between the rule and the optimizer over some steps with random gradients."""
    draw = torch.Generator().manual_seed(3)
    named = {str(i): p for i, p in enumerate(parameters)}
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    law, worst = rule(optimizer, named), 0.0
    for step in range(steps):
        factor = 1 / (1 + step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype)
        buffers, done = read_buffers(optimizer, named, law.buffers)
        theta, slope = (torch.cat([t.detach().flatten() for t in ts]) for ts in (parameters, [p.grad for p in parameters]))
        expected, after = law.apply(theta, buffers, slope, factor, done)
        optimizer.step()
        found = torch.cat([p.detach().flatten() for p in parameters])
        worst = max(worst, float(((found - expected).abs() / (1e-3 + expected.abs())).max()))
        kept, _ = read_buffers(optimizer, named, law.buffers)
        if getattr(optimizer, "defaults", {}).get("momentum", 1):
            worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(after, kept)))
    return worst


def weights():
    draw = torch.Generator().manual_seed(5)
    return [torch.randn(s, generator=draw, dtype=torch.float64).requires_grad_() for s in ((3, 4), (4,), ())]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.01]), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.3])
)
def test_sgd(momentum, decay, nesterov, maximize, dampening):
    nesterov, dampening = nesterov and momentum > 0, 0.0 if nesterov else dampening
    options = {"momentum": momentum, "weight_decay": decay, "nesterov": nesterov, "maximize": maximize, "dampening": dampening}
    parameters = weights()
    assert follow(torch.optim.SGD(parameters, lr=0.1, **options), parameters) < 1e-13


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.7), "eps": 1e-3}, {"maximize": True}, {"fused": True}])
def test_adam(kind, options):
    parameters = weights()
    assert follow(kind(parameters, lr=0.1, **options), parameters) < 1e-12


def test_groups_with_their_own_settings():
    parameters = weights()
    groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:], "lr": 0.01, "momentum": 0.5}]
    assert follow(torch.optim.SGD(groups, lr=0.1, momentum=0.9), parameters) < 1e-13


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.RMSprop(p, lr=0.1), "no tangent rule for RMSprop"),
        (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.SGD(p[:1], lr=0.1), "does not hold"),
        (lambda p: torch.optim.SGD([{"params": p[:1], "nesterov": True}, {"params": p[1:]}], lr=0.1, momentum=0.9), "nesterov"),
    ],
)
def test_refusals(make, words):
    parameters = weights()
    optimizer = make(parameters)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    with pytest.raises(InputError, match=words):
        rule(optimizer, {str(i): p for i, p in enumerate(parameters)})


def test_schedules():
    assert constant(10**6) == 1.0
    assert [cosine(100)(t) for t in (0, 50, 100, 200)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-15)
    assert cosine(100)(25) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert [linear(100, warmup=10)(t) for t in (0, 9, 10, 55, 100)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])
    assert [milestones((10, 20))(t) for t in (9, 10, 19, 20)] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    for wrong in (lambda: cosine(10, warmup=10), lambda: linear(10, warmup=-1), lambda: milestones((20, 10))):
        with pytest.raises(InputError):
            wrong()
