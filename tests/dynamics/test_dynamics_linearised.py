"""Linearised switching: the tangent plane as a network, its training, and what it leaves alone."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from dynamics_cases import ADAMW, DECAYED, NESTEROV, SGD, along, assert_same, seeded, small_cnn, teacher, teacher_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from learndyn.dynamics import (
    Linearised,
    Trajectory,
    directions,
    displace,
    fork,
    linearise,
    start,
    tangent_growth,
    train,
    train_linearised,
    train_together,
    trainable,
    update,
    vector,
)
from learndyn.dynamics.tangent import twice_differentiable
from learndyn.errors import InputError
from learndyn.noise import isolated, seed_forward
from learndyn.observables import loss
from learndyn.observables.barrier import recalibrate
from learndyn.observables.evaluate import evaluate
from learndyn.optimizers.schedules import cosine
from learndyn.tasks import Batch, Supervised

FALLING = cosine(40)
MODES = ("train", "eval")
WAYS = {"forward mode": {True: True, False: True}, "double backward": {True: False, False: False}}


def linear(optimizer=SGD, schedule=FALLING):
    return start(teacher(), seeded(0, lambda: nn.Linear(6, 3)).double(), optimizer, schedule)


def regression(dtype=torch.float64, lr=0.1, hidden=True, examples=48):
    """Mean squared error on 4 -> 3; quadratic in the parameters of a linear network."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 4, generator=draw, dtype=torch.float64)
    y = torch.randn(examples, 3, generator=draw, dtype=torch.float64)
    task = Supervised(Batch(x.to(dtype), y.to(dtype)), Batch(x.to(dtype), y.to(dtype)), 16, criterion=F.mse_loss)
    layers = (nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)) if hidden else (nn.Linear(4, 3),)
    model = seeded(0, lambda: nn.Sequential(*layers)).to(dtype)
    return start(task, model, partial(torch.optim.SGD, lr=lr, momentum=0.9 if hidden else 0.0))


def moved(state, size=0.3, **options):
    """A linearised state with θ some way off θ_t."""
    state = linearise(state, **options)
    return displace(state, along(state, size * directions(state, 1, seed=3)[0]))[0]


def explicit(network, theta, batch_norm, *inputs, **options):
    """f + J (θ − θ_t) with the whole Jacobian, differentiable in θ; shared parameters once, buffers as they are."""
    network = copy.deepcopy(network).train(network.training)
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(batch_norm == "train")
            if batch_norm == "train":
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
                layer.track_running_stats = False
    point = {name: p.detach() for name, p in trainable(network).items()}

    def outputs(parameters):
        return functional_call(network, parameters, inputs, options)

    total, rows = outputs(point).detach(), jacrev(outputs)(point)
    for name, p in theta.items():
        total = total + (rows[name].flatten(total.dim()) @ (p - point[name]).flatten())
    return total


class Odd(torch.autograd.Function):
    """x³ without a forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class Cube(nn.Module):
    def forward(self, x):
        return Odd.apply(x)


class Odds(nn.Module):
    """All at once: embedding tied to the output, a parameter of the root, a frozen and an unused one, a buffer,
    outputs of three dimensions, an option of the call.
    """

    def __init__(self, classes=5, width=4):
        super().__init__()
        self.embed, self.inner = nn.Embedding(classes, width), nn.Linear(width, width)
        self.position, self.unused = nn.Parameter(torch.randn(3, width)), nn.Parameter(torch.ones(2))
        self.inner.bias.requires_grad_(False)
        self.head = nn.Linear(width, classes, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, tokens, *, sharp=1.0):
        return sharp * self.head(torch.tanh(self.inner(self.embed(tokens) + self.position)) * self.scale)


def odds(optimizer=DECAYED, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    tokens, targets = (torch.randint(5, (20, 3), generator=draw) for _ in range(2))
    task = Supervised(Batch(tokens, targets), Batch(tokens, targets), 8, classes=5)
    return start(task, seeded(0, Odds).to(dtype), optimizer)


# ---- linear networks: nothing changes ----


@pytest.mark.parametrize("switch", [0, 1, 9])
@pytest.mark.parametrize("optimizer", [SGD, DECAYED, NESTEROV, ADAMW], ids=["sgd", "decayed", "nesterov", "adamw"])
def test_a_linear_network_goes_on_as_if_nothing_had_happened(optimizer, switch):
    ordinary = train(linear(optimizer), 25)
    early = train(linear(optimizer), switch).state
    carried = train(linearise(early), 25 - switch)
    assert carried.state.step == 25 and carried.state.time == pytest.approx(ordinary.state.time, rel=1e-14)
    expected = vector(ordinary.state.model)
    assert (vector(carried.state.model) - expected).norm() < 1e-12 * expected.norm()
    torch.testing.assert_close(carried.loss, ordinary.loss[switch:], rtol=1e-12, atol=0)
    reset = train(linearise(early, momentum="reset"), 25 - switch).state
    off = (vector(reset.model) - expected).norm() / expected.norm()
    assert off < 1e-12 if switch == 0 else off > 1e-3


def test_a_network_that_is_not_linear_parts_from_ordinary_training():
    early = train(regression(), 3).state
    ordinary, plane = train(fork(early), 10).state, train(linearise(early), 10).state
    assert (vector(plane.model) - vector(ordinary.model)).norm() > 1e-3 * vector(ordinary.model).norm()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 6),
    depth=st.integers(0, 2),
    switch=st.integers(0, 4),
    batch_norm=st.sampled_from(MODES),
    forward=st.sampled_from(list(WAYS.values())),
)
def test_any_small_mlp_trains_as_its_explicit_linear_model(seed, width, depth, switch, batch_norm, forward):

    def mlp():
        sizes = [6, *[width] * depth]
        hidden = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.GELU()) for a, b in zip(sizes, sizes[1:])]
        return nn.Sequential(*(layer for layers in hidden for layer in layers), nn.Linear(sizes[-1], 3))

    model = seeded(seed, mlp).double()
    early = train(start(teacher(), model, DECAYED), switch).state
    state = linearise(early, momentum="reset", batch_norm=batch_norm)
    state.model.has_forward_mode = dict(forward)
    theta = {name: p.detach().clone().requires_grad_() for name, p in trainable(early.model).items()}
    optimizer = DECAYED(theta.values())
    for _ in range(3):
        batch = state.task.batch(state.step)
        optimizer.zero_grad()
        state.task.loss(lambda x: explicit(early.model, theta, batch_norm, x), batch).backward()
        optimizer.step()
        state, _ = update(state)
    expected = torch.cat([p.detach().flatten() for p in theta.values()])
    torch.testing.assert_close(vector(state.model), expected, rtol=1e-9, atol=1e-11)


# ---- the function ----


@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("forward", WAYS.values(), ids=WAYS)
def test_outputs_and_gradients_are_those_of_the_whole_jacobian(batch_norm, forward):
    early = train(small_cnn(dtype=torch.float64), 2).state
    state = moved(early, batch_norm=batch_norm)
    state.model.has_forward_mode = dict(forward)
    batch = Batch(*(t[:6] for t in early.task.batch(5)))
    theta = {name: p.detach().clone().requires_grad_() for name, p in trainable(state.model).items()}
    outputs = explicit(early.model, theta, batch_norm, batch.inputs)
    for mode in (True, False):
        torch.testing.assert_close(state.model.train(mode)(batch.inputs), outputs, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        own = fork(early).model.train(batch_norm == "train")(batch.inputs)
    assert (outputs - own).norm() > 0.01 * own.norm()  # else J d would not be seen
    expected = torch.autograd.grad(early.task.criterion(outputs, batch.targets), list(theta.values()))
    found = torch.autograd.grad(early.task.loss(state.model, batch), list(trainable(state.model).values()))
    for name, a, b in zip(theta, found, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)
    assert state.model.has_forward_mode == forward


@pytest.mark.parametrize("batch_norm", MODES)
def test_at_the_switch_it_is_the_network_itself(batch_norm):
    early = train(small_cnn(dtype=torch.float64, dropout=0.3), 3).state
    state = linearise(early, batch_norm=batch_norm)
    x = early.task.evaluation("test").inputs[:20]
    own, plane = fork(early).model.train(), state.model.train()
    for layer in own.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(batch_norm == "train")
    with isolated():
        seed_forward(0, 7)
        expected = own(x)
        drawn = torch.rand(1)
        seed_forward(0, 7)
        torch.testing.assert_close(plane(x), expected, rtol=1e-14, atol=1e-14)
        assert torch.equal(torch.rand(1), drawn)  # what the loss draws after the network is the same, too
    if batch_norm == "eval":
        found = evaluate(state.model, state.task, "test").outputs
        torch.testing.assert_close(found, evaluate(early.model, early.task, "test").outputs, rtol=1e-13, atol=1e-13)


def test_the_first_step_is_that_of_ordinary_training():
    """With the statistics of the batch, dropout masks included."""
    early = train(teacher_mlp(dropout=0.4), 4).state
    plane, before = update(linearise(early))
    ordinary, expected = update(fork(early))
    torch.testing.assert_close(before, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(vector(plane.model), vector(ordinary.model), rtol=1e-12, atol=1e-14)


class Sparse(nn.Sequential):
    """Dropout by the mode of the root."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.4, self.training)


@pytest.mark.parametrize("root", [False, True])
def test_dropout_follows_the_mode(root):
    early = train(teacher_mlp(dropout=0.0 if root else 0.4), 2).state
    early = replace(early, model=Sparse(*early.model)) if root else early
    state = linearise(early, batch_norm="eval")
    x = state.task.evaluation("test").inputs
    with isolated():
        state.model.train()
        assert not torch.equal(state.model(x), state.model(x))
        state.model.eval()
        assert torch.equal(state.model(x), state.model(x))


def test_one_example_in_evaluation_does_not_see_the_others_with_running_statistics():
    early = train(teacher_mlp(), 3).state
    x = early.task.evaluation("test").inputs
    apart = {}
    for mode in MODES:
        model = moved(early, batch_norm=mode).model.eval()
        apart[mode] = (model(x)[:9] - model(x[:9])).abs().max().item()
    assert apart["eval"] < 1e-13 and apart["train"] > 1e-3


@pytest.mark.parametrize("forward", WAYS.values(), ids=WAYS)
def test_odd_networks(forward):
    """Tied, frozen and unused parameters, whole numbers in, three dimensions out, an option of the call."""
    early = train(odds(), 3).state
    state = moved(early)
    state.model.has_forward_mode = dict(forward)
    tokens = early.task.batch(0).inputs
    theta = {name: p.detach().clone() for name, p in trainable(state.model).items()}
    assert list(theta) == list(trainable(early.model)) and "head.weight" not in theta and "inner.bias" not in theta
    for sharp in (1.0, 3.0):
        found = state.model(tokens, sharp=sharp)
        assert found.shape == (8, 3, 5)
        torch.testing.assert_close(found, explicit(early.model, theta, "train", tokens, sharp=sharp))
    bias = state.model.inner.bias.clone()
    run = train(state, 4)
    assert torch.equal(run.state.model.inner.bias, bias)
    assert run.state.model.head.weight is run.state.model.embed.weight
    assert torch.equal(run.state.model.unused, theta["unused"])  # no gradient: not even weight decay touches it


def test_without_a_forward_mode_it_goes_on_by_double_backward_with_the_same_masks():
    model = seeded(0, lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), Cube(), nn.Linear(5, 3))).double()
    early = train(start(teacher(), model, SGD), 2).state
    ordinary, expected = update(fork(early))
    state = linearise(early)
    state.model.train()
    plane, before = update(state)
    assert plane.model.has_forward_mode == {True: False, False: True}
    torch.testing.assert_close(before, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(vector(plane.model), vector(ordinary.model), rtol=1e-12, atol=1e-14)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.lstm(x.view(len(x), 2, 3))[0][:, -1])


class Attention(nn.Module):
    """Its fused kernel has neither a forward mode nor a second derivative."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(3, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x.view(len(x), 1, 2, 3)).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).sum((1, 2)))


@pytest.mark.parametrize("network", [Recurrent, Attention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_recurrent_networks_and_attention(network, dtype):
    early = train(start(teacher(dtype), seeded(0, network).to(dtype), SGD), 3).state
    state = moved(early, 1.0)
    x = early.task.batch(0).inputs
    theta = {name: p.detach().double() for name, p in trainable(state.model).items()}
    with twice_differentiable():
        expected = explicit(copy.deepcopy(early.model).double(), theta, "train", x.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    found = state.model(x)
    torch.testing.assert_close(found, expected.to(dtype), rtol=tolerance, atol=tolerance)
    plain = early.model(x)
    assert found.dtype == dtype and (found - plain).norm() > 0.01 * plain.norm()


def test_the_precision_can_be_changed_later():
    state = moved(train(teacher_mlp(dtype=torch.float32), 2).state)
    x = state.task.evaluation("test").inputs
    before = state.model(x)
    state.model.double()
    torch.testing.assert_close(state.model(x.double()).float(), before, rtol=1e-4, atol=1e-5)


def test_perturbations_grow_as_the_tangent_dynamics_say_whatever_their_size():
    """Training a tangent plane on a squared error is a linear map, so this sees a wrong second derivative."""
    state = linearise(train(regression(), 4).state)
    direction = directions(state, 1, seed=0)
    twin, base = displace(state, along(state, 2.0 * direction[0]))[0], fork(state)
    train(twin, 12), train(base, 12)
    grown = ((vector(twin.model) - vector(base.model)).norm() / 2.0).log()
    torch.testing.assert_close(tangent_growth(state, 12, direction)[0, -1], grown, rtol=1e-10, atol=1e-12)
    bent = tangent_growth(train(regression(), 4).state, 12, direction)[0, -1]
    assert abs(bent - grown) > 1e-3


# ---- what stays as it is ----


@pytest.mark.parametrize("batch_norm", MODES)
def test_switching_and_training_leave_everything_else_alone(batch_norm):
    early = train(small_cnn(dropout=0.2), 3).state
    early.model.eval()
    early.model[1].train()
    kept, modes = fork(early), [m.training for m in early.model.modules()]
    before = torch.get_rng_state()
    state = linearise(early, batch_norm=batch_norm)
    assert [m.training for m in state.model.modules()] == modes
    run = train(state, 4, {"loss": loss})
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(early, kept)
    assert [m.training for m in early.model.modules()] == modes
    statistics = dict(run.state.model.named_buffers())
    assert statistics.keys() == dict(early.model.named_buffers()).keys()
    for name, buffer in early.model.named_buffers():
        assert torch.equal(statistics[name], buffer) and torch.equal(run.state.model.constants[name], buffer), name
    plane = run.state.model
    assert all(m.training for m in plane.modules())
    assert not torch.equal(vector(plane), vector(early.model))
    for name, p in trainable(early.model).items():
        assert torch.equal(plane.point[name], p), name


def test_evaluation_keeps_no_graph():
    model = moved(train(teacher_mlp(), 2).state).model
    x = teacher().evaluation("test").inputs
    for way in WAYS.values():
        model.has_forward_mode = dict(way)
        with torch.no_grad():
            found = model(x)
        assert found.grad_fn is None and not found.requires_grad
        assert model(x).requires_grad
    model.requires_grad_(False)
    assert torch.equal(model(x), found) and not model(x).requires_grad


def test_new_running_statistics_do_not_change_the_function():
    """Barriers estimate them anew on a copy; here they are constants of the function."""
    state = moved(train(teacher_mlp(), 2).state, batch_norm="eval")
    before = evaluate(state.model, state.task, "test").outputs
    recalibrate(state.model, state.task)
    assert torch.equal(evaluate(state.model, state.task, "test").outputs, before)


@pytest.mark.parametrize("way", [fork, copy.deepcopy], ids=["fork", "deepcopy"])
def test_copies_replay_bit_for_bit_and_share_nothing(way):
    state = train(linearise(train(small_cnn(dropout=0.2), 2).state), 2).state
    twin, kept = way(state), fork(state)
    first = train(state, 3).state
    assert_same(twin, kept)
    assert_same(train(twin, 3).state, first)
    shared = {t.data_ptr() for t in (*first.model.parameters(), *first.model.point.values())}
    assert not shared & {t.data_ptr() for t in (*twin.model.parameters(), *twin.model.point.values())}
    assert twin.model.network[0].weight is twin.model.get_parameter("0.weight")


def test_stored_states_and_replicas(tmp_path):
    state = train(linearise(train(teacher_mlp(), 2).state), 2).state
    trajectory = Trajectory(tmp_path, fork(state))
    trajectory.save(state)
    first, *others = train_together([fork(state) for _ in range(4)], 3)[0]
    for other in others:
        assert_same(first, other)
    assert_same(train(trajectory[4], 3).state, first)


def test_the_optimizer_is_the_same_with_its_groups():
    model = seeded(0, lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))).double()
    groups = [
        {"params": list(model[0].parameters()), "lr": 0.02, "betas": (0.8, 0.99)},
        {"params": [model[2].bias], "weight_decay": 0.0},
    ]
    early = train(start(teacher(), model, torch.optim.AdamW(groups, lr=0.01, weight_decay=0.3), cosine(30)), 5).state
    for momentum in ("carry", "reset"):
        state = linearise(early, momentum=momentum)
        assert type(state.optimizer) is torch.optim.AdamW
        own = [{k: v for k, v in g.items() if k != "params"} for g in early.optimizer.param_groups]
        assert [{k: v for k, v in g.items() if k != "params"} for g in state.optimizer.param_groups] == own
        names = {id(p): name for name, p in state.model.named_parameters()}
        held = [[names[id(p)] for p in g["params"]] for g in state.optimizer.param_groups]
        assert held == [["0.weight", "0.bias"], ["2.bias"]]
        assert len(state.optimizer.state) == (3 if momentum == "carry" else 0)
        assert [state.lr(i) for i in range(2)] == [early.lr(i) for i in range(2)]
    assert all(int(h["step"]) == 5 for h in early.optimizer.state.values())


# ---- divergence and bad input ----


def diverging(lr):
    """Full batches on a linear network: without momentum, rates above 2 / the largest curvature diverge."""
    state = regression(torch.float32, lr, hidden=False, examples=16)
    x = torch.cat([state.task.train.inputs, torch.ones(16, 1)], 1).double()
    return state, 2 / 3 * torch.linalg.eigvalsh(x.T @ x / 16)[-1].item()


def test_a_run_that_diverges_begins_anew_with_a_third_of_the_rate():
    curvature = diverging(1.0)[1]
    for units, factor, survives in ((1.5, 1.0, True), (4.0, 1 / 3, True), (12.0, 1 / 9, True), (40.0, 1 / 9, False)):
        state, _ = diverging(units / curvature)
        kept, seen, before = fork(state), [], torch.get_rng_state()
        run, used = train_linearised(state, 90, after=lambda s, seen=seen: seen.append(s.step))
        assert used == pytest.approx(factor, rel=1e-15)
        assert (run.diverged is None) == survives
        assert run.state.lr() == pytest.approx(factor * units / curvature)
        assert seen.count(1) == {1.0: 1, 1 / 3: 2, 1 / 9: 3}[factor]
        assert_same(state, kept)
        assert torch.equal(torch.get_rng_state(), before)
    assert train_linearised(diverging(4 / curvature)[0], 90, retries=0)[0].diverged is not None


def test_a_last_update_that_diverges_is_seen():
    """The loss before the only update is finite, the one after it is not."""
    run, factor = train_linearised(regression(torch.float32, lr=1e25), 1, retries=1)
    assert run.loss.isfinite().all() and run.diverged == 1 and factor == 1 / 3


def test_what_was_observed_is_of_the_last_attempt():
    state, curvature = diverging(1.0)
    run, _ = train_linearised(diverging(4 / curvature)[0], 90, observe={"loss": loss}, every=30)
    assert run.series["step"].values.tolist() == [0, 30, 60, 90]
    assert run.series["time"].values[-1] == pytest.approx(90 * 4 / curvature / 3, rel=1e-12)
    assert run.series["loss"].values[-1] < run.series["loss"].values[0]


def test_bad_input_is_one_sentence():
    state = teacher_mlp()
    with pytest.raises(InputError, match="There is no momentum option 'carri'; did you mean 'carry'"):
        linearise(state, momentum="carri")
    with pytest.raises(InputError, match="There is no batch-norm mode 'evaluation'"):
        linearise(state, batch_norm="evaluation")
    with pytest.raises(InputError, match="linearised already"):
        linearise(linearise(state))
    with pytest.raises(InputError, match="retries=-1 must not be negative"):
        train_linearised(state, 1, retries=-1)
    pair = Linearised(nn.LSTM(3, 2))
    with pytest.raises(InputError, match="LSTM returns a tuple; only a network that returns one tensor"):
        pair(torch.zeros(1, 1, 3))
