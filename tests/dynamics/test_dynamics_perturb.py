"""Every kind of perturbation: its norm, its seed, what it leaves alone and what it refuses."""

import math
import re
from functools import partial

import pytest
import torch
from dynamics_cases import SGD, assert_same, digits_mlp, seeded, small_cnn, teacher, teacher_mlp
from torch import nn

from learndyn.dynamics import KINDS, directions, displace, fork, start, train, trainable, vector
from learndyn.dynamics.perturb import (
    bit_flip,
    gradient,
    initial_scales,
    noise_swap,
    per_coordinate,
    relative,
    top_lyapunov,
)
from learndyn.dynamics.tangent import push, record
from learndyn.errors import InputError

# A short window does for norms, seeds and traces.
PERTURB = {**KINDS, "top_lyapunov": partial(KINDS["top_lyapunov"], window=2, sweeps=1)}
SIZES = dict.fromkeys(KINDS, 1e-3) | {"bit_flip": 5.0}
MOVING = sorted(KINDS.keys() - {"noise_swap"})


@pytest.fixture
def state():
    return train(teacher_mlp(dropout=0.3), 4).state


def change(state, kind, seed, size=None):
    twin, survival = PERTURB[kind](state, SIZES[kind] if size is None else size, seed)
    return vector(twin.model) - vector(state.model), survival


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_trunk_stays_and_only_parameters_move(state, kind):
    before, random = fork(state), torch.random.get_rng_state()
    gradients = [p.grad.clone() for p in state.model.parameters()]
    twin, survival = PERTURB[kind](state, SIZES[kind], 3)
    assert_same(state, before)
    assert [m.training for m in state.model.modules()] == [m.training for m in before.model.modules()]
    assert all(torch.equal(p.grad, g) for p, g in zip(state.model.parameters(), gradients))
    assert torch.equal(torch.random.get_rng_state(), random)

    moved = vector(twin.model) - vector(state.model)
    assert survival.realised == pytest.approx(moved.norm().item(), rel=1e-12)
    assert survival.changed == pytest.approx(moved.count_nonzero().item() / len(moved))
    with torch.no_grad():  # momentum, batch-norm statistics, step and time are copies
        for p, q in zip(trainable(twin.model).values(), trainable(state.model).values()):
            p.copy_(q)
    assert_same(twin, state)
    assert (twin.task is state.task) == (kind != "noise_swap")


@pytest.mark.parametrize("kind", MOVING)
def test_the_seed_decides_the_direction_and_nothing_else_does(state, kind):
    one, _ = change(state, kind, seed=0)
    torch.manual_seed(99)
    again, _ = change(state, kind, seed=0)
    other, _ = change(state, kind, seed=1)
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.norm() > 0
    if kind != "top_lyapunov":  # which finds the same direction from everywhere
        assert abs(torch.cosine_similarity(one, other, dim=0)) < 0.95


@pytest.mark.parametrize("kind", ["gaussian", "gradient", "top_lyapunov"])
@pytest.mark.parametrize("size", [1e-9, 0.5])
def test_kinds_with_a_total_norm_have_it(state, kind, size):
    moved, survival = change(state, kind, seed=2, size=size)
    assert survival.requested == size
    # Rounding to float64 of weights around 0.5 adds 1e-16 a coordinate.
    assert moved.norm().item() == pytest.approx(size, rel=1e-6)


def test_an_isotropic_direction_does_not_prefer_a_layer():
    state = digits_mlp(width=64, depth=2)
    moved, _ = change(state, "gaussian", 0, size=1.0)
    sizes = [p.numel() for p in trainable(state.model).values()]
    shares = torch.tensor([piece.square().sum() for piece in moved.split(sizes)])
    expected = torch.tensor(sizes) / sum(sizes)
    # χ² with n degrees of freedom scatters by √(2/n).
    assert ((shares / expected - 1).abs() < 4 * (2 / torch.tensor(sizes)).sqrt()).all()


def test_per_coordinate_is_an_isotropic_one_of_that_scale():
    state = digits_mlp(width=64, depth=2)
    size = len(vector(state.model))
    moved, survival = change(state, "per_coordinate", 0, size=1e-3)
    assert survival.requested == pytest.approx(1e-3 * math.sqrt(size), rel=4 / math.sqrt(2 * size))
    isotropic, _ = change(state, "gaussian", 0, size=survival.requested)
    torch.testing.assert_close(moved, isotropic, rtol=0, atol=1e-15)
    assert per_coordinate(state, 2e-3, 0)[1].requested == pytest.approx(2 * survival.requested)


def test_relative_noise_has_the_scale_of_each_tensor_when_it_was_new():
    new = digits_mlp(width=64, depth=2)
    scales = initial_scales(new.model)
    names = list(scales)
    assert [scales[n] == 0 for n in names] == [n.endswith("bias") for n in names]
    assert scales["1.weight"] == pytest.approx(math.sqrt(2 / 64), rel=0.05)

    grown = fork(new)
    with torch.no_grad():
        for p in grown.model.parameters():
            p.mul_(10).add_(1)
    for given, expected in ((scales, scales), (None, initial_scales(grown.model))):
        twin, survival = relative(grown, 1e-3, seed=0, scales=given)
        for (name, p), q in zip(trainable(twin.model).items(), trainable(grown.model).values()):
            found = (p - q).detach().square().mean().sqrt().item()
            assert found == pytest.approx(1e-3 * expected[name], rel=4 / math.sqrt(2 * p.numel()), abs=1e-12)
        norm = math.sqrt(sum(expected[n] ** 2 * p.numel() for n, p in trainable(new.model).items()))
        assert survival.requested == pytest.approx(1e-3 * norm, rel=0.03)


@pytest.mark.parametrize("keep", [1.0, 0.3, 0.05])
def test_relative_noise_on_a_share_of_the_coordinates(keep):
    state = digits_mlp(width=64, depth=2)
    twin, survival = relative(state, 1e-3, seed=0, keep=keep)
    weights = sum(p.numel() for n, p in trainable(state.model).items() if n.endswith("weight"))
    total = sum(p.numel() for p in trainable(state.model).values())
    assert survival.changed == pytest.approx(
        keep * weights / total, abs=4 * math.sqrt(keep * (1 - keep) / total) + 1e-9
    )
    full, _ = relative(state, 1e-3, seed=0)
    kept = vector(twin.model) != vector(state.model)
    assert torch.equal(vector(twin.model)[kept], vector(full.model)[kept])
    assert relative(state, 1e-3, seed=1, keep=0.0)[1].changed == 0


def test_a_gradient_step_of_a_batch_of_its_own():
    """Downhill on the loss of the training set, along the gradient of a batch that the run itself never sees."""
    state = train(digits_mlp(width=32, depth=1), 30).state
    whole = state.task.evaluation("train")
    slope = torch.cat(
        [g.flatten() for g in torch.autograd.grad(state.task.loss(state.model, whole), list(state.model.parameters()))]
    )
    moved = torch.stack([change(state, "gradient", seed, size=1.0)[0] for seed in range(6)])
    alignments = torch.cosine_similarity(moved, -slope[None])
    assert alignments.min() > 0.4  # measured 0.62 to 0.89
    twin, _ = gradient(state, 1e-3, seed=0)
    assert state.task.loss(twin.model, whole) < state.task.loss(state.model, whole)


def test_a_direction_without_length_is_refused():
    flat = nn.Sequential(nn.Linear(6, 3)).double()
    state = start(teacher(), flat, SGD)
    constant = lambda outputs, targets: 0.0 * outputs.sum()  # noqa: E731
    object.__setattr__(state, "task", partial_task(constant))
    with pytest.raises(InputError, match="A direction of length 0 cannot be scaled to 0.001; choose another kind"):
        gradient(state, 1e-3, seed=0)


def partial_task(criterion):
    from dataclasses import replace

    return replace(teacher(), criterion=criterion)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1.0, 7.0])
def test_bit_flips_are_units_in_the_last_place(dtype, count):
    state = teacher_mlp(dtype=dtype, task=teacher(torch.float32))
    with torch.no_grad():
        state.model[1].bias.fill_(1.0)  # no zeros, whose unit in the last place is 5e-324
        state.model[4].bias.fill_(-2.0)
    twin, survival = bit_flip(state, count, seed=0)
    pairs = [(p.detach(), q.detach()) for p, q in zip(trainable(twin.model).values(), trainable(state.model).values())]
    moved = [(p[p != q], q[p != q]) for p, q in pairs]
    assert sum(len(p) for p, _ in moved) == count
    assert survival.changed == pytest.approx(count / sum(p.numel() for p, _ in pairs))
    for p, q in moved:
        up = torch.nextafter(q, torch.full_like(q, math.inf))
        down = torch.nextafter(q, torch.full_like(q, -math.inf))
        assert ((p == up) | (p == down)).all()
    total = sum(((p.double() - q.double()) ** 2).sum().item() for p, q in moved) ** 0.5
    assert survival.realised == survival.requested == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("count", [0.0, -1.0, 1.5, 1e9, 100.0])
def test_other_numbers_of_bit_flips_are_refused(count):
    state = teacher_mlp()
    total = len(vector(state.model))
    assert total == 91
    message = re.escape(f"bit_flip needs a whole number of coordinates between 1 and 91; got {count:g}.")
    with pytest.raises(InputError, match=message):
        bit_flip(state, count, seed=0)
    assert bit_flip(state, 91.0, seed=0)[1].changed == 1.0


def test_another_tape_of_noise(state):
    twin, survival = noise_swap(state, 0.0, seed=0)
    other, _ = noise_swap(state, 0.0, seed=1)
    assert (survival.requested, survival.realised, survival.changed) == (0, 0, 0) and survival.warning == ""
    batches = [s.task.batch(7).inputs for s in (state, twin, other)]
    assert not torch.equal(batches[0], batches[1]) and not torch.equal(batches[1], batches[2])
    assert torch.equal(noise_swap(state, 0.0, seed=0)[0].task.batch(7).inputs, batches[1])
    assert torch.equal(twin.task.evaluation("train").inputs, state.task.evaluation("train").inputs)


def test_a_task_without_another_tape_is_refused():
    class Mine:
        batch, loss, evaluation = teacher().batch, teacher().loss, teacher().evaluation

    with pytest.raises(InputError, match=r"Mine cannot change its noise; give it a method reseed\(seed\)"):
        noise_swap(teacher_mlp(task=Mine()), 0.0, seed=0)


def test_the_top_direction_grows_most():
    """Against the largest singular value of the tangent map, from unit vectors pushed through every step."""
    window = 8
    state = train(teacher_mlp(), 10).state
    tape, scratch = record(fork(state), window), fork(state)
    rows = (torch.eye(91, dtype=torch.float64), torch.zeros(91, 91, dtype=torch.float64))
    for point in tape:
        rows = push(scratch, point, rows)
    largest = torch.linalg.svdvals(rows[0])[0].log().item()

    def growth(sweeps):
        twin, _ = top_lyapunov(state, 1e-3, seed=0, window=window, sweeps=sweeps)
        top = (vector(twin.model) - vector(state.model))[None]
        return (rows[0].T @ (top / top.norm()).T).norm().log().item()

    few, many = growth(2), growth(8)
    random = (directions(state, 20, seed=3) @ rows[0]).norm(dim=1).log().max().item()
    assert random + 0.2 < few < many <= largest + 1e-9  # 0.04 at most, 0.516, 0.6639 and 0.6640
    assert many == pytest.approx(largest, abs=0.01)


def test_a_displacement_is_rounded_once():
    state = teacher_mlp(dtype=torch.float32)
    step = {name: torch.full_like(p, 1e-3, dtype=torch.float64) for name, p in trainable(state.model).items()}
    twin, survival = displace(state, step)
    assert survival.requested == pytest.approx(1e-3 * math.sqrt(91))
    for (name, p), q in zip(trainable(twin.model).items(), trainable(state.model).values()):
        assert torch.equal(p, (q.double() + step[name]).float())


@pytest.mark.parametrize("kind", MOVING)
def test_frozen_parameters_do_not_move(kind):
    state = small_cnn(dtype=torch.float64)
    state.model[0].weight.requires_grad_(False)
    state = start(state.task, state.model, SGD)
    twin, _ = PERTURB[kind](state, SIZES[kind], 0)
    assert torch.equal(twin.model[0].weight, state.model[0].weight)
    assert len(vector(state.model)) == sum(p.numel() for p in state.model.parameters()) - 36


@pytest.mark.parametrize("kind", MOVING)
def test_shared_parameters_move_together(kind):
    def tied():
        inner = nn.Linear(6, 6, dtype=torch.float64)
        return nn.Sequential(inner, nn.Tanh(), inner, nn.Linear(6, 3, dtype=torch.float64))

    state = start(teacher(), seeded(0, tied), SGD)
    twin, survival = PERTURB[kind](state, SIZES[kind], 0)
    assert twin.model[0].weight is twin.model[2].weight
    assert len(vector(state.model)) == 42 + 21
    assert survival.realised == pytest.approx((vector(twin.model) - vector(state.model)).norm().item(), rel=1e-12)
