"""The lens against weights and gradients that were kept, step by step, beside the record."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.laws import inertia
from learndyn.recorder import QUANTITIES, SETTINGS, Recorder, lens, read
from learndyn.symmetries.law import SymmetryLaw, Term

pytestmark = pytest.mark.usefixtures("one_thread")
UNITS = 6
STEPS = 60


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def term(name):
    every = torch.arange(UNITS)
    return Term(name, "rows", 0, UNITS, every, every, torch.ones(UNITS).double())


SCALE = SymmetryLaw("scale", UNITS, (term("0.weight"), term("0.bias")))
WEIGHT = SymmetryLaw("scale", UNITS, (term("0.weight"),))
DEAD = SymmetryLaw("dead", UNITS, (term("0.bias"),))
TRANSLATION = SymmetryLaw("translation", UNITS, (term("0.weight"),))


def network(bias=True, dtype=torch.float64, size=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(8, UNITS, bias=bias), nn.BatchNorm1d(UNITS, eps=1e-30), nn.ReLU(), nn.Linear(UNITS, 4)
        )
    with torch.no_grad():
        net[0].weight *= size
    return net.to(dtype)


def loss(net, step, batch=24):
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(batch, 8, generator=draw)
    y = (x[:, :4] + torch.randn(batch, 4, generator=draw)).argmax(1)
    return F.cross_entropy(net(x.to(net[0].weight)), y)


def recorded(
    folder, optimizer, laws=(SCALE, DEAD), every=1, steps=STEPS, schedule=None, between=None, data=None, **options
):
    """A record, and the weights and gradients of the first layer at every step."""
    net = network(**options)
    made = optimizer(net)
    rates = [group["lr"] for group in made.param_groups]
    kept = SimpleNamespace(weight=[], gradient=[], net=net)
    with Recorder(net, made, laws, every=every, to=folder):
        for step in range(steps):
            for group, rate in zip(made.param_groups, rates):
                group["lr"] = rate * (1.0 if schedule is None else schedule(step))
            if between is not None:
                between(step, net)
            made.zero_grad()
            loss(net, step if data is None else data).backward()
            kept.weight.append(net[0].weight.detach().double().clone())
            kept.gradient.append(net[0].weight.grad.double().clone())
            made.step()
    kept.weight.append(net[0].weight.detach().double().clone())
    kept.weight, kept.gradient = (torch.stack(x) for x in (kept.weight, kept.gradient))
    return read(folder), kept


def sgd(**options):
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2} | options
    return lambda net: torch.optim.SGD(net.parameters(), **options)


def angles(weights):
    unit = F.normalize(weights, dim=2)
    return (2 * torch.asin((unit[1:] - unit[:-1]).norm(dim=2) / 2)).numpy()


def norms(tensors):
    return tensors.square().sum(2).numpy()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_measured_against_the_weights(momentum, bias, tmp_path):
    laws = (SCALE, DEAD) if bias else (WEIGHT,)
    record, kept = recorded(tmp_path, sgd(momentum=momentum), laws, bias=bias)
    seen = lens(record)
    q, gradient, step = norms(kept.weight), norms(kept.gradient), norms(kept.weight.diff(dim=0))
    assert seen.left_out == ""
    np.testing.assert_allclose(seen.q, q, rtol=1e-12)
    np.testing.assert_allclose(seen.angle[1:], angles(kept.weight), rtol=1e-7)
    np.testing.assert_allclose(seen.squared_step[1:], step, rtol=1e-9)
    np.testing.assert_allclose(seen.sphere_gradient[1:], q[:-1] * gradient, rtol=1e-7, atol=1e-20)
    np.testing.assert_allclose(seen.effective_lr, 0.1 / ((1 - momentum) * q), rtol=1e-12)
    np.testing.assert_allclose(seen.balance[1:], 2 * 0.1 * 1e-2 * q[:-1] / ((1 + momentum) * step), rtol=1e-9)
    np.testing.assert_allclose(seen.equilibrium_angle[1:], math.sqrt(2e-3 / (1 + momentum)))
    np.testing.assert_allclose(seen.memory[1:], (1 - momentum) / 4e-3)
    assert seen.angle[0].isnull().all() and seen.sphere_gradient[0].isnull().all()
    assert bool((seen.bias_share > 1e-4).any()) == bias


def test_the_running_memory_factor_of_a_record(tmp_path):
    record, kept = recorded(tmp_path, sgd(), (WEIGHT,), bias=False)
    seen = lens(record, horizon=20)
    above, below = np.zeros(UNITS), np.zeros(UNITS)
    for k in range(STEPS):
        above = 0.95 * above + 0.01 * norms(kept.weight.diff(dim=0) / 0.1)[k]
        below = 0.95 * below + norms(kept.gradient)[k]
        np.testing.assert_allclose(seen.memory_factor[k + 1], above / below, rtol=1e-9)


def test_the_picture_is_the_recursion_of_the_fourth_power(tmp_path):
    """By hand: P ← (1 − 4ηλ/μ) P + (2η²(1+β)/μ³) ϕ |ĝ|²."""
    record, kept = recorded(tmp_path, sgd(), (WEIGHT,), bias=False)
    seen = lens(record)
    q, gradient = norms(kept.weight), norms(kept.gradient)
    for name, factor in (("fourth_power", seen.memory_factor.values[1:]), ("fourth_power_smooth", np.ones((STEPS, 1)))):
        p = q[0] ** 2
        for k in range(STEPS):
            p = (1 - 4e-3 / 0.1) * p + 2 * 0.01 * 1.9 / 1e-3 * factor[k] * q[k] * gradient[k]
            np.testing.assert_allclose(seen[name][k + 1], p, rtol=1e-6)
    np.testing.assert_allclose(seen.predicted_effective_lr, 1.0 / np.sqrt(seen.fourth_power), rtol=1e-12)


def test_sgd_without_momentum_is_rmsprop(tmp_path):
    """Effective learning rates by the running mean of |ĝ|²; the error falls with the learning rate."""
    worst = []
    for lr in (0.1, 0.05):
        record, _ = recorded(tmp_path / str(lr), sgd(lr=lr, momentum=0.0), (WEIGHT,), bias=False, steps=100, size=2.0)
        seen = lens(record)
        assert float(seen.memory_factor.mean()) == pytest.approx(1, abs=0.05)
        worst.append(float(np.abs(seen.predicted_effective_lr / seen.effective_lr - 1).max()))
    assert worst[1] < 0.65 * worst[0] < 0.01


def cosine(step):
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def warmup(step):
    return min(1.0, step / 10)


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {}, {"dampening": 0.3}, {"momentum": 0.99, "lr": 0.02}])
@pytest.mark.parametrize("schedule", [None, cosine])
def test_the_exact_law_follows_the_norm(options, schedule, tmp_path):
    record, _ = recorded(tmp_path, sgd(**options), schedule=schedule)
    seen = lens(record, str(SCALE))
    np.testing.assert_allclose(seen.discrete[1:], seen.q[1:], rtol=1e-10)


def resting(**options):
    """SGD with buffers of zeros, so that torch dampens the first step like all others."""

    def make(net):
        optimizer = sgd(**options)(net)
        for p in net.parameters():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimizer

    return make


def test_dampening_is_a_smaller_learning_rate(tmp_path):
    """η(1−τ) in the place of η: the same steps, and all numbers as of SGD with this rate."""
    settings = {"one": {"dampening": 0.5, "weight_decay": 2e-2}, "other": {"lr": 0.05, "weight_decay": 2e-2}}
    one, other = (
        lens(recorded(tmp_path / name, resting(**given), (WEIGHT,), bias=False)[0]) for name, given in settings.items()
    )
    assert set(one.data_vars) == set(other.data_vars)
    for name in set(one.data_vars) - {"verdict"}:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-7, atol=1e-15, err_msg=name)


def test_rows_that_are_some_steps_apart(tmp_path):
    options = {"optimizer": sgd(lr=0.05), "steps": 203}
    record, kept = recorded(tmp_path / "all", **options)
    wide, _ = recorded(tmp_path / "some", **options, every=7)
    near, far = lens(record, str(SCALE)), lens(wide, str(SCALE))
    assert far.step.values.tolist() == list(range(0, 204, 7))
    assert "needs a row of every step" in far.left_out and far.discrete.isnull().all()
    windows = np.sqrt((angles(kept.weight) ** 2).reshape(-1, 7, UNITS).mean(1))
    np.testing.assert_allclose(far.angle[1:], windows, rtol=0.03)
    sphere = near.sphere_gradient.values[1:].reshape(-1, 7, UNITS).mean(1)
    np.testing.assert_allclose(far.sphere_gradient[1:], sphere, rtol=0.05)
    np.testing.assert_allclose(far.fourth_power_smooth[-1], near.fourth_power_smooth[-1], rtol=0.05)
    np.testing.assert_allclose(far.fourth_power[-1], near.fourth_power[-1], rtol=0.3)
    np.testing.assert_allclose(far.q, near.q[::7], rtol=1e-12)


def test_a_schedule_within_windows_is_not_taken_for_groups(tmp_path):
    record, kept = recorded(tmp_path, sgd(), every=5, schedule=cosine)
    seen = lens(record, str(SCALE))
    middle = np.array([0.1 * (cosine(k) + cosine(k + 4)) / 2 for k in range(0, STEPS, 5)])
    np.testing.assert_allclose(seen.lr[1:], middle)
    np.testing.assert_allclose(seen.q, norms(kept.weight)[::5], rtol=1e-12)


def test_a_learning_rate_that_begins_at_zero(tmp_path):
    record, kept = recorded(tmp_path, sgd(momentum=0.0), schedule=warmup)
    seen = lens(record, str(SCALE))
    assert (seen.angle[1] == 0).all() and (seen.effective_lr[:2] == 0).all()
    np.testing.assert_allclose(seen.discrete, seen.q, rtol=1e-11)
    assert np.isfinite(seen.fourth_power).all()


def groups(net, weight, bias):
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    others = [*net[1].parameters(), *net[3].parameters()]
    made = [{"params": [net[0].weight], **weight}, {"params": [net[0].bias], **bias}, {"params": others}]
    return torch.optim.SGD(made, **options)


def test_a_bias_without_decay_counts_for_nothing(tmp_path):
    """The usual groups. The bias stands still; with its law in the record the weights are as if there was none."""
    record, kept = recorded(tmp_path, lambda net: groups(net, {}, {"weight_decay": 0.0}))
    seen = lens(record, str(SCALE))
    assert (seen.decay[1:] == 1e-2).all()
    np.testing.assert_allclose(seen.q, norms(kept.weight), rtol=1e-12)
    np.testing.assert_allclose(seen.angle[1:], angles(kept.weight), rtol=1e-7)
    np.testing.assert_allclose(seen.discrete[1:], seen.q[1:], rtol=1e-10)
    with pytest.raises(InputError, match="different weight_decay, between 0 and 0.01: then there is no effective"):
        lens(record.isel(charge=record.law_of.values == 0, law=[0]))


@pytest.mark.parametrize("every", [1, 5])
def test_groups_of_other_rates_are_refused(every, tmp_path):
    record, _ = recorded(tmp_path, lambda net: groups(net, {"lr": 0.03}, {}), (SCALE,), every)
    with pytest.raises(InputError, match="different rate, between 0.03 and 0.1"):
        lens(record)


def test_a_bias_whose_law_is_missing(tmp_path):
    record, kept = recorded(tmp_path, sgd(), (SCALE,))
    seen = lens(record)
    assert seen.left_out.startswith("The charge contains a bias, which does not turn; record its dead law")
    bias = seen.q[0] - norms(kept.weight)[0]
    assert (bias > 0).all()
    wanted = angles(kept.weight)[0] * np.sqrt(1 - bias / seen.q[0])  # too small by its share
    np.testing.assert_allclose(seen.angle[1], wanted, rtol=1e-2)


def full_batch(net):
    return torch.optim.SGD(net.parameters(), 0.2, momentum=0.9, weight_decay=2e-2)


@pytest.mark.parametrize(
    ("optimizer", "options", "verdict"),
    [
        (sgd(weight_decay=0.0), {}, "no weight decay"),
        (sgd(weight_decay=1e-4), {}, "transient: norm growing"),
        (sgd(), {"size": 30.0}, "transient: norm decaying"),
        (sgd(lr=0.2, weight_decay=2e-2), {"steps": 250}, "equilibrium"),
        (full_batch, {"steps": 250, "data": 0}, "collapsing"),
    ],
)
def test_verdicts(optimizer, options, verdict, tmp_path):
    record, _ = recorded(tmp_path, optimizer, (WEIGHT,), bias=False, **options)
    found = lens(record).verdict.values.tolist()
    assert found.count(verdict) >= 4, found


def test_equilibrium_is_where_the_laws_say(tmp_path):
    """The angle, and the norm with the measured memory factor; ϕ = 1 is wrong by √((1+β)/(1−β)) for mini-batches."""
    record, _ = recorded(tmp_path, sgd(lr=0.05, weight_decay=2e-2), (WEIGHT,), bias=False, steps=500)
    seen = lens(record)
    late = seen.isel(step=slice(200, None))
    angle = np.sqrt((late.angle**2).mean("step"))
    np.testing.assert_allclose(angle, math.sqrt(2 * 0.05 * 2e-2 / 1.9), rtol=0.1)
    np.testing.assert_allclose((late.equilibrium_norm / late.q).mean("step"), 1, rtol=0.2)
    smooth = inertia.equilibrium_norm(torch.tensor(late.sphere_gradient.mean("step").values), 0.05, 2e-2, 0.9)
    assert 3 < float((smooth / torch.tensor(late.q.mean("step").values)).median()) < 6
    assert (late.steps_to_equilibrium[-1] < 30).all() and float(late.memory[-1]) == pytest.approx(25)


def test_steps_to_equilibrium_are_counted_down(tmp_path):
    record, _ = recorded(tmp_path, sgd(lr=0.05, weight_decay=2e-2), (WEIGHT,), bias=False, size=4.0, steps=200)
    wait = lens(record).steps_to_equilibrium.median("charge")
    assert float(wait[40]) > 50 and float(wait[40] - wait[80]) == pytest.approx(40, abs=20)


def test_adamw_has_angles_and_their_bound(tmp_path):
    made = {"lr": 1e-2, "weight_decay": 0.1}
    record, kept = recorded(tmp_path, lambda net: torch.optim.AdamW(net.parameters(), **made), (WEIGHT,), bias=False)
    seen = lens(record)
    np.testing.assert_allclose(seen.angle[1:], angles(kept.weight), rtol=1e-6)
    np.testing.assert_allclose(seen.equilibrium_angle[1:], inertia.adamw_angle(1e-2, 0.1, 0.9))
    assert seen.left_out == "AdamW: only angles; at equilibrium they stay below the angle given."
    assert "effective_lr" not in seen and set(seen.verdict.values) <= {
        "equilibrium",
        "transient: norm growing",
        "transient: norm decaying",
    }


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda net: torch.optim.Adam(net.parameters(), 1e-2, weight_decay=0.1), "Adam: only angles"),
        (lambda net: torch.optim.RMSprop(net.parameters(), 1e-2), "RMSprop: only angles"),
        (lambda net: torch.optim.SGD(net.parameters(), 0.1, 0.9, nesterov=True), "SGD with Nesterov's momentum: only"),
    ],
)
def test_of_other_optimizers_there_are_angles(optimizer, words, tmp_path):
    record, kept = recorded(tmp_path, optimizer, (WEIGHT,), bias=False)
    seen = lens(record)
    assert seen.left_out.startswith(words) and "effective_lr" not in seen and "equilibrium_angle" not in seen
    np.testing.assert_allclose(seen.angle[1:], angles(kept.weight), rtol=1e-6)


def test_adam_with_decoupled_decay_is_adamw(tmp_path):
    options = {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}
    record, _ = recorded(tmp_path, lambda net: torch.optim.Adam(net.parameters(), **options), (WEIGHT,), bias=False)
    assert lens(record).attrs["optimizer"] == "AdamW"


def test_float32(tmp_path):
    record, kept = recorded(tmp_path, sgd(), dtype=torch.float32)
    seen = lens(record, str(SCALE))
    np.testing.assert_allclose(seen.discrete[1:], seen.q[1:], rtol=2e-5)
    np.testing.assert_allclose(seen.angle[1:], angles(kept.weight), rtol=2e-3)


def test_predictions_begin_anew_where_somebody_writes_weights(tmp_path):
    def between(step, net):
        if step == 30:
            with torch.no_grad():
                net[0].weight *= 2

    record, _ = recorded(tmp_path, sgd(), (WEIGHT,), bias=False, between=between)
    seen = lens(record)
    assert "start anew after 1 windows" in seen.left_out
    np.testing.assert_allclose(seen.discrete[1:31], seen.q[1:31], rtol=1e-10)
    np.testing.assert_allclose(seen.discrete[32:], seen.q[32:], rtol=1e-10)
    assert (np.abs(seen.fourth_power[31] / seen.q[31] ** 2 - 1) < 1e-9).all()


def test_a_run_that_diverged_ends_before(tmp_path):
    def between(step, net):
        if step == 40:
            with torch.no_grad():
                net[0].weight[0, 0] = math.nan

    record, _ = recorded(tmp_path, sgd(), (WEIGHT,), bias=False, between=between)
    seen = lens(record)
    assert seen.step.values[-1] == 40 - (record.q[40].isnull().any().item())
    assert np.isfinite(seen.discrete[1:]).all()


def test_decay_beyond_the_picture(tmp_path):
    """4ηλ/(1−β) > 1: angles, exact law, no implicit RMSProp; underdamped before that."""
    record, _ = recorded(tmp_path, sgd(lr=0.3, weight_decay=0.1), (WEIGHT,), bias=False)
    seen = lens(record)
    assert "no implicit RMSProp with a memory shorter than a step" in seen.left_out
    assert seen.fourth_power.isnull().all() and seen.memory.isnull().all()
    np.testing.assert_allclose(seen.discrete[1:], seen.q[1:], rtol=1e-9)
    with_swing, _ = recorded(tmp_path / "swing", sgd(lr=0.1, weight_decay=0.05), (WEIGHT,), bias=False)
    assert "norms swing" in lens(with_swing).left_out


def test_a_group_norm_is_one_direction_a_group(tmp_path):
    every = torch.arange(UNITS)
    both = Term("0.weight", "rows", 0, UNITS, every, every // 3, torch.ones(UNITS).double())
    law = SymmetryLaw("scale", 2, (both,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, UNITS, bias=False), nn.GroupNorm(2, UNITS, eps=1e-30), nn.ReLU())
        net.append(nn.Linear(UNITS, 4)).double()
    optimizer, weights = torch.optim.SGD(net.parameters(), 0.1, 0.9), []
    with Recorder(net, optimizer, [law], every=1, to=tmp_path):
        for step in range(30):
            weights.append(net[0].weight.detach().reshape(2, -1).clone())
            optimizer.zero_grad()
            loss(net, step).backward()
            optimizer.step()
    weights.append(net[0].weight.detach().reshape(2, -1).clone())
    np.testing.assert_allclose(lens(read(tmp_path)).angle[1:], angles(torch.stack(weights)), rtol=1e-6)


def made_up(kinds=("scale",), rows=3, **attributes):
    """A record by hand."""
    values = {name: (("step", "charge"), np.ones((rows, len(kinds)))) for name in QUANTITIES}
    settings = {name: (("step", "law", "bound"), np.full((rows, len(kinds), 2), 0.1)) for name in SETTINGS}
    coordinates = {
        "step": np.arange(rows),
        "time": ("step", np.arange(rows) / 10),
        "law": [f"{kind} at {i}.weight" for i, kind in enumerate(kinds)],
        "kind": ("law", list(kinds)),
        "law_of": ("charge", np.arange(len(kinds))),
        "mark": ("step", np.zeros(rows, int)),
    }
    return xr.Dataset(values | settings, coordinates, {"optimizer": "SGD", "options": json.dumps([{}])} | attributes)


@pytest.mark.parametrize(
    ("record", "law", "message"),
    [
        (made_up(("scale", "scale")), None, "has 2 scale laws; name one of them: scale at 0.weight; scale at 1.weight"),
        (made_up(("rescale",)), None, "has no scale law, which only a norm gives"),
        (made_up(), "scale at 1.weight", "no law 'scale at 1.weight'; did you mean 'scale at 0.weight'"),
        (made_up(), 3, "no law number 3 among 1"),
        (
            made_up(("scale", "translation")),
            1,
            "translation at 1.weight is a translation law; effective learning rates",
        ),
        (made_up(rows=1), None, "no two rows with finite charges"),
    ],
)
def test_a_lens_that_cannot_see_says_so(record, law, message):
    with pytest.raises(InputError, match=message):
        lens(record, law)
