"""Pure update rules against torch.optim, to 1e-13, over options, groups and schedules."""

import math
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from learndyn.errors import InputError
from learndyn.optimizers.rules import read_buffers, rule
from learndyn.optimizers.schedules import cosine

STEPS = 6


def network(seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in (("weight", (3, 2)), ("bias", (3,)), ("scale", ()))
    }


def slope(theta, step):
    """A gradient that depends on where one is, and on the step."""
    return torch.sin(3 * theta + step) + 0.3 * theta


def assert_same_steps(make, schedule=lambda step: 1.0, steps=STEPS, tolerance=1e-13, dtype=torch.float64):
    """The rule, fed with its own results, stays with the optimizer, fed with its own; and buffers agree on the way."""
    parameters = network(dtype=dtype)
    optimizer = make(list(parameters.values()))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    law = rule(optimizer, parameters)
    theta = torch.cat([p.detach().flatten() for p in parameters.values()])
    buffers, done = read_buffers(optimizer, parameters, law.buffers)
    assert done == 0 and all(not b.any() for b in buffers)
    assert not optimizer.state  # reading leaves no trace
    for step in range(steps):
        theta, buffers = law.apply(theta, buffers, slope(theta, step), schedule(step), done)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(step)
        for p in parameters.values():
            p.grad = slope(p.detach(), step)
        optimizer.step()
        held, done = read_buffers(optimizer, parameters, law.buffers)
        expected = torch.cat([p.detach().flatten() for p in parameters.values()])
        torch.testing.assert_close(theta, expected, rtol=tolerance, atol=tolerance)
        for own, its, name in zip(buffers, held, law.buffers):
            kept = torch.cat(
                [torch.full((p.numel(),), name in optimizer.state.get(p, {})) for p in parameters.values()]
            )
            torch.testing.assert_close(own[kept], its[kept], rtol=tolerance, atol=tolerance)
    assert (theta - torch.cat([p.detach().flatten() for p in network(dtype=dtype).values()])).abs().max() > 1e-3
    return done


RATES = st.floats(1e-3, 0.5)
DECAYS = st.sampled_from([0.0, 1e-3, 0.1])
SCHEDULES = st.sampled_from([lambda step: 1.0, cosine(STEPS), cosine(20, warmup=3)])
MOMENTA = st.sampled_from([0.0, 0.5, 0.9])


@given(RATES, MOMENTA, st.sampled_from([0.0, 0.3]), DECAYS, st.booleans(), st.booleans(), SCHEDULES)
@settings(deadline=None, max_examples=40)
def test_sgd(lr, momentum, dampening, decay, nesterov, maximize, schedule):
    assume(not nesterov or (momentum > 0 and dampening == 0))  # torch refuses the others
    options = {"momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov}
    done = assert_same_steps(partial(torch.optim.SGD, lr=lr, maximize=maximize, **options), schedule)
    assert done == (momentum > 0)


@given(
    st.sampled_from([torch.optim.Adam, torch.optim.AdamW]),
    RATES,
    st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.9, 0.999])),
    st.sampled_from([1e-8, 1e-3]),
    DECAYS,
    st.booleans(),
    SCHEDULES,
)
@settings(deadline=None, max_examples=40)
def test_adam(kind, lr, betas, eps, decay, maximize, schedule):
    options = {"betas": betas, "eps": eps, "weight_decay": decay, "maximize": maximize}
    assert assert_same_steps(partial(kind, lr=lr, **options), schedule) == STEPS


def test_adam_with_decoupled_decay_is_adamw():
    options = {"lr": 0.1, "weight_decay": 0.1}
    assert_same_steps(partial(torch.optim.Adam, decoupled_weight_decay=True, **options))


GROUP = st.fixed_dictionaries({"lr": RATES, "weight_decay": DECAYS})


@given(st.lists(GROUP, min_size=3, max_size=3), SCHEDULES, st.data())
@settings(deadline=None, max_examples=40)
def test_several_groups(groups, schedule, data):
    """Each parameter with its own learning rate and decay, and momentum or eps where the optimizer has it."""
    kind = data.draw(st.sampled_from(["sgd", "nesterov", "adam", "adamw"]))
    for group in groups:
        if kind == "sgd":
            group |= {"momentum": data.draw(MOMENTA), "dampening": data.draw(st.sampled_from([0.0, 0.4]))}
        elif kind == "nesterov":
            group |= {"momentum": data.draw(st.sampled_from([0.5, 0.9])), "nesterov": True}
        else:
            group["eps"] = data.draw(st.sampled_from([1e-8, 1e-2]))
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(kind, torch.optim.SGD)
    assert_same_steps(lambda p: make([{"params": [q]} | group for q, group in zip(p, groups)], lr=0.1), schedule)


def test_groups_with_and_without_momentum():
    """Whether there was an update before is a question to the groups with momentum, wherever they stand."""
    for momenta in ((0.0, 0.9, 0.9), (0.9, 0.0, 0.9), (0.9, 0.9, 0.0)):
        groups = [{"momentum": m, "dampening": 0.4} for m in momenta]
        assert_same_steps(lambda p, g=groups: torch.optim.SGD([{"params": [q]} | o for q, o in zip(p, g)], lr=0.1))


@pytest.mark.parametrize("kind", [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW])
def test_single_precision(kind):
    # 6 steps of float32 rounding, 6e-8 each, where Adam's first division may double it
    assert_same_steps(partial(kind, lr=0.1), tolerance=2e-6, dtype=torch.float32)


def test_a_coordinate_that_never_had_a_gradient():
    """Adam's square root has no derivative at 0; the step and its derivative are finite all the same."""
    parameters = {"weight": torch.ones(3, dtype=torch.float64, requires_grad=True)}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.0)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    law = rule(optimizer, parameters)
    zero = torch.zeros(3, dtype=torch.float64)

    def step(gradient):
        return law.apply(torch.ones(3, dtype=torch.float64), (zero, zero), gradient, 1.0, 0)[0]

    assert torch.equal(step(zero), torch.ones(3))
    derivative = torch.autograd.functional.jacobian(step, zero)
    assert derivative.isfinite().all()


def test_the_rule_can_be_differentiated():
    """Its Jacobian, by autograd, against central differences; what the tangent dynamics stands on."""
    parameters = network()
    for make in (
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01),
    ):
        optimizer = make(parameters.values())
        optimizer.param_groups[0]["initial_lr"] = 0.1
        law = rule(optimizer, parameters)
        draw = torch.Generator().manual_seed(1)
        theta, gradient = (torch.randn(10, generator=draw, dtype=torch.float64) for _ in range(2))
        buffers = tuple(torch.rand(10, generator=draw, dtype=torch.float64) + 0.1 for _ in law.buffers)

        def step(theta, gradient, *buffers, law=law):
            after, kept = law.apply(theta, buffers, gradient, 0.7, 3)
            return torch.cat([after, *kept])

        assert torch.autograd.gradcheck(step, tuple(t.clone().requires_grad_() for t in (theta, gradient, *buffers)))


def held(kind, **options):
    parameters = network()
    optimizer = kind(parameters.values(), **options)
    optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
    return optimizer, parameters


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (torch.optim.RMSprop, {"lr": 0.1}, "There is no tangent rule for RMSprop; SGD, Adam and AdamW have one"),
        (torch.optim.NAdam, {"lr": 0.1}, "There is no tangent rule for NAdam"),
        (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}, "Adam with amsgrad=True keeps a maximum"),
    ],
)
def test_what_has_no_rule_is_refused(kind, options, message):
    with pytest.raises(InputError, match=message):
        rule(*held(kind, **options))


class Mine(torch.optim.SGD):
    """A subclass may do anything in its step."""


def test_subclasses_are_not_trusted():
    with pytest.raises(InputError, match="There is no tangent rule for Mine"):
        rule(*held(Mine, lr=0.1))


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (torch.optim.SGD, "nesterov", (True, False)),
        (torch.optim.SGD, "maximize", (True, False)),
        (torch.optim.Adam, "betas", ((0.9, 0.999), (0.8, 0.999))),
        (torch.optim.Adam, "amsgrad", (True, False)),
    ],
)
def test_groups_that_differ_in_a_switch_are_refused(kind, name, values):
    parameters = network()
    first, *others = parameters.values()
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    groups = [{"params": [first], name: values[0]}, {"params": others, name: values[1]}]
    optimizer = kind(groups, lr=0.1, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    with pytest.raises(InputError, match=f"Parameter groups that differ in '{name}' have no tangent rule"):
        rule(optimizer, parameters)


def test_a_parameter_that_the_optimizer_does_not_hold_is_named():
    parameters = network()
    optimizer = torch.optim.SGD([parameters["weight"], parameters["scale"]], lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    with pytest.raises(
        InputError, match="does not hold the trainable parameter 'bias'; give it all of them, or freeze"
    ):
        rule(optimizer, parameters)


def test_buffers_of_a_model_are_read_in_the_order_of_its_parameters():
    model = nn.Linear(2, 3).double()
    optimizer = torch.optim.Adam([model.bias, model.weight], lr=0.1)
    for p in model.parameters():
        p.grad = torch.full_like(p, p.dim())  # 2 for the weight, 1 for the bias
    for _ in range(4):
        optimizer.step()
    parameters = dict(model.named_parameters())
    (mean, square), done = read_buffers(optimizer, parameters, ("exp_avg", "exp_avg_sq"))
    expected = torch.tensor([2.0] * 6 + [1.0] * 3, dtype=torch.float64)
    torch.testing.assert_close(mean, expected * (1 - 0.9**4))
    torch.testing.assert_close(square, expected**2 * (1 - 0.999**4))
    assert done == 4 and not mean.requires_grad
    assert math.isclose(mean[0].item(), optimizer.state[model.weight]["exp_avg"][0, 0].item())
