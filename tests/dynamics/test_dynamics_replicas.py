"""Replicas trained one after the other and as one batched network."""

from functools import partial

import pytest
import torch
from dynamics_cases import ADAMW, NESTEROV, SGD, assert_same, distance, seeded, small_cnn, teacher, teacher_mlp
from torch import nn

from learndyn.dynamics import fork, replicas, start, train, train_together
from learndyn.dynamics.perturb import gaussian, noise_swap
from learndyn.dynamics.replicas import can_batch, choose_engine, training_work
from learndyn.errors import InputError
from learndyn.optimizers.schedules import cosine

NETWORKS = {
    "mlp": partial(teacher_mlp, schedule=cosine(30, warmup=3)),
    "cnn": partial(small_cnn, dtype=torch.float64),
}
OPTIMIZERS = {
    "sgd": SGD,
    "nesterov": NESTEROV,
    "adamw": ADAMW,
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01),
    "groups": lambda parameters: torch.optim.SGD(
        [{"params": [p], "lr": 0.02 * (1 + i), "weight_decay": 0.01 * i} for i, p in enumerate(parameters)],
        momentum=0.9,
    ),
}


def family(state, replicas, size=1e-3):
    """Base, an identical twin, and different ones."""
    return [fork(state), fork(state), *(gaussian(state, size, seed)[0] for seed in range(replicas - 2))]


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("replicas", [2, 4, 7])
@pytest.mark.parametrize("network", NETWORKS)
def test_identical_twins_stay_identical_to_the_bit(network, replicas, engine):
    states = family(train(NETWORKS[network](), 3).state, replicas)
    ended, losses = train_together(states, 8, engine)
    assert_same(ended[0], ended[1])
    assert torch.equal(losses[:, 0], losses[:, 1]) and losses.shape == (8, replicas)
    for twin in ended[2:]:
        assert 1e-5 < distance(ended[0], twin) < 1


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_both_engines_agree_to_rounding(network, name):
    """From the first step (no buffers yet) and again from step 6 (buffers carried over, in and out)."""
    state = NETWORKS[network](optimizer=OPTIMIZERS[name])
    states = {"loop": family(state, 4), "vmap": family(state, 4)}
    for steps in (6, 5):
        losses = {}
        for engine in states:
            states[engine], losses[engine] = train_together(states[engine], steps, engine)
        # Rounding of 1e-16, and RMSprop and Adagrad divide by the root of small squares at first.
        torch.testing.assert_close(losses["loop"], losses["vmap"], rtol=0, atol=1e-11)
        for one, other in zip(states["loop"], states["vmap"]):
            assert one.step == other.step and one.time == pytest.approx(other.time, rel=1e-15)
            first, second = one.model.state_dict(), other.model.state_dict()
            for key in first:
                torch.testing.assert_close(first[key], second[key], rtol=0, atol=1e-10)
            first, second = one.optimizer.state_dict(), other.optimizer.state_dict()
            assert first["param_groups"] == second["param_groups"] and first["state"].keys() == second["state"].keys()
            for index in first["state"]:
                torch.testing.assert_close(first["state"][index], second["state"][index], rtol=0, atol=1e-10)
    assert states["loop"][0].step == 11


def test_the_loop_is_what_train_does():
    state = train(teacher_mlp(dropout=0.3, schedule=cosine(30)), 2).state
    ended, losses = train_together([fork(state), fork(state)], 20, "loop")  # more than one chunk of batches
    run = train(state, 20)
    assert_same(ended[0], run.state)
    assert torch.equal(losses[:, 0], run.loss)


def test_every_update_of_adamw_is_counted_once():
    state = teacher_mlp(optimizer=ADAMW)
    for engine in ("loop", "vmap"):
        ended, _ = train_together([fork(state), fork(state)], 3, engine)
        ended, _ = train_together(ended, 2, engine)
        for twin in ended:
            assert {held["step"].item() for held in twin.optimizer.state.values()} == {5}
            assert all(held["step"].shape == () for held in twin.optimizer.state.values())
        # The counts are the twins' own: training one does not count for the other.
        train(ended[0], 1)
        assert {held["step"].item() for held in ended[1].optimizer.state.values()} == {5}


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_training_is_in_place(engine):
    states = family(teacher_mlp(), 3)
    ended, _ = train_together(states, 4, engine)
    for before, after in zip(states, ended):
        assert after.model is before.model and after.optimizer is before.optimizer and after.task is before.task
        assert (before.step, after.step) == (0, 4)
        own = {id(p) for p in after.model.parameters()}
        assert {id(p) for group in after.optimizer.param_groups for p in group["params"]} == own
    again, losses = train_together(ended, 0, engine)
    assert losses.shape == (0, 3) and [s.step for s in again] == [4, 4, 4]


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_dropout_is_the_same_for_all(engine):
    """And it is there: without it the losses are others."""
    state = teacher_mlp(dropout=0.5)
    ended, losses = train_together(family(state, 4, size=1e-9), 5, engine)
    assert_same(ended[0], ended[1])
    assert max(distance(ended[0], twin) for twin in ended) < 1e-7
    without = train(teacher_mlp(dropout=0.0), 5).loss
    assert (losses[:, 0] - without).abs().max() > 0.01


def test_frozen_parameters_stay_frozen():
    state = teacher_mlp()
    state.model[0].weight.requires_grad_(False)
    state = start(state.task, state.model, SGD)
    before = state.model[0].weight.clone()
    for engine in ("loop", "vmap"):
        ended, _ = train_together(family(state, 3), 3, engine)
        assert all(torch.equal(twin.model[0].weight, before) for twin in ended)
        assert distance(ended[0], state) > 1e-3


def test_a_twin_with_its_own_noise_keeps_it_in_the_loop():
    state = train(teacher_mlp(), 2).state
    other, _ = noise_swap(state, 0.0, seed=1)
    alone = train(fork(other), 4).state
    ended, _ = train_together([fork(state), other, fork(state)], 4, "loop")
    assert_same(ended[1], alone)
    assert_same(ended[0], ended[2])
    assert distance(ended[0], ended[1]) > 1e-3
    with pytest.raises(InputError, match="Replicas with different noise cannot be batched; use --engine loop"):
        train_together(ended, 1, "vmap")


class Cumulative(nn.Module):
    """Batch norm with a cumulative average asks for the value of its counter, which vmap cannot give."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)).double()

    def forward(self, x):
        return self.layers(x)


class Branching(nn.Linear):
    """Python control flow on values."""

    def forward(self, x):
        return super().forward(x) if self.weight.sum() > 100 else 2 * super().forward(x)


@pytest.mark.parametrize("make", [Cumulative, lambda: Branching(6, 3).double()])
def test_what_cannot_be_mapped_falls_back_to_the_loop(make):
    state = start(teacher(), seeded(0, make), SGD)
    assert not can_batch(state)
    assert choose_engine(state, 8) == "loop"
    ended, _ = train_together([fork(state) for _ in range(5)], 3, "auto")
    assert_same(ended[0], train(state, 3).state)


def test_optimizers_that_are_not_elementwise_are_not_batched():
    state = teacher_mlp(optimizer=partial(torch.optim.Adafactor, lr=0.01))
    assert not can_batch(state) and choose_engine(state, 8) == "loop"
    with pytest.raises(
        InputError, match="Adafactor cannot be batched over replicas; SGD, Adam, .* can. Use --engine loop"
    ):
        train_together([state, fork(state)], 1, "vmap")


def test_the_engine_is_chosen_by_work_and_number(monkeypatch):
    state = teacher_mlp()
    # 16 examples, 6 x 8 and 8 x 3 weights, forward and twice as much backward
    assert training_work(state) == 3 * 16 * (6 * 8 + 8 * 3)
    assert choose_engine(state, 3) == "loop"
    assert choose_engine(state, 4) == "vmap"
    monkeypatch.setattr(replicas, "BATCHED_WORK", training_work(state) - 1)
    assert choose_engine(state, 4) == "loop"


def test_asking_leaves_no_trace():
    state = train(teacher_mlp(dropout=0.2, optimizer=ADAMW), 3).state
    before, random = fork(state), torch.random.get_rng_state()
    assert can_batch(state)
    training_work(state)
    assert_same(state, before)
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_the_callers_random_state_is_not_touched(engine):
    before = torch.random.get_rng_state()
    train_together(family(teacher_mlp(dropout=0.5), 3), 2, engine)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_progress_is_counted_in_replica_updates():
    for engine in ("loop", "vmap"):
        seen = []
        train_together(family(teacher_mlp(), 3), 100, engine, after=seen.append)
        assert sum(seen) == 300 and len(seen) > 1


def test_requests_that_make_no_sense_are_refused():
    state = teacher_mlp()
    with pytest.raises(InputError, match=r"There is no engine 'vmapp'; did you mean 'vmap'\?"):
        train_together([state], 1, "vmapp")
    ahead = train(fork(state), 2).state
    with pytest.raises(InputError, match=r"Replicas at steps \[0, 2\] share no batches"):
        train_together([state, ahead], 1)


def test_batches_ahead_are_few_where_they_are_large(monkeypatch):
    """The batches of a chunk depend on memory, the result does not."""
    state = teacher_mlp()
    whole, _ = train_together([fork(state), fork(state)], 9, "loop")
    monkeypatch.setattr(replicas, "AHEAD_BYTES", 1)
    single, _ = train_together([fork(state), fork(state)], 9, "loop")
    assert_same(whole[0], single[0])
