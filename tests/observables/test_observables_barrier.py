"""Barriers on the line between two networks (two-phase sheet, check 10)."""

import sys
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learndyn.dynamics import fork, start, train
from learndyn.errors import InputError
from learndyn.observables import (
    barrier,
    disagreement,
    dissimilarity,
    distance,
    error,
    error_barrier,
    evaluate,
    function_distance,
    loss,
    loss_barrier,
    profiles,
    recalibrate,
    relative_distance,
)
from learndyn.observables.barrier import BATCH_NORM, CONVENTIONS
from learndyn.tasks import Batch, Supervised, place, teacher

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Product(nn.Module):
    """f = u v x, the smallest network with two basins."""

    def __init__(self, u, v):
        super().__init__()
        self.u, self.v = (nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in (u, v))

    def forward(self, x):
        return self.u * self.v * x


def product(u, v):
    one = Batch(torch.ones(1, 1).double(), torch.ones(1, 1).double())
    task = Supervised(one, one, 1, criterion=lambda outputs, targets: 0.5 * (outputs - targets).square().mean())
    return start(task, Product(u, v), SGD)


def test_the_barrier_of_a_product():
    """½ (uv − 1)² from (1, 1) to (−1, −1): the middle is f = 0, B = ½ at α = ½, by all three conventions."""
    a, b = product(1.0, 1.0), product(-1.0, -1.0)
    profile = profiles(a, b, points=11)["test", "interpolate"]
    w = 1 - 2 * profile.alpha
    torch.testing.assert_close(profile.loss, 0.5 * (w**2 - 1) ** 2, rtol=0, atol=1e-15)
    assert profile.alpha[profile.loss.argmax()] == 0.5
    for convention in CONVENTIONS:
        for split in ("train", "test"):
            assert loss_barrier(a, b, split, convention=convention).item() == pytest.approx(0.5, abs=1e-15)


def net(dtype=torch.float64, seed=0, batch_norm=True):
    task = place(teacher(examples=300, test_examples=100, inputs=6, classes=3, batch_size=30), "cpu", dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = [nn.BatchNorm1d(8)] if batch_norm else []
        model = nn.Sequential(nn.Linear(6, 8), *norm, nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)).to(dtype)
    return start(task, model, SGD)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def trained(request):
    """Two networks from different starts."""
    return tuple(train(net(request.param, seed), 40).state for seed in (0, 1))


@pytest.mark.parametrize("points", [3, 30])
def test_identical_twins_have_exactly_no_barrier(trained, points):
    for state in trained:
        twin = fork(state)
        for observable in (dissimilarity, distance, relative_distance, disagreement, function_distance):
            assert observable(state, twin).item() == 0.0
        for profile in profiles(state, twin, points).values():
            for convention in CONVENTIONS:
                assert barrier(profile.loss, profile.alpha, convention).item() == 0.0
                assert barrier(profile.error, profile.alpha, convention).item() == 0.0


def test_the_line_begins_and_ends_at_the_networks(trained):
    a, b = trained
    for (split, mode), profile in profiles(a, b, points=5).items():
        if mode == "interpolate":
            for end, state in ((0, a), (-1, b)):
                assert profile.loss[end].item() == pytest.approx(loss(state, split).item(), rel=1e-12)
                assert profile.error[end] == error(state, split)
        assert profile.alpha.tolist() == [0, 0.25, 0.5, 0.75, 1] and profile.loss.dtype == torch.float64


def statistics(layer, inputs, pieces):
    """Of batch norm after a layer: the average over pieces of their means and unbiased variances."""
    with torch.no_grad():
        hidden = [layer(piece) for piece in inputs.chunk(pieces)]
    return torch.stack([h.mean(0) for h in hidden]).mean(0), torch.stack([h.var(0) for h in hidden]).mean(0)


def test_the_line_against_brute_force(trained):
    """Weights and running statistics mixed by hand, and the statistics estimated anew by hand."""
    a, b = trained
    found = profiles(a, b, points=4)
    for i, alpha in enumerate((0, 1 / 3, 2 / 3, 1)):
        first, second = a.model.state_dict(), b.model.state_dict()
        mixed = {k: ((1 - alpha) * v.double() + alpha * second[k].double()).to(v.dtype) for k, v in first.items()}
        middle = fork(a)
        middle.model.load_state_dict(mixed)
        for split in ("train", "test"):
            expected = loss(middle, split)
            torch.testing.assert_close(found[split, "interpolate"].loss[i], expected, rtol=1e-6, atol=0)
        inputs = a.task.evaluation("train").inputs
        mean, variance = statistics(middle.model[0], inputs, 2)
        middle.model[1].running_mean.copy_(mean)
        middle.model[1].running_var.copy_(variance)
        for split in ("train", "test"):
            expected = loss(middle, split)
            torch.testing.assert_close(found[split, "recalibrate"].loss[i], expected, rtol=1e-5, atol=0)
    ends = found["train", "interpolate"].loss - found["train", "recalibrate"].loss
    assert ends.abs().max() > 1e-3  # the two modes are two measurements


def test_batch_norm_modes_are_one_without_batch_norm():
    a, b = (train(net(seed=seed, batch_norm=False), 10).state for seed in (0, 1))
    both = profiles(a, b, points=5)
    alone = profiles(a, b, points=5, batch_norm=("recalibrate",))
    for split in ("train", "test"):
        assert torch.equal(both[split, "interpolate"].loss, both[split, "recalibrate"].loss)
        assert torch.equal(both[split, "interpolate"].loss, alone[split, "recalibrate"].loss)


def test_different_networks_have_a_barrier(trained):
    a, b = trained
    walked = profiles(a, b, points=11)
    for mode in BATCH_NORM:
        profile = walked["train", mode]
        for convention in CONVENTIONS:
            assert loss_barrier(a, b, "train", mode, convention) == barrier(profile.loss, profile.alpha, convention)
            assert error_barrier(a, b, "train", mode, convention) == barrier(profile.error, profile.alpha, convention)
    assert loss_barrier(a, b) > 0.01
    there, back = loss_barrier(a, b), loss_barrier(b, a)
    assert there.item() == pytest.approx(back.item(), rel=1e-4)  # the line is the same, rounded the other way


def test_recalibration_leaves_no_trace_on_either_network(trained):
    before = [{k: v.clone() for k, v in state.model.state_dict().items()} for state in trained]
    settings = [[(m.training, getattr(m, "momentum", None)) for m in state.model.modules()] for state in trained]
    profiles(*trained, points=3, batch_norm=("recalibrate",))
    for state, then, how in zip(trained, before, settings):
        assert all(torch.equal(v, then[k]) for k, v in state.model.state_dict().items())
        assert [(m.training, getattr(m, "momentum", None)) for m in state.model.modules()] == how


@pytest.mark.parametrize("chunk", [1000, 256, 100])
def test_recalibration_estimates_the_training_statistics(trained, monkeypatch, chunk):
    monkeypatch.setattr(sys.modules["learndyn.observables.evaluate"], "CHUNK", chunk)
    state, pieces = fork(trained[0]), {1000: 1, 256: 2, 100: 3}[chunk]
    state.model.train()
    state.model[3].eval()
    modes = [m.training for m in state.model.modules()]
    weights = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    random = torch.random.get_rng_state()
    for _ in range(2):  # the second time, the first statistics are forgotten
        recalibrate(state.model, state.task)
        norm, inputs = state.model[1], state.task.evaluation("train").inputs
        mean, variance = statistics(state.model[0], inputs, pieces)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_mean, state.model[0](inputs).detach().mean(0), rtol=1e-5, atol=1e-6)
        assert norm.momentum == 0.1 and norm.num_batches_tracked == pieces
    assert [m.training for m in state.model.modules()] == modes
    assert all(torch.equal(p, weights[n]) for n, p in state.model.named_parameters())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_recalibration_on_one_example_more_than_a_chunk(monkeypatch):
    """A last piece of one example would have no variance."""
    monkeypatch.setattr(sys.modules["learndyn.observables.evaluate"], "CHUNK", 23)
    state = net()
    assert len(state.task.evaluation("train").inputs) == 300 == 13 * 23 + 1
    recalibrate(state.model, state.task)
    assert state.model[1].num_batches_tracked == 14 and state.model[1].running_var.isfinite().all()


def test_recalibration_that_fails_leaves_the_layers_as_they_were():
    state = net()
    broken = Supervised(Batch(torch.ones(4, 5).double(), torch.zeros(4)), state.task.test, 2)  # 5 inputs instead of 6
    with pytest.raises(RuntimeError):
        recalibrate(state.model, broken)
    assert state.model[1].momentum == 0.1 and all(m.training for m in state.model.modules())


@pytest.mark.parametrize(("convention", "height"), [("chord", 0.0), ("mean", 0.5), ("chord_at_max", 0.0)])
@pytest.mark.parametrize("points", [3, 11, 30, 40])
def test_a_ramp_is_no_barrier_but_for_the_mean(convention, height, points):
    """ℓ(α) = α, upwards and downwards: the sheet's pitfall."""
    alpha = torch.linspace(0, 1, points, dtype=torch.float64)
    for ramp in (alpha, 1 - alpha, 7 + 3 * alpha):
        slope = (ramp[-1] - ramp[0]).abs()
        assert barrier(ramp, alpha, convention).item() == pytest.approx(height * slope.item(), abs=2e-15)


def grid(points):
    return torch.linspace(0, 1, points, dtype=torch.float64)


PROFILES = st.lists(st.floats(-100, 100), min_size=3, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(PROFILES)
def test_heights_are_ordered(profile):
    alpha = grid(len(profile))
    chord, mean, at_max = (barrier(profile, alpha, c).item() for c in CONVENTIONS)
    rounding = 1e-13 * profile.abs().max().item()
    assert chord >= 0
    assert at_max <= chord + rounding
    assert mean >= 0.5 * abs((profile[0] - profile[-1]).item()) - rounding  # the higher end lies above the mean
    assert chord <= mean + 0.5 * abs((profile[0] - profile[-1]).item()) + rounding


@given(PROFILES)
def test_heights_against_their_definitions(profile):
    n = len(profile)
    values = profile.tolist()
    chords = [values[0] + i / (n - 1) * (values[-1] - values[0]) for i in range(n)]
    top = max(range(n), key=lambda i: values[i])
    alpha, tolerance = grid(n), 1e-12 * max(1, *map(abs, values))
    assert barrier(profile, alpha, "chord").item() == pytest.approx(
        max(0, *(v - c for v, c in zip(values, chords))), abs=tolerance
    )
    assert barrier(profile, alpha, "mean").item() == pytest.approx(
        max(values) - (values[0] + values[-1]) / 2, abs=tolerance
    )
    assert barrier(profile, alpha, "chord_at_max").item() == pytest.approx(values[top] - chords[top], abs=tolerance)


@given(PROFILES, st.floats(0.1, 10), st.floats(-50, 50), st.floats(-50, 50))
def test_what_heights_do_not_depend_on(profile, scale, shift, tilt):
    """Units, an offset, the direction of the line; the chord also not on a tilt."""
    alpha = grid(len(profile))
    tolerance = 1e-12 * (1 + scale) * (200 + abs(tilt) + abs(shift))
    for convention in ("chord", "mean"):
        height = barrier(profile, alpha, convention).item()
        assert barrier(scale * profile + shift, alpha, convention).item() == pytest.approx(
            scale * height, abs=tolerance
        )
        assert barrier(profile.flip(0), alpha, convention).item() == pytest.approx(height, abs=tolerance)
    tilted = barrier(profile + tilt * alpha, alpha, "chord").item()
    assert tilted == pytest.approx(barrier(profile, alpha, "chord").item(), abs=tolerance)


@given(st.floats(-1e6, 1e6), st.integers(3, 60))
def test_a_flat_profile_has_exactly_no_height(value, points):
    flat = torch.full((points,), value, dtype=torch.float64)
    for convention in CONVENTIONS:
        assert barrier(flat, grid(points), convention).item() == 0.0


def test_requests_that_make_no_sense_are_refused(trained):
    a, b = trained
    with pytest.raises(InputError, match="A profile of 2 points has no inside; use at least 3"):
        loss_barrier(a, b, points=2)
    with pytest.raises(InputError, match="There is no barrier convention 'cord'; did you mean 'chord'"):
        loss_barrier(a, b, convention="cord", points=3)
    with pytest.raises(InputError, match="There is no batch-norm mode 'recalibrated'; did you mean 'recalibrate'"):
        loss_barrier(a, b, batch_norm="recalibrated")
    with pytest.raises(InputError, match="There is no split 'valid'"):
        loss_barrier(a, b, split="valid")


@pytest.mark.parametrize("chunk", [1, 7, 100, 2048])
def test_evaluation_in_chunks_is_evaluation_at_once(trained, monkeypatch, chunk):
    state = trained[0]
    batch = state.task.evaluation("test")
    with torch.no_grad():
        outputs = fork(state).model.eval()(batch.inputs)
    monkeypatch.setattr(sys.modules["learndyn.observables.evaluate"], "CHUNK", chunk)
    found = evaluate(state.model, state.task, "test")
    torch.testing.assert_close(found.outputs, outputs, rtol=1e-5, atol=1e-6)
    expected = nn.functional.cross_entropy(outputs.double(), batch.targets)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.error.item() == (outputs.argmax(1) != batch.targets).double().mean().item()
